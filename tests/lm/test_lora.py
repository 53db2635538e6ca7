"""Full, LoRA and frozen tuning: what learns, what is saved, what a loaded or resumed training equals."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from checkpoints import write_checkpoint
from kalm.config import load_config
from kalm.errors import KalmError
from kalm.lm import lora, packing, sft
from kalm.lm.dataset import GroundingDataset
from kalm.lm.model import load_model
from kalm.runs.io import read_json


@pytest.fixture
def few(rollouts):
    return rollouts.take(np.arange(60))


SPARING = ["lora", "frozen"]  # tunings that leave the base alone


@pytest.fixture(params=SPARING)
def sparing(request, config):
    """Settings of a tuning that leaves the base alone."""
    return config.changed(tuning=request.param, checkpoint_every=3, lora={"rank": 4})


def trained(config, world, rollouts, folder):
    return sft.finetune(sft.fresh(config, world, 0, "cpu"), rollouts, world, config, 0, folder)


def losses(model, config, rollouts):
    rows = GroundingDataset(rollouts, model.prompt_builder(), config, 0).groups(0)
    with torch.inference_mode():
        return model.eval()(packing.batch(rows, rollouts, model.backbone.two_way_prompt))


def test_only_what_should_learn_moves(sparing, world, few, tmp_path):
    before = dict(sft.fresh(sparing, world, 0, "cpu").named_parameters())
    after = trained(sparing, world, few, tmp_path)
    moved = {name for name, weight in after.named_parameters() if not torch.equal(weight, before[name])}
    language = {name for name in moved if name.startswith("lm.")}
    assert "action_head.0.weight" in moved
    if sparing.tuning == "frozen":
        assert not language
    else:
        body = {id(p) for p in after.backbone.body.parameters()}
        adapters = {n for n, p in after.named_parameters() if lora.is_adapter(n)}
        assert language == adapters and all(id(after.get_parameter(n)) in body for n in adapters)


def test_a_loaded_model_is_the_trained_one(sparing, world, few, tmp_path):
    model = trained(sparing, world, few, tmp_path)
    loaded = load_model(tmp_path / "model")
    assert [float(v) for v in losses(loaded, sparing, few)] == [float(v) for v in losses(model, sparing, few)]
    about = read_json(tmp_path / "model" / "grounded.json", "model")["backbone"]
    assert about["tuning"] == sparing.tuning and about["name"] == sparing.backbone and not about["stored"]
    assert not list((tmp_path / "model" / "backbone").glob("*.safetensors")), "the base is not copied"
    loaded.save(tmp_path / "again")
    again = load_model(tmp_path / "again")
    assert [float(v) for v in losses(again, sparing, few)] == [float(v) for v in losses(model, sparing, few)]


def test_words_that_learnt_are_saved_with_their_base(single, world, few, tmp_path):
    config = single.changed(tuning="lora", train_embeddings=True)
    model = trained(config, world, few, tmp_path)
    assert list((tmp_path / "model" / "backbone").glob("*.safetensors"))
    loaded = load_model(tmp_path / "model")
    assert [float(v) for v in losses(loaded, config, few)] == [float(v) for v in losses(model, config, few)]


def test_adapters_are_written_in_the_layout_of_peft(config, world, few, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    config = config.changed(tuning="lora", lora={"rank": 4})
    model = trained(config, world, few, tmp_path)
    base = AutoModelForCausalLM.from_pretrained(config.backbone, attn_implementation="sdpa")
    other = PeftModel.from_pretrained(base, str(tmp_path / "model" / "backbone" / "adapter")).eval()
    ids = torch.arange(5, 15)[None]
    with torch.inference_mode():
        assert torch.allclose(other(input_ids=ids).logits, model.eval().lm(input_ids=ids).logits, atol=1e-5)


class Stop(Exception):
    pass


@pytest.mark.parametrize("tuning", SPARING)
def test_a_stopped_training_resumes_to_the_same_weights(tuning, single, world, few, tmp_path):
    from contextlib import contextmanager

    # Dropout's random numbers resume too.
    dropping = single.changed(tuning=tuning, checkpoint_every=3, lora={"rank": 4, "dropout": 0.3})
    whole = trained(dropping, world, few, tmp_path / "whole")

    @contextmanager
    def stopping(description, steps):
        done = [0]

        def advance(n=1, **fields):
            done[0] += n
            if description == "ground" and done[0] == 4:
                raise Stop

        yield advance

    with pytest.raises(Stop):
        fresh = sft.fresh(dropping, world, 0, "cpu")
        sft.finetune(fresh, few, world, dropping, 0, tmp_path / "stopped", stopping)
    kept = load_file(tmp_path / "stopped" / "checkpoint.safetensors")
    base = [name for name in kept if "/lm." in name and not lora.is_adapter(name)]
    assert not base, "what does not learn is not in a checkpoint"
    resumed = trained(dropping, world, few, tmp_path / "stopped")
    for (name, one), two in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, two), name


def test_another_backbone_in_the_place_of_the_grounded_one_is_refused(single, world, few, tmp_path):
    base = write_checkpoint("llama", tmp_path / "base")
    config = single.changed(backbone=str(base), tuning="lora")
    trained(config, world, few, tmp_path)
    write_checkpoint("llama", base, seed=1)
    with pytest.raises(KalmError, match="Put that backbone back"):
        load_model(tmp_path / "model")
    base.rename(tmp_path / "moved")
    with pytest.raises(KalmError, match="no model folder"):
        load_model(tmp_path / "model")


def test_a_training_is_not_continued_with_another_backbone(single, world, few, tmp_path):
    config = single.changed(checkpoint_every=2)
    trained(config, world, few, tmp_path)
    other = config.changed(backbone=str(write_checkpoint("gpt2", tmp_path / "other")))
    with pytest.raises(KalmError, match="made from other data, settings or seed"):
        trained(other, world, few, tmp_path)


def test_a_damaged_adapter_is_refused(single, world, few, tmp_path):
    trained(single.changed(tuning="lora"), world, few, tmp_path)
    adapter = tmp_path / "model" / "backbone" / "adapter" / "adapter_model.safetensors"
    adapter.write_bytes(adapter.read_bytes()[:100])
    with pytest.raises(KalmError, match="damaged"):
        load_model(tmp_path / "model")


def test_a_body_in_bfloat16_has_adapters_and_heads_in_float32(single, world, few, tmp_path):
    config = single.changed(tuning="lora", weights="bfloat16")
    model = trained(config, world, few, tmp_path)
    kinds = {p.dtype for n, p in model.lm.named_parameters() if not lora.is_adapter(n)}
    assert kinds == {torch.bfloat16}
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    loaded = load_model(tmp_path / "model")
    assert [float(v) for v in losses(loaded, config, few)] == [float(v) for v in losses(model, config, few)]


def test_gradient_checkpointing_changes_no_gradient(config, world, few):
    gradients = []
    for saving in (False, True):
        model = sft.fresh(config.changed(gradient_checkpointing=saving), world, 0, "cpu")
        model.fit_scales(few)
        assert bool(model.lm.is_activation_checkpointing) == saving
        rows = GroundingDataset(few, model.prompt_builder(), config, 0).groups(0)
        batch = packing.batch(rows, few, model.backbone.two_way_prompt)
        model.train()(batch).weighted(1, 1, 1).backward()
        gradients.append([p.grad for p in model.parameters() if p.requires_grad])
    assert all(torch.allclose(one, two, atol=1e-6) for one, two in zip(*gradients, strict=True))


@pytest.mark.parametrize(
    ("override", "why"),
    [
        ("ground.weights=bfloat16", "tuning=full needs weights=float32"),
        ("ground={tuning: frozen, train_embeddings: true}", "leaves words alone"),
        ("ground.body_lr=0", "greater than 0"),
        ("ground.tuning=some", "full"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(override, why):
    with pytest.raises(KalmError, match=why):
        load_config(overrides=[override])
