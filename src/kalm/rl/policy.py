"""Policies: who acts, how they are stored, how they are loaded.

A trained policy is one or more plain MLPs. On discrete actions the largest of their mean outputs is taken; on
continuous ones the mean output, after tanh where the learner ends in one, is the action. It is stored as
tensors and readable facts (``policy.safetensors``, ``policy.json``; no pickle). The facts hold the hash of
the tensors, so a folder from a stopped copy is refused, and the hash of the sentence encoder, because a
policy is meaningless behind another one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from kalm.errors import KalmError
from kalm.rl.encoder import GoalEncoder
from kalm.runs.io import atomic_write, file_sha256, read_json, write_json
from kalm.types import JsonObject, WorldSpec

FORMAT = "kalm-policy"
VERSION, READABLE = 2, (1, 2)  # version 1 knew no `output`: all its policies are "none"
OUTPUTS = ("none", "tanh")
FACTS, WEIGHTS = "policy.json", "policy.safetensors"


class AsksPlainly(Protocol):
    """Who says what to ask a policy for, in plain sentences of its data (`kalm.load_reader`)."""

    def ask(self, texts: Sequence[str], states: np.ndarray, spec: WorldSpec) -> list[str]:
        """Return a sentence for each of N sentences in its state (N, S) of this world."""
        ...


@dataclass(frozen=True, eq=False)
class MLPPolicy:
    """MLPs on [state, enc(sentence)], ReLU between layers; their mean output chooses.

    A largest output is looked for before tanh, which keeps the order but makes large outputs equal.

    Attributes:
        spec: the world it acts in.
        algorithm: what trained it.
        encoder: sentence encoder.
        members: (weight, bias) per layer, per MLP.
        device: where the members lie.
        provenance: how it came about, JSON-ready: seed, steps, settings, data, versions.
        output: ``"tanh"`` where continuous actions are tanh of the mean output, else ``"none"``.
    """

    spec: WorldSpec
    algorithm: str
    encoder: GoalEncoder
    members: Sequence[Sequence[tuple[torch.Tensor, torch.Tensor]]]
    device: str = "cpu"
    provenance: Mapping[str, object] = field(default_factory=dict)
    output: str = "none"

    @property
    def hidden(self) -> tuple[int, ...]:
        """Widths of the hidden layers."""
        return tuple(len(bias) for _, bias in self.members[0][:-1])

    def act(self, states: np.ndarray, texts: Sequence[str], reader: AsksPlainly | None = None) -> np.ndarray:
        """Choose actions for N states and their N sentences.

        Args:
            states: (N, S).
            texts: N sentences.
            reader: asks for what they mean, step by step, in plain sentences of the data (`Reader.ask`).

        Returns:
            (N,) int64 or (N, A) float32 in [-1, 1].

        Raises:
            KalmError: states of another world, not one sentence per state, or one that cannot be read.
        """
        if reader is not None:
            texts = reader.ask(texts, self._checked(states, texts), self.spec)
        values = self.values(states, texts)
        if self.spec.action_kind == "discrete":
            return values.argmax(1)
        return np.clip(np.tanh(values) if self.output == "tanh" else values, -1, 1)

    def values(self, states: np.ndarray, texts: Sequence[str]) -> np.ndarray:
        """Return the mean output: logits, Q values, or an actor's output before tanh: (N, A) float32."""
        states = self._checked(states, texts)
        observations = np.concatenate([states, self.encoder.encode(texts)], axis=1)  # (N, S + E)
        with torch.inference_mode():
            x = torch.from_numpy(observations).to(self.device)
            return torch.stack([_forward(layers, x) for layers in self.members]).mean(0).cpu().numpy()

    def _checked(self, states: np.ndarray, texts: Sequence[str]) -> np.ndarray:
        states = np.asarray(states, dtype=np.float32)
        if states.shape != (len(texts), self.spec.state_size):
            raise KalmError(
                f"states of shape {states.shape} and {len(texts)} sentences: environment "
                f"{self.spec.name!r} needs one row of {self.spec.state_size} numbers per sentence."
            )
        return states

    def save(self, folder: Path) -> None:
        """Write both files; the facts come last, so that a stopped save is not taken for a policy."""
        with atomic_write(folder / WEIGHTS) as temporary:
            save_file(_tensors(self.members), temporary)
        write_json(folder / FACTS, self._facts(file_sha256(folder / WEIGHTS)))

    def _facts(self, digest: str) -> JsonObject:
        return {
            "format": FORMAT,
            "version": VERSION,
            "world": self.spec.to_json(),
            "algorithm": self.algorithm,
            "encoder": {
                "name": self.encoder.name,
                "identity": self.encoder.identity,
                "size": self.encoder.size,
            },
            "hidden": list(self.hidden),
            "members": len(self.members),
            "output": self.output,
            "weights_sha256": digest,
            "provenance": dict(self.provenance),
        }


def copied(layers: Sequence[nn.Linear]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Copy the weights of linear layers: a member of an `MLPPolicy`."""
    return [(_copy(layer.weight), _copy(layer.bias)) for layer in layers]


def load_mlp_policy(
    path: Path | str,
    device: str = "cpu",
    encoder: GoalEncoder | None = None,
    world: str | WorldSpec | None = None,
) -> MLPPolicy:
    """Load a policy folder.

    Args:
        path: the folder that `MLPPolicy.save` wrote.
        device: torch device to act on.
        encoder: used, with its memory of texts, where it is the policy's; else that is loaded by its name.
        world: name or spec of the world it shall act in; None: whatever it was trained for.

    Raises:
        KalmError: no policy there, a damaged or newer one, another world, or an encoder that is not here
            or has other weights than it was trained with.
    """
    folder = Path(path)
    facts = read_json(folder / FACTS, "policy")
    try:
        _check_format(facts, folder)
        spec, saved = WorldSpec.from_json(facts["world"]), facts["encoder"]
        _check_world(spec, world, folder)
        sizes = [spec.state_size + saved["size"], *facts["hidden"], spec.action_size]
        members = _read_members(folder, facts["weights_sha256"], facts["members"], sizes, device)
        encoder = _encoder_of(saved, encoder, folder, device)
        output = _output(facts, folder)
        return MLPPolicy(spec, facts["algorithm"], encoder, members, device, facts["provenance"], output)
    except (KeyError, TypeError, AttributeError) as error:
        raise KalmError(
            f"policy {folder}: {FACTS} is damaged ({error!r}). Train it again or copy it again."
        ) from None


def _check_format(facts: JsonObject, folder: Path) -> None:
    if facts["format"] != FORMAT:
        raise KalmError(f"{folder} holds {facts['format']!r}, not a policy ({FORMAT}).")
    if facts["version"] not in READABLE:
        raise KalmError(
            f"policy {folder} has format version {facts['version']}; this kalm reads {VERSION}. Update it."
        )


def _output(facts: JsonObject, folder: Path) -> str:
    output = facts["output"] if facts["version"] > 1 else "none"
    if output not in OUTPUTS:
        raise KalmError(f"policy {folder}: output {output!r} is unknown. Known: {', '.join(OUTPUTS)}.")
    return output


def _check_world(spec: WorldSpec, wanted: str | WorldSpec | None, folder: Path) -> None:
    """Refuse a policy of another world, or of the same one as it was before its states or actions changed."""
    if wanted is None or wanted in (spec, spec.name):
        return
    asked = repr(wanted) if isinstance(wanted, str) else _described(wanted)
    raise KalmError(
        f"policy {folder} acts in {_described(spec)}, not in {asked}. Give it that environment, or load a "
        "policy that was trained in the one you want."
    )


def _described(spec: WorldSpec) -> str:
    return f"{spec.name!r} ({spec.state_size} state numbers, {spec.action_size} {spec.action_kind} actions)"


def _encoder_of(saved: JsonObject, given: GoalEncoder | None, folder: Path, device: str) -> GoalEncoder:
    if given is not None and given.identity == saved["identity"]:
        return given
    found = GoalEncoder(saved["name"], device)
    if found.identity != saved["identity"]:
        raise KalmError(
            f"policy {folder} was trained with other weights of the encoder {saved['name']!r} than those it "
            "has here. Give it the encoder that it was trained with."
        )
    return found


def _read_members(
    folder: Path, digest: str, count: int, sizes: Sequence[int], device: str
) -> list[list[tuple[torch.Tensor, torch.Tensor]]]:
    path = folder / WEIGHTS
    if not path.exists() or file_sha256(path) != digest:
        state = "differs from what policy.json describes" if path.exists() else "is missing"
        raise KalmError(f"policy {folder}: {WEIGHTS} {state}. Train it again or copy it again.")
    try:
        tensors = load_file(path, device=device)
    except SafetensorError as error:
        raise KalmError(f"policy {folder}: {WEIGHTS} cannot be read ({error}).") from None
    layers = list(zip(sizes[:-1], sizes[1:], strict=True))
    expected = {f"{m}.{i}.weight": (out, into) for m in range(count) for i, (into, out) in enumerate(layers)}
    expected |= {f"{m}.{i}.bias": (out,) for m in range(count) for i, (_, out) in enumerate(layers)}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found != expected:
        raise KalmError(f"policy {folder}: tensors {found} do not fit {FACTS}, which asks for {expected}.")
    return [
        [(tensors[f"{m}.{i}.weight"], tensors[f"{m}.{i}.bias"]) for i in range(len(layers))]
        for m in range(count)
    ]


def _tensors(members: Sequence[Sequence[tuple[torch.Tensor, torch.Tensor]]]) -> dict[str, torch.Tensor]:
    return {
        f"{m}.{i}.{name}": tensor
        for m, layers in enumerate(members)
        for i, layer in enumerate(layers)
        for name, tensor in zip(("weight", "bias"), layer, strict=True)
    }


def _forward(layers: Sequence[tuple[torch.Tensor, torch.Tensor]], x: torch.Tensor) -> torch.Tensor:
    for weight, bias in layers[:-1]:
        x = nn.functional.linear(x, weight, bias).relu()
    return nn.functional.linear(x, *layers[-1])


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().clone()
