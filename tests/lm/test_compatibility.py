"""What cannot be grounded is refused in one line, when loading and in a dry run alike."""

import json
import pickle

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from checkpoints import SPECIAL, make_tokenizer, write_checkpoint
from kalm.errors import KalmError
from kalm.lm.loading import load_backbone, plan_backbone


@pytest.fixture(params=[load_backbone, plan_backbone], ids=["load", "plan"])
def taking(request):
    return request.param


def refused(taking, folder, why):
    with pytest.raises(KalmError, match=why) as error:
        taking(str(folder))
    assert "\n" not in str(error.value)
    return str(error.value)


def weights(folder):
    return folder / "model.safetensors"


@pytest.fixture
def copied(llama, tmp_path):
    """A sound checkpoint to damage."""
    for file in llama.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (lambda whole: whole[: len(whole) // 2], r"has \d+ bytes where its header says \d+"),
        (lambda whole: whole[:100], "cut off within its header"),
        (lambda whole: b"", "is empty"),
        (lambda whole: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (lambda whole: (64).to_bytes(8, "little") + b"x" * 64, "not in the safetensors format"),
    ],
    ids=["cut", "header", "empty", "pointer", "noise"],
)
def test_damaged_weights_are_named(taking, copied, content, why):
    weights(copied).write_bytes(content(weights(copied).read_bytes()))
    assert str(weights(copied)) in refused(taking, copied, why)


def test_a_missing_shard_is_named(taking, copied):
    index = {"weight_map": {"lm_head.weight": "model-00002-of-00002.safetensors"}}
    (copied / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(taking, copied, "model-00002-of-00002.safetensors is missing")


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "model.safetensors.index.json"])
def test_damaged_settings_are_refused(taking, copied, file):
    (copied / file).write_text("{")
    refused(taking, copied, "no causal language model|is damaged")


class Payload:
    def __reduce__(self):
        return (exec, ("raise SystemExit('ran')",))


def test_pickled_code_is_refused_and_never_runs(copied):
    weights(copied).unlink()
    (copied / "pytorch_model.bin").write_bytes(pickle.dumps({"lm_head.weight": Payload()}))
    message = refused(load_backbone, copied, "without running code of its own")
    assert "pytorch_model.bin" in message and "safetensors" in message


def test_pickled_tensors_load(copied):
    model = AutoModelForCausalLM.from_pretrained(copied)
    torch.save(model.state_dict(), copied / "pytorch_model.bin")
    weights(copied).unlink()
    loaded = load_backbone(str(copied))
    assert torch.equal(loaded.word_weight, model.get_input_embeddings().weight)


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "awq"])
def test_quantized_weights_are_refused(taking, copied, method):
    config = json.loads((copied / "config.json").read_text())
    config["quantization_config"] = {"quant_method": method, "load_in_4bit": True, "bits": 4}
    (copied / "config.json").write_text(json.dumps(config))
    refused(taking, copied, rf"is quantized \({method}\)")


@pytest.mark.parametrize("family", ["gemma3", "gemma3n", "gemma4", "llava"])
def test_models_that_read_more_than_text_are_refused(taking, tmp_path, family):
    AutoConfig.for_model(family).save_pretrained(tmp_path)
    make_tokenizer(SPECIAL["llama"]).save_pretrained(tmp_path)
    refused(taking, tmp_path, r"reads more than text")


PER_LAYER = {
    "head_dim": 8,
    "vocab_size_per_layer_input": 300,
    "hidden_size_per_layer_input": 8,
    "num_kv_shared_layers": 0,
    "layer_types": ["sliding_attention", "full_attention"],
    "pad_token_id": 0,
}


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("falcon", {"alibi": True, "num_kv_heads": 4}),
        ("gemma4_text", {**PER_LAYER, "global_head_dim": 8}),
        ("gemma3n_text", {**PER_LAYER, "activation_sparsity_pattern": [0.0, 0.0], "laurel_rank": 8}),
    ],
)
def test_models_that_cannot_be_driven_fail_their_trial_in_one_line(taking, tmp_path, family, settings):
    refused(taking, write_checkpoint(family, tmp_path, **settings), "cannot be grounded: ")


def test_a_tokenizer_with_more_ids_than_rows_is_refused(taking, copied):
    tokenizer = AutoTokenizer.from_pretrained(copied)
    rows = len(tokenizer)
    tokenizer.add_special_tokens({"eos_token": "<|new|>"})
    tokenizer.save_pretrained(copied)
    refused(taking, copied, f"ids up to {rows}, its embedding only {rows} rows")


def test_special_tokens_that_are_never_used_may_lie_outside(taking, copied):
    tokenizer = AutoTokenizer.from_pretrained(copied)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    tokenizer.save_pretrained(copied)
    taking(str(copied))


def test_logits_that_are_not_the_models_own_are_found_out(llama):
    from kalm.lm import compatibility

    loaded = load_backbone(str(llama))
    loaded.head.head.forward = lambda **given: type(loaded.head.head).forward(loaded.head.head, **given)
    compatibility.require_by_trial(loaded)
    plain = type(loaded.model).forward

    def doubled(**given):
        found = plain(loaded.model, **given)
        found.logits = found.logits * 2
        return found

    loaded.model.forward = doubled  # behind the back of the head, which was made before
    with pytest.raises(KalmError, match="its logits are off"):
        compatibility.require_by_trial(loaded)


@pytest.mark.parametrize("family", ["granite", "gemma", "electra", "deepseek_v3"])
def test_a_dry_run_tries_a_miniature(tmp_path, family):
    torch.manual_seed(3)
    expected = torch.rand(1)
    write_checkpoint(family, tmp_path)
    torch.manual_seed(3)
    plan, tried = plan_backbone(str(tmp_path))
    assert tried and all(p.is_meta for p in plan.model.parameters())
    assert torch.equal(torch.rand(1), expected), "no random number of the run is used up"
