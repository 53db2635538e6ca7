import numpy as np
import pytest

from kalm.errors import KalmError
from kalm.lm.sequence import ACTION, GENERATION, GOAL_ORIENTED, STATE, TEXT, Speller


@pytest.fixture
def speller(model):
    return Speller(model.backbone.tokenizer, model.backbone.context)


def words(speller, tokens):
    return speller.tokenizer.decode(tokens.value[tokens.kind == TEXT])


def test_generation_asks_for_everything_after_the_first_state(speller, rollouts):
    example = speller.generation(rollouts, 3, GENERATION)
    length = int(rollouts.lengths[3])
    text = rollouts[3].instruction.text.rstrip(".").lower()
    assert f"goal : {text}" in words(speller, example.prompt).replace(" ?", "?").replace(":", " :").replace(
        "  ", " "
    )
    assert example.body.kind.tolist() == [STATE, *[ACTION, STATE] * length]
    assert example.body.learn.tolist() == [False] + [True] * (2 * length)
    start = rollouts.state_starts[3]
    assert example.body.value[0::2].tolist() == list(range(start, start + length + 1))
    assert not example.prompt.learn.any()


def test_explanation_asks_for_the_words_and_an_end(speller, rollouts):
    example = speller.explanation(rollouts, 3)
    answer = example.body.value[example.body.learn]
    assert answer[-1] == speller.end
    assert speller.tokenizer.decode(answer[:-1]) == rollouts[3].instruction.text.lower()
    assert (example.body.kind[example.body.learn] == TEXT).all()


def test_dynamics_asks_for_one_next_state(speller, rollouts):
    example = speller.dynamics(rollouts, 3, 0)
    learnt = np.flatnonzero(example.body.learn)
    assert learnt.tolist() == [len(example.body) - 1]
    assert example.body.value[0] + 1 == example.body.value[-1]


def test_a_goal_longer_than_the_context_is_refused(speller):
    with pytest.raises(KalmError, match="longer than the model's context"):
        speller.goal_prompt("push " * 600, GOAL_ORIENTED)
