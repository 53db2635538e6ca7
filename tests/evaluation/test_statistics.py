import numpy as np
import pytest

from kalm.evaluation.statistics import (
    Rate,
    difference,
    pooled,
    rate,
    root_ratio,
    spread_factor,
    stratified,
    wilson,
)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    # Newcombe (1998), Statistics in Medicine 17, 857-872, table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_agrees_with_published_intervals(successes, n, low, high):
    result = rate(successes, n)
    assert result.mean == successes / n and result.n == n
    assert (round(result.low, 4), round(result.high, 4)) == (low, high)


def test_wilson_is_mirrored_for_failures():
    low, high = wilson(0.3, 40)
    assert wilson(0.7, 40) == pytest.approx((1 - high, 1 - low))
    assert rate(5, 5).high == 1.0


@pytest.mark.parametrize(
    ("first", "second", "low", "high"),
    # Newcombe (1998), Statistics in Medicine 17, 873-890, table II, method 10.
    [
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((10, 10), (0, 10), 0.6075, 1.0),
    ],
)
def test_difference_agrees_with_published_intervals(first, second, low, high):
    result = difference(rate(*first), rate(*second))
    assert result.mean == pytest.approx(first[0] / first[1] - second[0] / second[1])
    assert (round(result.low, 4), round(result.high, 4)) == (low, high)
    assert result.clear
    turned = difference(rate(*second), rate(*first))
    assert (turned.low, turned.high) == pytest.approx((-result.high, -result.low))


def test_difference_that_is_not_clear():
    assert not difference(rate(30, 100), rate(29, 100)).clear


def test_seeds_that_agree_pool_to_one_sample():
    result = pooled([30, 30], [100, 100])
    assert result.by_seed == (0.3, 0.3)
    assert (result.low, result.high) == (rate(60, 200).low, rate(60, 200).high)
    assert pooled([30], [100]) == Rate(0.3, *wilson(0.3, 100), 100, (0.3,))


def test_seeds_that_differ_widen_the_interval():
    # Rates .2 and .6 about .4: (100 * .04 + 100 * .04) / (.4 * .6) / (2 - 1) = 100 / 3; 200 / (100 / 3) = 6.
    result = pooled([20, 60], [100, 100])
    factor = spread_factor(np.array([[20], [60]]), np.array([[100], [100]]), np.ones(1))
    assert factor == pytest.approx(100 / 3)
    assert (result.low, result.high) == pytest.approx(wilson(0.4, 6))
    assert result.n == 200 and result.by_seed == (0.2, 0.6)


def test_opposite_seeds_count_as_two_episodes():
    # (100 * .25 + 100 * .25) / .25 = 200 stops at the 100 episodes of a seed: one episode per seed remains.
    result = pooled([0, 100], [100, 100])
    assert (result.low, result.high) == pytest.approx(wilson(0.5, 2))


def test_unequal_seeds_are_weighted_by_episodes():
    # 10/50 and 90/150 pool to .5; chi-square (50 * .09 + 150 * .01) / .25 = 24 over one degree of freedom.
    result = pooled([10, 90], [50, 150])
    assert result.mean == 0.5
    assert (result.low, result.high) == pytest.approx(wilson(0.5, 200 / 24))


def test_stratified_adds_squared_distances():
    # Weights 3 : 1 over rates .5 (of 10) and .2 (of 20).
    result = stratified(np.array([[5, 4]]), np.array([[10, 20]]), [3, 1])
    (low1, high1), (low2, high2) = wilson(0.5, 10), wilson(0.2, 20)
    assert result.mean == pytest.approx(0.75 * 0.5 + 0.25 * 0.2)
    assert result.low == pytest.approx(0.425 - np.hypot(0.75 * (0.5 - low1), 0.25 * (0.2 - low2)))
    assert result.high == pytest.approx(0.425 + np.hypot(0.75 * (high1 - 0.5), 0.25 * (high2 - 0.2)))
    assert result.n == 30 and result.by_seed == pytest.approx((0.425,))


def test_levels_that_rise_and_fall_together_widen_the_mean():
    # Seeds .4 and .6 on both of two levels of 100: R_k - R = -.1, .1; v_k = 2 * .25 * .25 / 100 = .00125;
    # factor (.01 + .01) / .00125 = 16. Where the levels go opposite ways the seeds' means agree: factor 1.
    totals = np.full((2, 2), 100)
    together = stratified(np.array([[40, 40], [60, 60]]), totals, [1, 1])
    opposite = stratified(np.array([[40, 60], [60, 40]]), totals, [1, 1])
    low, _ = wilson(0.5, 200 / 16)
    assert together.low == pytest.approx(0.5 - np.sqrt(2) * 0.5 * (0.5 - low))
    low, _ = wilson(0.5, 200)
    assert opposite.low == pytest.approx(0.5 - np.sqrt(2) * 0.5 * (0.5 - low))


def test_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(2000):
        result = stratified(rng.binomial(100, [[0.1, 0.3, 0.6]] * 3), np.full((3, 3), 100), [4, 2, 1])
        hits += result.low <= (0.4 + 0.6 + 0.6) / 7 <= result.high
    assert 0.94 < hits / 2000 < 0.99


def test_json_round_trip():
    result = pooled([3, 4], [10, 10])
    assert Rate.from_json(result.to_json()) == result


def test_impossible_counts_are_refused():
    with pytest.raises(AssertionError):
        rate(3, 2)
    with pytest.raises(AssertionError):
        pooled([1, 1], [2, 0])


@pytest.mark.parametrize("n", [3, 17, 49, 120, 111.7])
def test_the_share_is_never_outside_its_limits(n):
    for share in (0.0, 1.0):
        low, high = wilson(share, n)
        assert low <= share <= high


def test_root_ratio_of_constant_rows_is_certain():
    found = root_ratio(np.full(20, 8.0), np.full(20, 2.0))
    assert found is not None and (found.value, found.low, found.high, found.n) == (2.0, 2.0, 2.0, 20)


def test_root_ratio_covers_the_truth_about_as_often_as_it_says():
    rng, inside = np.random.default_rng(0), 0
    for _ in range(100):
        squares = rng.normal(size=60) ** 2  # root mean square 1
        found = root_ratio(squares, np.ones(60))
        assert found is not None
        inside += found.low <= 1.0 <= found.high
    assert 85 <= inside <= 100


def test_root_ratio_to_nothing_is_none():
    assert root_ratio(np.ones(3), np.zeros(3)) is None
