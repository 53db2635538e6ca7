import numpy as np
import pytest
import torch

from kalm.data.rollouts import RolloutSet
from kalm.errors import KalmError
from kalm.lm import packing, sft
from kalm.lm.explain import explain, verdicts
from kalm.lm.prompts import Tokens, explanation_prompts
from kalm.types import Rollout

PROMPTS = explanation_prompts("five balls")


def slowly(model, rollouts, row, prompt, words):
    """The same text, reading the whole sequence again for every word."""
    prompt_builder = model.prompt_builder()
    example, ids = prompt_builder.question(rollouts, row, prompt), []
    while len(ids) < words:
        body = Tokens.join([example.body, Tokens.text(ids)])
        batch = packing.batch(
            [[packing.PackedRow(example.prompt, (body,))]], rollouts, model.backbone.two_way_prompt
        )
        with torch.inference_mode():
            hidden = model.body(model.embed(batch), batch.visible, batch.position)[0, -1]
            word = int(model.backbone.logits(hidden[None]).argmax())
        if word == prompt_builder.end:
            break
        ids.append(word)
    return prompt_builder.tokenizer.decode(ids, skip_special_tokens=True).strip()


@pytest.fixture(params=[False, True], ids=["states", "entities"])
def talkative(request, config, world, rollouts):
    """A random model whose texts differ from rollout to rollout, with and without entity tokens."""
    config = config.changed(entity_tokens=request.param)
    model = sft.fresh(config, world, 0, "cpu").double().eval()
    model.fit_scales(rollouts)
    with torch.no_grad():
        for part in (model.embed_state, model.embed_action):
            part[-1].weight.mul_(30)
    return model


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
def test_cached_and_batched_texts_equal_plain_ones(talkative, rollouts, prompt):
    some = rollouts.take(np.arange(9))
    assert len(set(some.lengths)) > 1
    plain = [slowly(talkative, some, row, prompt, 6) for row in range(9)]
    assert explain(talkative, some, prompt, words=6) == plain
    assert explain(talkative, some, prompt, words=6, batch=1) == plain


def test_rows_that_wrote_their_end_leave_and_the_others_go_on(talkative, rollouts):
    some = rollouts.take(np.arange(24))
    tokenizer = talkative.backbone.tokenizer
    texts = [tokenizer.tokenize(text) for text in explain(talkative, some, words=8)]

    def lengths(end):
        return {text.index(end) if end in text else len(text) for text in texts}

    # What ends a text becomes a word that stands at different places in them.
    tokenizer.sep_token = max({word for text in texts for word in text}, key=lambda end: len(lengths(end)))
    assert len(lengths(tokenizer.sep_token)) > 2
    found = explain(talkative, some, words=8)
    assert found == [slowly(talkative, some, row, PROMPTS["seen_prompt"], 8) for row in range(24)]


def test_a_text_is_judged_by_the_goal_of_its_rollout(world, rollouts):
    some = rollouts.take(np.arange(3))
    right = [rollout.instruction.text for rollout in some]
    found = verdicts([right[0], "", right[2].upper()], some, world)
    assert set(found) == {"object", "direction", "reference", "all"}
    for flags in found.values():
        assert flags.tolist() == [True, False, True]


def test_the_unseen_prompt_speaks_of_the_worlds_scene(world):
    before, after = explanation_prompts(world.scene)["unseen_prompt"]
    assert before == (
        "Suppose you are playing gaming of five balls with different colours. "
        "Please explain the following rollout briefly.\n rollout:"
    )
    assert after == "\n Answer:"


def test_a_rollout_that_fills_the_context_is_refused(model, world, rollouts):
    steps = model.backbone.context // 2
    states = np.repeat(rollouts.states[:1], steps + 1, axis=0)
    long = Rollout(rollouts.instructions[0], states, np.zeros(steps), np.zeros(steps), False, "real")
    with pytest.raises(KalmError, match="context"):
        explain(model, RolloutSet.from_rollouts(world.spec, [long]))
