"""Whether a training compiles its layers: tried once, recorded, and not left in the model."""

from functools import partial

import pytest
import torch

from kalm.lm import compiling, sft
from kalm.lm.dataset import GroundingDataset


@pytest.fixture
def tried(single, world, rollouts):
    """A fresh model, its curriculum, and settings that leave the decision to a trial."""
    model = sft.fresh(single, world, 0, "cpu")
    model.fit_scales(rollouts)
    return model, GroundingDataset(rollouts, model.prompt_builder(), single, 0), single


@pytest.fixture
def traced(monkeypatch):
    """PyTorch's own tracing, without the minutes that a C++ compiler takes; any training is worth trying."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    monkeypatch.setattr(compiling, "WORTH_TRYING", 0.0)


def test_both_are_tried_on_a_twin_that_shares_the_weights(tried, traced, monkeypatch):
    model, curriculum, config = tried
    compiled, compile_layers = [], compiling.compile_layers
    monkeypatch.setattr(
        compiling, "compile_layers", lambda body: (compiled.append(body), compile_layers(body))
    )
    state = torch.get_rng_state()
    found = compiling.trial(model, curriculum, config)
    (body,) = compiled
    assert body is not model.backbone.body
    pairs = zip(body.parameters(), model.backbone.body.parameters(), strict=True)
    assert all(one is other for one, other in pairs)
    assert set(found["seconds"]) == {"plain", "compiled"} and "why_not" not in found
    assert all(weight.grad is None for weight in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("compiled", "pays"), [(0.8, True), (0.95, False)])
def test_what_is_found_is_kept_for_a_resumed_training(tried, traced, monkeypatch, tmp_path, compiled, pays):
    model, curriculum, config = tried
    seconds = iter([1.0, compiled])
    monkeypatch.setattr(compiling, "_seconds", lambda *_: next(seconds))
    place = tmp_path / compiling.NAME
    assert compiling.decide(model, curriculum, config, place).compile is pays
    assert compiling.decide(model, curriculum, config, place).compile is pays  # no second is left for a trial


def test_a_short_training_is_not_tried(tried, monkeypatch):
    model, curriculum, config = tried
    seconds = iter([compiling.WORTH_TRYING / curriculum.steps / 2])
    monkeypatch.setattr(compiling, "_seconds", lambda *_: next(seconds))
    assert compiling.trial(model, curriculum, config)["compiled"] is False


def test_without_a_compiler_it_says_so_and_goes_on(tried, traced, monkeypatch, caplog):
    def backend(graph, inputs):
        raise RuntimeError("Failed to find a C++ compiler")

    monkeypatch.setattr(torch, "compile", partial(torch.compile.func, backend=backend))
    found = compiling.trial(*tried)
    assert not found["compiled"] and "C++ compiler" in found["why_not"]
    assert "C++ compiler" in caplog.text


def test_settings_have_the_last_word(tried, tmp_path):
    model, curriculum, config = tried
    for chosen in (False, True):
        settings = config.changed(compile=chosen)
        assert compiling.decide(model, curriculum, settings, tmp_path / compiling.NAME) == settings
    assert not list(tmp_path.iterdir())
