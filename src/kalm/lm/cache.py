"""A key/value cache that grows in blocks: a new token is written in place.

Unusual: the usual cache joins old and new keys at every token, and so copies everything it holds; with
hundreds of rows that takes half of the decoding (docs/log.md). Here each layer holds room for some tokens to
come, and only when that is used up everything is copied into larger room. How long rollouts get need not be
known.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

BLOCK = 32  # tokens that a layer makes room for at a time


class BlockLayer(DynamicLayer):
    """Keys and values of one layer; `keys` and `values` show the used part (N, H, C, E) of larger tensors."""

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Begin empty, with the sizes of these keys and values."""
        self.dtype: torch.dtype = key_states.dtype
        self.device: torch.device = key_states.device
        self.keys: Tensor = key_states[:, :, :0]
        self.values: Tensor = value_states[:, :, :0]
        self._held = (self.keys, self.values)
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Append (N, H, k, E) and return all keys and values so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        before = self.get_seq_length()
        after = before + key_states.shape[2]
        if after > self._held[0].shape[2]:
            self._held = (_room(self._held[0], before, after), _room(self._held[1], before, after))
        for held, new in zip(self._held, (key_states, value_states), strict=True):
            held[:, :, before:after] = new
        return self._show(after)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Go on with these rows, any of them as often as it is named."""
        used = self.get_seq_length()
        self._held = (self._held[0][indices], self._held[1][indices])
        self._show(used)

    def overwrite(self, rows: Tensor, keys: Tensor, values: Tensor) -> None:
        """Put other first tokens into some rows: (n,), (n, H, P, E) twice."""
        for held, new in zip(self._held, (keys, values), strict=True):
            held[rows, :, : new.shape[2]] = new

    def rewind(self, tokens: int) -> None:
        """Go on after the first tokens; what followed is overwritten."""
        self._show(tokens)

    def _show(self, used: int) -> tuple[Tensor, Tensor]:
        self.keys, self.values = shown = (self._held[0][:, :, :used], self._held[1][:, :, :used])
        return shown


def overwrite(cache: Cache, rows: Tensor, first: list[tuple[Tensor, Tensor]]) -> None:
    """Put other first tokens into rows (n,) of a `block_cache`: of each layer (n, H, P, E) twice."""
    for layer, (keys, values) in zip(cache.layers, first, strict=True):
        assert isinstance(layer, BlockLayer), type(layer)
        layer.overwrite(rows, keys, values)


def contents(cache: Cache) -> list[tuple[Tensor, Tensor]]:
    """Copy keys and values of each layer of a `block_cache`: (N, H, C, E) each."""
    found = []
    for layer in cache.layers:
        assert isinstance(layer, BlockLayer), type(layer)
        found.append((layer.keys.clone(), layer.values.clone()))
    return found


def rewind(cache: Cache, tokens: int) -> None:
    """Go on after the first tokens of a `block_cache`."""
    for layer in cache.layers:
        assert isinstance(layer, BlockLayer), type(layer)
        layer.rewind(tokens)


def block_cache() -> Cache:
    """Return an empty cache for a model all of whose layers attend to everything that came before."""
    return Cache(layer_class_to_replicate=BlockLayer)


def _room(held: Tensor, used: int, wanted: int) -> Tensor:
    """Copy what is used of (N, H, C, E) into a tensor with room for the wanted columns and a block more."""
    rows, heads, _, size = held.shape
    room = held.new_empty(rows, heads, wanted + BLOCK, size)
    room[:, :, :used] = held[:, :, :used]
    return room
