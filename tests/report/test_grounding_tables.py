from dataclasses import replace

import pytest

from kalm.evaluation.effects import Effect
from kalm.evaluation.grounding import Inspection
from kalm.evaluation.imagined import Quality
from kalm.evaluation.simulated import Agreement, Error
from kalm.evaluation.statistics import Estimate, rate
from kalm.report.grounding import effects_table, inspection_tables, size
from kalm.report.tables import plain

ERROR = Error(9, Estimate(0.03, 0.02, 0.045, 9), Estimate(0.1, 0.1, 0.1, 9), Estimate(0.3, 0.2, 0.4, 9))


@pytest.fixture
def found():
    quality = Quality(8, 2.0, rate(4, 8), None, None, {"off_table": (rate(1, 8), 0.1)}, {})
    drift = {1: Estimate(0.05, 0.04, 0.06, 8), 5: Estimate(0.2, 0.1, 0.3, 3)}
    return Inspection(
        {"hard": quality},
        {"hard": Agreement(ERROR, drift), "real": Agreement(None, {1: Estimate(0.0, 0.0, 0.0, 8)})},
        {"seen_prompt": {"object": rate(8, 8), "all": rate(4, 8)}, "unseen_prompt": {"all": rate(0, 8)}},
        {"random actions": ERROR},
        dropped=2,
    )


def test_sizes_tell_the_longer_side():
    assert size(Estimate(0.03, 0.02, 0.045, 9)) == "0.03 ± 0.01"
    assert size(Estimate(12.345, 12.0, 12.4, 9)) == "12.3 ± 0.3"


def test_every_part_of_an_inspection_has_its_table(found):
    quality, agreement, explanation, dynamics = inspection_tables(found)
    assert quality.header == ("measure", "hard") and "2 more rollouts were not finite" in quality.note
    assert agreement.header == ("measure", "hard", "real")
    rows = {name: cells for name, *cells in agreement.rows}
    assert rows["drift after 5"] == ["0.2 ± 0.1 (3)", "–"]
    assert rows["next state, relative error"] == ["0.3 ± 0.1", "–"]
    assert explanation.header == ("by", "object", "all")
    assert explanation.rows[0][2].startswith("50.0 ±") and explanation.rows[0][2].endswith("(8)")
    assert explanation.rows[1][:2] == ("unseen prompt", "–")
    assert dynamics.rows == (("random actions", "9", "0.03 ± 0.01", "0.1 ± 0", "0.3 ± 0.1"),)
    assert all(table.title in plain(table) for table in inspection_tables(found))


def test_goal_first_has_a_table_where_it_was_measured(found):
    level = found.levels["hard"]
    measured = replace(
        level, goal_first=rate(3, 4), first_by_direction={"line": rate(3, 4)}, first_by_family={}
    )
    quality, first, *_ = inspection_tables(replace(found, levels={"hard": measured, "easy": level}))
    assert quality.rows[3][:2] == ("goal first, % (of so many)", "75.0 ± 44.9 (4)")
    assert quality.rows[3][2] == "–" and "Goal first:" in quality.note
    assert first.header == ("asked for", "hard")
    assert [row[0] for row in first.rows] == ["all", "direction: line"]
    assert "Goal first" not in inspection_tables(found)[0].note


def test_effects_are_variants_by_measures():
    effects = [
        Effect("default", 0, "match/rephrase", 0.8, 100),
        Effect("default", 1, "match/rephrase", 0.6, 100),
        Effect("default", 0, "relative_error/dynamics", 0.3, 512),
        Effect("plain", 0, "relative_error/dynamics", 0.5, 512),
    ]
    table = effects_table(effects)
    assert table.header == ("variant", "seeds", "match, rephrase", "relative error, dynamics")
    assert table.rows[0][:2] == ("default", "2") and table.rows[0][2].startswith("70.0 ±")
    assert table.rows[0][2].endswith("(200)") and table.rows[0][3] == "0.3"
    assert table.rows[1] == ("plain", "1", "–", "0.5")
