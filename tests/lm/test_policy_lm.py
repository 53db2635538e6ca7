"""The language model as policy: what it does in closed loop is what a plain reading of the history says."""

import numpy as np
import pytest
import torch

from kalm.errors import KalmError
from kalm.evaluation.episodes import play
from kalm.lm import packing
from kalm.lm.policy import LMPolicy, _gumbel, _seeds
from kalm.lm.prompts import PROMPTS, Tokens


def uncached(model, rollouts, index, template):
    """Action outputs of one forward pass over a whole true rollout: (T, A)."""
    prompt_builder = model.prompt_builder()
    rollout = rollouts[index]
    body = Tokens.rollout(
        int(rollouts.state_starts[index]),
        int(rollouts.action_starts[index]),
        len(rollout.actions),
        prompt_builder.entities,
        learn=True,
    )
    prompt = prompt_builder.goal_prompt(rollout.instruction.text, template)
    batch = packing.batch([[packing.PackedRow(prompt, (body,))]], rollouts, model.backbone.two_way_prompt)
    with torch.inference_mode():
        hidden = model.body(model.embed(batch).double(), batch.visible, batch.position)[0, len(prompt) :]
        return model.rate_actions(
            hidden[prompt_builder.entities :: prompt_builder.entities + 2], batch.states
        )


@pytest.mark.parametrize("prompt", PROMPTS)
def test_actions_equal_those_of_a_full_forward_over_the_true_history(model, world, rows, prompt):
    played = play(LMPolicy(model, prompt=prompt), world, rows, range(len(rows)), horizon=7)
    assert played.lengths.min() == 1 and played.lengths.max() == 7  # some left on the way
    assert len(set(played.actions.tolist())) > 3
    for index, rollout in enumerate(played):
        output = uncached(model, played, index, PROMPTS[prompt])
        assert np.array_equal(output.argmax(1).numpy(), rollout.actions)


@pytest.mark.parametrize("temperature", [0.0, 2.0])
def test_neighbours_and_their_number_change_nothing(model, world, rows, temperature):
    def played(side_by_side):
        policy = LMPolicy(model, temperature, side_by_side=side_by_side)
        return play(policy, world, rows, range(len(rows)), horizon=6)

    whole = played(256)
    for size in (1, 3):
        parts = played(size)
        assert np.array_equal(parts.actions, whole.actions)
        assert np.array_equal(parts.states, whole.states)


def test_episodes_that_end_leave_the_others_alone(model, world, rows):
    """Ended episodes stay in the cache until they are many; neither staying nor leaving may be felt."""
    texts = [row.text for row in rows]
    states = world.initial_states([row.goal for row in rows], range(len(rows)))
    together = LMPolicy(model).begin(texts, states)
    running = np.arange(len(rows))
    alone = [LMPolicy(model).begin([text], state[None]) for text, state in zip(texts, states, strict=True)]
    held = []
    for step in range(len(rows)):
        now = states + 0.01 * step
        actions = together.act(running, now[running], np.zeros(len(running)))
        single = [alone[i].act(np.array([0]), now[i : i + 1], np.zeros(1))[0] for i in running]
        assert actions.tolist() == single
        held.append(len(together.decode_state.rows) - len(running))
        running = np.delete(running, step % len(running))
    assert max(held) > 0 == held[0]
    assert len(together.decode_state.rows) < len(rows)


def test_sampling_follows_the_models_probabilities(model, world, rows):
    states = world.initial_states([rows[0].goal], [0])
    policy = LMPolicy(model, temperature=1.0)
    n = 4_000
    seeds = np.random.default_rng(0).integers(2**63, size=n).astype(np.uint64)
    logits = np.array([0.0, 1.0, 2.0])
    drawn = (logits + _gumbel(seeds, 0, 3)).argmax(1)
    shares = np.bincount(drawn, minlength=3) / n
    np.testing.assert_allclose(shares, np.exp(logits) / np.exp(logits).sum(), atol=0.03)
    assert np.corrcoef(_gumbel(seeds, 0, 1)[:, 0], _gumbel(seeds, 1, 1)[:, 0])[0, 1] == pytest.approx(
        0, abs=0.06
    )
    one, same, other = (_seeds(s, [rows[0].text], states) for s in (0, 0, 1))
    assert one == same and one != other
    assert policy.begin([rows[0].text], states).seeds == one


def test_context_that_is_used_up_is_told(model, world, rows):
    hard = [row for row in rows if row.level == "hard"][:1]
    with pytest.raises(KalmError, match=r"positions, the model has \d+. Lower the horizon"):
        play(LMPolicy(model), world, hard, [0], horizon=200)


def test_wrong_settings_and_states_are_told(model, world, rows):
    with pytest.raises(KalmError, match="unknown prompt 'no'. Known: generation, goal-oriented"):
        LMPolicy(model, prompt="no")
    with pytest.raises(KalmError, match="temperature=-1"):
        LMPolicy(model, temperature=-1)
    with pytest.raises(KalmError, match="side_by_side=0"):
        LMPolicy(model, side_by_side=0)
    with pytest.raises(KalmError, match="needs one row of 10 numbers per sentence"):
        LMPolicy(model).begin([rows[0].text], np.zeros((1, 3)))
