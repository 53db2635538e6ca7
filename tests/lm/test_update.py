from functools import partial

import pytest
import torch

from kalm.errors import KalmError
from kalm.lm import sft
from kalm.lm.batches import StepBatches
from kalm.lm.dataset import GroundingDataset
from kalm.lm.distributed import DistributedTrainer
from kalm.lm.settings import GroundConfig
from kalm.lm.update import measured, update


def prepared(config, world, rollouts):
    model = sft.fresh(config, world, 0, "cpu")
    model.fit_scales(rollouts)
    team = DistributedTrainer(model, sft.adamw(model, config), config.precision, bool(config.compile))
    return team, GroundingDataset(rollouts, model.prompt_builder(), config, 0)


def test_no_gradient_is_computed_for_what_is_frozen(config, world, rollouts):
    frozen = config.changed(tuning="frozen")
    team, curriculum = prepared(frozen, world, rollouts)
    update(team, StepBatches(curriculum, team.model.backbone.two_way_prompt, frozen)[0], frozen)
    gradients = {name: weight.grad is not None for name, weight in team.model.named_parameters()}
    assert gradients == {name: weight.requires_grad for name, weight in team.model.named_parameters()}
    assert any(gradients.values()) and not all(gradients.values())


def test_every_weight_has_a_gradient_also_without_answers_of_its_kind(config, world, rollouts):
    """Processes exchange the gradients of all weights, so none may be missing in any of them."""
    only = config.changed(tasks={"explanation": 0.0, "generation": 0.0})
    team, curriculum = prepared(only, world, rollouts)
    batches = StepBatches(curriculum, team.model.backbone.two_way_prompt, only)[0]
    assert batches[0].answers[0] == batches[0].answers[2] == 0 < batches[0].answers[1]
    losses = update(team, batches, only)
    assert float(losses["text"]) == float(losses["action"]) == 0
    assert all(weight.grad is not None for weight in team.model.parameters() if weight.requires_grad)


def test_the_measured_loss_is_the_weighted_sum(config):
    losses = {"text": 2.0, "state": torch.tensor(3.0), "action": 5.0, "gradient_norm": 7.0, "body_lr": 0.1}
    weights = {"text": 0.5, "state": 1.0, "action": 2.0}
    values = measured(losses, config.changed(loss=weights))
    assert values == {
        "loss": 1 + 3 + 10,
        "text": 2,
        "state": 3,
        "action": 5,
        "gradient_norm": 7,
        "body_lr": 0.1,
    }
    with pytest.raises(KalmError, match="the loss is nan"):
        measured(losses | {"state": torch.tensor(float("nan"))}, config)


def test_a_compiled_model_on_padded_rows_has_the_same_losses(llama, world, rollouts, monkeypatch):
    """With PyTorch's own tracing and gradients, and without the minutes that a C++ compiler takes."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    losses, widths = [], []
    for compiled in (False, True):
        settings = GroundConfig(
            backbone=str(llama), rows=2, row_tokens=192, precision="float32", compile=compiled
        )
        team, curriculum = prepared(settings, world, rollouts)
        batches = StepBatches(curriculum, team.model.backbone.two_way_prompt, settings)[0]
        widths.append(batches[0].position.shape[1])
        losses.append(
            torch.stack([update(team, batches, settings)[name] for name in ("text", "state", "action")])
        )
    assert widths[0] < widths[1] == 192
    assert torch.allclose(*losses, rtol=1e-5)
