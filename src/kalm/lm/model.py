"""`GroundedLM`: a language model that also reads and writes states and actions (paper section 4.1).

Text keeps the model's own embedding and head. Four small modules are new: state embedding E_S and action
embedding E_A in front of the transformer, state head O_S and action head O_A behind it. What is produced at a
token is read from the hidden state of the token before it, as for text.

What the new modules are made of, and where they leave the paper, is in `kalm.lm.heads`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from kalm.data.rollouts import RolloutSet
from kalm.dynamics.normalizer import Normalizer, present_names
from kalm.dynamics.transition import TransitionNetwork
from kalm.errors import KalmError
from kalm.lm import lora
from kalm.lm.action_network import ActionNetwork
from kalm.lm.backbone import Backbone, Origin, to_float32
from kalm.lm.heads import (
    Design,
    EntityEmbedding,
    Relations,
    StateHead,
    action_losses,
    action_mlp,
    embedding,
    likeliest,
    name_vectors,
)
from kalm.lm.packing import PackedBatch
from kalm.lm.prompts import PromptBuilder
from kalm.pretrained.shipped import by_name
from kalm.runs.io import atomic_folder, read_json, write_json
from kalm.types import WorldSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.cache_utils import Cache

FORMAT = 2
# Modules that learn with the body; in its precision they are as exact as it is.
LEARNT_WITH_BODY = ("embed_", "state_head.", "action_head.")
EARLIER_NAMES = {  # of tensors in files of kalm 0.1
    "scales.change": "changes.std",
    "network.center": "network.states.mean",
    "network.spread": "network.states.std",
    "network.usual": "network.changes.std",
}


class GroundingLosses(NamedTuple):
    """Mean losses over the answers of a batch (`Batch.answers` counts them); a term without answers is 0.

    Every term is a plain mean, so that parts of a batch weighed by their share of its answers add up to the
    whole (`kalm.lm.sft`). A tuple, because what shards or replicates a model looks for its outputs in tuples.
    """

    text: Tensor  # cross-entropy per word
    state: Tensor  # squared error per state number, in units of the data's own spread
    # Cross-entropy per discrete action, squared error (or with bins cross-entropy) per continuous number.
    action: Tensor

    def weighted(self, text: float, state: float, action: float) -> Tensor:
        """Return the training loss."""
        return text * self.text + state * self.state + action * self.action


class GroundedLM(nn.Module):
    """A backbone with state and action embeddings and heads.

    Args:
        backbone: the language model.
        spec: the world; sizes of states and actions come from here.
        design: what the new modules are made of.

    Raises:
        KalmError: the design asks for entities that the world does not name.
    """

    def __init__(self, backbone: Backbone, spec: WorldSpec, design: Design) -> None:
        super().__init__()
        if design.entity_tokens and not spec.entities:
            raise KalmError(
                f"environment {spec.name!r} names no entities, so there can be no entity tokens. "
                "Set ground.entity_tokens=false."
            )
        if design.relations and len(spec.entities) < 2:
            raise KalmError(
                f"environment {spec.name!r} names {len(spec.entities)} entities, so there are no relations "
                "between them. Set ground.relations=false."
            )
        self.backbone = backbone
        self.lm: PreTrainedModel = backbone.model
        self.spec = spec
        self.design = design
        self.entities: int = len(spec.entities) if design.entity_tokens else 0
        width, hidden = backbone.width, backbone.hidden_size
        scale = backbone.scale
        discrete = spec.action_kind == "discrete"
        first = nn.Embedding(spec.action_size, width) if discrete else nn.Linear(spec.action_size, width)
        self.scales: Normalizer = Normalizer(spec.state_size)
        self.changes: Normalizer = Normalizer(spec.state_size)
        columns = torch.tensor([entity.columns for entity in spec.entities])  # (K, C)
        self.relations: Relations | None = Relations(columns) if design.relations else None
        related = self.relations.size if self.relations else 0  # numbers per entity
        self.embed_state: nn.Sequential = embedding(
            nn.Linear(spec.state_size + len(columns) * related, width), width, scale
        )
        self.embed_action: nn.Sequential = embedding(first, width, scale)
        self.state_head: StateHead = StateHead(hidden, spec, design)
        self.action_head: nn.Sequential = action_mlp(hidden, spec, design)
        if design.state_network:
            self.network: TransitionNetwork = TransitionNetwork(spec)
            self.network.requires_grad_(False)  # fitted by itself, see `kalm.lm.sft`
        self.action_network: ActionNetwork | None = None
        if design.action_network:
            names = name_vectors(backbone, spec)
            self.action_network = ActionNetwork(spec, names, hidden, design.action_bins)
            self.action_network.requires_grad_(False)  # fitted by itself, see `kalm.lm.action_fit`
        if self.entities:
            self.embed_entities: EntityEmbedding = EntityEmbedding(
                name_vectors(backbone, spec), columns, related, scale
            )

    def fit_scales(self, rollouts: RolloutSet) -> None:
        """Take the scales of states and of their changes from real data."""
        self.scales.fit_states(rollouts)
        self.changes.fit_changes(rollouts)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.scales.mean.device

    def prompt_builder(self) -> PromptBuilder:
        """Return what spells sequences for this model."""
        return PromptBuilder(
            self.backbone.tokenizer, self.backbone.context, self.entities, self.design.memory
        )

    def forward(self, batch: PackedBatch) -> GroundingLosses:
        """Losses on the answers of a batch."""
        rows, width = batch.position.shape
        hidden = self.body(self.embed(batch), batch.visible, batch.position).reshape(
            rows * width, -1
        )  # (B*L, D)
        return GroundingLosses(
            text=self._text_loss(hidden[batch.ask_text_at], batch.want_text),
            state=self._state_loss(hidden[batch.ask_state_at], batch),
            action=self._action_loss(hidden[batch.ask_action_at], batch),
        )

    def embed(self, batch: PackedBatch) -> Tensor:
        """Embed the tokens of a batch: -> (B, L, D)."""
        rows, width = batch.position.shape
        words = self.backbone.words(batch.text)  # (n, D)
        out = words.new_zeros(rows * width, self.backbone.width)
        out = out.index_copy(0, batch.text_at, words)
        tokens = self.state_tokens(batch.states).to(out.dtype)  # (m, K + 1, D)
        if self.entities:
            out = out.index_copy(0, batch.entity_at, tokens[:, :-1].flatten(0, 1))
        out = out.index_copy(0, batch.state_at, tokens[:, -1])
        out = out.index_copy(0, batch.action_at, self.embed_action(batch.actions).to(out.dtype))
        return out.reshape(rows, width, -1)

    def state_tokens(self, states: Tensor) -> Tensor:
        """Embed states as entity tokens, if there are any, and the state token: (m, S) -> (m, K + 1, D)."""
        numbers = self.scales.normal(states)
        related = numbers.new_zeros(len(states), len(self.spec.entities), 0)
        if self.relations:
            related = self.relations(states)  # (m, K, R)
        whole = self.embed_state(torch.cat([numbers, related.flatten(1)], dim=1))[:, None]  # (m, 1, D)
        return torch.cat([self.embed_entities(numbers, related), whole], dim=1) if self.entities else whole

    def body(self, embedded: Tensor, visible: Tensor, position: Tensor, cache: Cache | None = None) -> Tensor:
        """Run the transformer: (B, L, D), (B, 1, L, K) bool, (B, L) -> (B, L, D)."""
        # Heads are in float32 however the body is stored.
        return self.backbone.run(embedded, visible, position, cache).to(self.scales.mean.dtype)

    def rate_actions(self, hidden: Tensor, states: Tensor) -> Tensor:
        """O_A: hidden states of the tokens of states (m, D), these states (m, S) -> actions (m, A).

        Discrete actions are rated, continuous ones given; in float32 at least, whatever computes them.
        """
        output = self._action_output(hidden, states)
        return likeliest(output) if output.dim() == 3 else output

    def action_losses(self, hidden: Tensor, states: Tensor, wanted: Tensor) -> Tensor:
        """Return the loss of each action: (m, D), (m, S), wanted (m,) or (m, A) -> (m,)."""
        return action_losses(self._action_output(hidden, states), wanted)

    def _action_output(self, hidden: Tensor, states: Tensor) -> Tensor:
        """Return what the action head says: (m, D), (m, S) -> (m, A), or with bins (m, A, bins)."""
        if self.design.state_to_action:
            hidden = torch.cat([hidden, self.scales.normal(states).to(hidden.dtype)], dim=1)
        output = to_float32(self.action_head(hidden))
        size = self.spec.action_size
        return output if output.shape[1] == size else output.unflatten(1, (size, -1))

    @property
    def acts_by_network(self) -> bool:
        """Whether actions come from the action network; not before that is fitted."""
        return self.action_network is not None and bool(self.action_network.fitted)

    @property
    def reads_states(self) -> bool:
        """Whether imagining needs its reading of states: for actions, or for what comes later."""
        return not self.acts_by_network or not self.design.state_network

    @property
    def reads_actions(self) -> bool:
        """Whether imagining needs its reading of actions: for what comes later, or for the next state."""
        return self.reads_states and (self.design.memory or not self.design.state_network)

    def next_states(self, hidden: Tensor | None, states: Tensor, actions: Tensor) -> Tensor:
        """Return imagined next states, of the network where there is one, else of the state head.

        Args:
            hidden: (m, D) of the tokens that ask; None, where there is a network, is enough.
            states: (m, S) present ones.
            actions: (m,) or (m, A) taken there.
        """
        if self.design.state_network:
            # In bfloat16 a position is only known to millimetres.
            with torch.autocast(states.device.type, enabled=False):
                return self.network.next_states(states, actions)
        assert hidden is not None
        return self.predicted_states(hidden, states)

    def predicted_states(self, hidden: Tensor, states: Tensor) -> Tensor:
        """O_S: hidden states of the tokens that ask (m, D), present states (m, S) -> next states (m, S)."""
        return self.state_head(hidden, states, self.scales, self.changes)

    def _text_loss(self, hidden: Tensor, target: Tensor) -> Tensor:
        return _mean(F.cross_entropy(self.backbone.logits(hidden), target, reduction="none"))

    def _state_loss(self, hidden: Tensor, batch: PackedBatch) -> Tensor:
        if not len(hidden):
            # 0, with gradients of 0: processes exchange those of all weights.
            return self.state_head.layers(hidden).sum()
        return self.state_head.loss(
            hidden, batch.present_states, batch.want_states, self.scales, self.changes
        )

    def _action_loss(self, hidden: Tensor, batch: PackedBatch) -> Tensor:
        if not len(hidden):
            return self._action_output(hidden, batch.acting_states).sum()  # as above
        return self.action_losses(hidden, batch.acting_states, batch.want_actions).mean()

    def _new(self) -> dict[str, Tensor]:
        """Weights and scales of the new modules; what several modules share stands there once."""
        once = {name for name, _ in (*self.named_parameters(), *self.named_buffers())}
        state = self.state_dict()
        return {k: v.contiguous() for k, v in state.items() if k in once and not k.startswith("lm.")}

    def save(self, folder: Path, half: bool = False) -> None:
        """Write ``backbone/``, ``modules.safetensors`` and ``grounded.json``.

        The folder needs nothing else, except after LoRA or frozen tuning: then the base weights, unchanged,
        stay where the backbone's name says (`kalm.lm.lora`).

        Args:
            folder: for the model.
            half: adapters, embeddings and heads in bfloat16.
        """
        new = self._new()
        if half:
            new = {k: v.bfloat16() if k.startswith(LEARNT_WITH_BODY) else v for k, v in new.items()}
        with atomic_folder(folder) as place:
            lora.save_backbone(self.backbone, place / "backbone", half)
            save_file(new, place / "modules.safetensors")
            write_json(
                place / "grounded.json",
                {
                    "format": FORMAT,
                    "world": self.spec.to_json(),
                    "design": asdict(self.design),
                    "backbone": asdict(self.backbone.origin),
                    "two_way_prompt": self.backbone.two_way_prompt,
                },
            )


def load_model(folder: Path | str, device: str = "cpu") -> GroundedLM:
    """Load a grounded language model, as `kalm ground` or `GroundedLM.save` wrote it.

    Args:
        folder: of the model: ``grounded/model`` in a run; or the name of one that comes with kalm.
        device: torch device to compute on.

    Raises:
        KalmError: not such a folder, a file in it is missing or damaged, or its backbone is another by now.
    """
    folder = by_name(Path(folder))
    about = read_json(folder / "grounded.json", "grounded model")
    if about.get("format") != FORMAT:
        raise KalmError(f"{folder}: format {about.get('format')!r} is not known. Known: {FORMAT}.")
    try:
        spec, design = WorldSpec.from_json(about["world"]), Design(**about["design"])
        origin = Origin(**about["backbone"])
        two_way_prompt = about["two_way_prompt"]
    except (KeyError, TypeError) as error:
        raise KalmError(
            f"{folder / 'grounded.json'} does not fit this version of kalm ({error}). Ground the model anew."
        ) from None
    model = GroundedLM(lora.restore_backbone(folder / "backbone", origin, two_way_prompt), spec, design)
    try:
        new = present_names(load_file(folder / "modules.safetensors"), EARLIER_NAMES)
        model.load_state_dict(new, strict=False)
    except Exception as error:
        raise KalmError(f"{folder / 'modules.safetensors'} is damaged: {error}") from None
    if lost := model._new().keys() - new.keys():
        raise KalmError(f"{folder / 'modules.safetensors'} lacks {', '.join(sorted(lost))}.")
    return model.to(device).eval()


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Return the context for this precision; ``auto`` is bfloat16 only where the processor computes in it."""
    if precision == "auto":
        native = (
            torch.cuda.is_bf16_supported(including_emulation=False)
            if device.type == "cuda"
            else torch.cpu._is_avx512_bf16_supported()  # no public name for this check
        )
        precision = "bfloat16" if native else "float32"
    return torch.autocast(device.type, torch.bfloat16) if precision == "bfloat16" else nullcontext()


def _mean(values: Tensor) -> Tensor:
    """Mean, and 0 of nothing: heads without answers run too, so that every weight has a gradient.

    Processes that train together need that, for they exchange the gradients of all weights.
    """
    return values.sum() / max(values.numel(), 1)
