"""Other words for a new sentence: those of known ones that the model reads as most alike."""

import numpy as np
import pytest
from pydantic import ValidationError

from kalm.errors import KalmError
from kalm.lm import sft
from kalm.lm.analogies import analogies
from kalm.lm.generate import Sampling, imagine_rollouts
from kalm.lm.imagine import imagination_plan, imagine_dataset, origins
from kalm.lm.settings import ImagineConfig
from kalm.runs.seeding import derive_seed


@pytest.fixture
def reader(single, world, rollouts):
    model = sft.fresh(single, world, 0, "cpu").eval()
    model.fit_scales(rollouts)
    return model


def test_a_known_sentence_is_most_like_itself_and_then_like_other_goals(reader, world):
    known = world.suite("seen")[:60]
    goals = {instruction.text: instruction.goal for instruction in known}
    found = analogies(reader, list(goals), known, 3, "float32")
    for text, goal in goals.items():
        assert found[text][0] == text
        assert len({goals[other] for other in found[text]}) == 3 and goals[found[text][0]] == goal


def test_more_analogies_than_goals_are_refused(reader, world):
    known = [i for i in world.suite("seen") if i.goal == world.suite("seen")[0].goal]
    with pytest.raises(KalmError, match="analogies=2.*only 1 goals"):
        analogies(reader, ["Move it."], known, 2, "float32")


def test_other_words_are_read_and_the_goal_stays(reader, world):
    seen, new = world.suite("seen")[:4], world.suite("rephrase")[:4]
    seeds, words = np.arange(4), [instruction.text for instruction in seen]
    options = {"horizon": 4, "precision": "float32"}
    asked = imagine_rollouts(reader, world, new, seeds, words=words, **options).rollouts
    own = imagine_rollouts(reader, world, seen, seeds, **options).rollouts
    assert tuple(asked.instructions[i] for i in asked.which) == tuple(new)
    for i in range(4):  # up to where one of them reaches its goal
        one, other = asked[i].actions, own[i].actions
        both = min(len(one), len(other))
        assert both and np.array_equal(one[:both], other[:both])


def test_first_samples_are_asked_for_in_known_words(reader, world, tmp_path):
    rows = imagination_plan(world, ImagineConfig(rephrase=1, easy=0, hard=0))[:12]
    config = ImagineConfig(
        horizon=2, samples=3, analogies=2, temperature=5.0, temperature_growth=3.0, precision="float32"
    )
    found = imagine_dataset(reader, world, rows, config, 0, tmp_path, {})
    row, sample = origins(tmp_path)
    assert {0, 1, 2} <= set(sample.tolist())
    known = analogies(reader, [i.text for i in rows], world.suite("seen"), 2, "float32")
    for which, words in enumerate(
        [*zip(*(known[i.text] for i in rows), strict=True), [i.text for i in rows]]
    ):
        at = np.flatnonzero(sample == which)
        first = found.take(np.flatnonzero(sample == 0)).first_states[row[at]]
        expected = imagine_rollouts(
            reader,
            world,
            [rows[i] for i in row[at]],
            [derive_seed(0, "imagine", int(i), *([which] if which else [])) for i in row[at]],
            starts=first,
            words=[words[i] for i in row[at]],
            horizon=2,
            sampling=Sampling(5.0),
            precision="float32",
        ).rollouts
        assert np.array_equal(found.take(at).actions, expected.actions)


def test_a_sample_has_to_be_left_for_its_own_words():
    with pytest.raises(ValidationError, match="leaves none of samples=2"):
        ImagineConfig(samples=2, analogies=2, temperature=1.0)
