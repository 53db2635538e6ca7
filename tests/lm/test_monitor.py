import numpy as np
import pytest
import torch

from kalm.data.scoring import first_true
from kalm.lm import packing
from kalm.lm.explain import explain, verdicts
from kalm.lm.generate import imagine_rollouts
from kalm.lm.monitor import GroundingMonitor
from kalm.lm.prompts import GOAL_ORIENTED, explanation_prompts
from kalm.types import LEVELS


@pytest.fixture
def look(model, world, rollouts, config):
    """Make a monitor on 12 held-out rollouts, with these numbers of rollouts; return its numbers."""
    held_out = rollouts.take(np.arange(12))

    def numbers(**changes):
        settings = config.changed(**{"match_rollouts": 3, "explain_rollouts": 8, **changes})
        return GroundingMonitor(
            model.float(), world, held_out, model.prompt_builder(), settings, 0
        ).evaluate()

    return numbers


def test_a_look_measures_everything(look, world):
    found = look()
    families = {name.rpartition("/")[0] for name in found}
    assert families == {
        "held_out", "dynamics", "relative_error", "explanation", "seen_prompt", "unseen_prompt", "match",
        "one_step_easy", "off_table", "interpenetrating",
    } | (families & {"goal_first"})  # fmt: skip
    assert {f"{family}/{level}" for family in ("match", "off_table") for level in LEVELS} <= set(found)
    assert all(np.isfinite(value) for value in found.values())
    assert found == look(), "the same model gives the same numbers"


def test_goals_are_of_tune(model, world, rollouts, config):
    settings = config.changed(match_rollouts=20)
    monitor = GroundingMonitor(model, world, rollouts.take(np.arange(2)), model.prompt_builder(), settings, 0)
    assert {one.split for tries, _ in monitor.tries.values() for one in tries} == {"tune"}
    assert list(monitor.tries) == list(LEVELS)


def test_goal_first_stands_beside_match(model, world, rollouts, config):
    settings = config.changed(match_rollouts=60)
    prompt_builder, held_out = model.prompt_builder(), rollouts.take(np.arange(12))
    monitor = GroundingMonitor(model.float(), world, held_out, prompt_builder, settings, 0)
    found = monitor._imagined("easy")
    instructions, starts = monitor.tries["easy"]
    imagined = imagine_rollouts(model, world, instructions, monitor.seeds, starts=starts, precision="float32")
    first = first_true(imagined.rollouts, world).tolist()
    if won_or_lost := first.count("goal") + first.count("counterfactual"):
        assert found["goal_first/easy"] == first.count("goal") / won_or_lost
    else:
        assert "goal_first/easy" not in found


def test_dynamics_stand_beside_nothing_moves(look, model, rollouts):
    found = look(match_rollouts=0, explain_rollouts=0)
    assert found["relative_error/dynamics"] == pytest.approx(
        found["dynamics/model"] / found["dynamics/nothing_moves"]
    )
    first = rollouts.take(np.arange(12))
    squares = ((first.states[first.before + 1] - first.states[first.before]) ** 2).mean(axis=1)
    low, high = (
        np.sqrt(np.mean([limit(squares[first.owner == row]) for row in range(12)])) for limit in (min, max)
    )
    assert low <= found["dynamics/nothing_moves"] <= high


def test_explanations_are_those_of_the_first_held_out_rollouts(look, model, world, rollouts):
    found = look(match_rollouts=0)
    some = rollouts.take(np.arange(8))
    for name, prompt in explanation_prompts(world.scene).items():
        right = verdicts(explain(model, some, prompt, precision="float32"), some, world)
        assert found[f"explanation/{name}"] == right["all"].mean()
        assert found[f"{name}/object"] == right["object"].mean()


def test_what_is_not_asked_for_is_left_out(look):
    families = {name.rpartition("/")[0] for name in look(match_rollouts=0, explain_rollouts=0)}
    assert families == {"held_out", "dynamics", "relative_error"}


def test_packed_losses_are_those_of_each_example_in_a_row_of_its_own(look, model, rollouts):
    found = look(match_rollouts=0, explain_rollouts=0)
    some, prompt_builder = rollouts.take(np.arange(12)), model.prompt_builder()
    for task, name in (("dynamics", "state"), ("generation", "action"), ("explanation", "text")):
        spell = {
            "dynamics": lambda i: prompt_builder.dynamics(some, i, 0),
            "generation": lambda i: prompt_builder.generation(some, i, GOAL_ORIENTED),
            "explanation": lambda i: prompt_builder.explanation(some, i),
        }[task]
        rows = [[packing.group([spell(i)])] for i in range(12)]
        with torch.inference_mode():
            losses = model(packing.batch(rows, some, model.backbone.two_way_prompt))
        assert found[f"held_out/{task}_{name}"] == pytest.approx(float(getattr(losses, name)), rel=1e-4)
