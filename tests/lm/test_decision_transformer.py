"""The decision transformer: what it reads, what it learns, how it acts, and how it is stored."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from kalm.errors import KalmError
from kalm.evaluation.episodes import play
from kalm.lm import packing
from kalm.lm.decision_transformer.dataset import DecisionDataset
from kalm.lm.decision_transformer.model import DecisionTransformer
from kalm.lm.decision_transformer.policy import DecisionTransformerPolicy, load_decision_transformer
from kalm.lm.decision_transformer.settings import DecisionTransformerConfig
from kalm.lm.decision_transformer.train import train_decision_transformer
from kalm.lm.prompts import ACTION, ENTITY, GOAL_ORIENTED, NOTHING, RETURN, STATE, PromptBuilder, Tokens
from kalm.runs.metrics import read_metrics

SMALL = DecisionTransformerConfig(
    steps=6, row_tokens=128, rows=2, body_lr=3e-3, new_lr=3e-3, checkpoint_every=2
)


@pytest.fixture
def conditioned(model, rollouts):
    found = DecisionTransformer(model).double().eval()
    found.fit_scales(rollouts, rollouts)
    found.fit_aims(rollouts, "float32")
    return found


def as_double(batch):
    return replace(batch, states=batch.states.double(), returns=batch.returns.double())


def fit(single, rollouts, folder, config=SMALL, imagined=None, **more):
    return train_decision_transformer(single, config, rollouts, imagined, 0.5, 0, folder, **more)


def test_tokens_of_decisions():
    tokens = Tokens.decisions(first_state=10, first_action=7, length=2, entities=2)
    step = [RETURN, ENTITY, ENTITY, STATE, ACTION]
    assert tokens.kind.tolist() == [*step, *step[:-1]]
    assert tokens.value.tolist() == [7, 20, 21, 10, 7, 8, 22, 23, 11]
    asking = [NOTHING, NOTHING, NOTHING, ACTION, NOTHING]
    assert tokens.asks.tolist() == [*asking, *asking[:-1]]
    assert tokens.answer[[3, 8]].tolist() == [7, 8]


def test_returns_to_go_are_sums_of_what_follows(rollouts):
    few = rollouts.take(np.flatnonzero(rollouts.lengths == 2)[:2])
    few = few.with_scores(np.array([1.0, 10.0, -2.0, 0.5]), few.success)
    assert few.returns_to_go.tolist() == [11.0, 10.0, -1.5, 0.5]


def test_the_loss_is_the_cross_entropy_of_the_actions(conditioned, rollouts):
    """With a head that says the same logits everywhere: log sum exp minus the logit of what was done."""
    with torch.no_grad():
        last = conditioned.grounded.action_head[-1]
        last.weight.zero_()
        last.bias.copy_(torch.linspace(-1, 1, 40))
    prompt_builder = conditioned.grounded.prompt_builder()
    group = packing.group([prompt_builder.decision(rollouts, 0)])
    batch = as_double(packing.batch([[group]], rollouts, conditioned.backbone.two_way_prompt))
    logits = np.linspace(-1, 1, 40)
    wanted = np.log(np.exp(logits).sum()) - logits[rollouts[0].actions].mean()
    assert conditioned(batch).mean().item() == pytest.approx(wanted, abs=1e-6)


def test_packed_losses_equal_those_of_every_rollout_alone(conditioned, rollouts):
    mixture = DecisionDataset(rollouts, None, 0.5, conditioned.grounded.prompt_builder(), SMALL, 0)
    rows, two_way = mixture.groups(0), conditioned.backbone.two_way_prompt
    packed = as_double(packing.batch(rows, rollouts, two_way))
    total, bodies = 0.0, 0
    for group in (group for row in rows for group in row):
        bodies = max(bodies, len(group.bodies))
        for body in group.bodies:
            alone = as_double(packing.batch([[packing.PackedRow(group.prompt, (body,))]], rollouts, two_way))
            total += conditioned(alone).sum().item()
    assert bodies > 1, "some rollouts must share a prompt"
    assert conditioned(packed).mean().item() == pytest.approx(total / packed.answers[2], abs=1e-9)


@pytest.mark.parametrize("target", [None, 30.0])
def test_actions_equal_those_of_a_full_forward_over_the_true_history(conditioned, world, rows, target):
    policy = DecisionTransformerPolicy(conditioned, target, precision="float32")
    played = play(policy, world, rows, range(len(rows)), horizon=6)
    assert played.lengths.min() == 1 and played.lengths.max() == 6
    model, prompt_builder = conditioned.grounded, conditioned.grounded.prompt_builder()
    for index, rollout in enumerate(played):
        group = packing.group([prompt_builder.decision(played, index)])
        batch = as_double(packing.batch([[group]], played, conditioned.backbone.two_way_prompt))
        asked = policy.begin([rows[index].text], rollout.states[:1]).wanted[0]
        assert target is None or asked == target
        earned = np.cumsum([0.0, *rollout.rewards[:-1]])
        batch = replace(batch, returns=torch.from_numpy(asked - earned))
        with torch.inference_mode():
            tokens = model.embed(batch).double().flatten(0, 1)
            tokens = tokens.index_copy(0, batch.return_at, conditioned.return_tokens(batch.returns))
            hidden = model.body(tokens[None], batch.visible, batch.position)[0]
            output = model.rate_actions(hidden[batch.ask_action_at], batch.acting_states)
        assert np.array_equal(output.argmax(1).numpy(), rollout.actions)


def test_neighbours_and_their_number_change_nothing(conditioned, world, rows):
    policy = DecisionTransformerPolicy(conditioned, precision="float32")
    whole = play(policy, world, rows, range(len(rows)), horizon=5)
    parts = play(replace(policy, side_by_side=3), world, rows, range(len(rows)), horizon=5)
    assert np.array_equal(parts.actions, whole.actions)


def test_what_is_asked_for_is_what_goals_that_read_alike_earned(conditioned, rollouts, world):
    moves = world.suite("easy")[:30]
    few = rollouts.take(np.arange(30)).cut(np.ones(30, np.int64))
    easy = replace(few, instructions=tuple(moves), which=np.arange(30, dtype=np.int32))
    easy = easy.with_scores(np.ones(30), np.ones(30))
    both = type(rollouts).concat([rollouts, easy])
    conditioned.fit_aims(both, "float32")
    policy = DecisionTransformerPolicy(conditioned, precision="float32")
    asked = [rollouts.instructions[0], moves[0]]
    starts = world.initial_states([item.goal for item in asked], [0, 1])
    far, near = policy.begin([item.text for item in asked], starts).wanted
    assert far > 95 and near < 20
    lost = replace(rollouts, success=rollouts.success & False)
    conditioned.fit_aims(lost, "float32")
    assert conditioned.aim_range[1] > 95


def test_mixing_is_by_actions_and_weights(conditioned, rollouts):
    prompt_builder = conditioned.grounded.prompt_builder()
    order = np.argsort(rollouts.lengths, kind="stable")
    real, imagined = rollouts.take(order[:100]), rollouts.take(order[100:])
    imagined = replace(imagined, weights=np.where(np.arange(60) < 20, 4, 1).astype(np.float32))
    assert imagined.lengths.mean() > 2 * real.lengths.mean()
    for mix in (0.0, 0.25, 1.0):
        mixture = DecisionDataset(real, imagined, mix, prompt_builder, SMALL, 0)
        drawn = np.concatenate([same for row in mixture._rows(0) for same in row])
        actions = mixture.rollouts.lengths[drawn]
        assert actions[drawn >= 100].sum() / actions.sum() == pytest.approx(mix, abs=0.01)
        if mix:
            times = np.bincount(drawn[drawn >= 100] - 100, minlength=60)
            assert times.sum() * 4 / 120 == pytest.approx(times[:20].mean(), rel=0.02)
            assert times[:20].max() - times[:20].min() <= 1


def test_losses_are_told_per_source(single, rollouts, tmp_path):
    imagined = replace(rollouts, source=np.ones_like(rollouts.source))
    fit(single, rollouts, tmp_path, imagined=imagined)
    row = read_metrics(tmp_path)[0]
    low, high = sorted([row["loss_real"], row["loss_imagined"]])
    assert low < row["loss"] < high


def test_the_source_of_each_action_is_known(conditioned, rollouts):
    imagined = replace(rollouts, source=np.ones_like(rollouts.source), actions=rollouts.actions * 0 + 39)
    real = replace(rollouts, actions=rollouts.actions * 0)
    mixture = DecisionDataset(real, imagined, 0.5, conditioned.grounded.prompt_builder(), SMALL, 0)
    groups = mixture.groups(1)
    batch = packing.batch(groups, mixture.rollouts, conditioned.backbone.two_way_prompt)
    assert set(mixture.sources(groups)) == {0, 1}
    assert np.array_equal(batch.want_actions.numpy() == 39, mixture.sources(groups) == 1)


def test_batches_follow_from_seed_and_step(conditioned, rollouts):
    prompt_builder = conditioned.grounded.prompt_builder()
    one, two, other = (
        DecisionDataset(rollouts, None, 0.0, prompt_builder, SMALL, seed) for seed in (0, 0, 1)
    )
    late = one.steps_per_block + 1
    one.groups(0)
    values = [
        [group.bodies[0].value.tolist() for row in mixture.groups(late) for group in row]
        for mixture in (one, two, other)
    ]
    assert values[0] == values[1] != values[2]


def test_every_family_learns(config, rollouts, tmp_path):
    same = replace(rollouts, actions=np.full_like(rollouts.actions, 5))
    policy = train_decision_transformer(config, SMALL.changed(steps=20), same, None, 0.5, 0, tmp_path)
    losses = [row["loss"] for row in read_metrics(tmp_path)]
    assert losses[-1] < 0.5 * losses[0] and policy.spec == rollouts.spec
    assert not (tmp_path / "checkpoint.safetensors").exists()


def test_it_does_what_the_wanted_return_asks_for(single, rollouts, world, tmp_path):
    """Rollouts that earn 10 push action 3, those that earn 0 push action 7."""
    rich = np.arange(len(rollouts)) % 2 == 0
    told = replace(rollouts, actions=np.where(rich[rollouts.owner], 3, 7))
    rewards = np.zeros(rollouts.transitions)
    rewards[rollouts.last_action[rich]] = 10
    told = told.with_scores(rewards, rollouts.success)
    config = SMALL.changed(steps=60)
    policy = train_decision_transformer(single, config, told, told, 0.5, 0, tmp_path)
    texts = [item.text for item in told.instructions[:8]]
    states = world.initial_states([item.goal for item in told.instructions[:8]], range(8))
    for target, action in ((10.0, 3), (0.0, 7)):
        playing = replace(policy, target=target).begin(texts, states)
        first = playing.act(np.arange(8), states, np.zeros(8))
        again = playing.act(np.arange(8), states, np.zeros(8))
        assert (first == action).all() and (again == action).all()
        playing.act(np.arange(1, 8), states[1:], np.full(7, 2.5))
        assert playing.wanted.tolist() == [target, *[target - 2.5] * 7]


class Stop(Exception):
    pass


def test_a_stopped_training_resumes_to_the_same_policy(single, rollouts, tmp_path):
    whole = fit(single, rollouts, tmp_path / "whole", imagined=rollouts)

    def stopping(n, resumed=False, **fields):
        if not resumed:
            steps.append(n)
        if len(steps) == 5:
            raise Stop

    steps = []
    with pytest.raises(Stop):
        fit(single, rollouts, tmp_path / "stopped", imagined=rollouts, advance=stopping)
    random = torch.random.get_rng_state()
    again = fit(single, rollouts, tmp_path / "stopped", imagined=rollouts)
    assert torch.equal(random, torch.random.get_rng_state())
    for (name, one), two in zip(
        whole.model.state_dict().items(), again.model.state_dict().values(), strict=True
    ):
        assert torch.equal(one, two), name
    assert read_metrics(tmp_path / "whole") == read_metrics(tmp_path / "stopped")


def test_what_is_finished_is_loaded_and_only_its_target_may_change(single, rollouts, tmp_path):
    fit(single, rollouts, tmp_path)
    rows = read_metrics(tmp_path)
    asking = SMALL.changed(target=5.0)
    assert fit(single, rollouts, tmp_path, asking).target == 5.0 == load_decision_transformer(tmp_path).target
    assert read_metrics(tmp_path) == rows


def test_a_checkpoint_of_another_training_is_refused(single, rollouts, tmp_path):
    def stopping(n, resumed=False, **fields):
        if "loss" in fields:
            raise Stop

    with pytest.raises(Stop):
        fit(single, rollouts, tmp_path, SMALL.changed(checkpoint_every=5), advance=stopping)
    with pytest.raises(KalmError, match="other data, settings or seed"):
        fit(single, rollouts.take(np.arange(50)), tmp_path)


def test_a_training_can_go_on_from_a_policy(single, rollouts, tmp_path):
    first = fit(single, rollouts, tmp_path / "one")
    still = SMALL.changed(steps=1, body_lr=1e-12, new_lr=1e-12)
    second = fit(single, rollouts, tmp_path / "two", still, start=tmp_path / "one")
    for (name, one), two in zip(
        first.model.state_dict().items(), second.model.state_dict().values(), strict=True
    ):
        # Aims are fitted anew: a regression on readings, which enlarges what the processor rounds in them.
        assert torch.allclose(one, two, atol=1e-4 if name == "aim" else 1e-6), name
    other = single.changed(entity_tokens=True)
    with pytest.raises(KalmError, match="another backbone or other settings"):
        fit(other, rollouts, tmp_path / "three", start=tmp_path / "one")


def test_looks_and_kept_policies(single, rollouts, tmp_path):
    seen = []
    config = SMALL.changed(steps=5, evaluate_every=2, keep_policies=True)

    def look(policy, step):
        seen.append((type(policy), step))
        return {"success/seen": step / 10}

    fit(single, rollouts, tmp_path, config, eval_callback=look)
    assert seen == [(DecisionTransformerPolicy, step) for step in (2, 4, 5)]
    told = {row["step"]: row.get("success/seen") for row in read_metrics(tmp_path)}
    assert (told[2], told[4], told[5]) == (0.2, 0.4, 0.5)
    kept = sorted(place.name for place in (tmp_path / "steps").iterdir())
    assert kept == ["00000002", "00000004", "00000005"]
    assert load_decision_transformer(tmp_path / "steps" / "00000002").spec == rollouts.spec


def test_a_saved_policy_acts_the_same_and_is_of_one_world(conditioned, world, rows, tmp_path):
    policy = DecisionTransformerPolicy(conditioned.float(), 50.0, "float32")
    policy.save(tmp_path)
    assert not list(tmp_path.rglob("*.pkl")) and not list(tmp_path.rglob("*.bin"))
    loaded = load_decision_transformer(tmp_path, spec=world.spec)
    texts, goals = [row.text for row in rows], [row.goal for row in rows]
    states = world.initial_states(goals, range(len(rows)))
    one, two = (
        each.begin(texts, states).act(np.arange(len(rows)), states, np.zeros(len(rows)))
        for each in (policy, loaded)
    )
    assert loaded.target == 50.0 and np.array_equal(one, two)
    with pytest.raises(KalmError, match="is of environment 'clevr', which is not 'elsewhere'"):
        load_decision_transformer(tmp_path, spec=replace(world.spec, name="elsewhere"))
    weights = tmp_path / "decision.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(KalmError, match=r"decision.safetensors is missing or was changed"):
        load_decision_transformer(tmp_path)


def test_what_cannot_be_learnt_from_is_told_before(single, rollouts, tmp_path):
    none = rollouts.take(np.zeros(0, np.int64))
    with pytest.raises(KalmError, match="no imagined rollouts"):
        fit(single, rollouts, tmp_path, imagined=none)
    with pytest.raises(KalmError, match="environment 'other' instead of"):
        other = replace(rollouts, spec=replace(rollouts.spec, name="other"))
        fit(single, rollouts, tmp_path, imagined=other)
    broken = replace(rollouts, rewards=rollouts.rewards * np.float32("nan"))
    with pytest.raises(KalmError, match="'rewards'"):
        fit(single, broken, tmp_path)
    with pytest.raises(KalmError, match=r"mix=1.5"):
        train_decision_transformer(single, SMALL, rollouts, None, 1.5, 0, tmp_path)
    assert not any(tmp_path.iterdir())


def test_rollouts_longer_than_the_context_are_told(conditioned, rollouts):
    prompt_builder = PromptBuilder(conditioned.backbone.tokenizer, context=90)
    with pytest.raises(KalmError, match="steps with returns and its goal needs"):
        DecisionDataset(rollouts, None, 0.5, prompt_builder, SMALL, 0)


def test_the_prompt_is_that_of_imagining(conditioned, rollouts):
    prompt_builder = conditioned.grounded.prompt_builder()
    example = prompt_builder.decision(rollouts, 3)
    text = rollouts.instructions[rollouts.which[3]].text
    assert np.array_equal(example.prompt.value, prompt_builder.goal_prompt(text, GOAL_ORIENTED).value)
