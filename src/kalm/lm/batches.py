"""The batches of a training in their order, made ahead by worker processes so that no GPU waits for them.

A batch follows from its number alone, so neither the number of workers nor a stop in between changes what is
learnt.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader, Dataset

from kalm.lm import packing
from kalm.lm.dataset import GroundingDataset
from kalm.lm.packing import PackedBatch
from kalm.lm.settings import GroundConfig
from kalm.runs import processes

GPU_WORKERS = 4
AHEAD = 4  # batches that a worker has ready


class StepBatches(Dataset[list[PackedBatch]]):
    """What this process works through in each step: `ground.accumulate` parts of the batch.

    Args:
        curriculum: gives the batches.
        two_way_prompt: how the backbone reads prompts.
        config: settings.
        among: processes that share each batch; None: those that there are.
    """

    def __init__(
        self,
        curriculum: GroundingDataset,
        two_way_prompt: bool,
        config: GroundConfig,
        among: int | None = None,
    ) -> None:
        self.curriculum = curriculum
        self.two_way_prompt = two_way_prompt
        self.config = config
        self.whole: int = (among or processes.count()) * config.accumulate  # parts of a batch
        self.first: int = processes.index() * config.accumulate  # of ours

    def __len__(self) -> int:
        return self.curriculum.steps

    def __getitem__(self, step: int) -> list[PackedBatch]:
        return [
            packing.batch(
                self.curriculum.groups(step, part, self.whole),
                self.curriculum.rollouts,
                self.two_way_prompt,
                self.config.row_tokens if self.config.compile else 0,
            )
            for part in range(self.first, self.first + self.config.accumulate)
        ]


def load_batches(
    data: StepBatches, device: torch.device, done: int = 0, workers: int | None = None
) -> Iterator[list[PackedBatch]]:
    """Yield the parts of each step's batch on a device, from the first step that is not done.

    Args:
        data: all of them.
        device: where they are wanted; copies to a GPU run beside its work.
        done: steps that are done.
        workers: processes that make them; 0: this one; None: 4 for a GPU, else this one.
    """
    gpu = device.type == "cuda"
    count = (GPU_WORKERS if gpu else 0) if workers is None else workers
    loader = DataLoader(
        data,
        batch_size=None,  # an item is a batch already
        sampler=range(done, len(data)),
        num_workers=count,
        prefetch_factor=AHEAD if count else None,
        pin_memory=gpu,
        generator=torch.Generator(),  # of seeds for workers: torch's own stream is the dropout's
    )
    for parts in loader:
        yield [part.to(device) for part in parts]
