import pytest
import torch
from transformers import DynamicCache

from kalm.lm.cache import BLOCK, BlockLayer, block_cache


def test_a_block_cache_reads_as_the_growing_one_does(model):
    torch.manual_seed(0)
    ours, plain = block_cache(), DynamicCache(config=model.lm.config)
    rows, seen = 3, 0
    # More tokens than one block holds, one by one and several at once; rows repeat, change places and leave.
    for tokens, chosen in ((5, [0, 0, 2, 1, 1]), (1, None), (BLOCK, [4, 1, 0]), (1, None), (BLOCK + 3, [2])):
        embedded = torch.randn(rows, tokens, model.backbone.width, dtype=torch.float64)
        seen += tokens
        mask = torch.ones(tokens, seen, dtype=torch.bool).tril(seen - tokens).expand(rows, 1, -1, -1)
        position = torch.arange(seen - tokens, seen).expand(rows, -1)
        with torch.inference_mode():
            one, two = (model.body(embedded, mask, position, cache) for cache in (ours, plain))
        assert torch.equal(one, two)
        if chosen is not None:
            for cache in (ours, plain):
                cache.batch_select_indices(torch.tensor(chosen))
            rows = len(chosen)
    assert ours.get_seq_length() == seen


def test_a_token_is_written_in_place():
    layer = BlockLayer()
    keys, _ = layer.update(torch.zeros(2, 1, 1, 4), torch.zeros(2, 1, 1, 4))
    start = keys.data_ptr()
    for number in range(1, BLOCK + 1):
        new = torch.full((2, 1, 1, 4), float(number))
        keys, values = layer.update(new, -new)
    assert keys.data_ptr() == start and keys.shape == (2, 1, BLOCK + 1, 4)
    assert keys[0, 0, :, 0].tolist() == list(range(BLOCK + 1))
    assert torch.equal(values, -keys)
    keys, _ = layer.update(new, new)
    assert keys.data_ptr() != start and keys.shape[2] == BLOCK + 2


def test_selected_rows_are_copies():
    layer = BlockLayer()
    layer.update(torch.tensor([[[[1.0]]], [[[2.0]]]]), torch.zeros(2, 1, 1, 1))
    layer.batch_select_indices(torch.tensor([1, 1, 0]))
    keys, _ = layer.update(torch.tensor([[[[3.0]]], [[[4.0]]], [[[5.0]]]]), torch.zeros(3, 1, 1, 1))
    assert keys[:, 0, :, 0].tolist() == [[2, 3], [2, 4], [1, 5]]


@pytest.mark.parametrize("tokens", [1, BLOCK - 1, BLOCK, 3 * BLOCK])
def test_any_number_of_tokens_fits(tokens):
    layer = BlockLayer()
    for _ in range(2):
        keys, _ = layer.update(torch.ones(1, 1, tokens, 2), torch.ones(1, 1, tokens, 2))
    assert keys.shape[2] == 2 * tokens and (keys == 1).all()
