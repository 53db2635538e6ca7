"""How transitions are encoded: by hand, and the same whichever entity is acted on."""

import numpy as np
import pytest
import torch
from pushed import POINT, THINGS, drawn

from kalm import envs
from kalm.dynamics.entity_view import EntityView
from kalm.types import Entity, WorldSpec

STATE = torch.tensor([[0.0, 0.0, 3.0, 4.0, 1.0, 1.0, 7.0]])  # a, b far from it, c near, heat


def test_the_acted_on_comes_first_and_the_others_by_nearness():
    view = EntityView(THINGS)
    action = torch.tensor([1])  # a, second way
    assert view.acted_on(action).tolist() == [0]
    assert view.encode_action(action).tolist() == [[0, 1, 0, 0]]
    columns = view.column_order(STATE, view.acted_on(action))
    assert columns.tolist() == [[0, 1, 4, 5, 2, 3, 6]]
    assert view.encode_state(STATE, columns).tolist() == [[0, 0, 1, 1, 3, 4, 7]]
    from_b = view.column_order(STATE, torch.tensor([1]))
    assert from_b.tolist() == [[2, 3, 4, 5, 0, 1, 6]]
    assert view.encode_state(STATE, from_b).tolist() == [[3, 4, -2, -3, -3, -4, 7]]


def test_names_of_entities_change_nothing():
    view = EntityView(THINGS)
    states, actions = map(torch.as_tensor, drawn(THINGS, 50))
    turned = states[:, [2, 3, 4, 5, 0, 1, 6]]  # b is now called a, c b, and a c
    same = (actions + 8) % 12
    seen = [
        torch.cat([view.encode_state(s, view.column_order(s, view.acted_on(a))), view.encode_action(a)], 1)
        for s, a in ((states, actions), (turned, same))
    ]
    assert torch.equal(*seen)


@pytest.mark.parametrize(
    "spec",
    [
        POINT,
        WorldSpec("plain", ("a", "b"), "discrete", 4, 5),
        WorldSpec(
            "idle", ("a", "b"), "discrete", 5, 5, tuple(Entity(n, (i,), "", (i,)) for i, n in enumerate("ab"))
        ),
        WorldSpec(
            "kinds",
            ("a", "b"),
            "discrete",
            2,
            5,
            (Entity("a", (0,), "x", (0,)), Entity("b", (1,), "y", (1,))),
        ),
    ],
    ids=lambda spec: spec.name,
)
def test_other_worlds_are_shown_as_they_are(spec):
    view = EntityView(spec)
    states, actions = map(torch.as_tensor, drawn(spec, 6))
    columns = view.column_order(states, view.acted_on(actions))
    assert torch.equal(view.encode_state(states, columns), states)
    encoded = view.encode_action(actions)
    assert torch.equal(encoded, actions if spec is POINT else torch.eye(spec.action_size)[actions])


def test_clevr_is_seen_from_the_pushed_ball():
    view = EntityView(envs.make("clevr").spec)
    assert (view.centres, view.ways) == (5, 8)
    assert np.array_equal(view.acted_on(torch.arange(40)), np.arange(40) // 8)
