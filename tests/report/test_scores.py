import json
from dataclasses import replace

import pytest

from kalm.envs.clevr.published import PUBLISHED
from kalm.evaluation.results import Episode
from kalm.evaluation.statistics import difference, pooled, wilson
from kalm.report.scores import MIX, NOVEL, attributions, gains, scores, scores_to_json


def episodes(policy, seed, level, won, played, held_back=False):
    algorithm, _, kind = policy.partition("+")
    algorithm, data = algorithm.lower(), {"": "plain", "KALM": "kalm"}.get(kind, kind)
    return [
        Episode(policy, algorithm, data, seed, level, "w", held_back, "text", i, i < won, 3, 1.0)
        for i in range(played)
    ]


def run(policy, seed, rephrase, easy, hard):
    return [
        *episodes(policy, seed, "rephrase", rephrase, 10),
        *episodes(policy, seed, "easy", easy, 10),
        *episodes(policy, seed, "hard", hard, 10),
    ]


def test_means_over_levels_and_seeds():
    (score,) = scores(run("BC", 0, 4, 2, 0) + run("BC", 1, 6, 2, 0), PUBLISHED)
    assert MIX not in scores(run("BC", 0, 4, 2, 0))[0].rates
    assert score.seeds == (0, 1) and score.data == "plain"
    assert score.rates["rephrase"] == pooled([4, 6], [10, 10])
    assert score.rates[NOVEL].mean == pytest.approx((0.5 + 0.2 + 0.0) / 3)
    assert score.rates[NOVEL].by_seed == pytest.approx((0.2, 0.8 / 3))
    # 800 : 400 : 200 is 4 : 2 : 1.
    assert score.rates[MIX].mean == pytest.approx((4 * 0.5 + 2 * 0.2 + 0.0) / 7)
    assert score.rates[NOVEL].n == 60


def test_goal_first_is_of_the_episodes_in_which_something_came_true():
    rows = run("BC", 0, 4, 2, 0) + run("BC", 1, 6, 2, 0)
    assert scores(rows)[0].first == {}
    firsts = ["goal"] * 5 + ["counterfactual"] * 3 + [""] * 2
    measured = [
        replace(row, first=firsts[place % 10]) for place, row in enumerate(rows) if row.level == "easy"
    ]
    (score,) = scores([row for row in rows if row.level != "easy"] + measured)
    assert score.first == {"easy": pooled([5, 5], [8, 8])}
    assert scores_to_json([score])["policies"][0]["first"]["easy"]["n"] == 16
    one_seed = [row for row in measured if row.seed == 0] + [replace(row, first="") for row in rows]
    assert scores(one_seed)[0].first == {"easy": pooled([5], [8])}


def test_order_is_plain_before_kalm_per_algorithm():
    rows = [row for name in ("CQL+KALM", "BC", "CQL", "BC+KALM") for row in run(name, 0, 1, 1, 1)]
    assert [score.policy for score in scores(rows)] == ["CQL", "CQL+KALM", "BC", "BC+KALM"]


def test_no_novel_mean_without_all_novel_levels():
    (score,) = scores(episodes("BC", 0, "seen", 1, 2) + episodes("BC", 0, "easy", 1, 2))
    assert list(score.rates) == ["seen", "easy"]
    assert (score.rates["easy"].low, score.rates["easy"].high) == pytest.approx(wilson(0.5, 2))


def test_a_seed_without_all_levels_is_left_out_of_the_novel_mean_only():
    (score,) = scores(run("BC", 0, 4, 2, 0) + episodes("BC", 1, "easy", 9, 10))
    assert score.rates["easy"].by_seed == (0.2, 0.9)
    assert score.rates[NOVEL].by_seed == pytest.approx((0.2,))


def test_gains_compare_the_two_variants_of_an_algorithm():
    rows = run("BC", 0, 1, 1, 1) + run("CQL", 0, 1, 1, 1) + run("CQL+KALM", 0, 9, 8, 7)
    (gain,) = gains(scores(rows))
    assert gain.algorithm == "cql"
    assert gain.differences["rephrase"] == difference(pooled([9], [10]), pooled([1], [10]))
    assert gain.differences[NOVEL].mean == pytest.approx(0.7) and gain.differences[NOVEL].clear


def test_attribution_compares_with_controls():
    rows = [row for kind in ("", "+KALM", "+shuffled") for row in run(f"BC{kind}", 0, 1 + len(kind), 1, 1)]
    found = scores(rows)
    assert [score.data for score in found] == ["plain", "kalm", "shuffled"]
    names = [gain.name for gain in attributions(found)]
    assert names == ["BC+KALM − BC+shuffled", "BC+shuffled − BC"]
    assert attributions(found)[0].differences["rephrase"] == difference(pooled([6], [10]), pooled([10], [10]))
    assert [(one["data"], one["base"]) for one in scores_to_json(found)["attribution"]] == [
        ("kalm", "shuffled"),
        ("shuffled", "plain"),
    ]


def test_json():
    data = json.loads(
        json.dumps(scores_to_json(scores(run("CQL", 0, 1, 1, 1) + run("CQL+KALM", 0, 9, 8, 7))))
    )
    assert data["policies"][1]["rates"]["hard"]["mean"] == 0.7
    assert data["gains"][0]["differences"]["hard"]["clear"] is True
