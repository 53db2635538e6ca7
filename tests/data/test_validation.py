"""A hand-made set that breaks each invariant."""

from dataclasses import replace

import numpy as np
import pytest
from sets import SPECS, make

from kalm.data.validation import require_valid
from kalm.errors import KalmError


def changed(column, at, value):
    column = column.copy()
    column[at] = value
    return column


def complaint(rollouts):
    with pytest.raises(KalmError) as error:
        require_valid(rollouts)
    return str(error.value)


# Lengths 2, 3, 1: the second rollout owns states 3..6, actions and rewards 2..4.
@pytest.mark.parametrize(
    ("kind", "name", "at", "value", "told"),
    [
        ("discrete", "states", (4, 1), np.nan, "rollout 1, column 'states', row 1"),
        ("discrete", "states", (7, 0), np.inf, "rollout 2, column 'states', row 0"),
        ("discrete", "rewards", 5, -np.inf, "rollout 2, column 'rewards', row 0"),
        ("discrete", "actions", 4, 40, "rollout 1, column 'actions', row 2: 40 is not allowed, needs 0..39"),
        ("discrete", "actions", 0, -1, "rollout 0, column 'actions', row 0: -1"),
        ("continuous", "actions", (2, 3), 1.5, "rollout 1, column 'actions', row 0"),
        ("continuous", "actions", (2, 3), np.nan, "needs finite numbers (1 of 3 rollouts"),
        ("discrete", "which", 1, 3, "rollout 1, column 'which'"),
        ("discrete", "which", 0, -1, "rollout 0, column 'which'"),
        ("discrete", "source", 2, 2, "rollout 2, column 'source'"),
        ("discrete", "weights", 1, 0, "rollout 1, column 'weights', row 0: 0.0 is not allowed"),
        ("discrete", "weights", 2, -1, "rollout 2, column 'weights', row 0: -1.0"),
        ("discrete", "weights", 0, np.nan, "rollout 0, column 'weights', row 0: nan is not allowed"),
        ("discrete", "weights", 0, np.inf, "needs finite numbers above 0"),
        (
            "discrete",
            "lengths",
            1,
            0,
            "rollout 1, column 'lengths', row 0: 0 is not allowed, needs at least one",
        ),
    ],
)
def test_wrong_value(kind, name, at, value, told):
    rollouts = make(SPECS[kind], [2, 3, 1], seed=1)
    require_valid(rollouts)
    assert told in complaint(replace(rollouts, **{name: changed(getattr(rollouts, name), at, value)}))


@pytest.mark.parametrize(
    ("kind", "name", "change"),
    [
        ("discrete", "states", lambda column: column[:-1]),
        ("discrete", "states", lambda column: column[:, :2]),
        ("discrete", "states", lambda column: column.astype(np.float64)),
        ("discrete", "actions", lambda column: column[1:]),
        ("discrete", "actions", lambda column: column.astype(np.int32)),
        ("discrete", "actions", lambda column: column[:, None]),
        ("continuous", "actions", lambda column: column[:, :3]),
        ("discrete", "rewards", lambda column: column[:, None]),
        ("discrete", "rewards", lambda column: column.astype(np.float64)),
        ("discrete", "success", lambda column: column.astype(np.int8)),
        ("discrete", "success", lambda column: column[:-1]),
        ("discrete", "source", lambda column: column.astype(np.int64)),
        ("discrete", "which", lambda column: column[:2]),
        ("discrete", "weights", lambda column: column.astype(np.float64)),
        ("discrete", "weights", lambda column: column[1:]),
        ("discrete", "lengths", lambda column: column.astype(np.float32)),
        ("discrete", "lengths", lambda column: column[:, None]),
    ],
)
def test_wrong_shape_or_type(kind, name, change):
    rollouts = make(SPECS[kind], [2, 3, 1])
    text = complaint(replace(rollouts, **{name: change(getattr(rollouts, name))}))
    assert f"column {name!r} is " in text


def test_lengths_that_do_not_add_up():
    rollouts = make(SPECS["discrete"], [2, 3, 1])
    text = complaint(replace(rollouts, lengths=np.array([2, 3, 2], np.int32)))
    assert "column 'states' is float32 (9, 3); 3 rollouts with 7 actions" in text
    assert "need float32 (10, 3)" in text
