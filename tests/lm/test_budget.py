"""What `kalm ground --dry-run` says, against the model that is then trained."""

import json

import pytest
import torch
from typer.testing import CliRunner

from checkpoints import write_checkpoint
from kalm.cli.main import app
from kalm.data.collect import collect_rollouts
from kalm.data.settings import CollectConfig
from kalm.lm import budget, packing, sft
from kalm.lm.dataset import GroundingDataset


@pytest.mark.parametrize("tuning", ["full", "lora", "frozen"])
def test_counts_are_those_of_the_model(single, world, rollouts, tuning):
    config = single.changed(tuning=tuning)
    figures = budget.estimate(config, rollouts, world, 0, "cpu", processes=1)
    model = sft.fresh(config, world, 0, "cpu")
    learning = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert figures["parameters"] == sum(p.numel() for p in model.parameters())
    assert figures["trainable"] == learning
    assert figures["examples_per_epoch"]["explanation"] == len(rollouts) - config.held_out
    data, _ = sft.divide(rollouts, config, 0)
    assert figures["tokens_per_epoch"] == GroundingDataset(data, model.prompt_builder(), config, 0).tokens()


def test_memory_by_hand(single, world, rollouts):
    config = single.changed(tuning="lora", weights="bfloat16", precision="bfloat16")
    model = sft.fresh(config, world, 0, "cpu")
    learning = sum(p.numel() for p in model.parameters() if p.requires_grad)
    still = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    memory = budget.Memory.of(model, halved=True, activations=800.0)
    network = sum(p.numel() for p in model.network.parameters())  # stays, in float32
    assert memory.weights == 2 * (still - network) + 4 * (learning + network)
    assert memory.gradients == 4 * learning and memory.moments == 8 * learning
    assert memory.copies == 2 * (learning + network)
    assert memory.sharded(4) == budget.Memory(
        memory.weights / 4, learning, 2 * learning, memory.copies / 4, 800.0
    )


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_activations_are_what_a_real_pass_keeps(config, world, rollouts, tuning):
    config = config.changed(tuning=tuning, tasks={"explanation": 0.0})
    model = sft.fresh(config, world, 0, "cpu").train()
    curriculum = GroundingDataset(rollouts, model.prompt_builder(), config, 0)
    batch = packing.batch(curriculum.groups(0), rollouts, model.backbone.two_way_prompt)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def note(tensor):
        if tensor.shape[-2:] != batch.visible.shape[-2:]:  # masks and attention are left out
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    embedded = model.embed(batch)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model.body(embedded, batch.visible, batch.position)
    real = sum(t.untyped_storage().nbytes() for at, t in kept.items() if at not in own)
    planned, _ = budget.plan_backbone(config.backbone, config.attention)
    plan = sft.assemble(budget.lora.tuned(planned, config), world.spec, config)
    assert budget.activations(plan, curriculum, config, halved=False, processes=1) == pytest.approx(
        real, rel=0.2
    )


def test_sharing_a_batch_and_checkpointing_save_activations(single, world, rollouts):
    def activations(processes=1, **changes):
        changed = single.changed(rows=4, **changes)
        figures = budget.estimate(changed, rollouts, world, 0, "cpu", processes)
        return figures["gb_per_device"]["activations"]

    whole = activations()
    assert activations(processes=2) < 0.8 * whole
    assert activations(accumulate=2) < 0.8 * whole
    assert activations(gradient_checkpointing=True) < 0.9 * whole


def test_the_dry_run_needs_no_weights_and_writes_nothing(llama, world, tmp_path):
    collect_rollouts(world, CollectConfig(rollouts=60, shard=60), 0, tmp_path / "data")
    plan = tmp_path / "plan"
    plan.mkdir()
    for file in llama.iterdir():
        if file.suffix != ".safetensors":
            (plan / file.name).write_bytes(file.read_bytes())
    before = sorted(tmp_path.rglob("*"))
    options = ["--backbone", str(plan), "--dry-run", "--processes", "2", "--json"]
    small = ["--set", "ground.held_out=10", "--set", "ground.row_tokens=128"]
    result = CliRunner().invoke(app, ["ground", "--data", str(tmp_path / "data"), *options, *small])
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)
    assert figures["examples_per_epoch"] == {"generation": 50, "explanation": 50, "dynamics": 50}
    assert figures["gb_per_device_sharded"]["weights"] < figures["gb_per_device"]["weights"]
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("family", ["qwen2_moe", "deepseek_v3"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_mixture_of_experts_is_estimated_and_its_reach_said(
    single, world, rollouts, tmp_path, family, precision
):
    folder = str(write_checkpoint(family, tmp_path))
    figures = {}
    for tuning in ("full", "lora"):
        config = single.changed(backbone=folder, tuning=tuning, precision=precision)
        figures[tuning] = budget.estimate(config, rollouts, world, 0, "cpu", 1)
    assert figures["full"]["lora_reach"] is None and figures["full"]["tried_out"]
    reach = figures["lora"]["lora_reach"]
    assert 0.5 < reach["share"] < 1 and any("mlp.gate" in name for name in reach["left_alone"])
    memory = {tuning: figures[tuning]["gb_per_device"]["activations"] for tuning in figures}
    experts = 4 * 32 * (32 + 16) * (2 if family == "qwen2_moe" else 1)  # numbers in all stacked weights
    assert memory["lora"] > experts * (4 if precision == "float32" else 2) / 1e9
    assert memory["full"] > 0
