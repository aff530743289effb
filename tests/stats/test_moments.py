"Properties of summaries that a reader need not see."

import json
import math
import re
from dataclasses import asdict

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
