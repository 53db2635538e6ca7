"""Acting for a goal and a return: a trained decision transformer, how it is stored and how it is loaded.

::

    acts    goal prompt   R0 s0 -> a0   a0 R1 s1 -> a1   ...     R0 is asked for; R1 = R0 - r0, and so on

A policy is stored as tensors and readable facts, the facts last; they hold the hashes of the tensors, so a
folder from a stopped or mixed copy is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from kalm.dynamics.normalizer import present_names
from kalm.errors import KalmError
from kalm.lm.decision_transformer.model import DecisionTransformer
from kalm.lm.decoding import prompt_embeddings
from kalm.lm.model import autocast, load_model
from kalm.lm.policy import LMEpisodes
from kalm.lm.prompts import GOAL_ORIENTED
from kalm.runs.io import atomic_write, file_sha256, read_json, write_json
from kalm.types import WorldSpec

FORMAT, VERSION = "kalm-decision", 1
FACTS, WEIGHTS, BODY = "policy.json", "decision.safetensors", "lm"


@dataclass(frozen=True)
class DecisionTransformerPolicy:
    """A trained model that acts (`kalm.evaluation.episodes.Remembering`).

    Attributes:
        model: on any device.
        target: return that is asked for; None: read off the goal.
        precision: see `GroundConfig.precision`.
        side_by_side: largest number of episodes in memory; MiniLM takes about 4 MB for one of 50 steps.
        provenance: how it came about, JSON-ready.
    """

    model: DecisionTransformer
    target: float | None = None
    precision: str = "auto"
    side_by_side: int = 256
    provenance: Mapping[str, object] = field(default_factory=dict)

    @property
    def spec(self) -> WorldSpec:
        """The world it acts in."""
        return self.model.grounded.spec

    def begin(self, texts: Sequence[str], states: np.ndarray) -> Conditioned:
        """Read the goals of N episodes and settle what to ask for.

        Raises:
            KalmError: states of another world, or a goal that is longer than the context.
        """
        return Conditioned(self, texts, states)

    def save(self, folder: Path) -> None:
        """Write the policy; its facts come last, so that a stopped save is not taken for a policy."""
        self.model.grounded.save(folder / BODY)
        own = {k: v.contiguous() for k, v in self.model.state_dict().items() if not k.startswith("grounded.")}
        with atomic_write(folder / WEIGHTS) as temporary:
            save_file(own, temporary)
        facts = {
            "format": FORMAT,
            "version": VERSION,
            "world": self.spec.to_json(),
            "algorithm": "dt",
            "target": self.target,
            "precision": self.precision,
            "weights_sha256": file_sha256(folder / WEIGHTS),
            "modules_sha256": file_sha256(folder / BODY / "modules.safetensors"),
            "provenance": dict(self.provenance),
        }
        write_json(folder / FACTS, facts)


class Conditioned(LMEpisodes):
    """Episodes in which every state is preceded by what is still to be earned.

    Args:
        policy: who plays.
        texts: N sentences.
        states: (N, S) initial states.
    """

    def __init__(self, policy: DecisionTransformerPolicy, texts: Sequence[str], states: np.ndarray) -> None:
        self.policy: DecisionTransformer = policy.model
        super().__init__(policy.model.grounded, texts, states, GOAL_ORIENTED, policy.precision)
        self.memory = True  # whatever the model had; its decisions are learnt from whole rollouts
        self.wanted: np.ndarray = (  # (N,) still to be earned
            self._aims(texts) if policy.target is None else np.full(len(texts), policy.target)
        )

    def _aims(self, texts: Sequence[str]) -> np.ndarray:
        number = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        with torch.inference_mode(), autocast(self.model.device, self.precision):
            gist = prompt_embeddings(self.model, list(number)).to(self.model.device)
        return self.policy.aims(gist).double().numpy(force=True)[[number[text] for text in texts]]

    def _ahead(self, rewards: np.ndarray) -> list[Tensor]:
        rows = self.decode_state.rows
        self.wanted[rows] -= rewards
        wanted = torch.from_numpy(self.wanted[rows]).to(self.policy.returns.mean)
        return [self.policy.return_tokens(wanted)[:, None]]


def load_decision_transformer(
    folder: Path | str, device: str = "cpu", spec: WorldSpec | None = None
) -> DecisionTransformerPolicy:
    """Load what `DecisionTransformer.save` wrote.

    Args:
        folder: the policy folder.
        device: torch device.
        spec: the world that it has to be of; None: any.

    Raises:
        KalmError: no such policy, a damaged one, or one of another world.
    """
    folder = Path(folder)
    facts = read_json(folder / FACTS, "policy")
    if not isinstance(facts, dict) or (facts.get("format"), facts.get("version")) != (FORMAT, VERSION):
        raise KalmError(f"{folder} holds no decision transformer of format version {VERSION}.")
    for name, place in (("weights_sha256", WEIGHTS), ("modules_sha256", f"{BODY}/modules.safetensors")):
        if not (folder / place).exists() or file_sha256(folder / place) != facts.get(name):
            raise KalmError(f"policy {folder}: {place} is missing or was changed. Train or copy it again.")
    body = load_model(folder / BODY, device)
    if spec is not None and body.spec != spec:
        raise KalmError(f"policy {folder} is of environment {body.spec.name!r}, which is not {spec.name!r}.")
    model = DecisionTransformer(body)
    try:
        own = present_names(load_file(folder / WEIGHTS), {"mean": "returns.mean", "spread": "returns.std"})
        _, unknown = model.load_state_dict(own, strict=False)
        if unknown or own.keys() != {k for k in model.state_dict() if not k.startswith("grounded.")}:
            raise KeyError(*unknown)
        return DecisionTransformerPolicy(
            model.to(device).eval(), facts["target"], facts["precision"], provenance=facts["provenance"]
        )
    except (KeyError, RuntimeError, SafetensorError) as error:
        raise KalmError(f"policy {folder} is damaged ({error!r}). Train or copy it again.") from None
