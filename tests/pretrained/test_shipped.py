"""What comes with the package: it is what its card says, small, and works by name."""

from __future__ import annotations

import json

import numpy as np
import pytest

import kalm
from kalm.envs.rollout import initial_states
from kalm.pretrained.shipped import CARD, shipped_folders
from kalm.runs.io import file_sha256

LARGEST = 20_000_000  # bytes


def cards(kind):
    found = [json.loads((folder / CARD).read_text()) for folder in shipped_folders()]
    return {card["name"]: card for card in found if card["kind"] == kind}


POLICIES, MODELS = cards("policy"), cards("grounded model")


def test_there_are_a_model_and_a_policy_of_every_environment():
    assert set(MODELS) == {"clevr-smollm2"}
    assert {card["environment"] for card in POLICIES.values()} == {"clevr", "metaworld"}


@pytest.mark.parametrize("folder", shipped_folders(), ids=lambda folder: folder.name)
def test_it_is_what_its_card_says(folder):
    card = json.loads((folder / CARD).read_text())
    assert card["name"] == folder.name and card["licence"].startswith("Apache-2.0")
    files = {path for path in folder.rglob("*") if path.is_file()} - {folder / CARD}
    assert {str(path.relative_to(folder)) for path in files} == set(card["files"])
    for path in files:
        facts = card["files"][str(path.relative_to(folder))]
        assert facts == {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
    assert sum(facts["bytes"] for facts in card["files"].values()) < LARGEST


@pytest.mark.parametrize(("name", "card"), POLICIES.items())
def test_a_policy_does_what_plain_sentences_ask(name, card):
    world, policy = kalm.make(card["environment"]), kalm.load_policy(name)
    asked = [world.suite("seen")[row] for row in range(4)]
    actions = policy.act(
        initial_states(world, asked, range(4), "tested"), [instruction.text for instruction in asked]
    )
    assert len(actions) == 4 and np.isfinite(actions).all()
    assert card["success"]["BC+KALM"]["seen"]["mean"] > 0.7
