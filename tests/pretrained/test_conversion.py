"""GGUF files become folders that transformers reads: equal numbers, made once, never half."""

import json
import os
import shutil
from threading import Thread

import gguf
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from checkpoints import write_gguf
from kalm.errors import KalmError
from kalm.lm.loading import load_backbone, plan_backbone
from kalm.pretrained import conversion
from kalm.pretrained.conversion import conversions, convert_settings, convert_weights

IDS = torch.arange(3, 40)[None]


def logits(folder):
    with torch.inference_mode():
        return AutoModelForCausalLM.from_pretrained(folder).eval()(IDS).logits


def test_the_model_is_the_one_that_the_file_was_made_from(whole, plain):
    folder = convert_weights(whole)
    assert torch.allclose(logits(folder), logits(plain), atol=1e-6)
    assert not any("quantization" in file.read_text() for file in folder.glob("config.json"))
    text = "Push the red ball behind the blue ball, 12 times."
    ours, theirs = AutoTokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(plain)
    assert (
        ours(text, add_special_tokens=False)["input_ids"]
        == theirs(text, add_special_tokens=False)["input_ids"]
    )
    assert ours.bos_token == "<s>" and ours.eos_token == ours.pad_token == "</s>"
    assert ours.apply_chat_template([{"role": "user", "content": "hello"}], tokenize=False) == "hello"


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_1", "F16"])
def test_stored_blocks_are_taken_at_their_word(plain, tmp_path, kind):
    folder = convert_weights(write_gguf(plain, tmp_path / "small.gguf", kind))
    name = "model.layers.1.mlp.up_proj.weight"
    numbers = AutoModelForCausalLM.from_pretrained(plain).state_dict()[name].numpy()
    way = gguf.GGMLQuantizationType[kind]
    expected = gguf.quants.dequantize(gguf.quants.quantize(numbers, way), way)
    found = AutoModelForCausalLM.from_pretrained(folder)
    assert found.dtype == torch.float32
    assert torch.equal(found.state_dict()[name], torch.from_numpy(expected).float())


def test_a_conversion_is_made_once_and_found_by_content(whole, tmp_path, monkeypatch):
    folder = convert_weights(whole)
    for name in ("_write_settings", "_write_weights"):
        monkeypatch.setattr(conversion, name, None)  # calling it would fail
    elsewhere = shutil.copy(whole, tmp_path / "other-name.gguf")
    assert convert_weights(whole) == convert_weights(tmp_path / elsewhere) == folder


def test_a_file_that_did_not_change_is_not_read_again(copied, monkeypatch):
    long_ago = copied.stat().st_mtime - 60
    os.utime(copied, (long_ago, long_ago))
    monkeypatch.setattr(conversion, "SETTLED", 0.0)
    folder = convert_settings(copied)
    monkeypatch.setattr(conversion, "file_sha256", None)
    assert convert_settings(copied) == folder
    with copied.open("r+b") as stream:  # other numbers, same length, and the old time put back
        stream.seek(-4, os.SEEK_END)
        stream.write(b"\0\0\0\0")
    os.utime(copied, (long_ago, long_ago))
    with pytest.raises(TypeError):  # hashed again
        convert_settings(copied)
    monkeypatch.undo()


def test_a_file_just_written_is_always_hashed(copied):
    folder = convert_settings(copied)
    with copied.open("r+b") as stream:
        stream.seek(-4, os.SEEK_END)
        stream.write(b"\0\0\0\0")
    assert convert_settings(copied) != folder


def test_a_plan_reads_no_weights_and_leaves_none(whole, cache):
    plan, tried = plan_backbone(str(whole))
    assert tried and plan.context == 256 and not plan.two_way_prompt
    (one,) = conversions()
    assert not one.weights and not list(one.folder.glob("*.safetensors"))
    loaded = load_backbone(str(whole))
    assert loaded.origin.name == str(whole) and not loaded.unfound and conversions()[0].weights
    shapes = [{n: p.shape for n, p in b.model.named_parameters()} for b in (loaded, plan)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("moment", ["settings", "weights"])
def test_a_stopped_conversion_leaves_nothing_that_counts(whole, cache, monkeypatch, moment):
    save = PreTrainedModel.save_pretrained

    def stop(*given, **options):
        if moment == "weights":
            save(*given, **options)
        raise KeyboardInterrupt

    if moment == "weights":
        monkeypatch.setattr(PreTrainedModel, "save_pretrained", stop)
    else:
        monkeypatch.setattr(conversion, "_list", stop)
    with pytest.raises(KeyboardInterrupt):
        convert_weights(whole)
    assert not any(one.weights for one in conversions())
    assert not [path for path in cache.rglob("*") if path.is_dir() and path.name.startswith(".kalm")]
    monkeypatch.undo()
    monkeypatch.setenv("KALM_CACHE", str(cache.parent))
    assert logits(convert_weights(whole)).isfinite().all()


def test_what_a_killed_conversion_left_is_cleared_away(whole, cache):
    folder = convert_settings(whole)
    (folder / conversion.UNFINISHED).mkdir()
    (folder / conversion.UNFINISHED / "model.safetensors").write_bytes(b"half")
    (cache / f".kalm.{folder.name}.new.0").mkdir()
    assert not conversion.is_converted(folder)
    assert convert_weights(whole) == folder
    assert not (folder / conversion.UNFINISHED).exists()


def test_two_at_once_make_it_once(whole, monkeypatch, capfd):
    write, made, found = conversion._write_weights, [], []

    def noted(file, folder):
        made.append(folder)
        write(file, folder)

    monkeypatch.setattr(conversion, "_write_weights", noted)
    convert_settings(whole)
    workers = [Thread(target=lambda: found.append(convert_weights(whole))) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(made) == 1 and len(set(found)) == 1 and len(found) == 3
    assert "Waiting for another process" in capfd.readouterr().err


@pytest.mark.parametrize("lost", ["model.safetensors", "tokenizer.json", "config.json", "weights.json"])
def test_a_damaged_conversion_is_made_again(whole, lost):
    folder = convert_weights(whole)
    (folder / lost).write_bytes((folder / lost).read_bytes()[:-10]) if lost != "weights.json" else (
        folder / lost
    ).unlink()
    assert convert_weights(whole) == folder and conversion.weights_unchanged(folder)
    load_backbone(str(whole))


def test_missing_and_senseless_weights_are_told(plain, tmp_path):
    name = "model.layers.0.mlp.up_proj.weight"
    with pytest.raises(KalmError, match=f"lacks the weights {name}"):
        convert_weights(write_gguf(plain, tmp_path / "less.gguf", leave_out=(name,)))
    odd = write_gguf(plain, tmp_path / "odd.gguf", **{name.replace(".", "_"): float("nan")})
    with pytest.raises(KalmError, match=f"no finite numbers, in {name}"):
        convert_weights(odd)
    assert not any(one.weights for one in conversions())


@pytest.mark.parametrize(
    ("architecture", "why"),
    [("bert", "holds an encoder of the architecture 'bert'"), ("clip", "a model of the architecture 'clip'")],
)
def test_architectures_that_are_not_read_are_refused(copied, architecture, why):
    before = b"\5\0\0\0\0\0\0\0llama"  # length and text; the keys of the settings are not looked at
    after = len(architecture).to_bytes(8, "little") + architecture.encode()
    copied.write_bytes(copied.read_bytes().replace(before, after, 1).ljust(len(copied.read_bytes()), b"\0"))
    with pytest.raises(KalmError, match=why) as refused:
        plan_backbone(str(copied))
    assert "Hugging Face layout" in str(refused.value) and "llama" in str(refused.value)


def test_a_tokenizer_that_is_not_read_is_refused_in_one_line(copied):
    copied.write_bytes(copied.read_bytes().replace(b"\4\0\0\0\0\0\0\0gpt2", b"\4\0\0\0\0\0\0\0rwkv", 1))
    with pytest.raises(KalmError, match="transformers cannot read .* 'rwkv'") as refused:
        convert_settings(copied)
    assert "\n" not in str(refused.value) and not conversions()


def test_a_full_disk_is_told_before_the_work(whole, monkeypatch):
    convert_settings(whole)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 5, 5))
    with pytest.raises(KalmError, match="GB are free. Make room, or set KALM_CACHE"):
        convert_weights(whole)


def test_where_the_cache_is(monkeypatch, tmp_path):
    assert conversion.cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("KALM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert conversion.cache_folder() == tmp_path / "kalm"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert conversion.cache_folder() == tmp_path / "home" / ".cache" / "kalm"


def test_numbers_that_transformers_leaves_are_told(whole, monkeypatch, caplog):
    folder = convert_settings(whole)
    about = json.loads((folder / conversion.SETTINGS).read_text())
    (folder / conversion.SETTINGS).write_text(json.dumps({**about, "numbers": about["numbers"] + 64}))
    convert_weights(whole)
    assert "holds 64 numbers that transformers does not read" in caplog.text
