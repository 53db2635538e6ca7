"""Reading with an instruct model that was never taught to: a few examples in its chat template.

The examples are about things of daily life, as the grammar's are. Plans are written as whole sentences, one a
line. What the template says around a request may hold the model's special tokens; the request itself is
spelt without any.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from kalm.errors import KalmError
from kalm.lm.loading import load_backbone
from kalm.lm.prompts import PromptBuilder
from kalm.reader.decode import ReadingModel
from kalm.reader.model import LONGEST, WordScores
from kalm.reader.prompts import GAP, Menu, make_menu
from kalm.reader.tree import PlanTree

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

OWN = "NONE"
HERE = "\u2982REQUEST\u2982"  # stands in the place of a request while the template is written
TASK = (
    "You translate a request into steps. Every step has to be one of the sentences you are given; "
    f"{GAP} stands for one of the things. Behind means away from the viewer. Write one step per line, in "
    f"order. If the request cannot be said in these sentences, write {OWN}."
)
THINGS = ("white vase", "old lamp", "tall crate")
PLACES = tuple(
    f"Put the {x} {where} the {y}."
    for x in THINGS
    for y in THINGS
    if x != y
    for where in ("behind", "to the left of", "in front of", "to the right of")
)
SKILLS = ("Open the drawer.", "Light the candle.", "Feed the dog.")
# TextScene, request, steps.
EXAMPLES: tuple[tuple[tuple[str, ...], tuple[str, ...], str, tuple[str, ...]], ...] = (
    (
        PLACES,
        THINGS,
        "The vase should have the lamp on its left.",
        ("Put the old lamp to the left of the white vase.",),
    ),
    (
        PLACES,
        THINGS,
        "The crate is nearer to me than the lamp, which is wrong.",
        ("Put the tall crate behind the old lamp.",),
    ),
    (
        PLACES,
        THINGS,
        "A row, please, left to right: lamp, vase, crate.",
        (
            "Put the white vase to the right of the old lamp.",
            "Put the tall crate to the right of the white vase.",
        ),
    ),
    (
        PLACES,
        THINGS,
        "Both of the others belong around the crate.",
        ("Put the white vase behind the tall crate.", "Put the old lamp to the left of the tall crate."),
    ),
    (PLACES, THINGS, "Shift the vase a little towards me.", ()),
    (SKILLS, (), "It is dark in here, and after that the puppy wants its dinner.", SKILLS[1:]),
    (SKILLS, (), "Close the drawer.", ()),
)


@dataclass(frozen=True)
class ChatSpelling:
    """How an instruct model is asked.

    Attributes:
        tokenizer: its tokenizer, with a chat template.
        builder: spells texts without special tokens.
    """

    tokenizer: PreTrainedTokenizerBase
    builder: PromptBuilder

    def prompt(self, menu: Menu) -> list[int]:
        """Tokens of task, examples and scene."""
        return self._special(self._around(menu)[0])

    def request(self, request: str) -> list[int]:
        """Tokens of a request and of what the template says after it."""
        after = self._around(make_menu(SKILLS, ()))[1]  # the same for every scene
        return [*self.builder.ids(request), *self._special(after)]

    def tree(self, menu: Menu) -> PlanTree:
        """Return the tree of plans, in whole sentences."""
        sentences = [self.builder.ids(text) for text in menu.sentences]
        separator = self.builder.ids("\n")
        return PlanTree(sentences, self.builder.ids(OWN), separator[0], self.builder.end, LONGEST)

    def _around(self, menu: Menu) -> tuple[str, str]:
        """Return what the template says before and after a request about a scene."""
        messages = [{"role": "system", "content": TASK}]
        for sentences, things, request, steps in EXAMPLES:
            messages += [
                {"role": "user", "content": _question(make_menu(sentences, things), request)},
                {"role": "assistant", "content": "\n".join(steps) or OWN},
            ]
        messages.append({"role": "user", "content": _question(menu, HERE)})
        text = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        before, _, after = str(text).partition(HERE)
        return before, after

    def _special(self, text: str) -> list[int]:
        """Tokens of a part of the template, whose special tokens are meant as such."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]


def load_instruct(name: str, device: str) -> tuple[ReadingModel, ChatSpelling]:
    """Load an instruct model.

    Raises:
        KalmError: it cannot be had, or has no chat template.
    """
    backbone = load_backbone(name, "causal")
    if backbone.tokenizer.chat_template is None:
        raise KalmError(
            f"{name!r} has no chat template, so it cannot be asked to read. Give an instruct model, or the "
            "taught reader 'smollm2', or teach one: kalm reader teach --out FOLDER."
        )
    cast("nn.Module", backbone.model).to(device)
    builder = PromptBuilder(backbone.tokenizer, backbone.context)
    return ReadingModel(backbone, WordScores(backbone)), ChatSpelling(backbone.tokenizer, builder)


def _question(menu: Menu, request: str) -> str:
    things = f"Things: {', '.join(menu.things)}\n" if menu.things else ""
    return f"{things}Sentences:\n" + "\n".join(menu.patterns) + f"\nRequest: {request}"
