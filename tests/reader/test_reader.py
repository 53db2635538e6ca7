"""Teaching, storing, loading and asking a reader, with a small random model."""

import json

import numpy as np
import pytest
import torch

import kalm
from checkpoints import write_checkpoint
from kalm.cli.main import app
from kalm.envs import make
from kalm.envs.metaworld.spec import ENTITY
from kalm.envs.sentences import plain_steps
from kalm.errors import KalmError
from kalm.lm.loading import load_backbone
from kalm.reader.adapter import FACTS, PACKAGED, WEIGHTS, adapter_weights, read_facts
from kalm.reader.measure import measure_goals, platt, threshold
from kalm.reader.model import WordScores, add_adapters, spelling
from kalm.reader.plans import Calibration, Plan
from kalm.reader.reader import TAUGHT, load_reader
from kalm.reader.settings import TeachConfig
from kalm.reader.teach import choice_losses, choices, make_reader, taught_lesson
from kalm.runs.progress import track

SHORT = {
    "steps": 3,
    "lessons": 1,
    "requests": 3,
    "first_layer": 1,
    "rank": 2,
    "held_out": 2,
    "checkpoint_every": 2,
}
CHAT = (
    "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>{% endif %}"
)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return str(write_checkpoint("llama", tmp_path_factory.mktemp("lm"), max_position_embeddings=8192))


@pytest.fixture(scope="module")
def config(base):
    return TeachConfig(base=base, **SHORT)


@pytest.fixture(scope="module")
def taught(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("taught")
    make_reader(folder, config, 0, "cpu", track)
    return folder


def test_the_loss_is_that_of_the_allowed_words_alone(config, base):
    """Against every request read by itself, in its own row, over the whole vocabulary."""
    backbone = load_backbone(base, "causal")
    spelled, lesson = spelling(backbone), taught_lesson(config, 0, 0, 0)
    spelt = choices(lesson, spelled)
    with torch.inference_mode():
        losses = choice_losses(backbone, WordScores(backbone), spelt, torch.device("cpu"))
    from kalm.reader.prompts import make_menu

    menu = make_menu(lesson.scene.sentences, lesson.scene.things)
    tree, wanted = spelled.tree(menu), []
    for request in lesson.requests:
        ids, place = [*spelled.prompt(menu), *spelled.request(request.text)], tree.start()
        for token in tree.spell(request.steps):
            may = tree.allowed(place)
            if len(may) > 1:
                with torch.inference_mode():
                    logits = backbone.model(torch.tensor([ids])).logits[0, -1]
                wanted.append(-logits[may].log_softmax(0)[may.index(token)])
            ids.append(token)
            place = tree.after(place, token)
    torch.testing.assert_close(losses, torch.stack(wanted), rtol=1e-3, atol=1e-4)


def test_only_upper_layers_learn(config, base):
    backbone = load_backbone(base, "causal")
    add_adapters(backbone, config)
    learning = [name for name, weight in backbone.model.named_parameters() if weight.requires_grad]
    assert learning == list(adapter_weights(backbone))
    assert learning and all(".layers.1." in name for name in learning)
    with pytest.raises(KalmError, match="no linear layer from layer 9"):
        add_adapters(load_backbone(base, "causal"), config.changed(first_layer=9))


def test_a_stopped_teaching_goes_on_and_ends_the_same(config, taught, tmp_path, monkeypatch):
    import kalm.reader.teach as teaching

    seen = []
    whole = teaching.taught_lesson

    def stopping(config, seed, step, part):
        seen.append(step)
        if step == 2 and len(seen) == 3:
            raise KeyboardInterrupt
        return whole(config, seed, step, part)

    monkeypatch.setattr(teaching, "taught_lesson", stopping)
    with pytest.raises(KeyboardInterrupt):
        make_reader(tmp_path, config, 0, "cpu", track)
    assert not (tmp_path / FACTS).exists()
    make_reader(tmp_path, config, 0, "cpu", track)
    assert seen == [0, 1, 2, 2]
    assert (tmp_path / WEIGHTS).read_bytes() == (taught / WEIGHTS).read_bytes()
    assert read_facts(tmp_path) == read_facts(taught)


def test_what_is_finished_is_not_taught_again(config, taught):
    assert make_reader(taught, config, 0, "cpu", track) == read_facts(taught)
    with pytest.raises(KalmError, match="taught with other settings"):
        make_reader(taught, config, 1, "cpu", track)


def test_a_loaded_reader_is_the_one_that_was_taught(taught, base):
    """Merged adapters in half precision give what adapters beside the weights gave."""
    backbone = load_reader(taught).model.backbone
    beside = load_backbone(base, "causal")
    add_adapters(beside, read_facts(taught).settings)
    from kalm.reader.adapter import fill_adapters

    fill_adapters(beside, taught)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode():
        torch.testing.assert_close(backbone.model(ids).logits, beside.model(ids).logits, rtol=1e-4, atol=1e-4)
    assert not any(weight.requires_grad for weight in backbone.model.parameters())


def test_plans_are_made_of_the_worlds_plain_sentences(taught):
    world = make("clevr")
    reader = load_reader(taught)
    best, *others = reader.n_best(["Put the red ball behind the blue one.", "Do nothing."], world, samples=6)
    assert best[0].probability == max(plan.probability for plan in best)
    for plan in (*best, *others[0]):
        assert all(step.level == "seen" for step in plan.steps)
        assert 0 <= plan.confidence <= 1 and plan.sure == (plan.confidence >= reader.calibration.threshold)
        assert [step.goal for step in plan.steps] == list(plan.goals)
    alone = reader.n_best(["Do nothing."], world, samples=6)[0]  # whatever else is asked with it
    assert [plan.steps for plan in alone] == [plan.steps for plan in others[0]]


def test_a_plain_sentence_is_its_own_plan_and_no_model_is_asked(sure_reader, monkeypatch):
    world, reader = make("clevr"), load_reader(sure_reader)
    monkeypatch.setattr("kalm.reader.reader.write_plans", None)
    told = []
    for step in list(plain_steps(world).values())[::31]:
        (plan,) = reader.n_best([step.text], world, samples=2, advance=told.append)[0]
        assert (plan.steps, plan.confidence, plan.usable) == ((step,), 1.0, (step,))
        assert not reader.unread([step.text], world, samples=2)
        scene = world.initial_states([step.goal], [0])
        assert reader.read([step.text], world, scene)[0].confidence == 1.0
    assert sum(told) == len(told) > 1


@pytest.mark.parametrize("text", ["", "   ", "?!", "123"])
def test_an_instruction_without_letters_is_refused(taught, text):
    with pytest.raises(KalmError, match="with letters in it"):
        load_reader(taught).read([text], make("clevr"))


def test_a_very_long_instruction_is_refused(taught):
    with pytest.raises(KalmError, match=r"5,?000 words .* longer than the 400 tokens"):
        load_reader(taught).read(["push " * 5000], make("clevr"))


def test_control_tokens_are_letters(taught):
    """A request that spells the model's end token does not end anything."""
    reader = load_reader(taught)
    ids = reader.spelled.request("Push it.</s> Stop.")
    assert reader.model.backbone.tokenizer.eos_token_id not in ids
    assert reader.read(["Push it.</s><s> Stop."], make("clevr"))[0].request == "Push it.</s><s> Stop."


def test_damaged_or_foreign_files_are_named(taught, tmp_path, base):
    def copy(name, change):
        folder = tmp_path / name
        folder.mkdir()
        facts = json.loads((taught / FACTS).read_text())
        (folder / WEIGHTS).write_bytes((taught / WEIGHTS).read_bytes())
        change(folder, facts)
        (folder / FACTS).write_text(json.dumps(facts))
        return folder

    damaged = copy("damaged", lambda folder, _: (folder / WEIGHTS).write_bytes(b"no weights"))
    with pytest.raises(KalmError, match="missing or damaged"):
        load_reader(damaged)
    other = copy("other", lambda _, facts: facts.update(digest="0" * 16))
    with pytest.raises(KalmError, match="taught on .* with fingerprint 0000"):
        load_reader(other)
    rank = copy("rank", lambda _, facts: facts["settings"].update(rank=3))
    with pytest.raises(KalmError, match="other settings"):
        load_reader(rank)
    later = copy("later", lambda _, facts: facts.update(format="kalm-reader-9"))
    with pytest.raises(KalmError, match="not known"):
        load_reader(later)
    partial = copy("partial", lambda _, facts: facts.pop("calibration"))
    with pytest.raises(KalmError, match="does not fit this version"):
        load_reader(partial)


def test_an_instruct_model_reads_from_its_chat_template(base, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with pytest.raises(KalmError, match="no chat template"):
        load_reader(base)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(tmp_path)
    AutoModelForCausalLM.from_pretrained(base).save_pretrained(tmp_path)
    reader, world = load_reader(tmp_path), make("metaworld")
    plan = reader.read(["Open the door.</s>"], world)[0]
    assert all(step in world.suite("seen") for step in plan.steps)
    ids = reader.spelled.request("Open it.</s>")
    end = reader.model.backbone.tokenizer.eos_token_id
    assert ids.count(end) == 1  # the template's own, not the request's
    assert reader.calibration == Calibration()


def test_measured_goals_are_counted_by_level_and_kind(taught):
    world = make("clevr")
    asked = [world.suite("easy")[0], world.suite("rephrase")[0], world.suite("rephrase")[1]]
    found = measure_goals(load_reader(taught), world, asked)
    assert {name: share["count"] for name, share in found["levels"].items()} == {"easy": 1, "rephrase": 2}
    assert set(found["kinds"]) == {"easy: move", "rephrase: relation"}
    assert all(0 <= share["right"] <= 1 for share in found["levels"].values())


def test_platt_finds_the_line_that_made_the_outcomes():
    rng = np.random.default_rng(0)
    odds = rng.normal(1, 3, 20_000)
    right = rng.random(20_000) < 1 / (1 + np.exp(-(0.5 * odds - 1)))
    scale, shift = platt(odds, right)
    assert (scale, shift) == pytest.approx((0.5, -1.0), abs=0.06)
    assert Calibration(scale, shift).confidence(0.5) == pytest.approx(1 / (1 + np.e), abs=0.02)


def test_platt_with_nothing_wrong_is_finite():
    scale, shift = platt(np.array([1.0, 2.0, 3.0]), np.array([True, True, True]))
    assert np.isfinite([scale, shift]).all()


def test_above_the_threshold_enough_is_right():
    confidence = np.linspace(0.55, 0.99, 100)
    right = np.ones(100, bool)
    right[:20] = False  # the least confident fifth is wrong
    least = threshold(confidence, right)
    assert right[confidence >= least].mean() >= 0.9 > right[confidence >= least - 0.03].mean()
    assert threshold(confidence, np.ones(100, bool)) == pytest.approx(0.55)
    assert threshold(confidence, np.zeros(100, bool)) == 1.0


def run(*arguments, code=0):
    from typer.testing import CliRunner

    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == code, (result.output, result.exception)
    return result.stdout


def test_commands(taught, tmp_path):
    plans = json.loads(
        run("read", "Push red behind blue.", "--reader", str(taught), "--json", "--samples", "2")
    )
    assert plans["plans"][0][0]["request"] == "Push red behind blue."
    assert "Push red behind blue." in run("read", "Push red behind blue.", "--reader", str(taught))
    goals = tmp_path / "goals.jsonl"
    run("goals", "show", "--level", "hard", "--limit", "3", "--out", str(goals))
    found = json.loads(run("read", "--goals", str(goals), "--reader", str(taught), "--json"))
    assert found["levels"]["hard"]["count"] == 3 and 0 <= found["levels"]["hard"]["right"] <= 1
    assert "right" in run("reader", "measure", "--reader", str(taught), "--scenes", "1", "--wrong")


def test_commands_refuse_what_makes_no_sense(taught, tmp_path):
    from typer.testing import CliRunner

    result = CliRunner().invoke(app, ["read", "Push it.", "--level", "hard"])
    assert isinstance(result.exception, KalmError)


def test_teaching_from_the_command_line(base, tmp_path):
    settings = [f"teach.{name}={value}" for name, value in {**SHORT, "steps": 1}.items()]
    options = [part for setting in (f"teach.base={base}", *settings) for part in ("--set", setting)]
    found = json.loads(run("reader", "teach", "--out", str(tmp_path / "mine"), "--json", *options))
    assert found["settings"]["steps"] == 1 and (tmp_path / "mine" / WEIGHTS).is_file()


def test_the_packaged_reader_is_whole():
    """Without the weights of its base: its files, their size, and what they say."""
    facts = read_facts(PACKAGED)
    assert facts.base == TAUGHT
    assert (PACKAGED / WEIGHTS).stat().st_size < 8_000_000
    assert 0.5 <= facts.calibration.threshold <= 1


@pytest.fixture(scope="module")
def packaged():
    try:
        return kalm.load_reader()
    except KalmError as error:
        if "kalm models fetch" not in str(error):
            raise
        pytest.skip("the weights of smollm2 are not here; the mechanics are tested with a small model")


REAL = {
    "Put the cyan ball behind the red ball.": ["Push the cyan ball behind the red ball."],
    "The green ball goes left of the purple one.": ["Push the green ball to the left of the purple ball."],
    "Put red left of blue and green right of cyan.": [
        "Push the red ball to the left of the blue ball.",
        "Push the green ball to the right of the cyan ball.",
    ],
}  # fmt: skip


def test_the_real_reader_reads(packaged):
    world = make("clevr")
    for plan in packaged.read(list(REAL), world):
        assert [step.text for step in plan.steps] == REAL[plan.request]


def test_the_real_reader_makes_no_sure_plan_of_what_cannot_be_said(packaged):
    asked = [
        "Put the yellow ball behind the red ball.",
        "What is the weather like?",
        "Schließe bitte das Fenster.",
    ]
    for plan in packaged.read(asked, make("clevr")):
        assert not (plan.sure and plan.steps), plan


def test_a_policy_is_asked_for_the_first_step_that_does_not_hold(sure_reader, monkeypatch):
    reader, world = load_reader(sure_reader), make("clevr")
    steps = list(plain_steps(world).values())

    def found(requests, world, states):
        assert len(states) == len(requests)
        plans = {"both": tuple(steps[:2]), "own": (), "unsure": tuple(steps[2:3])}
        return [Plan(text, plans[text], 0.9, 0.9, text != "unsure") for text in requests]

    monkeypatch.setattr(type(reader), "read", lambda self, *given: found(*given))
    states = world.initial_states([step for step in steps for _ in range(40)], range(40 * len(steps)))
    holds = np.stack([world.holds(world.judge([s.goal] * len(states)), states) for s in steps[:2]])
    row = [int(np.flatnonzero((holds[0] == a) & (holds[1] == b))[0]) for a, b in ((0, 0), (0, 1), (1, 0))]
    texts = ["both"] * 3 + ["own", "unsure"]
    asked = reader.ask(texts, states[row + row[:2]], world.spec)
    assert asked == [steps[0].text, steps[0].text, steps[1].text, "own", "unsure"]


def test_no_plan_names_what_is_not_in_the_scene(sure_reader):
    """Of Meta-World's few plain sentences all are rated, so those that fit a scene share what is left."""
    reader, world = load_reader(sure_reader), make("metaworld")
    steps = list(plain_steps(world).values())
    asked, states = ["Do it for me."], np.zeros((1, world.spec.state_size))
    states[0, ENTITY["window"]] = states[0, ENTITY["lock"]] = 0.5
    plans = reader.n_best(asked, world)[0]
    assert {(step,) for step in steps} <= {plan.steps for plan in plans}
    fitting = [plan for plan in plans if {goal.kind for goal in plan.goals} <= {"window-open", "door-unlock"}]
    others = sum(plan.probability for plan in plans if plan not in fitting)
    best = reader.read(asked, world, states)[0]
    assert best.steps == fitting[0].steps
    assert best.probability == pytest.approx(fitting[0].probability / (1 - others))
    assert best.confidence == reader.calibration.confidence(best.probability)
    empty = reader.read(asked, world, np.zeros_like(states))[0]
    assert not empty.steps
    assert reader.read(asked, world)[0] == plans[0]


def test_nothing_is_read_twice(sure_reader, monkeypatch):
    reader, world = load_reader(sure_reader), make("clevr")
    told, first = [], reader.n_best(["Red first.", "Blue first.", "Red first."], world, samples=2)
    assert first[0] == first[2]
    with monkeypatch.context() as patch:
        patch.setattr("kalm.reader.reader.write_plans", None)
        again = reader.n_best(["Blue first.", "Red first."], world, samples=2, advance=told.append)
    assert again == [first[1], first[0]] and not told
    asked = ["Blue first.", "Green first.", "Green first."]
    assert reader.unread(asked, world, samples=2) == ["Green first."]
    assert reader.unread(asked, world) == ["Blue first.", "Green first."]
    with pytest.raises(TypeError):
        monkeypatch.setattr("kalm.reader.reader.write_plans", None)
        reader.n_best(["Blue first."], world, samples=3)
