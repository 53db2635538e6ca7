from dataclasses import replace

from kalm.evaluation.results import Episode
from kalm.report.curves import learning_curves, round_curves
from kalm.report.style import to_bytes

ROW = Episode("BC", "bc", "plain", 0, "seen", "w", False, "text", 0, True, 3, 1.0, 100)


def looks():
    return [
        replace(ROW, seed=seed, level=level, checkpoint_step=step, episode_seed=i, success=i * 100 < step)
        for seed in (0, 1)
        for level in ("seen", "hard")
        for step in (100, 200, 300)
        for i in range(4)
    ]


def png(figure):
    return to_bytes(figure, "png")


def test_curves_are_drawn():
    assert "gradient steps" in to_bytes(learning_curves(looks()), "svg").decode()
    assert learning_curves([]) is None


def test_a_step_that_one_seed_has_not_reached_is_left_out():
    ahead = [
        *looks(),
        *(
            replace(row, checkpoint_step=400)
            for row in looks()
            if row.seed == 0 and row.checkpoint_step == 300
        ),
    ]
    assert png(learning_curves(ahead)) == png(learning_curves(looks()))


def test_one_round_is_no_curve():
    assert round_curves({0: [ROW]}) is None
    assert png(round_curves({0: [ROW], 1: [ROW]})).startswith(b"\x89PNG")
