"Distances of counts, categories and holes: properties, honesty of their p-values, robustness, references."

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.distance import jensenshannon

from seatrial.drift.category import chi2, gaps, missing, tallied
from seatrial.drift.distance import (
    MEASURES,
    Distance,
    between,
    binned,
    counted,
    cuts,
    dealt,
    mean_variance,
    of_counts,
    psi,
)
from seatrial.stats.comparison import NotEnough

values = st.lists(st.floats(-1e9, 1e9), min_size=2, max_size=80)
counts = st.lists(st.integers(0, 60), min_size=2, max_size=12)


@given(values, values, st.integers(2, 20))
def test_every_row_lies_in_exactly_one_bin(reference, current, bins):
    at = cuts(reference, bins)
    assert (np.diff(at) > 0).all()
    assert binned(np.array(current), at).sum() == len(current)
    assert binned(np.array(current), at).size == at.size + 1
    before, after, _ = counted(np.array(reference), np.array(current), bins)
    assert before.tolist() == binned(np.array(reference), at).tolist()
    assert after.tolist() == binned(np.array(current), at).tolist()


@given(values, st.integers(2, 20), st.sampled_from(list(MEASURES)))
def test_a_sample_is_at_no_distance_from_itself(x, bins, measure):
    assert psi(x, x, bins, measure).value == pytest.approx(0, abs=1e-7)
    assert chi2(x, x, measure=measure).value == pytest.approx(0, abs=1e-7)
    assert psi(x, x, bins, measure).p_value > 0.3


@given(values, values, st.sampled_from(list(MEASURES)))
def test_no_distance_of_counts_changes_when_both_samples_are_stretched(reference, current, measure):
    stretched = psi(np.array(reference) * 4, np.array(current) * 4, measure=measure)  # a power of two keeps every bit
    assert stretched == psi(reference, current, measure=measure)


@given(counts, st.integers(0, 2**32 - 1), st.sampled_from(list(MEASURES)))
def test_distances_of_counts_are_symmetric_and_never_negative(row, seed, measure):
    a, b = np.array(row) + 1, np.random.default_rng(seed).permutation(row) + 1
    there, back = of_counts(a, b, measure), of_counts(b, a, measure)
    assert there.value == pytest.approx(back.value) and there.p_value == pytest.approx(back.p_value, rel=1e-6)
    assert there.value >= 0 and 0 <= there.p_value <= 1


@given(counts, counts, st.sampled_from(list(MEASURES)))
def test_any_two_rows_of_counts_have_a_distance_or_too_little_data(a, b, measure):
    size = min(len(a), len(b))
    found = of_counts(a[:size], b[:size], measure)
    if min(sum(a[:size]), sum(b[:size])) < 2:
        assert isinstance(found, NotEnough) and found.needed == 2
    else:
        assert isinstance(found, Distance) and 0 <= found.p_value <= 1 and math.isfinite(found.value)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("where", ["reference", "current"])
@pytest.mark.parametrize("outlier", [1e6, -1e6])
def test_one_outlier_moves_no_distance_of_counts_by_five_per_cent(where, outlier, measure):
    rng = np.random.default_rng(3)
    for _ in range(5):
        sides = {"reference": rng.normal(size=3000), "current": rng.normal(0.5, 1, size=1000)}
        clean = psi(**sides, measure=measure).value
        sides[where] = np.append(sides[where], outlier)
        assert abs(psi(**sides, measure=measure).value / clean - 1) < 0.05


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


@pytest.mark.parametrize("draw", ["normal", "poisson"])
@pytest.mark.parametrize(("n", "m"), [(50, 50), (1000, 60), (60, 1000), (500, 500)])
def test_p_values_are_honest_where_nothing_has_moved(draw, n, m):
    rng, runs = np.random.default_rng(0), 200
    pairs = [(getattr(rng, draw)(size=n), getattr(rng, draw)(size=m)) for _ in range(runs)]
    for measure in MEASURES:
        low = np.mean([psi(a, b, measure=measure).p_value <= 0.05 for a, b in pairs])
        assert 0.005 < low <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / runs), measure


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("shares", [[0.5, 0.3, 0.2], [0.96, 0.02, 0.01, 0.005, 0.005]])
def test_categories_raise_no_false_alarm_even_when_rare(shares, measure):
    rng, runs = np.random.default_rng(0), 400
    names = np.array(list("abcde"))[: len(shares)]
    tables = [(rng.multinomial(800, shares), rng.multinomial(60, shares)) for _ in range(runs)]
    p = np.array([chi2(*(np.repeat(names, row) for row in table), measure=measure).p_value for table in tables])
    assert np.mean(p <= 0.05) <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / runs)
    assert np.mean(p <= 0.001) <= 0.01


@pytest.mark.parametrize(("n", "m"), [(1000, 50), (50, 1000), (10, 3), (200, 2)])
def test_a_category_seen_once_has_the_exact_p_value(n, m):
    for r, c in ((n, m - 1), (n - 1, m)):
        table = [[r, n - r], [c, m - c]]
        found, side = of_counts(*table, "chi-squared").p_value, m if r == n else n
        assert found == pytest.approx(side / (n + m) if side < max(n, m) or n == m else 1.0, rel=1e-6)


@pytest.mark.parametrize("measure", MEASURES)
def test_two_columns_are_enumerated(measure):
    rng = np.random.default_rng(2)
    t, n = np.array([12, 30]), 15
    r, c, w = dealt(t.astype(float), n)
    exact = stats.hypergeom(42, 12, 15)
    assert w[0] == pytest.approx(exact.pmf(r[0]), abs=1e-12) and c[0].tolist() == (12 - r[0]).tolist()
    k = rng.integers(0, 12)
    p = of_counts([k, 15 - k], [12 - k, 15 + k], measure).p_value
    assert exact.pmf(k) - 1e-12 <= p <= 1


@given(st.lists(st.integers(3, 40), min_size=3, max_size=6), st.data())
def test_moments_of_chi_squared_are_the_exact_ones(t, data):
    total, k = float(sum(t)), len(t)
    n = float(data.draw(st.integers(2, int(total) - 2)))
    r, c, w = dealt(np.array(t, float), n)
    piece = MEASURES["chi-squared"].piece(r, c, n, total - n, k)
    mean, variance = mean_variance(r, piece, w, np.array(t) / total)
    uneven = [
        (total * (1 / margin).sum() - margin.size**2) / (total - 2)
        for margin in (np.array(t, float), np.array([n, total - n]))
    ]
    free = [(size - 1) * (total - size) / (total - 1) for size in (k, 2)]
    dawson = 2 * total / (total - 3) * (free[0] - uneven[0]) * (free[1] - uneven[1])
    dawson += total**2 / (total - 1) * uneven[0] * uneven[1]  # Dawson 1954
    assert mean == pytest.approx(total * (k - 1) / (total - 1), rel=1e-6)
    assert variance == pytest.approx(dawson, rel=0.25, abs=0.05)


def test_order_statistics_leave_dirichlet_multinomial_counts():
    rng, r = np.random.default_rng(5), np.array([10.0, 10, 10, 10])
    _, c, w = between(r, 30)
    seen = [counted(rng.normal(size=40), rng.normal(size=30), 4)[1] for _ in range(4000)]
    for b in range(4):
        expected = (w[b] * c[b]).sum()
        assert np.mean(seen, axis=0)[b] == pytest.approx(expected, abs=4 * np.std(seen, axis=0)[b] / 63)
        sd = math.sqrt((w[b] * (c[b] - expected) ** 2).sum())
        assert np.std(seen, axis=0)[b] == pytest.approx(sd, rel=0.08)


def test_large_tables_agree_with_scipy():
    rng = np.random.default_rng(1)
    for _ in range(50):
        table = rng.multinomial(5000, rng.dirichlet(np.full(6, 30)), size=2)
        for measure, kind in (("chi-squared", "pearson"), ("g", "log-likelihood")):
            theirs = stats.chi2_contingency(table, correction=False, lambda_=kind).pvalue
            assert of_counts(*table, measure).p_value == pytest.approx(theirs, abs=5e-3)
        p, q = (row / row.sum() for row in table)
        assert of_counts(*table, "jensen-shannon").value == pytest.approx(jensenshannon(p, q))
        assert of_counts(*table, "hellinger").value == pytest.approx(math.sqrt(((p**0.5 - q**0.5) ** 2).sum() / 2))


def test_new_and_vanished_categories_count():
    before, after = ["a", "b"] * 100, ["a", "c"] * 50
    assert chi2(before, after).p_value < 1e-20
    names, table = tallied(before, after)
    assert names == ["a", "b", "c"] and table.tolist() == [[100, 100, 0], [50, 0, 50]]


def test_a_long_tail_is_pooled():
    names, table = tallied([f"id{i}" for i in range(1000)], ["x"] * 500)
    assert names == ["x", "(rare)"] and table.tolist() == [[0, 1000], [500, 0]]


@pytest.mark.parametrize("method", [psi, chi2, missing])
@pytest.mark.parametrize(("reference", "current"), [([1.0, 2.0], []), ([], [1.0, 2.0]), ([1.0, 2.0], [1.0]), ([], [])])
def test_an_empty_or_single_row_is_too_little_data_and_no_verdict(method, reference, current):
    found = method(reference, current)
    assert isinstance(found, NotEnough) and found.got == min(len(reference), len(current)) and "two rows" in found.why


def test_holes_are_refused_by_side_and_count():
    with pytest.raises(ValueError, match="current must be finite, got 1 NaN and 1 infinite of 3"):
        psi([1.0, 2.0], [1.0, math.nan, math.inf])
    with pytest.raises(ValueError, match="reference must hold no missing value, got 2 of 3"):
        chi2([None, math.nan, 1.0], [1.0, 2.0])


def test_a_number_that_became_text_is_refused():
    with pytest.raises(ValueError, match="categories must keep their kind, got text in current only"):
        chi2([1, 2, 3], ["1", "2", "3"])


@pytest.mark.parametrize(
    ("x", "k"), [([1.0, math.nan], 1), (["a", None, "b"], 1), ([None, math.nan, 3], 2), ([1, 2], 0), (["a"], 0)]
)
def test_holes_of_any_kind_are_counted(x, k):
    assert (gaps(x).k, gaps(x).n) == (k, len(x))


def test_silence_is_a_distance_of_its_own():
    found = missing([1.0] * 500, [1.0] * 80 + [math.nan] * 20)
    assert found.value == pytest.approx(0.2) and found.p_value < 1e-10 and found.method == "missing"
    assert missing([1.0] * 50, [2.0] * 50).p_value == 1


def test_a_list_of_text_with_holes_has_holes():
    nan = float("nan")
    found = missing(["a", nan] * 50, ["a", "b"] * 50)
    assert found.value == 0.5 and found.p_value < 1e-6
    pd = pytest.importorskip("pandas")
    assert missing(pd.array(["a", None] * 50, dtype="string"), ["a", "b"] * 50).value == 0.5
    with pytest.raises(ValueError, match="must hold no missing value, got 50 of 100"):
        chi2(pd.array(["a", None] * 50, dtype="string"), ["a", "b"] * 50)


@pytest.mark.parametrize("bad", [([5, -2], [3, 4]), ([5, np.nan], [3, 4]), ([5, 2], [3, 4, 1]), ([0.5, 3], [3, 4])])
def test_counts_that_are_none_are_refused(bad):
    with pytest.raises(ValueError, match="counts must be whole numbers >= 0, as many on both sides"):
        of_counts(*bad)


def test_forty_thousand_categories_need_no_table_of_their_pairs():
    rng = np.random.default_rng(9)
    r, c = (np.bincount(rng.integers(0, 40_000, 800_000), minlength=40_000) for _ in range(2))
    assert 1e-3 < of_counts(r, c, "chi-squared").p_value < 0.999


@pytest.mark.parametrize("n", [2, 3, 5, 9])
def test_the_index_is_honest_with_fewer_reference_rows_than_bins(n):
    rng = np.random.default_rng(n)
    low = np.mean([psi(rng.normal(size=n), rng.normal(size=300)).p_value <= 0.05 for _ in range(400)])
    assert low <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)
