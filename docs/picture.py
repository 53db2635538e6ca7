"""Draws the pictures of README and home page into docs/images.

Usage, from the root of the repository, after ``make demo``::

    python docs/picture.py runs/demo

`rollouts.png`: a rollout that the language model imagined for a sentence that the data never had, above what
the policy does in the simulator from the same state. `success.svg`: success on novel goals without and with
imagined rollouts, from results/*.csv.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import kalm
from kalm.data import storage
from kalm.envs.base import World
from kalm.evaluation.episodes import play
from kalm.evaluation.results import read_rows
from kalm.report.films import Filmstrip, film, filmstrip
from kalm.report.scores import NOVEL, Score, scores
from kalm.report.style import INK, PAPER, axes_of, color_of, percent, to_bytes
from kalm.report.tables import spoken
from kalm.runs.folder import IMAGINED, POLICIES, trained_policies
from kalm.types import Rollout

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
CHARTS = {"CLEVR-Robot": "results/clevr-mini.csv", "Meta-World": "results/metaworld-mini.csv"}
TRIES = 64  # imagined rollouts that are played, of which the first that both sides reach is drawn
ACTIONS = range(4, 8)  # long enough to show something, short enough to show all of it


def main() -> None:
    """Draw both pictures; the first needs a run folder."""
    IMAGES.mkdir(exist_ok=True)
    (IMAGES / "success.svg").write_bytes(chart())
    if len(sys.argv) > 1:
        (IMAGES / "rollouts.png").write_bytes(to_bytes(filmstrip(example(Path(sys.argv[1]))), "png"))


def example(run: Path) -> Filmstrip:
    """Return an imagined rollout for another wording, and the policy's real one, that both reach the goal.

    Where none of those tried does, the best of them is taken, and the picture says what failed.
    """
    imagined = storage.read(run / IMAGINED)
    world = kalm.make(imagined.spec.name)
    wanted = (imagined.success, imagined.levels == "rephrase", np.isin(imagined.lengths, ACTIONS))
    best = np.argsort(-np.sum(wanted, axis=0), kind="stable")[:TRIES]
    dreams = [imagined[int(row)] for row in best]
    folder = next(place for job, place in trained_policies(run / POLICIES) if job.data == "kalm")
    starts = [replace(dream.instruction, state=tuple(dream.states[0].tolist())) for dream in dreams]
    played = play(kalm.load_policy(folder), world, starts, list(range(len(starts))))
    both = list(zip(dreams, played, strict=True))
    return strip(world, *next((pair for pair in both if pair[1].success), both[0]))


def strip(world: World, dream: Rollout, real: Rollout) -> Filmstrip:
    """Return two films, one above the other, with the sentence in the title."""
    text = dream.instruction.text
    films = (
        film(world, dream, f"“{text}”  Imagined by the language model"),
        film(world, real, "The policy in the simulator"),
    )
    return Filmstrip(text, dream.instruction.level, films)


def chart() -> bytes:
    """Draw the novel mean of every algorithm without and with imagined rollouts, a panel per environment."""
    figure = Figure((8.6, 2.7), layout="constrained")
    panels = figure.subplots(1, len(CHARTS), sharey=True)
    for axes, (title, file) in zip(panels, CHARTS.items(), strict=True):
        found = scores(read_rows(ROOT / file))
        pairs = [
            (one, other)
            for one in found
            for other in found
            if (one.algorithm, one.reading) == (other.algorithm, other.reading)
            and (one.data, other.data) == ("plain", "kalm")
        ]
        panel(axes_of(axes), title, pairs)
    percent(panels[0], "success on novel goals")
    panels[0].set_ylim(0, 0.7)
    with rc_context({"svg.hashsalt": "kalm"}):  # the same file every time
        return to_bytes(figure, "svg", PAPER)


def panel(axes: Axes, title: str, pairs: list[tuple[Score, Score]]) -> None:
    """Draw two bars per algorithm, pale without and full with imagined rollouts, with 95 % intervals."""
    for place, pair in enumerate(pairs):
        for shift, score in zip((-0.2, 0.2), pair, strict=True):
            rate = score.rates[NOVEL]
            reach = [[rate.mean - rate.low], [rate.high - rate.mean]]
            axes.bar(place + shift, rate.mean, 0.38, color=color_of(score.algorithm, score.data))
            axes.errorbar(place + shift, rate.mean, reach, color=INK, linewidth=0.8)
    axes.set_xticks(range(len(pairs)), [spoken(plain.policy) for plain, _ in pairs], fontsize=7)
    axes.set_title(f"{title}: plain (pale) and with imagined rollouts", fontsize=8, color=INK)


if __name__ == "__main__":
    main()
