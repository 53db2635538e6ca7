import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel

from checkpoints import write_checkpoint
from kalm.errors import KalmError
from kalm.pretrained import locate
from kalm.rl.encoder import GoalEncoder

TEXTS = [
    "push the red ball behind the blue one",
    "hello",
    "push the red ball behind the blue one",
    "a b c d e",
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    AutoTokenizer.from_pretrained(locate("minilm")).save_pretrained(folder)
    torch.manual_seed(0)
    shape = BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    BertModel(shape).save_pretrained(folder)
    return folder


def test_vectors_are_those_of_each_text_alone(encoder):
    folder = locate("minilm")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    for text, vector in zip(TEXTS, encoder.encode(TEXTS), strict=True):
        with torch.inference_mode():
            mean = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0).numpy()
        unit = mean / np.linalg.norm(mean)
        np.testing.assert_allclose(vector, np.sqrt(len(mean)) * unit, atol=2e-5)


def test_shape_order_and_length(encoder):
    vectors = encoder.encode(TEXTS)
    assert vectors.shape == (4, encoder.size) == (4, 384) and vectors.dtype == np.float32
    assert (vectors[0] == vectors[2]).all() and not np.allclose(vectors[0], vectors[1])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), np.sqrt(encoder.size), rtol=1e-6)
    assert encoder.encode([]).shape == (0, 384)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_vector_depends_on_no_other_text(encoder, threads):
    texts = [f"push the {'very ' * (i % 7)}red ball {'far ' * (i % 3)}left, {i}" for i in range(20)]
    before = torch.get_num_threads()
    expected = GoalEncoder().encode(texts)
    torch.set_num_threads(threads)
    try:
        alone = np.concatenate([GoalEncoder._compute(encoder, [text]) for text in texts[:6]])
        backward = GoalEncoder._compute(encoder, texts[::-1])[::-1]
        half = GoalEncoder._compute(encoder, texts[:13])
    finally:
        torch.set_num_threads(before)
    assert (alone == expected[:6]).all() and (backward == expected).all() and (half == expected[:13]).all()


def test_the_longest_text_fits(encoder):
    assert encoder.encode(["ball " * 5000]).shape == (1, 384)


def test_each_text_is_computed_once(tiny, monkeypatch):
    encoder, seen = GoalEncoder(str(tiny)), []
    compute = encoder._compute
    monkeypatch.setattr(encoder, "_compute", lambda texts: seen.extend(texts) or compute(texts))
    encoder.encode(TEXTS)
    encoder.encode([*TEXTS, "new"])
    assert sorted(seen) == sorted({*TEXTS, "new"})


def test_cache_on_disk_saves_the_model(tiny, tmp_path):
    first = GoalEncoder(str(tiny), cache=tmp_path).encode(TEXTS)
    second = GoalEncoder(str(tiny), cache=tmp_path)
    assert (second.encode(TEXTS) == first).all() and "_loaded" not in vars(second)


def test_cache_keeps_what_others_added(tiny, tmp_path):
    one, two = GoalEncoder(str(tiny), cache=tmp_path), GoalEncoder(str(tiny), cache=tmp_path)
    one.encode(["one"])
    two.encode(["two"])
    third = GoalEncoder(str(tiny), cache=tmp_path)
    third.encode(["one", "two"])
    assert "_loaded" not in vars(third)


def test_other_weights_have_another_cache(tiny, tmp_path, encoder):
    small = GoalEncoder(str(tiny), cache=tmp_path)
    small.encode(TEXTS)
    other = GoalEncoder(cache=tmp_path)
    other.encode(["hello"])
    assert small.size == 16 and small.identity != other.identity and other.identity == encoder.identity
    assert len(list(tmp_path.iterdir())) == 2


def test_damaged_cache_is_refused(tiny, tmp_path):
    GoalEncoder(str(tiny), cache=tmp_path).encode(TEXTS)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(KalmError, match="damaged"):
        GoalEncoder(str(tiny), cache=tmp_path)


def test_local_weights_need_no_network(tiny, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("network access")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert GoalEncoder(str(tiny)).encode(["hello"]).shape == (1, 16)
    assert GoalEncoder("minilm").encode(["hello"]).shape == (1, 384)


@pytest.mark.parametrize("name", ["/no/such/folder", "{empty}"])
def test_missing_weights_are_refused(name, tmp_path):
    with pytest.raises(KalmError, match="folder"):
        GoalEncoder(name.format(empty=tmp_path)).encode(["hello"])


def test_a_decoder_encodes_if_its_tokenizer_pads(tmp_path):
    """No better than its mean of hidden states is, but as any model that a name gives."""
    folder = write_checkpoint("llama", tmp_path)
    with pytest.raises(KalmError, match="its tokenizer has no padding token"):
        GoalEncoder(str(folder)).encode(TEXTS)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(folder)
    assert GoalEncoder(str(folder)).encode(TEXTS).shape == (4, 32)
