import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from kalm.errors import KalmError
from kalm.rl.policy import FACTS, WEIGHTS, MLPPolicy, load_mlp_policy


@pytest.fixture
def policy(line, encoder) -> MLPPolicy:
    torch.manual_seed(0)
    sizes = [(8, 3 + encoder.size), (5, 8), (7, 5)]
    members = [[(torch.randn(*size), torch.randn(size[0])) for size in sizes] for _ in range(2)]
    return MLPPolicy(line.spec, "cql", encoder, members, provenance={"seed": 3})


@pytest.fixture
def asked(line):
    states = np.random.default_rng(0).normal(scale=20, size=(20, 3))  # as loud as the goal vectors
    return states, [line.instruction(("red", "blue", "green")[i % 3]).text for i in range(20)]


def rewrite(folder, **changes):
    facts = json.loads((folder / FACTS).read_text())
    (folder / FACTS).write_text(json.dumps({k: v for k, v in {**facts, **changes}.items() if v is not None}))


def test_values_by_hand(line, encoder):
    first = torch.zeros(2, 3 + encoder.size)
    first[0, 0], first[1, 1] = 1, -1  # hidden: relu(x0), relu(-x1 - 1)
    last = torch.zeros(7, 2)
    last[4, 0], last[5, 1] = 3, 2
    layers = [(first, torch.tensor([0.0, -1.0])), (last, torch.zeros(7))]
    doubled = [layers[0], (2 * last, torch.zeros(7))]
    policy = MLPPolicy(line.spec, "bc", encoder, [layers, doubled])
    values = policy.values(np.array([[2, -4, 9], [-1, 0, 9]]), ["a", "b"])
    assert values.tolist() == [[0, 0, 0, 0, 9, 9, 0], [0] * 7]
    assert policy.act(np.array([[0, -2, 0]]), ["a"]).tolist() == [5] and policy.hidden == (2,)


def test_saved_policy_acts_the_same(policy, asked, tmp_path):
    policy.save(tmp_path)
    loaded = load_mlp_policy(tmp_path)
    assert (loaded.values(*asked) == policy.values(*asked)).all()
    assert loaded.act(*asked).dtype == np.int64 and len(set(loaded.act(*asked))) > 1
    assert (loaded.spec, loaded.algorithm, loaded.hidden) == (policy.spec, "cql", (8, 5))
    assert loaded.provenance == {"seed": 3} and sorted(p.name for p in tmp_path.iterdir()) == [FACTS, WEIGHTS]


def test_a_reader_says_what_to_ask_for(policy, asked):
    states, texts = asked

    class AsksForTheNext:
        def ask(self, texts, states, spec):
            assert spec == policy.spec and states.shape == (20, 3)
            return [*texts[1:], texts[0]]

    guided = policy.act(states, texts, reader=AsksForTheNext())
    assert guided.tolist() == policy.act(states, [*texts[1:], texts[0]]).tolist()
    assert guided.tolist() != policy.act(states, texts).tolist()
    with pytest.raises(KalmError, match="one row of 3 numbers"):
        policy.act(states[:, :2], texts, reader=AsksForTheNext())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "not a policy"),
        ({"version": 3}, "version 3"),
        ({"world": None}, "damaged"),
        ({"hidden": [8, 6]}, "do not fit"),
        ({"members": 1}, "do not fit"),
        ({"weights_sha256": "0"}, "differs"),
        ({"encoder": {"name": "minilm", "identity": "0", "size": 384}}, "other weights of the encoder"),
    ],
)
def test_facts_that_do_not_fit_are_refused(policy, tmp_path, changes, message):
    policy.save(tmp_path)
    rewrite(tmp_path, **changes)
    with pytest.raises(KalmError, match=message):
        load_mlp_policy(tmp_path, encoder=policy.encoder)


def test_damaged_and_foreign_folders_are_refused(policy, tmp_path):
    with pytest.raises(KalmError, match="does not exist"):
        load_mlp_policy(tmp_path)
    policy.save(tmp_path)
    (tmp_path / WEIGHTS).write_bytes((tmp_path / WEIGHTS).read_bytes()[:-1] + b"!")
    with pytest.raises(KalmError, match="differs"):
        load_mlp_policy(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(KalmError, match="is missing"):
        load_mlp_policy(tmp_path)
    for text, message in (("{", "cannot be read as JSON"), ("[]", "damaged"), ('{"a": 1}', "damaged")):
        (tmp_path / FACTS).write_text(text)
        with pytest.raises(KalmError, match=message):
            load_mlp_policy(tmp_path)


def test_states_and_sentences_that_do_not_fit_are_refused(policy):
    for states, texts in ((np.zeros((2, 4)), ["a", "b"]), (np.zeros((2, 3)), ["a"]), (np.zeros(3), ["a"])):
        with pytest.raises(KalmError, match="one row of 3 numbers"):
            policy.act(states, texts)


def test_policies_of_another_world_are_refused(policy, tmp_path):
    policy.save(tmp_path)
    for world in ("line", policy.spec):
        assert load_mlp_policy(tmp_path, encoder=policy.encoder, world=world).spec == policy.spec
    with pytest.raises(
        KalmError, match=r"acts in 'line' \(3 state numbers, 7 discrete actions\), not in 'clevr'"
    ):
        load_mlp_policy(tmp_path, encoder=policy.encoder, world="clevr")
    with pytest.raises(KalmError, match=r"not in 'line' \(3 state numbers, 9 discrete actions\)"):
        load_mlp_policy(tmp_path, encoder=policy.encoder, world=replace(policy.spec, action_size=9))


def test_policies_of_the_first_version_still_load(policy, tmp_path):
    policy.save(tmp_path)
    rewrite(tmp_path, version=1, output=None)
    assert load_mlp_policy(tmp_path, encoder=policy.encoder).output == "none"
    rewrite(tmp_path, version=2, output="sinh")
    with pytest.raises(KalmError, match="'sinh' is unknown. Known: none, tanh"):
        load_mlp_policy(tmp_path, encoder=policy.encoder)


@pytest.mark.parametrize("output", ["none", "tanh"])
def test_continuous_actions_stay_in_bounds(policy, asked, output, tmp_path):
    free = replace(policy, spec=replace(policy.spec, action_kind="continuous"), output=output)
    values = free.values(*asked)
    expected = np.tanh(values) if output == "tanh" else np.clip(values, -1, 1)
    assert np.abs(values).max() > 1
    np.testing.assert_array_equal(free.act(*asked), expected)
    free.save(tmp_path)
    np.testing.assert_array_equal(load_mlp_policy(tmp_path, encoder=policy.encoder).act(*asked), expected)


def test_largest_output_is_found_before_tanh_makes_many_equal(policy, asked):
    raw = policy.values(*asked)
    assert (np.tanh(raw) == 1).sum(1).max() > 1
    np.testing.assert_array_equal(replace(policy, output="tanh").act(*asked), raw.argmax(1))
