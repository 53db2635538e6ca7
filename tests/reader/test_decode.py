"""Reading in batches gives what reading one plan at a time would, token by token, without a cache."""

import itertools

import numpy as np
import pytest
import torch

from checkpoints import write_checkpoint
from kalm.lm.loading import load_backbone
from kalm.reader.decode import ReadingModel, write_plans
from kalm.reader.model import WordScores, spelling
from kalm.reader.prompts import make_menu

THINGS = ("jar", "bell", "hat")
SENTENCES = [
    f"Put the {x} {p} the {y}." for x, y in itertools.permutations(THINGS, 2) for p in ("behind", "before")
]
REQUESTS = [
    "Bell, jar: the other way round!",
    "The hat goes behind the bell",
    "no",
    "Jar before bell; then hat",
]


@pytest.fixture(scope="module", params=["llama", "granite"])
def model(request, tmp_path_factory):
    folder = write_checkpoint(request.param, tmp_path_factory.mktemp("lm"), max_position_embeddings=1024)
    backbone = load_backbone(str(folder), "causal")
    with torch.no_grad():
        for weight in backbone.model.parameters():
            weight.mul_(4)  # sharper: a random model hardly prefers anything
    return ReadingModel(backbone, WordScores(backbone))


def asked(model):
    spelled = spelling(model.backbone)
    menu = make_menu(SENTENCES, THINGS)
    return spelled.prompt(menu), [spelled.request(text) for text in REQUESTS], spelled.tree(menu)


def slow(model, prompt, request, tree, steps=None):
    """A plan's probability, everything read anew for each word, over the whole vocabulary.

    Without `steps` the likeliest word is taken at a time, but none that begins own words alone.
    """
    place, ids, total = tree.start(), [*prompt, *request], 0.0
    given = [] if steps is None else tree.spell(steps)
    while may := tree.allowed(place):
        with torch.inference_mode():
            logits = model.backbone.model(torch.tensor([ids])).logits[0, -1].double()
        chances = logits[may].log_softmax(0)
        if given:
            pick = may.index(given.pop(0))
        else:
            own = [place == tree.start() and word == tree.own_word for word in may]
            pick = int(chances.masked_fill(torch.tensor(own), -torch.inf).argmax())
        total += float(chances[pick])
        ids.append(may[pick])
        place = tree.after(place, may[pick])
    return place.steps, total


@pytest.mark.parametrize("own", [" none", "none"], ids=["own words begin alike", "own words show at once"])
def test_batched_reading_is_what_plain_reading_is(model, own, monkeypatch):
    monkeypatch.setattr("kalm.reader.model.OWN_WORDS", own)
    prompt, requests, tree = asked(model)
    assert (tree.own_word is None) == (own == " none")  # this tokenizer splits words into letters
    found = write_plans(model, prompt, requests, tree)
    for request, plans in zip(requests, found, strict=True):
        wanted = dict([slow(model, prompt, request, tree)])
        assert tree.own_word is None or () not in wanted
        if tree.own_word is not None:
            wanted |= dict([slow(model, prompt, request, tree, ())])
        assert {plan.steps: plan.log_probability for plan in plans} == pytest.approx(wanted, abs=1e-3)
        assert plans[0].log_probability == pytest.approx(max(wanted.values()), abs=1e-3)


def test_plans_are_rated_whether_they_are_likely_or_not(model):
    prompt, requests, tree = asked(model)
    rated = [(0,), (1,), (1, 0)]
    found = write_plans(model, prompt, requests, tree, rated=rated)
    for request, plans in zip(requests, found, strict=True):
        by_steps = {plan.steps: plan.log_probability for plan in plans}
        for steps in rated:
            assert by_steps[steps] == pytest.approx(slow(model, prompt, request, tree, steps)[1], abs=1e-3)


def test_batch_size_changes_nothing(model):
    prompt, requests, tree = asked(model)
    settings = {"rated": [(1,)], "samples": 3, "seeds": [1, 2, 3, 4]}
    whole = write_plans(model, prompt, requests, tree, **settings)
    single = write_plans(model, prompt, requests, tree, batch=1, **settings)
    for one, other in zip(whole, single, strict=True):
        assert [plan.steps for plan in one] == [plan.steps for plan in other]
        np.testing.assert_allclose(
            [plan.log_probability for plan in one], [plan.log_probability for plan in other], atol=1e-3
        )


def test_samples_come_as_often_as_they_are_probable(model):
    """First words of many draws against the exact chances of a plan's first choice."""
    prompt, requests, tree = asked(model)
    found = write_plans(model, prompt, requests[:1], tree, samples=200, seeds=[5])[0]
    assert len(found) > 1
    assert sum(np.exp(plan.log_probability) for plan in found) <= 1 + 1e-6
    assert [plan.log_probability for plan in found] == sorted(
        (p.log_probability for p in found), reverse=True
    )


def test_a_linear_head_is_known_and_any_other_is_asked_whole(model):
    plain = model.backbone.model.config.model_type == "llama"
    assert (model.scores._linear is not None) == plain
    hidden = torch.randn(3, model.backbone.hidden_size)
    words = torch.tensor([4, 9])
    torch.testing.assert_close(
        model.scores(hidden, words), model.backbone.logits(hidden)[:, words], rtol=1e-4, atol=1e-4
    )
