"""The report of a run: one self-contained page, `report.html`, and `report.md` with pictures beside it.

Everything comes in through `ReportData`. A part that was not run is left out, and the page says so there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml
from matplotlib.figure import Figure

from kalm.envs.base import Published
from kalm.evaluation.effects import Effect
from kalm.evaluation.grounding import Inspection
from kalm.evaluation.imagined import Quality
from kalm.evaluation.results import Episode
from kalm.evaluation.statistics import Rate
from kalm.report.curves import learning_curves, round_curves
from kalm.report.directions import policy_directions, quality_directions
from kalm.report.document import Block, Code, Document, DocumentSection, Picture, html, to_markdown
from kalm.report.figures import (
    Curve,
    ability_curves,
    first_bars,
    loss_curves,
    policy_curves,
    quality_bars,
    success_bars,
)
from kalm.report.films import Filmstrip, across, filmstrip
from kalm.report.grid import grid_table
from kalm.report.grounding import effects_table, inspection_tables
from kalm.report.loop import PRACTISED, Round, collected_table, rounds_table
from kalm.report.scores import NOVEL, TITLES, Gain, Score, columns_of, gains, scores
from kalm.report.style import PAPER, for_dark_screens, to_bytes
from kalm.report.tables import (
    Table,
    attribution_lines,
    control_table,
    gain_table,
    held_back_table,
    kind_table,
    noted,
    of_scores,
    quality_table,
    refined_table,
    success_table,
)
from kalm.runs.io import atomic_write
from kalm.types import JsonObject

PICTURES = "figures"
FRAME_WIDTH = 92  # pixels on the page


@dataclass(frozen=True)
class ReportData:
    """All that a report is made from.

    Attributes:
        title: heading of the page.
        published: numbers of others for this environment, to stand beside ours; None: there are none.
        rows: results, one per episode.
        imagined: level -> quality of imagined rollouts (`imagined.quality`).
        refined: figures of imagination where several samples were decoded, or implausible ones dropped.
        shuffled: figures of imagination with sentences permuted among goals, where there was that control.
        real: level -> quality of real rollouts, for comparison.
        grounding: rows of the language model's ``metrics.jsonl``.
        inspection: what the grounded model can do.
        effects: measurements of variants of the model.
        training: metrics of each policy's training.
        evaluations: episodes that were played while policies were trained.
        rounds: the online loop, round 0 first; empty without one.
        sweep: whether the results are those of a sweep, which has one table of its own.
        filmstrips: imagined rollouts above real ones.
        config: the run's settings, JSON-ready.
        versions: package -> version.
        timings: stage -> seconds.
        commands: what to type to get these results.
    """

    title: str
    published: Published | None = None
    rows: Sequence[Episode] = ()
    imagined: Mapping[str, Quality] = field(default_factory=dict)
    refined: JsonObject = field(default_factory=dict)
    shuffled: JsonObject = field(default_factory=dict)
    real: Mapping[str, Quality] = field(default_factory=dict)
    grounding: Sequence[Mapping[str, float]] = ()
    inspection: Inspection | None = None
    effects: Sequence[Effect] = ()
    training: Sequence[Curve] = ()
    evaluations: Sequence[Episode] = ()
    rounds: Sequence[Round] = ()
    sweep: bool = False
    filmstrips: Sequence[Filmstrip] = ()
    config: Mapping[str, object] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)
    commands: Sequence[str] = ()


def write_report(folder: Path, data: ReportData) -> Path:
    """Write ``report.html``, ``report.md`` and ``figures/*.png`` into the folder; return the page's path."""
    document = compose(data)
    for picture in document.pictures():
        with atomic_write(folder / PICTURES / f"{picture.name}.png") as temporary:
            temporary.write_bytes(picture.png)
    for name, text in (("report.md", to_markdown(document, PICTURES)), ("report.html", html(document))):
        with atomic_write(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return folder / "report.html"


def compose(data: ReportData) -> Document:
    """Put the report together."""
    found = scores(data.rows, data.published)
    return Document(
        data.title,
        tuple(headline(found, data.published)),
        (
            DocumentSection("Results", _results(found, data)),
            *([DocumentSection("Rounds", _rounds(data))] if len(data.rounds) > 1 else []),
            DocumentSection("Imagined rollouts", _imagined(data)),
            DocumentSection("Imagined and real, side by side", _films(data)),
            DocumentSection("Grounding", _grounding(data)),
            DocumentSection("Effects", _effects(data)),
            DocumentSection("Training", _training(data)),
            DocumentSection("How it was made", _provenance(data)),
        ),
    )


def headline(found: Sequence[Score], published: Published | None) -> list[str]:
    """Return the result in sentences, each with its interval, episodes and seeds."""
    if not found:
        return ["No policy has been evaluated yet."]
    sentences = [_comparison(gain) for gain in gains(found) if NOVEL in gain.differences]
    if not sentences:
        alone = [_alone(score) for score in found if NOVEL in score.rates]
        sentences = alone or ["No policy was evaluated on all novel levels, so there is no mean over them."]
    sentences += attribution_lines(found)
    if published and published.novel_success:
        numbers = ", ".join(f"{name} {100 * value:.1f} %" for name, value in published.novel_success.items())
        sentences.append(
            f"For orientation, the paper's mean over novel levels: {numbers} ({published.setting})."
        )
    if divided := of_scores(found):
        sentences.append(divided)
    return sentences


def _comparison(gain: Gain) -> str:
    change = gain.differences[NOVEL]
    limits = f"{100 * change.low:+.1f} to {100 * change.high:+.1f}"
    if not change.clear:
        verdict = "zero lies in the interval, so this run shows no difference"
    else:
        verdict = "imagined rollouts helped" if change.mean > 0 else "imagined rollouts did harm"
    return (
        f"{_alone(gain.score)} Without imagined rollouts: {_interval(gain.base.rates[NOVEL])}. "
        f"Difference {100 * change.mean:+.1f} points (95 % interval {limits}): {verdict}."
    )


def _alone(score: Score) -> str:
    rate = score.rates[NOVEL]
    seeds = "1 training seed" if len(rate.by_seed) == 1 else f"{len(rate.by_seed)} training seeds"
    return (
        f"{score.policy} reaches {_interval(rate)} of novel goals on average over the levels "
        f"({rate.n} episodes, {seeds})."
    )


def _interval(rate: Rate) -> str:
    return f"{100 * rate.mean:.1f} % (95 % interval {100 * rate.low:.1f} to {100 * rate.high:.1f})"


def _results(found: Sequence[Score], data: ReportData) -> tuple[Block, ...]:
    if not found:
        return ("No results: no policy has been evaluated.",)
    bars = _plot(
        "success",
        success_bars(found),
        "Bars of success per level and policy with 95 % intervals.",
        "Success per level. Faint: real rollouts only; full: with imagined ones; lines: 95 % intervals.",
    )
    assert bars is not None
    held_back = held_back_table(data.rows) or "No episode used a wording that was held back from imagination."
    kinds = kind_table(data.rows) or "No level has goals of several kinds."
    first = _first_bars(
        "understood",
        {
            score.policy: {
                level: (score.rates[level], score.first.get(level))
                for level in columns_of([score])
                if level not in TITLES
            }
            for score in found
        },
        "episodes",
    )
    directions = policy_directions(data.rows)
    understood = tuple(block for block in (first, directions) if block is not None)
    if data.sweep:
        return (grid_table(found), bars, kinds, *understood, held_back)
    gains = gain_table(found) or "No algorithm was trained both with and without imagined rollouts."
    return (success_table(found), bars, gains, kinds, *understood, held_back)


def _first_bars(
    name: str, panels: Mapping[str, Mapping[str, tuple[Rate, Rate | None]]], what: str
) -> Picture | None:
    """Draw reached goals beside goal first; None where that was not measured."""
    measured = {
        title: levels for title, levels in panels.items() if any(first for _, first in levels.values())
    }
    return _plot(
        name,
        first_bars(measured) if measured else None,
        "Bars of the share of reached goals and of goal first per level, with 95 % intervals.",
        f"Reached goals, and of the {what} in which the goal or a counterfactual comes true the share in "
        "which the goal is first, with 95 % intervals. Dashed: directions are not understood.",
    )


def _rounds(data: ReportData) -> tuple[Block, ...]:
    curves = _plot(
        "rounds",
        round_curves({i: one.rows for i, one in enumerate(data.rounds)}),
        "Lines of success over rounds, one panel per level, one line per policy.",
        f"Success after each round of the online loop, with 95 % intervals. {PRACTISED}",
    )
    last = data.rounds[-1].rows
    blocks = (rounds_table(data.rounds), curves, collected_table(data.rounds), held_back_table(last))
    return tuple(block for block in blocks if block is not None)


def _imagined(data: ReportData) -> tuple[Block, ...]:
    if not data.imagined:
        return ("No rollouts were imagined in this run.",)
    other = data.published
    match, violations = (other.match, other.violations) if other else (None, None)
    diamonds = " Diamonds: the paper's figures, for orientation." if match or violations else ""
    bars = _plot(
        "imagined",
        quality_bars(data.imagined, match, violations),
        "Bars of the match rate and of violations of imagined rollouts per level.",
        f"Share of imagined rollouts that reach their goal, and that hold an impossible state.{diamonds}",
    )
    assert bars is not None
    table = quality_table(data.imagined, data.real, other and other.quality)
    refined = refined_table(data.refined)
    raw = _qualities(data.refined.get("raw", {}))
    if raw:
        table = replace(table, note=noted(table.note, KEPT))
    untested = raw or data.imagined  # what a success test has chosen tells nothing of understanding
    panel = {level: (part.match, part.goal_first) for level, part in untested.items()}
    first = _first_bars("directions", {"first try": panel}, "rollouts")
    control = control_table(data.refined, data.shuffled)
    blocks = (table, bars, first, quality_directions(untested), refined, control)
    return tuple(block for block in blocks if block is not None)


KEPT = (
    "These rollouts went through a success test that knows the goal: whether directions are understood, the "
    "first tries tell."
)


def _qualities(figures: JsonObject) -> dict[str, Quality]:
    return {level: Quality.from_json(found) for level, found in figures.items()}


def _films(data: ReportData) -> tuple[Block, ...]:
    if not data.filmstrips:
        return ("No filmstrips: nothing was imagined, or none were asked for.",)
    return tuple(
        Picture(
            f"film-{place}",
            f"Frames of {' and '.join(film.title for film in strip.films)} rollouts for: {strip.text}",
            f"“{strip.text}” ({strip.level}). Numbers count the actions before each frame.",
            to_bytes(filmstrip(strip), "png"),
            width=FRAME_WIDTH * across(strip),
        )
        for place, strip in enumerate(data.filmstrips, start=1)
    )


def _grounding(data: ReportData) -> tuple[Block, ...]:
    curves = _plot(
        "grounding",
        ability_curves(data.grounding),
        "Lines of match rates, explanation accuracy and prediction errors over gradient steps.",
        "What the language model can do while it is grounded, from few rollouts each time: goals reached "
        "per level, goal first (dashed: directions are not understood), right action and state change of "
        "one-step goals, explanations with all keywords right when asked in the words of training and in "
        "others, error of the next state beside that of nothing moves, and impossible states per level. "
        "Goals are of the split `tune`.",
    )
    tables = inspection_tables(data.inspection) if data.inspection else []
    return (
        curves or "Nothing was measured while the language model was grounded.",
        *(tables or ["The grounded model was not inspected (`kalm inspect`)."]),
    )


def _effects(data: ReportData) -> tuple[Block, ...]:
    if not data.effects:
        return ("No table of effects was given (`kalm report --effects`).",)
    return (effects_table(data.effects),)


def _training(data: ReportData) -> tuple[Block, ...]:
    losses = _plot(
        "losses",
        loss_curves(data.grounding),
        "Lines of losses over gradient steps, in training and on held-out rollouts.",
        "Grounding the language model.",
    )
    training = _plot(
        "training",
        policy_curves(data.training),
        "Lines of losses over gradient steps, one per policy and training seed.",
        "Training the policies, one line per training seed.",
    )
    success = _plot(
        "learning",
        learning_curves(data.evaluations),
        "Lines of success over gradient steps, one panel per level, one line per policy.",
        "Success while the policies were trained, with 95 % intervals over training seeds. Every evaluation "
        "plays the same episodes, of the split `tune`.",
    )
    return (
        success or "Policies were not played while they were trained (`train.evaluate_every`).",
        losses or "The language model was not grounded in this run, or kept no metrics.",
        training or "No policy was trained in this run, or none kept metrics.",
    )


def _provenance(data: ReportData) -> tuple[Block, ...]:
    blocks: list[Block] = [Code("\n".join(data.commands))] if data.commands else []
    if data.timings:
        seconds = tuple((stage, f"{value:,.0f}") for stage, value in data.timings.items())
        blocks.append(Table("Time per stage", ("stage", "seconds"), seconds))
    if data.versions:
        blocks.append(Table("Versions", ("package", "version"), tuple(data.versions.items())))
    if data.config:
        settings = yaml.safe_dump(dict(data.config), sort_keys=False, allow_unicode=True)
        blocks.append(Code(settings, "All settings"))
    return tuple(blocks) or ("Neither settings nor versions were recorded.",)


def _plot(name: str, figure: Figure | None, alt: str, caption: str) -> Picture | None:
    """Render for paper, light and dark screens; None where there is nothing to draw."""
    if figure is None:
        return None
    png, svg = to_bytes(figure, "png", PAPER), to_bytes(figure, "svg")
    return Picture(name, alt, caption, png, (svg, for_dark_screens(svg)))
