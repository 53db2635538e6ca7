"""`GroundedLM`: a language model that also reads and writes states and actions (paper section 4.1).

Text keeps the model's own embedding and head. Four small modules are new: state embedding E_S and action
embedding E_A in front of the transformer, state head O_S and action head O_A behind it. What is produced at a
token is read from the hidden state of the token before it, as for text.

The state head predicts the *change* of the state, scaled to unit size (default), because most of a state
stays as it is; predicting absolute states, as the paper does, is `state_target: absolute`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from kalm.data.rollouts import RolloutSet
from kalm.errors import KalmError
from kalm.lm import backbone as backbones
from kalm.lm.backbone import Backbone
from kalm.lm.collate import Batch
from kalm.runs import atomic_folder, read_json, write_json
from kalm.types import WorldSpec

FORMAT = 1


@dataclass(frozen=True)
class Losses:
    """Mean losses over the answers of a batch; a term without answers is 0."""

    text: Tensor  # cross-entropy per word
    state: Tensor  # squared error per state number, in units of the data's own spread
    action: Tensor  # cross-entropy per discrete action, squared error per continuous action number

    def weighted(self, text: float, state: float, action: float) -> Tensor:
        """Return the training loss."""
        return text * self.text + state * self.state + action * self.action


class GroundedLM(nn.Module):
    """A backbone with state and action embeddings and heads.

    Args:
        backbone: the language model.
        spec: the world; sizes of states and actions come from here.
        state_target: what the state head predicts.
    """

    mean: Tensor
    std: Tensor
    change_std: Tensor

    def __init__(
        self, backbone: Backbone, spec: WorldSpec, state_target: Literal["change", "absolute"] = "change"
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.lm = backbone.model
        self.spec = spec
        self.state_target = state_target
        width, size = backbone.width, spec.state_size
        scale = float(backbone.model.get_input_embeddings().weight.detach().std())
        self.embed_state = _embedding(nn.Linear(size, width), width, scale)
        discrete = spec.action_kind == "discrete"
        first = nn.Embedding(spec.action_size, width) if discrete else nn.Linear(spec.action_size, width)
        self.embed_action = _embedding(first, width, scale)
        self.state_head = _head(width, size)
        self.action_head = _head(width, spec.action_size)
        self.register_buffer("mean", torch.zeros(size))  # (S,)
        self.register_buffer("std", torch.ones(size))  # (S,)
        self.register_buffer("change_std", torch.ones(size))  # (S,)

    def fit_scales(self, rollouts: RolloutSet) -> None:
        """Take the scales of states and of their changes from real data."""
        changes = rollouts.states[rollouts.before + 1] - rollouts.states[rollouts.before]
        for buffer, value in (
            (self.mean, rollouts.states.mean(0)),
            (self.std, rollouts.states.std(0) + 1e-6),
            # Root mean square, not deviation: a change of zero must stay zero.
            (self.change_std, np.sqrt((changes**2).mean(0)) + 1e-6),
        ):
            buffer.copy_(torch.from_numpy(np.asarray(value, dtype=np.float32)))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.mean.device

    def forward(self, batch: Batch) -> Losses:
        """Losses on the answers of a batch."""
        rows, width = batch.position.shape
        hidden = self.body(self.embed(batch), batch.visible, batch.position).reshape(
            rows * width, -1
        )  # (B*L, D)
        return Losses(
            text=self._text_loss(hidden[batch.text_at[batch.learn_text] - 1], batch.text[batch.learn_text]),
            state=self._state_loss(hidden[batch.state_at[batch.learn_state] - 1], batch),
            action=self._action_loss(hidden[batch.action_at[batch.learn_action] - 1], batch),
        )

    def embed(self, batch: Batch) -> Tensor:
        """Embed the tokens of a batch: -> (B, L, D)."""
        rows, width = batch.position.shape
        words = self.lm.get_input_embeddings()(batch.text)  # (n, D)
        out = words.new_zeros(rows * width, self.backbone.width)
        out = out.index_copy(0, batch.text_at, words)
        out = out.index_copy(0, batch.state_at, self.state_vectors(batch.states).to(out.dtype))
        out = out.index_copy(0, batch.action_at, self.embed_action(batch.actions).to(out.dtype))
        return out.reshape(rows, width, -1)

    def state_vectors(self, states: Tensor) -> Tensor:
        """E_S: (m, S) -> (m, D)."""
        return self.embed_state((states - self.mean) / self.std)

    def body(self, embedded: Tensor, visible: Tensor, position: Tensor, cache: Any = None) -> Tensor:
        """Run the transformer: (B, L, D), (B, 1, L, K) bool, (B, L) -> (B, L, D)."""
        output = self.backbone.body(
            inputs_embeds=embedded,
            attention_mask=visible,
            position_ids=position,
            past_key_values=cache,
            use_cache=cache is not None,
        )
        return output.last_hidden_state

    def next_states(self, hidden: Tensor, states: Tensor) -> Tensor:
        """O_S: hidden states at the last token and present states (m, S) -> predicted next states (m, S)."""
        raw = self.state_head(hidden)
        if self.state_target == "change":
            return states + raw * self.change_std
        return raw * self.std + self.mean

    def _text_loss(self, hidden: Tensor, target: Tensor) -> Tensor:
        return (
            F.cross_entropy(_wide(self.backbone.text_head(hidden)), target)
            if len(target)
            else hidden.sum() * 0
        )

    def _state_loss(self, hidden: Tensor, batch: Batch) -> Tensor:
        if not len(hidden):
            return hidden.sum() * 0
        states, bases = batch.states[batch.learn_state], batch.bases[batch.learn_state]  # (m, S)
        change = self.state_target == "change"
        target = (states - bases) / self.change_std if change else (states - self.mean) / self.std
        return F.mse_loss(self.state_head(hidden).to(target.dtype), target)

    def _action_loss(self, hidden: Tensor, batch: Batch) -> Tensor:
        if not len(hidden):
            return hidden.sum() * 0
        output, target = self.action_head(hidden), batch.actions[batch.learn_action]
        if self.spec.action_kind == "discrete":
            return F.cross_entropy(_wide(output), target)
        return F.mse_loss(output.to(target.dtype), target)

    def save(self, folder: Path) -> None:
        """Write a self-contained folder: ``backbone/``, ``modules.safetensors``, ``grounded.json``."""
        with atomic_folder(folder) as place:
            self.backbone.save(place / "backbone")
            new = {k: v for k, v in self.state_dict().items() if not k.startswith("lm.")}
            save_file(
                {name: tensor.contiguous() for name, tensor in new.items()}, place / "modules.safetensors"
            )
            write_json(
                place / "grounded.json",
                {
                    "format": FORMAT,
                    "world": self.spec.to_json(),
                    "state_target": self.state_target,
                    "two_way_prompt": self.backbone.two_way_prompt,
                },
            )


def load(folder: Path | str, device: str = "cpu") -> GroundedLM:
    """Load what `GroundedLM.save` wrote.

    Raises:
        KalmError: not such a folder, or a file in it is missing or damaged.
    """
    folder = Path(folder)
    about = read_json(folder / "grounded.json", "grounded model")
    if about.get("format") != FORMAT:
        raise KalmError(f"{folder}: format {about.get('format')!r} is not known. Known: {FORMAT}.")
    backbone = backbones.load(str(folder / "backbone"), "prefix" if about["two_way_prompt"] else "causal")
    model = GroundedLM(backbone, WorldSpec.from_json(about["world"]), about["state_target"])
    try:
        new = load_file(folder / "modules.safetensors")
        missing = set(model.load_state_dict(new, strict=False).missing_keys)
    except Exception as error:
        raise KalmError(f"{folder / 'modules.safetensors'} is damaged: {error}") from None
    if lost := [name for name in missing if not name.startswith("lm.")]:
        raise KalmError(f"{folder / 'modules.safetensors'} lacks {', '.join(sorted(lost))}.")
    return model.to(device).eval()


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Return the context for this precision; ``auto`` is bfloat16 only where the processor computes in it."""
    if precision == "auto":
        native = (
            torch.cuda.is_bf16_supported(including_emulation=False)
            if device.type == "cuda"
            else torch.cpu._is_avx512_bf16_supported()  # no public name for this check
        )
        precision = "bfloat16" if native else "float32"
    return torch.autocast(device.type, torch.bfloat16) if precision == "bfloat16" else nullcontext()


def _embedding(first: nn.Module, width: int, scale: float) -> nn.Sequential:
    """Make a small MLP whose output has the size of the model's own token embeddings."""
    norm = nn.LayerNorm(width)
    nn.init.constant_(norm.weight, scale)
    return nn.Sequential(first, nn.GELU(), nn.Linear(width, width), norm)


def _head(width: int, size: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, size))


def _wide(logits: Tensor) -> Tensor:
    """Give half-precision logits the range that a softmax over a vocabulary needs."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
