"""Logits and gradients against the model's own; the size of what new tokens are given."""

import pytest
import torch
from torch.nn import functional as F

from checkpoints import FURTHER, SPECIAL, write_checkpoint
from kalm import envs
from kalm.lm.heads import Design, name_vectors
from kalm.lm.loading import load_backbone
from kalm.lm.model import GroundedLM

MULTIPLYING = {"gemma": 32**0.5, "gemma3_text": 32**0.5, "biogpt": 32**0.5, "minicpm3": 12.0, "granite": 1.0}


@pytest.fixture(scope="module", params=sorted({*SPECIAL, *FURTHER}))
def backbone(request, tmp_path_factory):
    loaded = load_backbone(str(write_checkpoint(request.param, tmp_path_factory.mktemp(request.param))))
    return loaded


def test_logits_are_those_of_the_model(backbone):
    ids = torch.arange(10, 20)[None]
    with torch.inference_mode():
        hidden = backbone.body(input_ids=ids, use_cache=False).last_hidden_state[0]
        assert hidden.shape[1] == backbone.hidden_size
        assert torch.equal(backbone.logits(hidden), backbone.model(input_ids=ids).logits[0])


def test_gradients_are_those_of_the_model(backbone):
    ids, wanted = torch.arange(10, 20)[None], torch.arange(30, 40)
    F.cross_entropy(backbone.model(input_ids=ids).logits[0], wanted).backward()
    own = {name: weight.grad for name, weight in backbone.model.named_parameters()}
    backbone.model.zero_grad()
    hidden = backbone.body(input_ids=ids, use_cache=False).last_hidden_state[0]
    F.cross_entropy(backbone.logits(hidden), wanted).backward()
    for name, weight in backbone.model.named_parameters():
        assert (weight.grad is None) == (own[name] is None), name
        assert weight.grad is None or torch.allclose(weight.grad, own[name], atol=1e-7), name
    backbone.model.zero_grad()


def test_the_head_shares_its_weights_and_follows_them(backbone):
    hidden = torch.randn(3, backbone.hidden_size)
    with torch.no_grad():
        before = backbone.logits(hidden)
        weight = backbone.model.get_output_embeddings().weight
        kept = weight.clone()
        weight.mul_(2)
        assert not torch.allclose(backbone.logits(hidden), before)
        weight.copy_(kept)
    assert not list(backbone.head.parameters()), "they are the model's"


@pytest.mark.parametrize(("family", "factor"), MULTIPLYING.items())
def test_new_tokens_get_the_size_of_words_where_the_first_layer_sees_them(tmp_path, family, factor):
    world = envs.make("clevr")
    loaded = load_backbone(str(write_checkpoint(family, tmp_path)))
    weight = loaded.model.get_input_embeddings().weight
    assert loaded.scale == pytest.approx(factor * float(weight.detach().std()), rel=1e-5)
    model = GroundedLM(loaded, world.spec, Design(entity_tokens=True)).eval()
    words = loaded.words(torch.arange(10, 40))[None]  # (1, 30, D)
    states = torch.rand(10, world.spec.state_size)
    actions = model.embed_action(torch.arange(10))[None]  # (1, 10, D)
    entered = {}
    layer = next(m for n, m in loaded.body.named_modules() if n.endswith("layers.0"))
    layer.register_forward_pre_hook(lambda _, args, kwargs: entered.update(last=args[0]), with_kwargs=True)

    def size(embedded):
        length = embedded.shape[1]
        seen = torch.ones(1, 1, length, length, dtype=torch.bool).tril()
        with torch.no_grad():
            loaded.run(embedded, seen, torch.zeros(1, length, dtype=torch.int64))
        return float(entered["last"].std())

    tokens = model.state_tokens(states)  # (10, K + 1, D)
    usual = size(words)
    for new in (tokens[:, -1][None], actions):
        assert size(new) == pytest.approx(usual, rel=0.25)
    # An entity is the sum of its place, of the size of a word, and of its name, the mean of its words.
    names = name_vectors(loaded, world.spec)
    assert float(names.std()) == pytest.approx(float(words.std()) / 2, rel=0.5)
    assert float((tokens[:, :-1] - names).std()) == pytest.approx(float(words.std()), rel=0.25)
