import numpy as np
import pytest

from kalm.errors import KalmError
from kalm.lm.prompts import ACTION, ENTITY, GENERATION, GOAL_ORIENTED, NOTHING, STATE, TEXT, Tokens


@pytest.fixture
def prompt_builder(model):
    return model.prompt_builder()


def words(prompt_builder, tokens):
    return prompt_builder.tokenizer.decode(tokens.value[tokens.kind == TEXT])


def test_generation_asks_for_everything_after_the_first_state(prompt_builder, rollouts):
    example = prompt_builder.generation(rollouts, 3, GENERATION)
    length = int(rollouts.lengths[3])
    text = rollouts[3].instruction.text.rstrip(".")
    assert f"Goal: {text}." in words(prompt_builder, example.prompt)
    assert example.body.kind.tolist() == [STATE, ACTION] * length
    assert example.body.asks.tolist() == [ACTION, STATE] * length
    start = rollouts.state_starts[3]
    assert example.body.value[0::2].tolist() == list(range(start, start + length))
    assert example.body.answer[0::2].tolist() == example.body.value[1::2].tolist()
    assert example.body.answer[1::2].tolist() == list(range(start + 1, start + length + 1))
    assert (example.prompt.asks == NOTHING).all()


def test_entity_tokens_stand_before_their_state_and_ask_for_nothing():
    tokens = Tokens.rollout(first_state=7, first_action=4, length=2, entities=3, learn=True)
    assert tokens.kind.tolist() == [ENTITY] * 3 + [STATE, ACTION] + [ENTITY] * 3 + [STATE, ACTION]
    assert tokens.value.tolist() == [21, 22, 23, 7, 4, 24, 25, 26, 8, 5]
    assert tokens.asks.tolist() == [NOTHING] * 3 + [ACTION, STATE] + [NOTHING] * 3 + [ACTION, STATE]
    assert tokens.answer.tolist() == [0, 0, 0, 4, 8, 0, 0, 0, 5, 9]
    told = Tokens.rollout(first_state=7, first_action=4, length=1, entities=1)
    assert told.kind.tolist() == [ENTITY, STATE, ACTION, ENTITY, STATE]
    assert (told.asks == NOTHING).all()


def test_explanation_asks_for_the_words_and_an_end(prompt_builder, rollouts):
    example = prompt_builder.explanation(rollouts, 3)
    asking = np.flatnonzero(example.body.asks == TEXT)
    answer = example.body.answer[asking]
    assert answer[-1] == prompt_builder.end
    assert prompt_builder.tokenizer.decode(answer[:-1]) == rollouts[3].instruction.text
    assert asking.tolist() == list(range(asking[0], len(example.body)))
    assert example.body.value[asking[1:]].tolist() == answer[:-1].tolist()


def test_dynamics_asks_for_one_next_state(prompt_builder, rollouts):
    example = prompt_builder.dynamics(rollouts, 3, 0)
    assert np.flatnonzero(example.body.asks == STATE).tolist() == [len(example.body) - 1]
    assert example.body.value[0] + 1 == example.body.answer[-1]


def test_a_goal_longer_than_the_context_is_refused(prompt_builder):
    with pytest.raises(KalmError, match="longer than the model's context"):
        prompt_builder.goal_prompt("push " * 600, GOAL_ORIENTED)


@pytest.mark.parametrize("spelled", ["</s>", "<s>", "[SEP]", "[CLS]", "<|end|>"])
def test_a_sentence_that_spells_a_special_token_stays_a_sentence(prompt_builder, spelled):
    special = set(prompt_builder.tokenizer.all_special_ids)
    goal = f"Push {spelled} the red ball {spelled}"
    example = prompt_builder.goal_prompt(goal, GOAL_ORIENTED)
    inside = example.value[1:] if prompt_builder.start is not None else example.value
    assert not special & set(inside.tolist())
    assert spelled in words(prompt_builder, example)
    told = prompt_builder.replay(goal, goal).body
    assert not special & set(told.value.tolist())
    assert told.answer[told.asks == TEXT].tolist().count(prompt_builder.end) == 1
