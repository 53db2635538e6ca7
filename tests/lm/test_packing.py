import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kalm.lm import packing
from kalm.lm.dataset import GroundingDataset
from kalm.lm.prompts import GOAL_ORIENTED


def speller_of(model):
    return model.prompt_builder()


def as_double(batch):
    numbers = ("states", "present_states", "want_states")
    return dataclasses.replace(batch, **{name: getattr(batch, name).double() for name in numbers})


def test_packed_losses_equal_those_of_every_example_alone(model, config, rollouts):
    rows = GroundingDataset(rollouts, speller_of(model), config.changed(rows=6), 0).groups(0)
    two_way = model.backbone.two_way_prompt
    packed = model(as_double(packing.batch(rows, rollouts, two_way)))
    sums = dict.fromkeys(("text", "state", "action"), 0.0)
    counts = dict.fromkeys(sums, 0)
    for group in (group for row in rows for group in row):
        for body in group.bodies:
            alone = as_double(packing.batch([[packing.PackedRow(group.prompt, (body,))]], rollouts, two_way))
            losses = model(alone)
            for name, answers in zip(losses._fields, alone.answers, strict=True):
                sums[name] += float(getattr(losses, name)) * answers
                counts[name] += answers
    assert all(counts.values()), "the batch must hold answers of every kind"
    for name, total in sums.items():
        assert float(getattr(packed, name)) == pytest.approx(total / counts[name], abs=1e-9)


def test_padding_and_neighbours_in_a_batch_change_nothing(model, rollouts):
    prompt_builder = speller_of(model)
    lengths = rollouts.lengths
    long, short = int(np.argmax(lengths)), int(np.argmin(lengths))
    assert lengths[long] > lengths[short]
    rows = [[packing.group([prompt_builder.generation(rollouts, i, GOAL_ORIENTED)])] for i in (long, short)]
    both = as_double(packing.batch(rows, rollouts, model.backbone.two_way_prompt))
    alone = as_double(packing.batch(rows[1:], rollouts, model.backbone.two_way_prompt))
    hidden = model.body(model.embed(both), both.visible, both.position)[1]
    wanted = model.body(model.embed(alone), alone.visible, alone.position)[0]
    assert torch.allclose(hidden[: len(wanted)], wanted, atol=1e-10)


def test_a_prompt_never_sees_its_body(model, rollouts):
    prompt_builder = speller_of(model)
    example = prompt_builder.generation(rollouts, 0, GOAL_ORIENTED)
    batch = packing.batch([[packing.group([example])]], rollouts, two_way_prompt=True)
    size = len(example.prompt)
    assert not batch.visible[0, 0, :size, size:].any()
    assert batch.visible[0, 0, :size, :size].all()
    assert batch.visible[0, 0, size:, :size].all()
    body = (2 + prompt_builder.entities) * int(rollouts.lengths[0])
    causal = torch.ones(body, body, dtype=torch.bool).tril()
    assert torch.equal(batch.visible[0, 0, size:, size:], causal)


@given(st.lists(st.integers(1, 40), max_size=60), st.integers(10, 50))
def test_every_group_is_packed_once_and_rows_are_not_overfull(lengths, room):
    rows = packing.pack(lengths, room)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert all(len(row) == 1 or sum(lengths[i] for i in row) <= room for row in rows)
