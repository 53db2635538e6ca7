"""The tree of all plans: which tokens may come next, so that nothing but plain sentences is ever written.

::

    start --- red --- behind --- blue *        * a sentence ends: ";" or the end of the plan may come
          |       `-- to --- left --- of ...
          `-- none .                           . nothing but the end may come

After ";" the same tree begins anew, without "none" and without the sentences that the plan already holds.
Most tokens are forced: the only ones that may come. They are read, but nothing is decided there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from kalm.errors import KalmError

OWN = -1  # stands for the number of a sentence where a request stays in its own words


@dataclass
class _Node:
    children: dict[int, _Node] = field(default_factory=dict)
    below: set[int] = field(default_factory=set)
    ends: int | None = None  # number of the sentence that ends here, or OWN


@dataclass(frozen=True)
class Place:
    """Where in the tree a plan has got to; each step gives a new one.

    Attributes:
        node: the node.
        steps: numbers of the sentences that are written.
        done: the plan has ended.
    """

    node: _Node
    steps: tuple[int, ...] = ()
    done: bool = False


class PlanTree:
    """Plans over N sentences as sequences of tokens.

    Args:
        sentences: token ids of each sentence.
        own: token ids of what stands for the request's own words.
        separator: token between two sentences.
        end: token after a plan.
        longest: largest number of sentences in a plan.

    Raises:
        KalmError: two sentences have the same tokens, or one goes on with the token that ends others.
    """

    def __init__(
        self, sentences: Sequence[Sequence[int]], own: Sequence[int], separator: int, end: int, longest: int
    ) -> None:
        self.separator: int = separator
        self.end: int = end
        self.longest: int = longest
        self._sentences = [tuple(ids) for ids in sentences]
        self._own = tuple(own)
        self._again = _Node()
        self._start = _Node()
        for number, ids in enumerate(self._sentences):
            self._insert(self._again, ids, number)
            self._insert(self._start, ids, number)
        self._insert(self._start, self._own, OWN)

    @property
    def own_word(self) -> int | None:
        """Token that begins a request's own words and nothing else; None where a sentence begins alike."""
        first = self._own[0]
        return first if self._start.children[first].below == {OWN} else None

    def start(self) -> Place:
        """Return where every plan begins."""
        return Place(self._start)

    def is_start(self, place: Place) -> bool:
        """Whether nothing is written yet."""
        return place.node is self._start

    def allowed(self, place: Place) -> list[int]:
        """Return the tokens that may come next; none once the plan has ended."""
        if place.done:
            return []
        used = set(place.steps)
        tokens = [token for token, child in place.node.children.items() if child.below - used]
        number = place.node.ends
        if number == OWN:
            return [self.end]
        if number is not None and number not in used:
            tokens.append(self.end)
            if len(place.steps) + 1 < min(self.longest, len(self._sentences)):
                tokens.append(self.separator)
        return tokens

    def after(self, place: Place, token: int) -> Place:
        """Return where a plan has got to with one more token, which has to be an allowed one."""
        child = place.node.children.get(token)
        if child is not None:
            return replace(place, node=child)
        number = place.node.ends
        assert number is not None, (token, place.steps)
        steps = place.steps if number == OWN else (*place.steps, number)
        if token == self.end:
            return Place(place.node, steps, done=True)
        assert token == self.separator, token
        return Place(self._again, steps)

    def spell(self, steps: Sequence[int]) -> list[int]:
        """Return the tokens of a plan, its end included."""
        if not steps:
            return [*self._own, self.end]
        ids: list[int] = []
        for step in steps:
            ids += [*([self.separator] if ids else []), *self._sentences[step]]
        return [*ids, self.end]

    def choices(self, steps: Sequence[int]) -> list[list[int]]:
        """Return the tokens that might have come in place of each token of a plan, it included."""
        place, found = self.start(), []
        for token in self.spell(steps):
            found.append(self.allowed(place))
            place = self.after(place, token)
        return found

    def _insert(self, node: _Node, ids: Sequence[int], number: int) -> None:
        node.below.add(number)
        for token in ids:
            if token in (self.separator, self.end):
                raise KalmError(
                    "a plain sentence holds the token that stands between sentences or ends a plan, so plans "
                    "could not be told apart. Leave semicolons out of plain sentences."
                )
            node = node.children.setdefault(token, _Node())
            node.below.add(number)
        if node.ends is not None:
            raise KalmError("two plain sentences are the same to the model's tokenizer. Word one otherwise.")
        node.ends = number
