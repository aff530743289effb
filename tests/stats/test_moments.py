"Properties of summaries that a reader need not see."

import json
import math
import re
from dataclasses import asdict
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seatrial.stats.moments import Moments, finite

numbers = st.floats(-1e6, 1e6, allow_subnormal=False)
samples = st.lists(numbers, min_size=1, max_size=60)


def close(a: Moments, b: Moments, scale: float) -> bool:
    return (
        a.n == b.n
        and math.isclose(a.mean, b.mean, rel_tol=1e-9, abs_tol=1e-9 * scale)
        and math.isclose(a.m2, b.m2, rel_tol=1e-9, abs_tol=1e-9 * scale**2)
    )


@given(samples, st.integers(1, 10), st.randoms(use_true_random=False))
def test_shards_in_any_order_give_the_summary_of_the_whole(x, shards, random):
    pieces = [Moments.of(p) for p in np.array_split(x, shards)]
    random.shuffle(pieces)
    assert close(sum(pieces, Moments()), Moments.of(x), scale=1 + max(map(abs, x)))


@given(samples)
def test_the_variance_is_that_of_numpy(x):
    expected = np.var(x, ddof=1) if len(x) > 1 else math.nan
    scale = 1 + max(map(abs, x))
    assert np.isclose(Moments.of(x).variance, expected, rtol=1e-9, atol=1e-9 * scale**2, equal_nan=True)


@given(st.floats(-1e300, 1e300), st.integers(1, 50))
def test_a_constant_sample_has_exactly_no_spread(value, n):
    summary = Moments.of([value] * n)
    assert (summary.mean, summary.m2) == (value, 0.0)
    assert (summary + summary).m2 == 0.0


def test_a_large_offset_costs_no_digits():
    x = np.random.default_rng(0).normal(size=10_000)
    shifted = x + 2.0**40  # exact in steps of 2**-12
    exact = shifted - 2.0**40
    assert Moments.of(shifted).m2 == pytest.approx(Moments.of(exact).m2, rel=1e-12)


def test_nothing_is_neutral_on_both_sides():
    some = Moments.of([1e9, 2e9, 5.0])
    assert some + Moments() == Moments() + some == some
    assert Moments() + Moments() == Moments()


def test_a_summary_survives_json():
    some = Moments.of([0.1, 0.2, 0.7])
    assert Moments(**json.loads(json.dumps(asdict(some)))) == some


def test_columns_of_arrow_and_booleans_are_samples():
    assert Moments.of(pa.chunked_array([[1.0, 2.0], [6.0]])) == Moments.of([1, 2, 6])
    assert Moments.of([True, False, True, True]).mean == 0.75


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([1.0, math.nan, math.inf], "treatment must be finite, got 1 NaN and 1 infinite of 3"),
        ([1.0, None], "treatment must hold numbers, got dtype object"),
        (["1"], "treatment must hold numbers"),
    ],
)
def test_what_is_not_a_number_is_refused_by_name(bad, message):
    with pytest.raises(ValueError, match=message):
        finite(bad, "treatment")


@pytest.mark.parametrize("bad", [(-1, 0.0, 0.0), (2, math.nan, 1.0), (2, 0.0, -1e-9), (2, 0.0, math.inf)])
def test_an_impossible_summary_is_refused(bad):
    with pytest.raises(ValueError, match="Moments must have"):
        Moments(*bad)


@pytest.mark.parametrize("huge", [1e155, 1e160, 1e200, 1e308])
def test_a_value_that_overflows_is_refused_by_its_value_and_never_becomes_no_spread(huge):
    with pytest.raises(ValueError, match=re.escape(f"{huge:g}")):
        Moments.of([1.0, 2.0, 3.0, -huge])


@given(samples, st.floats(-1e12, 1e12), st.integers(1, 12), st.randoms(use_true_random=False))
def test_mean_and_tail_together_are_the_exact_mean_after_any_merge(x, offset, shards, random):
    x = [v + offset for v in x]
    pieces = [Moments.of(p) for p in np.array_split(x, shards)]
    random.shuffle(pieces)
    m, exact = sum(pieces, Moments()), sum(map(Fraction, x)) / len(x)
    spread = max(x) - min(x)
    assert abs(Fraction(m.mean) + Fraction(m.tail) - exact) <= 1e-14 * spread + abs(exact) * Fraction(2) ** -100


@given(st.lists(st.integers(-(10**6), 10**6), min_size=1, max_size=50), st.integers(-(10**6), 10**6))
def test_integer_sums_of_a_database_are_exact_about_any_number(x, k):
    row = len(x), sum(v - k for v in x), sum((v - k) ** 2 for v in x)
    got, mean = Moments.of_sums(*row, around=k), Fraction(sum(x), len(x))
    assert got.n == len(x) and got.mean == float(mean) and got.m2 == float(sum((v - mean) ** 2 for v in x))


def test_sums_that_lost_the_spread_are_refused_and_told_a_number_near():
    x = 1.78e9 + np.random.default_rng(0).normal(size=1000)
    with pytest.raises(ValueError, match=r"sum distances from a number near 1.78e\+09"):
        Moments.of_sums(1000, float(x.sum()), float((x * x).sum()))
    near = x - 1.78e9
    got = Moments.of_sums(1000, float(near.sum()), float((near * near).sum()), 1.78e9)
    assert got.m2 == pytest.approx(Moments.of(x).m2, rel=1e-9)
    assert Moments.of_sums(0, None, None) == Moments()


@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint16, np.int64, np.float32, np.float64])
@pytest.mark.parametrize("n", [1, 20, 21, 70_000, 131_072])
def test_every_kind_of_number_and_every_length_has_numpys_moments(dtype, n):
    x = (np.random.default_rng(n).normal(40, 10, n) if dtype is not bool else np.arange(n) % 3 == 0).astype(dtype)
    m, wide = Moments.of(x), x.astype(float)
    assert m.n == n and m.mean == pytest.approx(wide.mean(), rel=1e-13)
    assert m.m2 == pytest.approx(wide.var() * n, rel=1e-11)


def test_slices_and_tables_are_summarized_as_they_are():
    x = np.random.default_rng(1).normal(size=(1000, 4))
    assert Moments.of(x[:, 1]).m2 == pytest.approx(Moments.of(x[:, 1].copy()).m2, rel=1e-14)
    assert Moments.of(x.T).n == 4000


@pytest.mark.parametrize("n", [3, 30, 100_000])
@pytest.mark.parametrize("hole", [math.nan, math.inf, -math.inf])
def test_a_hole_anywhere_is_refused_with_its_count(n, hole):
    x = np.ones(n)
    x[n // 2] = hole
    kind = "1 NaN and 0 infinite" if math.isnan(hole) else "0 NaN and 1 infinite"
    for refuse in (Moments.of, finite):
        with pytest.raises(ValueError, match=f"wait must be finite, got {kind} of {n}"):
            refuse(x, "wait")


@given(st.lists(st.one_of(numbers, st.sampled_from([math.nan, math.inf, -math.inf])), max_size=40))
def test_what_is_dropped_is_counted_and_the_rest_is_what_was_finite(x):
    kept = finite(x, "x", missing="drop")
    whole = [v for v in x if math.isfinite(v)]
    assert np.asarray(kept).tolist() == whole and kept.dropped == len(x) - len(whole)
    assert kept.nans == sum(map(math.isnan, x)) and kept.infinite == sum(map(math.isinf, x))
    assert Moments.of(kept) == Moments.of(whole)


def test_missing_has_two_policies():
    with pytest.raises(ValueError, match="missing must be one of refuse, drop, got missing='ignore'"):
        finite([1.0], missing="ignore")


def test_a_long_constant_column_has_exactly_no_spread():
    assert Moments.of(np.full(200_000, 0.1)) == Moments(200_000, 0.1, 0.0)
    assert Moments.of(np.full(50, 1e300)) == Moments(50, 1e300, 0.0)


def test_a_tail_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="Moments must have"):
        Moments(2, 0.0, 1.0, math.nan)


def test_small_integers_do_not_overflow_in_a_summary():
    a = Moments(np.uint8(200), np.float32(1.0), np.int64(5))
    assert (a + a).n == 400 and json.loads(json.dumps(asdict(a)))["n"] == 200
    assert Moments.of_sums(np.int64(5), np.int64(3), np.int64(3)).n == 5
    assert Moments.of_sums(2, Decimal("3"), Decimal("5")).mean == 1.5


@pytest.mark.parametrize("n", [math.inf, math.nan, "3", None, True])
def test_a_count_that_is_no_count_is_refused(n):
    with pytest.raises(ValueError, match="n must be a finite number, got n="):
        Moments(n, 1.0, 1.0)


@pytest.mark.parametrize("total", [None, math.inf, math.nan, "3"])
def test_sums_that_are_no_numbers_are_refused(total):
    with pytest.raises(ValueError, match="total must be a finite number where n=10, got total="):
        Moments.of_sums(10, total, 5.0)


def test_a_negative_count_of_rows_is_refused():
    with pytest.raises(ValueError, match="Moments must have n >= 0"):
        Moments.of_sums(-3, 1.0, 1.0)


def test_a_mask_is_not_silently_dropped():
    with pytest.raises(ValueError, match="x must not be masked, got 1 masked of 4"):
        Moments.of(np.ma.masked_array([1.0, 2.0, 3.0, 999.0], mask=[0, 0, 0, 1]))
    assert Moments.of(np.ma.masked_array([1.0, 3.0])).mean == 2
