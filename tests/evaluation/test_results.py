from dataclasses import replace

import pytest

from kalm.errors import KalmError
from kalm.evaluation.results import Episode, read_rows, write_rows

ROWS = [
    Episode(
        "BC", "bc", "plain", 0, "seen", "seen/3", False, 'say "left",\nplease – ü', 2**62, True, 7, 101.25
    ),
    Episode(
        "CQL+KALM",
        "cql",
        "kalm",
        1,
        "hard",
        "",
        True,
        "gather",
        0,
        False,
        50,
        -0.1,
        7000,
        "gather",
        "tune",
        "reader",
        "counterfactual",
        "left",
        "hand",
    ),  # fmt: skip
]


def test_round_trip(tmp_path):
    write_rows(tmp_path / "rows.csv", ROWS)
    assert read_rows(tmp_path / "rows.csv") == ROWS
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]


def test_earlier_files_are_read(tmp_path):
    path = tmp_path / "rows.csv"
    write_rows(path, ROWS[1:])
    header, row = path.read_text("utf-8").splitlines()
    # What earlier files lack, and is read instead.
    names = ("kind", "split", "reading", "first", "direction", "family")
    later = {"checkpoint_step": 0, **dict.fromkeys(names, "")}
    for count in range(1, len(later) + 1):
        lines = [",".join(line.split(",")[:-count]) for line in (header, row)]
        path.write_text("\n".join(lines) + "\n", "utf-8")
        missing = dict([*later.items()][-count:])
        assert read_rows(path) == [replace(ROWS[1], **missing)]


def test_files_with_the_names_of_earlier_columns_are_read(tmp_path):
    path = tmp_path / "rows.csv"
    write_rows(path, ROWS)
    header, rest = path.read_text("utf-8").split("\n", 1)
    assert ",success,length,reward,checkpoint_step,kind" in header
    path.write_text(
        header.replace("length", "steps").replace("checkpoint_step", "step") + "\n" + rest, "utf-8"
    )
    assert read_rows(path) == ROWS


def test_what_a_policy_learned_from_was_yes_or_no(tmp_path):
    path = tmp_path / "rows.csv"
    write_rows(path, ROWS)
    text = path.read_text("utf-8").replace(",data,", ",kalm,")
    path.write_text(text.replace("bc,plain", "bc,0").replace("cql,kalm", "cql,1"), "utf-8")
    assert read_rows(path) == ROWS


def edited(tmp_path, old, new):
    path = tmp_path / "rows.csv"
    write_rows(path, ROWS)
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("policy,", "name,", "rows.csv line 1: the columns are"),
        ("gather,0,0,50", "gather,0,no,50", "rows.csv line 4: column 'success' holds 'no', not a bool"),
        (
            ",counterfactual,",
            ",else,",
            "rows.csv line 4: column 'first' holds 'else', not goal, counterfactual",
        ),
        ("cql,kalm", "cql,2", "column 'data' holds '2', not one of plain, kalm, shuffled, unfiltered"),
        (",50,", ",fifty,", "rows.csv line 4: column 'length' holds 'fifty', not a int"),
        (",-0.1,", ",", "rows.csv line 4: 18 values, expected 19"),
    ],
)
def test_errors_name_file_and_line(tmp_path, old, new, message):
    with pytest.raises(KalmError, match=message):
        read_rows(edited(tmp_path, old, new))


def test_missing_and_binary_files(tmp_path):
    with pytest.raises(KalmError, match="does not exist"):
        read_rows(tmp_path / "rows.csv")
    (tmp_path / "rows.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(KalmError, match="cannot be read"):
        read_rows(tmp_path / "rows.csv")
