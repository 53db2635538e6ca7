import numpy as np
import pytest

from kalm.config import ImagineConfig
from kalm.data import store
from kalm.errors import KalmError
from kalm.lm.imagine import imagine_dataset, origins, plan


def test_held_back_wordings_are_never_imagined_for(world):
    config = ImagineConfig(rephrase=2, easy=1, hard=3)
    rows = plan(world, config)
    assert rows and not any(row.held_back for row in rows)
    open_rephrase = [i for i in world.suite("rephrase") if not i.held_back]
    assert (
        sum(row.level == "rephrase" for row in rows)
        == 2 * len(open_rephrase)
        < 2 * len(world.suite("rephrase"))
    )


def test_a_stopped_imagination_goes_on_to_the_same_rollouts(model, world, tmp_path):
    model = model.float()
    rows = plan(world, ImagineConfig(rephrase=1, easy=0, hard=0))[:24]
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


def test_several_samples_start_alike_and_begin_with_the_only_one(model, world, tmp_path):
    model = model.float()
    rows = plan(world, ImagineConfig(rephrase=1, easy=0, hard=0))[:6]
    one = ImagineConfig(horizon=3, shard=4, temperature=5.0)
    three = one.model_copy(update={"samples": 3})
    alone = imagine_dataset(model, world, rows, one, 0, tmp_path / "one", {})
    told = []
    samples = imagine_dataset(
        model, world, rows, three, 0, tmp_path / "three", {}, advance=lambda n=1, **_: told.append(n)
    )
    assert len(samples) == 18 == sum(told) and len(alone) == 6
    assert origins(tmp_path / "three", 6, 3).tolist() == np.repeat(np.arange(6), 3).tolist()
    starts = samples.first_states.reshape(6, 3, -1)
    assert (starts == starts[:, :1]).all()
    first = samples.take(np.arange(0, 18, 3))
    assert np.array_equal(first.actions, alone.actions) and np.array_equal(first.states, alone.states)
    assert not np.array_equal(samples.take(np.arange(1, 18, 3)).actions, alone.actions)


def test_rollouts_that_were_lost_are_known(model, world, tmp_path):
    rollouts = imagine_dataset(
        model.float(),
        world,
        plan(world, ImagineConfig())[:4],
        ImagineConfig(horizon=2),
        0,
        tmp_path / "a",
        {},
    )
    for index, lost in enumerate(([1, 2], [], [5])):
        store.write_shard(tmp_path / "b", index, rollouts.take(np.arange(2 - len(lost))), {"lost": lost})
    assert origins(tmp_path / "b", 3, 2).tolist() == [0, 1, 2]


def test_nothing_to_imagine_is_an_error(model, world, tmp_path):
    with pytest.raises(KalmError, match="nothing to imagine"):
        imagine_dataset(model, world, [], ImagineConfig(), 0, tmp_path, {})
