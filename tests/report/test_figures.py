import threading
from io import BytesIO

import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgb
from PIL import Image

from kalm import envs
from kalm.evaluation.imagined import Quality
from kalm.evaluation.results import Label
from kalm.evaluation.statistics import rate
from kalm.report.figures import (
    Curve,
    ability_curves,
    first_bars,
    loss_curves,
    policy_curves,
    quality_bars,
    success_bars,
)
from kalm.report.films import Film, Filmstrip, film, filmstrip
from kalm.report.scores import Score
from kalm.report.style import (
    COLORS,
    DARK_INK,
    DARK_PAPER,
    INK,
    LEVEL_COLORS,
    OTHER,
    PAPER,
    color_of,
    for_dark_screens,
    to_bytes,
)
from kalm.types import Goal, Instruction, Rollout


def png(figure):
    return to_bytes(figure, "png", PAPER)


def picture(figure):
    return np.asarray(Image.open(BytesIO(png(figure))).convert("RGBA")).astype(int)


def near(pixels, color):
    """How many pixels have this colour, up to rounding."""
    return int((np.abs(pixels[..., :3] - 255 * np.array(color)).max(axis=-1) < 3).sum())


def score(policy, share):
    algorithm, data = policy.split("+")[0].lower(), "kalm" if "+" in policy else "plain"
    return Score(policy, algorithm, data, (0,), {"seen": rate(round(100 * share), 100)})


def test_bars_are_as_high_as_the_success():
    pixels = picture(success_bars([score("BC", 0.4), score("BC+KALM", 0.8)]))
    pale, full = near(pixels, color_of("bc", "plain")), near(pixels, color_of("bc", "kalm"))
    assert full == pytest.approx(2 * pale, rel=0.1)


def test_goal_first_stands_beside_the_share_of_reached_goals():
    panels = {"BC": {"seen": (rate(80, 100), rate(40, 100)), "hard": (rate(1, 100), None)}, "X": {}}
    pixels = picture(first_bars(panels))
    reached, first = near(pixels, to_rgb(OTHER)), near(pixels, to_rgb(COLORS["bc"]))
    assert reached == pytest.approx(2 * first, rel=0.15)


def test_an_algorithm_is_pale_without_imagined_rollouts():
    assert sum(color_of("cql", "plain")) > sum(color_of("cql", "kalm"))
    assert sum(color_of("cql", "plain", DARK_PAPER)) < sum(color_of("cql", "kalm", DARK_PAPER))
    strengths = [sum(color_of("cql", data)) for data in ("kalm", "unfiltered", "shuffled", "plain")]
    assert strengths == sorted(strengths)
    assert color_of("never heard of", "kalm") == pytest.approx((0.498,) * 3, abs=1e-3)


def test_figures_come_as_svg_for_light_and_for_dark_screens():
    light = to_bytes(success_bars([score("BC", 0.4), score("BC+KALM", 0.8)]), "svg")
    dark = for_dark_screens(light)
    assert b"<svg" in light and len(dark) == len(light)
    pale = [to_hex(color_of("bc", "plain", paper)).encode() for paper in (PAPER, DARK_PAPER)]
    full = to_hex(color_of("bc", "kalm")).encode()
    for before, after in ((INK.encode(), DARK_INK.encode()), pale):
        assert before in light and before not in dark
        assert dark.count(after) == light.count(before) and after not in light
    assert light.count(full) == dark.count(full) > 0


def test_every_format_has_the_same_layout():
    figure = success_bars([score("BC", 0.4)])
    to_bytes(figure, "png")
    first = figure.axes[0].get_position().bounds
    to_bytes(figure, "svg")
    assert figure.axes[0].get_position().bounds == first


def test_paper_figures_are_marked_where_given():
    found = {"easy": Quality(9, 1.0, rate(3, 9), None, None, {"off_table": (rate(1, 9), 0.1)}, {})}
    without = png(quality_bars(found))
    assert without == png(quality_bars(found, match={"rephrase": 0.7}))  # a level that is not drawn
    assert without != png(quality_bars(found, match={"easy": 0.7}))
    assert without != png(quality_bars(found, violations={"off_table": {"easy": 0.7}}))


def test_curves():
    rows = [
        {"step": 1, "train/text": 2.0, "train/gradient_norm": 1.0},
        {"step": 2, "train/text": 1.0, "match/seen": 0.5},
    ]
    assert png(loss_curves(rows)) != png(loss_curves(rows[:1]))
    assert loss_curves([{"step": 1, "train/body_lr": 1.0}]) is None and loss_curves([]) is None
    other = [{"step": 1, "train/text": 1.0}, {"step": 2, "train/text": 1.5}]
    curves = [Curve(Label("BC", "bc", "plain", 0), other), Curve(Label("BC+KALM", "bc", "kalm", 0), rows)]
    one, both = (picture(policy_curves(part)) for part in (curves[1:], curves))
    assert near(one, color_of("bc", "kalm")) > 500
    assert near(one, color_of("bc", "plain")) < 100  # smoothed edges
    assert near(both, color_of("bc", "plain")) > near(one, color_of("bc", "plain")) + 100
    assert policy_curves([]) is None


def test_a_metric_that_reaches_zero_or_is_constant():
    assert png(loss_curves([{"step": 1, "loss": 0.0}, {"step": 2, "loss": 0.0}]))


def test_abilities_have_a_panel_per_family_and_leave_losses_out():
    rows = [
        {"step": step, "train/text": 2.0, "held_out/dynamics_state": 1.0, "match/seen": 0.1 * step}
        for step in (1, 2)
    ]
    one = picture(ability_curves(rows))
    assert ability_curves([{"step": 1, "train/text": 2.0}]) is None
    more = [{**row, "explanation/seen_prompt": 0.5, "dynamics/model": 0.03} for row in rows]
    assert picture(ability_curves(more)).shape[1] > 1.5 * one.shape[1]
    assert near(one, to_rgb(LEVEL_COLORS["seen"])) > 100


def test_film_shows_first_and_last_state():
    world = envs.make("clevr")
    instruction = Instruction("x", "hard", Goal.of("gather", center="green"))
    states = np.tile(world.initial_states([instruction.goal], [0]), (21, 1))
    states[:, 0] = np.linspace(-0.4, 0.4, 21)
    rollout = Rollout(instruction, states, np.zeros(20, dtype=int), np.zeros(20), True, "imagined")
    made = film(world, rollout, "imagined", frames=6, size=48)
    assert made.steps == (0, 4, 8, 12, 16, 20) and made.success
    np.testing.assert_array_equal(made.frames[0], world.render(states[0], 48))
    np.testing.assert_array_equal(made.frames[-1], world.render(states[20], 48))
    short = Rollout(instruction, states[:2], np.zeros(1, dtype=int), np.zeros(1), False, "real")
    assert film(world, short, "real", frames=6, size=48).steps == (0, 1)


def test_filmstrip_draws_every_frame():
    colors = ((255, 0, 0), (0, 255, 0), (0, 0, 255))
    frames = [np.full((32, 32, 3), color, dtype=np.uint8) for color in colors]
    strip = Filmstrip(
        "x", "hard", (Film("a", tuple(frames[:2]), (0, 1), True), Film("b", (frames[2],), (0,), False))
    )
    pixels = picture(filmstrip(strip))
    counts = [near(pixels, np.array(color) / 255) for color in colors]
    assert min(counts) > 1000 and max(counts) < 1.05 * min(counts)


def test_threads_do_not_disturb_each_other():
    alone, found = png(success_bars([score("BC", 0.4)])), []
    draw = [lambda: found.append(png(success_bars([score("BC", 0.4)]))) for _ in range(3)]
    threads = [threading.Thread(target=one) for one in draw]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [alone] * 3
