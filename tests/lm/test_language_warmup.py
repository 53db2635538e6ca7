"""Language warm-up and text replay."""

import math

import numpy as np
import pytest
import torch

from kalm.errors import KalmError
from kalm.lm import language_warmup, packing, phrases, sft
from kalm.lm.dataset import GroundingDataset
from kalm.lm.prompts import REPLAY
from kalm.runs.metrics import read_metrics
from kalm.runs.seeding import derive_rng

NONE = torch.zeros(4, 4, dtype=torch.bool)


@pytest.fixture
def warm(config):
    return config.changed(language={"steps": 30, "contrasts": 1, "lr": 3e-3})


def test_info_nce_of_four_vectors():
    # The partner of each is at a cosine of 0 or 1 / sqrt(2); temperature 1.
    a, b = [1.0, 0.0], [0.0, 2.0]
    c = [1.0, 1.0]  # 45 degrees between them
    s = 1 / math.sqrt(2)
    # Rows a, b | c, b: a pairs with c, b with b.
    first = -s + math.log(math.exp(s) + 2 * math.exp(0))  # a sees b 0, c s, b 0
    second = -1 + math.log(math.exp(0) + math.exp(s) + math.exp(1))  # b sees a 0, c s, b 1
    third = -s + math.log(math.exp(s) + 2 * math.exp(s))  # c sees a s, b s, b s
    loss = language_warmup.info_nce(torch.tensor([a, b, c, b]), NONE, temperature=1.0)
    assert float(loss) == pytest.approx((first + second + third + second) / 4, abs=1e-6)


def test_info_nce_leaves_out_what_is_neither_alike_nor_different():
    vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    neither = NONE.clone()
    neither[0, 1] = neither[0, 3] = True  # only the partner is left for the first row
    others = -1 + math.log(math.e + 2)
    assert float(language_warmup.info_nce(vectors, neither, 1.0)) == pytest.approx(3 * others / 4, abs=1e-6)


def test_partners_are_found_at_no_cost_only_when_all_else_is_far():
    vectors = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    assert float(language_warmup.info_nce(vectors, NONE, 0.05)) < 1e-6
    assert float(language_warmup.info_nce(vectors.roll(1, 0)[[0, 2, 1, 3]], NONE, 0.05)) > 10


def test_the_converse_is_neither_alike_nor_different():
    a, b, c = (("left", "cup", "bed"),), (("right", "bed", "cup"),), (("left", "cup", ""),)
    np.testing.assert_array_equal(language_warmup.converse([a, b, c]), [[0, 1, 0], [1, 0, 0], [0, 0, 0]])


def test_a_lesson_says_everything_twice_and_depends_on_its_generator_alone(model, warm):
    prompt_builder = model.prompt_builder()
    lesson, twin = (
        language_warmup.Lesson(prompt_builder, warm, derive_rng(3, "language", 0)) for _ in range(2)
    )
    count = len(lesson.examples)
    assert count == 2 * phrases.CONTRAST and lesson.neither.shape == (count, count)
    prompts = [tuple(example.prompt.value) for example in lesson.examples]
    assert prompts == [tuple(example.prompt.value) for example in twin.examples]
    assert len(set(prompts)) == count


def test_vectors_are_means_over_the_prompt_as_if_alone(model):
    prompt_builder = model.prompt_builder()
    examples = [
        prompt_builder.replay("The cup is behind the bed.", "the cup goes behind the bed"),
        language_warmup.prompted(prompt_builder, "The old dog has to go to the left of the new one."),
        language_warmup.prompted(prompt_builder, "Shove the cart."),
    ]
    together, words = language_warmup.read_prompts(model, examples, row_tokens=40)
    for example, vector in zip(examples, together, strict=True):
        alone, _ = language_warmup.read_prompts(model, [example], row_tokens=40)
        ids = torch.from_numpy(example.prompt.value)[None]
        size = ids.shape[1]
        visible = torch.ones(1, 1, size, size, dtype=torch.bool)
        if not model.backbone.two_way_prompt:
            visible = visible.tril()
        hidden = model.body(model.lm.get_input_embeddings()(ids), visible, torch.arange(size)[None])
        torch.testing.assert_close(alone[0], vector)
        torch.testing.assert_close(hidden[0].mean(0), vector)
    torch.testing.assert_close(language_warmup.read_prompts(model, examples[:1], 40)[1], words)
    assert float(language_warmup.read_prompts(model, examples[1:], 40)[1].detach()) == 0.0


def test_both_losses_fall(warm, world, tmp_path):
    model = sft.fresh(warm, world, 0, "cpu")
    language_warmup.warm_up(model, warm, 0, tmp_path)
    rows = read_metrics(tmp_path / "language")
    assert [row["step"] for row in rows] == [10, 20, 30]
    assert set(rows[0]) == {"step", "train/contrast", "train/words"}
    lessons = [
        language_warmup.Lesson(model.prompt_builder(), warm, derive_rng(0, "language", n))
        for n in range(20, 30)
    ]

    @torch.no_grad()
    def losses(some):
        read = [language_warmup.read_prompts(some, lesson.examples, 128) for lesson in lessons]
        pairs = zip(read, lessons, strict=True)
        contrast = [
            float(language_warmup.info_nce(vectors, lesson.neither)) for (vectors, _), lesson in pairs
        ]
        return np.mean(contrast), np.mean([float(words) for _, words in read])

    before = losses(sft.fresh(warm, world, 0, "cpu"))
    assert all(now < then for now, then in zip(losses(model), before, strict=True))


def test_the_seed_decides_what_is_learnt(warm, world, tmp_path):
    short = warm.changed(language={"steps": 2})
    weights = []
    for number, seed in enumerate((0, 0, 1)):
        model = sft.fresh(short, world, 0, "cpu")
        language_warmup.warm_up(model, short, seed, tmp_path / str(number))
        weights.append(torch.cat([p.detach().flatten() for p in model.backbone.model.parameters()]))
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_a_frozen_backbone_is_refused(warm, world, tmp_path):
    model = sft.fresh(warm.changed(tuning="frozen"), world, 0, "cpu")
    with pytest.raises(KalmError, match="language.steps=0"):
        language_warmup.warm_up(model, warm, 0, tmp_path)


def test_grounding_begins_with_it_once(warm, world, rollouts, tmp_path):
    short = warm.changed(checkpoint_every=3, language={"steps": 1})
    seen = []

    class Stop(Exception):
        pass

    from contextlib import contextmanager

    @contextmanager
    def watch(description, steps):
        seen.append((description, steps))

        def advance(n=1, **fields):
            done[0] += n
            if description == "ground" and done[0] == 5:
                raise Stop

        done = [0]
        yield advance

    def ground():
        model = sft.fresh(short, world, 0, "cpu")
        sft.finetune(model, rollouts, world, short, 0, tmp_path, watch)

    with pytest.raises(Stop):
        ground()
    with pytest.raises(Stop):
        ground()  # goes on from step 3
    assert seen[0] == ("language", 1)
    names = [description for description, _ in seen]
    assert names.count("language") == 1 and names.count("ground") == 2


def test_replayed_texts_are_spelled_as_prompt_and_answer(config, rollouts, model):
    replaying = config.changed(
        tasks={"text_replay": 0.5, "generation": 0.0, "explanation": 0.0, "dynamics": 0.0}
    )
    prompt_builder = model.prompt_builder()
    curriculum = GroundingDataset(rollouts, prompt_builder, replaying, 0)
    groups = [group for step in range(curriculum.steps) for row in curriculum.groups(step) for group in row]
    assert 0 < len(groups) <= curriculum.examples()["replay"] == len(rollouts) // 2
    rng = derive_rng(0, "ground", 0, "replay")
    texts = [phrases.translation(rng) for _ in range(len(rollouts) // 2)]
    expected = {text: answer for text, answer in texts}
    for group in groups:
        text = prompt_builder.tokenizer.decode(group.prompt.value, skip_special_tokens=True)
        (body,) = group.bodies
        asked = body.answer[body.asks == 0]
        answer = next(
            a
            for t, a in expected.items()
            if np.array_equal(prompt_builder.prompt(t).value, group.prompt.value)
        )
        assert asked.tolist() == [*prompt_builder.ids(answer), prompt_builder.end], text
        lead = len(prompt_builder.ids(REPLAY))
        assert body.value[:lead].tolist() == prompt_builder.ids(REPLAY)
        assert body.value[lead:].tolist() == prompt_builder.ids(answer)


def test_replay_leaves_the_other_tasks_as_they_are(config, rollouts, model):
    prompt_builder = model.prompt_builder()
    plain = GroundingDataset(rollouts, prompt_builder, config, 0)
    mixed = GroundingDataset(rollouts, prompt_builder, config.changed(tasks={"text_replay": 0.25}), 0)
    assert mixed.examples() - plain.examples() == {"replay": len(rollouts) // 4}
    assert mixed.tokens() > plain.tokens()


def test_replayed_words_are_learnt(config, rollouts, model):
    prompt_builder = model.prompt_builder()
    example = prompt_builder.replay("The cup is behind the bed.", "the cup goes behind the bed")
    losses = model(packing.batch([[packing.group([example])]], rollouts, model.backbone.two_way_prompt))
    assert losses.text.item() > 1 and losses.state.item() == losses.action.item() == 0.0
