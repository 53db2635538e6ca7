from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from kalm.data.scoring import fulfilled, possible
from kalm.errors import KalmError
from kalm.lm import decoding, sft
from kalm.lm.decoding import prefill
from kalm.lm.generate import Sampling, imagine_rollouts
from kalm.lm.imagine import asked_rows, imagination_plan, imagine_dataset, origins
from kalm.lm.settings import ImagineConfig
from kalm.runs.seeding import derive_seed
from kalm.types import LEVELS


def test_held_back_wordings_are_never_imagined_for(world):
    config = ImagineConfig(rephrase=2, easy=1, hard=3)
    rows = imagination_plan(world, config)
    assert rows and not any(row.held_back for row in rows)
    open_rephrase = [i for i in world.suite("rephrase") if not i.held_back]
    assert (
        sum(row.level == "rephrase" for row in rows)
        == 2 * len(open_rephrase)
        < 2 * len(world.suite("rephrase"))
    )


def test_a_stopped_imagination_goes_on_to_the_same_rollouts(model, world, tmp_path):
    model = model.float()
    rows = imagination_plan(world, ImagineConfig(rephrase=1, easy=0, hard=0))[:24]
    config = ImagineConfig(horizon=3, shard=8)
    whole = imagine_dataset(model, world, rows, config, 0, tmp_path / "whole", {})
    stopped = tmp_path / "stopped"
    seen = []

    def stop(n=1, **fields):
        seen.append(n)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        imagine_dataset(model, world, rows, config, 0, stopped, {}, advance=stop)
    resumed = imagine_dataset(model, world, rows, config, 0, stopped, {})
    assert np.array_equal(whole.actions, resumed.actions)
    assert np.array_equal(whole.states, resumed.states)
    assert set(np.unique(whole.source)) == {1}


def test_what_fails_is_decoded_again_from_the_same_start(model, world, tmp_path):
    model = model.float()
    rows = imagination_plan(world, ImagineConfig(rephrase=1, easy=0, hard=0))[:60]
    one = ImagineConfig(horizon=2, shard=25, temperature=5.0)
    three = one.changed(samples=3)
    alone = imagine_dataset(model, world, rows, one, 0, tmp_path / "one", {})
    told = []
    samples = imagine_dataset(
        model, world, rows, three, 0, tmp_path / "three", {}, advance=lambda n=1, **_: told.append(n)
    )
    origin, sample = origins(tmp_path / "three")
    assert sum(told) == 60 and len(origin) == len(samples)
    first = samples.take(sample == 0)
    assert np.array_equal(first.actions, alone.actions) and np.array_equal(first.states, alone.states)
    assert (samples.first_states == alone.first_states[origin]).all()
    right = fulfilled(samples, world) & possible(samples, world)
    for row in range(60):
        mine = right[origin == row]
        assert not mine[:-1].any() and (mine[-1] or len(mine) == 3)
    assert 0 < right.sum() < 60  # some fail, some do not


def test_samples_do_not_depend_on_shards(model, world, tmp_path):
    model = model.float()
    rows = imagination_plan(world, ImagineConfig(rephrase=1, easy=0, hard=0))[:6]
    config = ImagineConfig(horizon=2, shard=6, temperature=2.0, samples=2, temperature_growth=1.5)
    whole = imagine_dataset(model, world, rows, config, 0, tmp_path / "whole", {})
    split = imagine_dataset(model, world, rows, config.changed(shard=2), 0, tmp_path / "split", {})
    order = [np.lexsort(origins(tmp_path / name)[::-1]) for name in ("whole", "split")]
    assert np.array_equal(whole.take(order[0]).actions, split.take(order[1]).actions)


def test_a_model_that_acts_by_a_network_reads_each_sentence_once(
    single, world, rollouts, tmp_path, monkeypatch
):
    model = sft.fresh(single.changed(action_network=True), world, 0, "cpu").eval()
    model.fit_scales(rollouts)
    model.action_network.fitted.fill_(True)
    rows = imagination_plan(world, ImagineConfig(rephrase=2, easy=0, hard=0))[:60]
    read = []

    def counted(model, prompts, cache=None):
        read.extend(map(bytes, prompts))
        return prefill(model, prompts, cache)

    monkeypatch.setattr(decoding, "prefill", counted)
    config = ImagineConfig(horizon=3, temperature=1.0, samples=3, shard=20, batch=7)
    found = imagine_dataset(model, world, rows, config, 0, tmp_path / "imagined", {})
    assert len(read) == len(set(read)) == len({row.text for row in rows}) == 30
    row_of, sample_of = origins(tmp_path / "imagined")
    first = np.flatnonzero(sample_of == 0)
    assert row_of[first].tolist() == list(range(60))
    again = imagine_rollouts(
        model, world, rows, [derive_seed(0, "imagine", row) for row in range(60)],
        starts=found.first_states[first], horizon=3, sampling=Sampling(1.0),
    )  # fmt: skip
    assert len(read) == 60
    assert np.array_equal(found.take(first).actions, again.rollouts.actions)


def test_each_try_is_hotter(model, world, tmp_path):
    model = model.float()
    rows = imagination_plan(world, ImagineConfig(rephrase=1, easy=0, hard=0))[:8]
    config = ImagineConfig(horizon=1, temperature=1e-3, samples=2)
    cold = imagine_dataset(model, world, rows, config, 0, tmp_path / "cold", {})
    heated = config.changed(temperature_growth=1e4)
    hot = imagine_dataset(model, world, rows, heated, 0, tmp_path / "hot", {})
    (_, sample), (_, again) = origins(tmp_path / "cold"), origins(tmp_path / "hot")
    assert np.array_equal(cold.actions[sample == 1], cold.actions[sample == 0][: (sample == 1).sum()])
    assert not np.array_equal(hot.actions[again == 1], hot.actions[again == 0][: (again == 1).sum()])


def test_shuffled_sentences_are_permuted_among_the_goals_of_a_level(world):
    rows = imagination_plan(world, ImagineConfig(rephrase=2, easy=1, hard=1))
    config = ImagineConfig(control="shuffled", samples=2, temperature=1.0)
    assert asked_rows(rows, config.changed(control="none"), 0, 1) == rows
    first, second = (asked_rows(rows, config, 0, sample) for sample in (0, 1))
    assert asked_rows(rows, config, 0, 0) == first
    assert asked_rows(rows, config, 1, 0) != first != second
    levels = np.array([row.level for row in rows])
    for level in LEVELS[1:]:
        mine = np.flatnonzero(levels == level)
        assert Counter(first[at] for at in mine) == Counter(rows[at] for at in mine)
        assert np.mean([first[at] == rows[at] for at in mine]) < 0.05
    # A row of a relation is asked for its own goal as often as by chance, one in eighty.
    mine = np.flatnonzero(levels == "rephrase")
    assert np.mean([first[at].goal == rows[at].goal for at in mine]) == pytest.approx(1 / 80, abs=0.015)


def test_a_control_reads_other_sentences_and_keeps_its_own(model, world, tmp_path):
    model = model.float()
    rows = imagination_plan(world, ImagineConfig(rephrase=1, easy=0, hard=0))[:12]
    config = ImagineConfig(horizon=2, shard=5)
    control = config.changed(control="shuffled")
    normal = imagine_dataset(model, world, rows, config, 0, tmp_path / "normal", {})
    shuffled = imagine_dataset(model, world, rows, control, 0, tmp_path / "shuffled", {})
    assert [shuffled.instructions[which] for which in shuffled.which] == rows
    assert np.array_equal(normal.first_states, shuffled.first_states)
    others = asked_rows(rows, control, 0, 0)
    read = [replace(row, text=other.text) for row, other in zip(rows, others, strict=True)]
    plain = imagine_dataset(model, world, read, config, 0, tmp_path / "read", {})
    assert np.array_equal(plain.actions[plain.action_starts], shuffled.actions[shuffled.action_starts])


def test_nothing_to_imagine_is_an_error(model, world, tmp_path):
    with pytest.raises(KalmError, match="nothing to imagine"):
        imagine_dataset(model, world, [], ImagineConfig(), 0, tmp_path, {})
