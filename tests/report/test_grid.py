import csv
from dataclasses import replace

from kalm.envs.clevr.published import PUBLISHED
from kalm.evaluation.results import Episode
from kalm.report.grid import grid_table, write_grid
from kalm.report.scores import scores
from kalm.report.tables import attribution_lines
from kalm.runs.folder import PolicyJob


def episodes(algorithm, data, won, seeds=(0, 1)):
    policy = PolicyJob(algorithm, data, 0, None).policy
    return [
        Episode(policy, algorithm, data, seed, level, "w", False, "text", i, i < won, 3, 1.0)
        for level in ("seen", "rephrase", "easy", "hard")
        for seed in seeds
        for i in range(50)
    ]


ROWS = [*episodes("bc", "plain", 10), *episodes("bc", "kalm", 30), *episodes("lm", "plain", 20, (0,))]


def test_plain_stands_beside_kalm_and_their_difference():
    table = grid_table(scores(ROWS, PUBLISHED))
    assert [row[0] for row in table.rows] == ["BC", "BC+KALM", "BC+KALM − BC", "LM"]
    plain, kalm, change, lm = table.rows
    # Wilson for 20 of 100: 13.3 to 28.9.
    assert plain[1] == "20.0 ± 8.9 (100)" and kalm[1].startswith("60.0 ±") and plain[-1] == "2"
    assert change[1].startswith("+40.0 [") and change[1].endswith("*") and change[-1] == ""
    assert lm[-1] == "1" and lm[1].endswith("(50)")


def test_goal_first_stands_below_success_where_it_was_measured():
    rows = [replace(row, first="goal" if row.success else "counterfactual") for row in ROWS[:400]] + ROWS[
        400:
    ]
    table = grid_table(scores(rows))
    names = [row[0] for row in table.rows]
    assert names == ["BC", "BC, goal first", "BC+KALM", "BC+KALM − BC", "LM"]
    assert table.rows[1][1] == "20.0 ± 8.9 (100)" and table.rows[1][5:] == ("–", "")
    assert "Goal first:" in table.note and "Goal first:" not in grid_table(scores(ROWS)).note


def test_controls_stand_beside_and_what_the_language_model_adds_over_the_filter_is_said(tmp_path):
    rows = [*ROWS[:800], *episodes("bc", "shuffled", 20), *episodes("bc", "unfiltered", 15)]
    found = scores(rows)
    table = grid_table(found)
    assert [row[0] for row in table.rows] == [
        *("BC", "BC+KALM", "BC+shuffled", "BC+unfiltered", "BC+KALM − BC"),
        *("BC+KALM − BC+shuffled", "BC+KALM − BC+unfiltered", "BC+shuffled − BC"),
    ]
    assert [row[1].split(" ")[0] for row in table.rows[-3:]] == ["+20.0", "+30.0", "+20.0"]
    (line,) = attribution_lines(found)
    assert line.startswith("What the language model adds to BC over the filter alone (BC+KALM − BC+shuffled")
    assert line in table.note and "+20.0 points (95 % interval +1" in line
    close = scores([*ROWS[400:800], *episodes("bc", "shuffled", 29)])
    assert attribution_lines(close)[0].endswith("which is no clear difference.")
    assert attribution_lines(scores(ROWS)) == []
    write_grid(tmp_path / "sweep.csv", found)
    with (tmp_path / "sweep.csv").open(newline="") as stream:
        first = next(csv.DictReader(stream))
    assert (first["shuffled_success"], first["unfiltered_episodes"]) == ("0.40000", "100")
    assert (first["difference"], first["over_shuffled"], first["over_unfiltered"]) == (
        *("0.40000", "0.20000", "0.30000"),
    )


def test_the_file_has_one_line_per_algorithm_and_level(tmp_path):
    write_grid(tmp_path / "sweep.csv", scores(ROWS, PUBLISHED))
    with (tmp_path / "sweep.csv").open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert [(line["algorithm"], line["level"]) for line in lines[:6]] == [
        ("bc", level) for level in ("seen", "rephrase", "easy", "hard", "novel", "mix")
    ]
    first, lm = lines[0], lines[6]
    assert (first["plain_success"], first["plain_seeds"], first["plain_episodes"]) == ("0.20000", "2", "100")
    assert (first["kalm_success"], first["difference"]) == ("0.60000", "0.40000")
    assert float(first["difference_low"]) > 0
    assert lm["plain_success"] == "0.40000" and lm["kalm_success"] == lm["difference"] == ""
