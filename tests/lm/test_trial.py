"""The time that a dry run expects: every part of the real training, tried and stopped."""

import pytest

from kalm.lm import trial
from kalm.lm.update import update
from kalm.training.loop import fit


@pytest.fixture
def clock(monkeypatch):
    """A clock that work moves on by itself."""
    now = [0.0]
    monkeypatch.setattr("kalm.lm.trial.time.perf_counter", lambda: now[0])
    return now


def test_the_first_step_is_told_from_those_that_follow(clock):
    taken = []

    def step(number):
        taken.append(number)
        clock[0] += 2.0 if number else 5.0
        return {}

    pace = trial._paced(lambda advance: fit(step, 1000, advance=advance), seconds=9.0)
    assert (pace.first, pace.each) == (5.0, 2.0)
    assert pace.of(100) == 5 + 99 * 2
    assert taken == list(range(6))  # 5 steps of 2 s are more than 9


def test_work_that_ends_by_itself_is_measured_too(clock):
    def step(_):
        clock[0] += 3.0
        return {}

    assert trial._paced(lambda advance: fit(step, 1, advance=advance), 9.0).of(1) == 3.0
    assert trial._paced(lambda advance: fit(step, 2, advance=advance), 9.0).of(4) == 12.0


def test_all_parts_of_the_training_are_tried(single, world, rollouts):
    config = single.changed(action_network=True, language={"steps": 5}, train_embeddings=True)
    found = trial.expected_time(config, rollouts, world, 0, "cpu", processes=1, gb=0.0, seconds=0.4)
    assert list(found["seconds_per_step"]) == ["language", "physics", "ground", "actions"]
    assert all(each > 0 for each in found["seconds_per_step"].values())
    assert found["expected_seconds"] >= 0


@pytest.mark.parametrize(("processes", "rows"), [(1, 4), (2, 2)])
def test_of_several_devices_one_is_tried_with_its_part(single, world, rollouts, monkeypatch, processes, rows):
    shares = set()

    def watched(team, parts, config, update=update):
        shares.add(sum(len(part.position) for part in parts))
        return update(team, parts, config)

    monkeypatch.setattr("kalm.lm.trial.update", watched)
    trial.expected_time(single.changed(rows=4), rollouts, world, 0, "cpu", processes, 0.0, seconds=0.1)
    assert shares == {rows}


def test_what_does_not_fit_is_not_tried(single, world, rollouts, monkeypatch):
    monkeypatch.setattr("kalm.lm.sft.fresh", None)
    found = trial.expected_time(single, rollouts, world, 0, "cpu", processes=1, gb=1e9)
    assert found["expected_seconds"] is None
    assert found["not_timed"].startswith("it needs 1000000000.0 GB")
