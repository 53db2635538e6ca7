import numpy as np
import pytest

from kalm.config import ImagineConfig
from kalm.errors import KalmError
from kalm.lm.imagine import imagine_dataset, plan


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
        imagine_dataset(model, world, rows, config, 0, stopped, {}, stop)
    resumed = imagine_dataset(model, world, rows, config, 0, stopped, {})
    assert np.array_equal(whole.actions, resumed.actions)
    assert np.array_equal(whole.states, resumed.states)
    assert set(np.unique(whole.source)) == {1}


def test_nothing_to_imagine_is_an_error(model, world, tmp_path):
    with pytest.raises(KalmError, match="nothing to imagine"):
        imagine_dataset(model, world, [], ImagineConfig(), 0, tmp_path, {})
