"""Language models that write freely: one that runs here, or one behind an OpenAI-compatible address."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch

from kalm.errors import KalmError
from kalm.lm.loading import load_backbone
from kalm.training.random_state import own_random_stream

if TYPE_CHECKING:
    from torch import nn

    from kalm.lm.backbone import Backbone

Message = dict[str, str]
"""``{"role": "system" | "user" | "assistant", "content": ...}``"""

KEY = "OPENAI_API_KEY"
TOKENS = 400  # of a reply
TEMPERATURE = 0.8
TOP_P = 0.95
PATIENCE = 120  # seconds that a server may take


class ChatWriter(Protocol):
    """Continues a conversation."""

    def reply(self, messages: Sequence[Message], seed: int) -> str:
        """Return what the model says next, sampled."""
        ...


def load_writer(name: str, device: str = "cpu", served: str = "") -> ChatWriter:
    """Load a model that writes.

    Args:
        name: ``smollm2``, a hub name, a folder or a GGUF file of an instruct model; or the base address of an
            OpenAI-compatible server, such as ``http://localhost:8000/v1``.
        device: torch device of a model that runs here.
        served: which of the server's models.

    Raises:
        KalmError: it cannot be had, has no chat template, or is a server and no model of it is named.
    """
    if name.startswith(("http://", "https://")):
        if not served:
            raise KalmError(f"{name} may serve several models: name one (--lm-model NAME).")
        return ServedWriter(name.rstrip("/"), served)
    backbone = load_backbone(name, "causal")
    if backbone.tokenizer.chat_template is None:
        raise KalmError(f"{name!r} has no chat template. Give an instruct model, e.g. smollm2.")
    cast("nn.Module", backbone.model).to(device)
    return LocalWriter(backbone, device)


@dataclass(frozen=True)
class LocalWriter:
    """A model that runs here, asked in its chat template.

    Attributes:
        backbone: the model.
        device: where it is.
    """

    backbone: Backbone
    device: str

    def reply(self, messages: Sequence[Message], seed: int) -> str:
        """Return what the model says next, sampled."""
        tokenizer, model = self.backbone.tokenizer, cast("Any", self.backbone.model)
        text = str(tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False))
        ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]], device=self.device)
        with own_random_stream(self.device, seed), torch.inference_mode():
            out = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=True,
                temperature=TEMPERATURE,
                top_p=TOP_P,
                max_new_tokens=min(TOKENS, max(1, self.backbone.context - ids.shape[1])),
                pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id,
            )
        return str(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))


@dataclass(frozen=True)
class ServedWriter:
    """A model behind an OpenAI-compatible server. A key is taken from ``OPENAI_API_KEY``, if there is one.

    Attributes:
        address: base address; ``/chat/completions`` is asked.
        model: its name there.
    """

    address: str
    model: str

    def reply(self, messages: Sequence[Message], seed: int) -> str:
        """Return what the model says next, sampled.

        Raises:
            KalmError: the server cannot be reached, refuses, or answers with something else.
        """
        asked = {
            "model": self.model,
            "messages": list(messages),
            "seed": seed % 2**31,
            "temperature": TEMPERATURE,
            "top_p": TOP_P,
            "max_tokens": TOKENS,
        }
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(KEY):
            headers["Authorization"] = f"Bearer {key}"
        place = f"{self.address}/chat/completions"
        request = urllib.request.Request(place, json.dumps(asked).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                said = json.load(answer)["choices"][0]["message"]["content"]
        except urllib.error.HTTPError as error:
            told = error.read(300).decode("utf-8", "replace").strip()
            raise KalmError(
                f"{place} answers {error.code} ({told or error.reason}). Check --lm-model and {KEY}."
            ) from None
        except (OSError, ValueError) as error:
            raise KalmError(
                f"{place} cannot be asked ({error}). Is an OpenAI-compatible server there?"
            ) from None
        except (KeyError, IndexError, TypeError):
            raise KalmError(f"{place} answers, but not as an OpenAI-compatible server does.") from None
        return str(said)
