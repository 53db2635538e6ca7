"""Result rows -> success of each policy with intervals, and what imagined rollouts add to each algorithm."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from kalm.envs.base import Published
from kalm.evaluation.results import Episode
from kalm.evaluation.statistics import Difference, Rate, difference, pooled, stratified
from kalm.runs.folder import DATA_KINDS, DataKind
from kalm.types import LEVELS, NOVEL_LEVELS, JsonObject

NOVEL, MIX = "novel", "mix"
TITLES = {NOVEL: "novel mean", MIX: "paper's mix"}


@dataclass(frozen=True)
class Score:
    """Success of one policy over its training seeds.

    Attributes:
        policy: name in tables.
        algorithm: name of the learner.
        data: what it learned from besides real rollouts, see `kalm.runs.folder.DataKind`.
        seeds: training seeds.
        rates: level (and `NOVEL`, `MIX` where all novel levels were played, `MIX` where the paper has one for
            this world) -> success.
        reading: what read its sentences to plain ones; empty: nothing did.
        splits: those that its sentences are of, see `kalm.types.SPLITS`.
        first: level -> goal first (`kalm.evaluation.imagined.goal_first`), where it was measured.
    """

    policy: str
    algorithm: str
    data: DataKind
    seeds: tuple[int, ...]
    rates: dict[str, Rate]
    splits: tuple[str, ...] = ()
    reading: str = ""
    first: dict[str, Rate] = field(default_factory=dict)


@dataclass(frozen=True)
class Gain:
    """What data add to one algorithm: success with them minus success with others, or without, per column."""

    algorithm: str
    score: Score
    base: Score
    differences: dict[str, Difference]

    @property
    def name(self) -> str:
        """Name in tables, e.g. ``BC+KALM − BC``."""
        return f"{self.score.policy} − {self.base.policy}"


def scores(rows: Iterable[Episode], published: Published | None = None) -> list[Score]:
    """Sum up episodes per policy: plain, +KALM, its controls, and algorithms in order of appearance.

    Args:
        rows: episodes.
        published: says whether others mix the novel levels, and how.
    """
    by_policy: dict[str, list[Episode]] = {}
    for row in rows:
        by_policy.setdefault(row.policy, []).append(row)
    found = [_score(episodes, published and published.mix) for episodes in by_policy.values()]
    algorithms = list(dict.fromkeys(score.algorithm for score in found))
    return sorted(
        found,
        key=lambda score: (algorithms.index(score.algorithm), DATA_KINDS.index(score.data), score.reading),
    )


def _score(episodes: Sequence[Episode], mix: Mapping[str, int] | None) -> Score:
    first = episodes[0]
    seeds = tuple(sorted({row.seed for row in episodes}))
    levels = ordered({row.level for row in episodes})
    won, played = _counts(episodes, seeds, levels)
    rates = {}
    for column, level in enumerate(levels):
        present = played[:, column] > 0
        rates[level] = pooled(won[present, column], played[present, column])
    if set(NOVEL_LEVELS) <= set(levels):
        columns = [levels.index(level) for level in NOVEL_LEVELS]
        complete = (played[:, columns] > 0).all(axis=1)
        if complete.any():
            parts = won[complete][:, columns], played[complete][:, columns]
            rates[NOVEL] = stratified(*parts, [1.0] * len(columns))
            if mix:
                rates[MIX] = stratified(*parts, [mix[level] for level in NOVEL_LEVELS])
    splits = tuple(sorted({row.split for row in episodes} - {""}))
    shares = {level: goal_first_of([row for row in episodes if row.level == level]) for level in levels}
    measured = {level: share for level, share in shares.items() if share}
    return Score(first.policy, first.algorithm, first.data, seeds, rates, splits, first.reading, measured)


def goal_first_of(episodes: Iterable[Episode]) -> Rate | None:
    """Return goal first over training seeds; None where neither a goal nor a counterfactual came true."""
    decided = [row for row in episodes if row.first]
    if not decided:
        return None
    seeds = sorted({row.seed for row in decided})
    mine = [[row.first == "goal" for row in decided if row.seed == seed] for seed in seeds]
    return pooled([sum(won) for won in mine], [len(won) for won in mine])


def _counts(
    episodes: Sequence[Episode], seeds: Sequence[int], levels: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Successes and episodes per training seed and level: two (K, L) int arrays."""
    won = np.zeros((len(seeds), len(levels)), dtype=np.int64)
    played = np.zeros_like(won)
    for row in episodes:
        place = seeds.index(row.seed), levels.index(row.level)
        won[place] += row.success
        played[place] += 1
    return won, played


def ordered(levels: Iterable[str]) -> list[str]:
    """Return levels in the order of `LEVELS`, others behind by name."""
    levels = set(levels)
    return [level for level in LEVELS if level in levels] + sorted(levels - set(LEVELS))


def gains(found: Sequence[Score], data: DataKind = "kalm", base: DataKind = "plain") -> list[Gain]:
    """Compare what policies learn with `data` and with `base`, for every algorithm that has both."""
    result = []
    for less in found:
        for more in found:
            alike = less.algorithm == more.algorithm and less.reading == more.reading
            if alike and (more.data, less.data) == (data, base):
                shared = [column for column in less.rates if column in more.rates]
                changes = {column: difference(more.rates[column], less.rates[column]) for column in shared}
                result.append(Gain(less.algorithm, more, less, changes))
    return result


def attributions(found: Sequence[Score]) -> list[Gain]:
    """Compare +KALM with its controls, and the filter alone with nothing, algorithm by algorithm."""
    pairs: tuple[tuple[DataKind, DataKind], ...] = (
        ("kalm", "shuffled"),
        ("kalm", "unfiltered"),
        ("shuffled", "plain"),
    )
    compared = [gain for pair in pairs for gain in gains(found, *pair)]
    algorithms = list(dict.fromkeys(score.algorithm for score in found))
    return sorted(compared, key=lambda gain: algorithms.index(gain.algorithm))


def columns_of(found: Sequence[Score]) -> list[str]:
    """Return the columns that any score has: levels, then `NOVEL` and `MIX`."""
    every = {column for score in found for column in score.rates}
    return ordered(every - {NOVEL, MIX}) + [column for column in (NOVEL, MIX) if column in every]


def scores_to_json(found: Sequence[Score]) -> JsonObject:
    """Return JSON-ready scores and gains, shares in [0, 1]."""
    return {
        "policies": [
            {
                **asdict(score),
                "seeds": list(score.seeds),
                "rates": _rates(score.rates),
                "splits": list(score.splits),
                "first": _rates(score.first),
            }
            for score in found
        ],
        "gains": [_gain(gain) for gain in gains(found)],
        "attribution": [
            {**_gain(gain), "data": gain.score.data, "base": gain.base.data} for gain in attributions(found)
        ],
    }


def _gain(gain: Gain) -> JsonObject:
    changes = {column: {**asdict(value), "clear": value.clear} for column, value in gain.differences.items()}
    return {"algorithm": gain.algorithm, "differences": changes}


def _rates(found: Mapping[str, Rate]) -> JsonObject:
    return {column: value.to_json() for column, value in found.items()}
