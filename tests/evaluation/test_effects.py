import numpy as np
import pytest

from kalm.errors import KalmError
from kalm.evaluation.effects import Effect, EffectSpread, read_effects, summarize, write_effects
from kalm.evaluation.statistics import pooled

TABLE = """variant,seed,measure,value,count
default,0,match/rephrase,0.8,100
default,1,match/rephrase,0.6,50
default,0,relative_error/dynamics,0.30,512
default,1,relative_error/dynamics,0.34,512
"plain, absolute",0,match/rephrase,0.25,100
"plain, absolute",0,relative_error/dynamics,1.5,512
"""


def write(folder, text):
    path = folder / "effects.csv"
    path.write_text(text)
    return path


def test_shares_are_pooled_and_sizes_averaged(tmp_path):
    found = summarize(read_effects(write(tmp_path, TABLE)))
    assert list(found) == ["default", "plain, absolute"]
    assert found["default"]["match/rephrase"] == pooled([80, 30], [100, 50])
    size = found["default"]["relative_error/dynamics"]
    assert isinstance(size, EffectSpread) and size.seeds == 2
    assert size.mean == pytest.approx(0.32) and size.deviation == pytest.approx(0.04 / np.sqrt(2))
    assert found["plain, absolute"]["relative_error/dynamics"] == EffectSpread(1.5, None, 1)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("variant,measure,value\n", "columns must be variant,seed"),
        ("variant,seed,measure,value,count\n", "no measurements"),
        ("variant,seed,measure,value,count\na,0,m,high,1\n", "line 2"),
        ("variant,seed,measure,value,count\na,0,m,1\n", "line 2"),
        ("variant,seed,measure,value,count\na,0,m,nan,1\n", "finite"),
        ("variant,seed,measure,value,count\na,0,m,1,0\n", "at least 1"),
        ("variant,seed,measure,value,count\na,0,match/easy,80,10\n", "share"),
    ],
)
def test_malformed_tables_are_refused(tmp_path, text, says):
    with pytest.raises(KalmError, match=says):
        read_effects(write(tmp_path, text))


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(KalmError, match="cannot be read"):
        read_effects(tmp_path / "nowhere.csv")


def test_what_is_written_is_read_again(tmp_path):
    effects = [Effect("default", 0, "match/rephrase", 0.25, 96), Effect("a, b", 1, "drift/seen", 1.5, 8)]
    write_effects(tmp_path / "effects.csv", effects)
    assert read_effects(tmp_path / "effects.csv") == effects
