"""What two processes do together in `test_together`; started by torchrun, which takes a file."""

import os
import sys
from pathlib import Path

import accelerate
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from torch.distributed.fsdp import FSDPModule

from kalm import envs
from kalm.data import storage
from kalm.lm import sft
from kalm.lm.imagine import imagination_plan, imagine_dataset
from kalm.lm.model import load_model
from kalm.lm.settings import GroundConfig, ImagineConfig
from kalm.runs import processes

SHARDED = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
}


class ShardingOnCPUs(accelerate.Accelerator):
    """accelerate shards on GPUs only, though PyTorch does on CPUs too: tell it that it may."""

    def __init__(self, **settings):
        super().__init__(**settings)
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP
        AcceleratorState._shared_state["distributed_type"] = DistributedType.FSDP
        AcceleratorState._shared_state["fsdp_plugin"] = settings["fsdp_plugin"]


def main(place: Path) -> None:
    """Train replicated, train sharded, continue sharded, imagine; all below `place`."""
    assert processes.count() == 2
    world, rollouts = envs.make("clevr"), storage.read(place / "real")
    config = GroundConfig.model_validate_json((place / "ground.json").read_text())

    def train(name: str) -> None:
        model = sft.fresh(config, world, 0, "cpu").double()
        sft.finetune(model, rollouts, world, config, 0, place / name)
        assert isinstance(model.lm.base_model.layers[0], FSDPModule) == (name != "replicated")
        AcceleratorState._reset_state(reset_partial_state=True)

    train("replicated")
    os.environ.update(SHARDED)
    accelerate.Accelerator = ShardingOnCPUs
    train("sharded")
    train("continued")
    imagining = ImagineConfig.model_validate_json((place / "imagine.json").read_text())
    model = load_model(place / "alone" / "model")
    imagine_dataset(
        model, world, imagination_plan(world, imagining)[:20], imagining, 0, place / "imagined", {}
    )
    processes.leave()


main(Path(sys.argv[1]))
