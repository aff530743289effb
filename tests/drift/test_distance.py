"Distances: properties, honesty of their p-values, robustness."

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from seatrial.drift.distance import binned, chi2, chi2_moments, chi2_of_counts, cuts, ks, psi, psi_of_counts, tallied

values = st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=80)
counts = st.lists(st.integers(0, 60), min_size=2, max_size=12)


@given(values, values, st.integers(2, 20))
def test_every_row_lies_in_exactly_one_bin(reference, current, bins):
    at = cuts(reference, bins)
    assert (np.diff(at) > 0).all()
    assert binned(np.array(current), at).sum() == len(current)
    assert binned(np.array(current), at).size == at.size + 1


@given(values, st.integers(2, 20))
def test_a_sample_is_at_no_distance_from_itself(x, bins):
    assert psi(x, x, bins).value == pytest.approx(0, abs=1e-12)
    assert ks(x, x).value == 0 and ks(x, x).p_value == pytest.approx(1)
    assert chi2(x, x).value == 0 and chi2(x, x).p_value > 0.3


@given(values, values)
def test_the_index_does_not_change_when_both_samples_are_stretched(reference, current):
    stretched = psi(np.array(reference) * 4, np.array(current) * 4)  # a power of two keeps every bit
    assert stretched.value == pytest.approx(psi(reference, current).value, abs=1e-12)


@given(counts, st.integers(0, 2**32 - 1))
def test_the_index_of_counts_is_symmetric_and_never_negative(row, seed):
    a, b = np.array(row) + 1, np.random.default_rng(seed).permutation(row) + 1
    assert psi_of_counts(a, b).value == pytest.approx(psi_of_counts(b, a).value)
    assert psi_of_counts(a, b).value >= -1e-12 and 0 <= psi_of_counts(a, b).p_value <= 1


@pytest.mark.parametrize("where", ["reference", "current"])
@pytest.mark.parametrize("outlier", [1e6, -1e6])
def test_one_outlier_moves_the_index_by_less_than_five_per_cent(where, outlier):
    rng = np.random.default_rng(3)
    for _ in range(20):
        sides = {"reference": rng.normal(size=3000), "current": rng.normal(0.5, 1, size=1000)}
        clean = psi(**sides).value
        sides[where] = np.append(sides[where], outlier)
        assert abs(psi(**sides).value / clean - 1) < 0.05


@pytest.mark.parametrize("where", ["reference", "current"])
def test_the_largest_value_may_be_any_number_at_all(where):
    rng = np.random.default_rng(3)
    sides = {"reference": rng.normal(size=200), "current": rng.normal(0.5, 1, size=100)}
    clean = psi(**sides)
    sides[where] = np.where(sides[where] == sides[where].max(), 1e6, sides[where])
    assert psi(**sides) == clean


def test_a_constant_that_changes_is_seen():
    assert psi([7.0] * 200, [7.0] * 100).value == pytest.approx(0)
    for now in (6.0, 8.0, 7.0000001):
        assert psi([7.0] * 200, [now] * 100).value > 1 and psi([7.0] * 200, [now] * 100).p_value < 1e-10


@pytest.mark.parametrize("draw", ["normal", "poisson", "standard_cauchy"])
@pytest.mark.parametrize(("n", "m"), [(50, 50), (1000, 60), (500, 500)])
def test_p_values_are_honest_where_nothing_has_moved(draw, n, m):
    rng, runs = np.random.default_rng(0), 500
    pairs = [(getattr(rng, draw)(size=n), getattr(rng, draw)(size=m)) for _ in range(runs)]
    limit = 0.05 + 4 * math.sqrt(0.05 * 0.95 / runs)
    assert np.mean([psi(a, b).p_value <= 0.05 for a, b in pairs]) <= limit
    assert np.mean([ks(a, b).p_value <= 0.05 for a, b in pairs]) <= limit


@pytest.mark.parametrize("shares", [[0.5, 0.3, 0.2], [0.96, 0.02, 0.01, 0.005, 0.005]])
def test_categories_raise_no_false_alarm_even_when_rare(shares):
    rng, runs = np.random.default_rng(0), 1000
    names = np.array(list("abcde"))[: len(shares)]
    alarms = [chi2(rng.choice(names, 800, p=shares), rng.choice(names, 60, p=shares)).p_value for _ in range(runs)]
    assert np.mean(np.array(alarms) <= 0.05) <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / runs)
    assert np.mean(np.array(alarms) <= 0.001) <= 0.01


@given(st.lists(st.tuples(st.integers(1, 500), st.integers(1, 500)), min_size=2, max_size=8))
def test_moments_tend_to_those_of_the_chi_squared_law(columns):
    table = np.array(columns).T * 10_000
    k = table.shape[1]
    mean, variance = chi2_moments(table)
    assert mean == pytest.approx(k - 1, rel=1e-3) and variance == pytest.approx(2 * (k - 1), rel=2e-2)


def test_large_tables_agree_with_scipy():
    rng = np.random.default_rng(1)
    for _ in range(50):
        table = rng.multinomial(5000, rng.dirichlet(np.full(6, 30)), size=2)
        assert chi2_of_counts(table).p_value == pytest.approx(
            stats.chi2_contingency(table, correction=False).pvalue, abs=2e-3
        )


def test_new_and_vanished_categories_count():
    before, after = ["a", "b"] * 100, ["a", "c"] * 50
    assert chi2(before, after).p_value < 1e-20
    names, table = tallied(before, after)
    assert names == ["a", "b", "c"] and table.tolist() == [[100, 100, 0], [50, 0, 50]]


def test_a_long_tail_is_pooled():
    names, table = tallied([f"id{i}" for i in range(1000)], ["x"] * 500)
    assert names == ["x", "(rare)"] and table.tolist() == [[0, 1000], [500, 0]]


@pytest.mark.parametrize("distance", [psi, ks, chi2])
def test_an_empty_side_is_refused(distance):
    with pytest.raises(ValueError, match="at least one value"):
        distance([1.0, 2.0], [])


@pytest.mark.parametrize("distance", [psi, ks])
def test_holes_are_refused_by_side_and_count(distance):
    with pytest.raises(ValueError, match="current must be finite, got 1 NaN and 1 infinite of 3"):
        distance([1.0, 2.0], [1.0, math.nan, math.inf])
