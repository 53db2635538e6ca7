from dataclasses import replace

import pytest

from kalm.evaluation.imagined import Quality
from kalm.evaluation.results import Episode
from kalm.evaluation.statistics import Difference, Rate, rate
from kalm.report.grid import grid_table
from kalm.report.scores import scores
from kalm.report.tables import (
    Table,
    cell,
    gain_table,
    held_back_table,
    kind_table,
    markdown,
    plain,
    points,
    quality_table,
    success_table,
)


def data_of(policy):
    return {"": "plain", "KALM": "kalm"}.get(kind := policy.partition("+")[2], kind)


def episodes(policy, level, won, played, held_back=False, seed=0):
    return [
        Episode(policy, "bc", data_of(policy), seed, level, "w", held_back, "text", i, i < won, 3, 1.0)
        for i in range(played)
    ]


def test_cells():
    # Wilson for 0 of 20 is 0 to 16.11 %; the longer side is told.
    assert cell(rate(0, 20)) == "0.0 ± 16.1 (20)"
    assert cell(Rate(0.5721, 0.54, 0.6, 222)) == "57.2 ± 3.2 (222)"
    assert cell(None) == "–"
    assert points(Difference(0.123, 0.081, 0.164)) == "+12.3 [+8.1, +16.4] *"
    assert points(Difference(-0.01, -0.05, 0.03)) == "-1.0 [-5.0, +3.0]"


def test_success_table_leaves_gaps_open():
    rows = episodes("BC", "seen", 10, 20) + episodes("BC+KALM", "easy", 5, 20, seed=1)
    table = success_table(scores(rows))
    assert table.header == ("policy", "seen", "easy", "novel mean by seed")
    assert table.rows[0] == ("BC", "50.0 ± 20.1 (20)", "–", "–")
    assert table.rows[1][:2] == ("BC+KALM", "–")
    assert "Training seeds per policy: 1." in table.note


@pytest.mark.parametrize(
    ("splits", "says"),
    [
        (["test"], "are of `test`, on which no setting was chosen."),
        (["tune"], "are of `tune`, on which settings are chosen: figures to report are of `test`."),
        (["tune", "test"], "are of `tune`, on which settings are chosen, and of `test`."),
        ([""], ""),
    ],
)
def test_tables_say_which_split_they_show(splits, says):
    both = [*episodes("BC", "rephrase", 1, 4), *episodes("BC", "rephrase", 1, 4, held_back=True)]
    both += [replace(row, kind=kind) for row in episodes("BC+KALM", "rephrase", 1, 4) for kind in ("a", "b")]
    rows = [replace(row, split=split) for row in both for split in splits]
    found = scores(rows)
    for table in (
        *(success_table(found), gain_table(found), grid_table(found)),
        *(held_back_table(rows), kind_table(rows)),
    ):
        assert table is not None and says in table.note and ("`t" in table.note) == bool(says)


def test_gain_table_needs_both_variants():
    assert gain_table(scores(episodes("BC", "seen", 1, 2))) is None
    table = gain_table(scores(episodes("BC", "seen", 1, 20) + episodes("BC+KALM", "seen", 19, 20)))
    assert table is not None and table.rows[0][0] == "BC+KALM − BC"
    assert table.rows[0][1].startswith("+90.0 [") and table.rows[0][1].endswith("*")


def test_kind_table_tells_kinds_apart_where_there_are_several():
    kinds = {"line": 4, "gather": 10}
    rows = [
        replace(row, kind=kind)
        for policy in ("BC", "BC+KALM")
        for kind, won in kinds.items()
        for row in episodes(policy, "hard", won, 20)
    ]
    table = kind_table([*rows, *(replace(row, kind="move") for row in episodes("BC", "easy", 1, 2))])
    assert table is not None and table.header == ("level", "kind", "BC", "BC+KALM")
    assert [line[:3] for line in table.rows] == [
        ("hard", "line", cell(rate(4, 20))),
        ("hard", "gather", cell(rate(10, 20))),
    ]
    assert kind_table(episodes("BC", "hard", 1, 2)) is None


def test_held_back_table_splits_novel_levels():
    rows = episodes("BC", "rephrase", 3, 10)
    assert held_back_table(rows) is None
    table = held_back_table(rows + episodes("BC", "rephrase", 2, 4, held_back=True))
    assert table is not None
    assert table.header == ("policy", "rephrase, imagined for", "rephrase, held back")
    assert [text.split()[0] for text in table.rows[0]] == ["BC", "30.0", "50.0"]


def test_quality_table_puts_real_and_published_beside():
    off = {"off_table": (rate(1, 4), 0.1)}
    imagined = Quality(4, 2.5, rate(3, 4), rate(1, 4), rate(2, 4), off, {"x_y": 4})
    real = Quality(9, 1.0, rate(9, 9), None, None, {"off_table": (rate(0, 9), 0.0)}, {"x_y": 2.62})
    table = quality_table({"easy": imagined}, {"seen": real}, {"goal reached, % of rollouts": "77.5"})
    rows = {row[0]: row[1:] for row in table.rows}
    assert table.header == ("measure", "easy", "real, seen", "paper's sample, rephrase")
    assert rows["rollouts"] == ("4", "9", "–")
    assert rows["goal reached, % of rollouts"][2] == "77.5"
    assert rows["right action, % of one-step rollouts"][0].startswith("25.0 ±")
    assert rows["right action, % of one-step rollouts"][1] == "–"
    assert rows["off table, % of states"] == ("10.0", "0.0", "–")
    assert rows["x y, mean per step"] == ("4", "2.62", "–")


TABLE = Table("A|B", ("name", "value"), (("x|y", "1 *"), ("<b>", "[2]")), "note")


def test_markdown_is_escaped():
    assert markdown(TABLE) == (
        "**A\\|B**\n\n| name | value |\n|---|---:|\n| x\\|y | 1 \\* |\n| &lt;b> | [2] |\n\nnote\n"
    )


def test_plain_text_shows_every_cell():
    text = plain(TABLE, width=60)
    assert all(part in text for part in ("A|B", "x|y", "1 *", "<b>", "[2]", "note"))
    assert "\x1b" not in text
