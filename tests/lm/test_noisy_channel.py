"""Explaining by a noisy channel: of the model's own texts the one for which it would have acted like this."""

import numpy as np
import pytest

from kalm.lm import noisy_channel, sft
from kalm.lm.explain import hypotheses
from kalm.lm.inverse_planning import action_surprise
from kalm.lm.noisy_channel import explain_by_channel


@pytest.fixture
def asked(single, world, rollouts):
    model = sft.fresh(single, world, 0, "cpu").double().eval()
    model.fit_scales(rollouts)
    return model, rollouts.take(np.arange(4))


def test_the_text_of_the_largest_sum_is_taken(asked, monkeypatch):
    model, some = asked
    proposed = [{"a": -1.0, "b": -2.0}, {"b": -1.0, "c": -5.0}, {"a": -3.0}, {"c": -1.0, "a": -1.5}]
    surprise = np.array([[9.0, 1.0, 0.0], [0.0, 6.0, 1.0], [9.0, 0.0, 0.0], [1.0, 0.0, 1.2]])  # of a, b, c
    monkeypatch.setattr(noisy_channel, "hypotheses", lambda *_, **__: proposed)
    monkeypatch.setattr(noisy_channel, "action_surprise", lambda *_: surprise)
    assert explain_by_channel(model, some) == ["b", "c", "a", "c"]


def test_it_chooses_among_what_the_model_says(asked):
    model, some = asked
    found = explain_by_channel(model, some, beams=4)
    for row, (text, texts) in enumerate(zip(found, hypotheses(model, some, beams=4), strict=True)):
        names = list(texts)
        surprise = action_surprise(model, some.take(np.array([row])), names)[0]
        sums = {name: texts[name] - value for name, value in zip(names, surprise, strict=True)}
        assert sums[text] == pytest.approx(max(sums.values()), rel=1e-9)
