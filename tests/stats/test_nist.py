"The digits that summaries keep of reference data made to break programs."

import math
from fractions import Fraction
from functools import reduce
from operator import add

import numpy as np
import pytest

from seatrial.stats.joint import Joint
from seatrial.stats.moments import Moments
from seatrial.stats.strata import one_way
from tests.stats.nist import ANOVA, UNIVARIATE


def digits(got: float, truth: float | str) -> float:
    "The log relative error: correct decimal digits, at most 15."
    error = abs(Fraction(got) / Fraction(truth) - 1)
    return min(15.0, -math.log10(error)) if error else 15.0


def whole(x: np.ndarray) -> Moments:
    return Moments.of(x)


def one_by_one(x: np.ndarray) -> Moments:
    return reduce(add, (Moments(1, float(v)) for v in x))


def shards(x: np.ndarray) -> Moments:
    pieces = [Moments.of(p) for p in np.array_split(x, 100)]
    return reduce(add, (pieces[i] for i in np.random.default_rng(x.size).permutation(100)))


def columns(x: np.ndarray) -> Moments:
    pieces = [Joint.of(p, p[::-1]) for p in np.array_split(x, 100)]
    return reduce(add, (pieces[i] for i in np.random.default_rng(x.size).permutation(100))).marginal(0)


def exact(x: np.ndarray) -> tuple[Fraction, Fraction]:
    "Mean and sum of squared distances in exact arithmetic on the floats as they were read."
    x = [Fraction(float(v)) for v in x]
    mean = sum(x) / len(x)
    return mean, sum((v - mean) ** 2 for v in x)


def exact_f(groups: list[np.ndarray]) -> float:
    n, k = sum(map(len, groups)), len(groups)
    parts = [(len(g), *exact(g)) for g in groups]
    grand = sum(m * mean for m, mean, _ in parts) / n
    between = sum(m * (mean - grand) ** 2 for m, mean, _ in parts)
    return float((between / (k - 1)) / (sum(within for *_, within in parts) / (n - k)))


WAYS = [whole, one_by_one, shards, columns]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", UNIVARIATE)
def test_mean_and_deviation_keep_nine_digits_or_all_that_the_floats_have(name, way):
    values, mean, sd = UNIVARIATE[name]
    x = np.array(values, float)
    m, (true_mean, true_m2) = way(x), exact(x)
    best_sd = digits(math.sqrt(true_m2 / (x.size - 1)), sd)
    assert digits(m.mean, mean) > min(9, digits(float(true_mean), mean) - 0.1)
    assert digits(m.sd, sd) > min(9, best_sd - 0.1)
    if name == "NumAcc4":
        assert 8.1 < digits(m.sd, sd) < 8.4


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ANOVA)
def test_f_keeps_nine_digits_or_all_that_the_floats_have(name, way):
    texts, f = ANOVA[name]
    groups = [np.array(g, float) for g in texts]
    got = one_way({i: way(g) for i, g in enumerate(groups)}).f
    best = digits(exact_f(groups), f)
    assert digits(got, f) > min(9, best - 0.1)
    assert best > 9 or name in ("SmLs07", "SmLs08", "SmLs09")


@pytest.mark.parametrize("order", range(5))
def test_the_order_of_a_hundred_shards_costs_no_digit_of_the_float_data(order):
    x = np.array(UNIVARIATE["NumAcc4"][0], float)
    pieces = [Moments.of(p) for p in np.array_split(x, 100)]
    shuffled = np.random.default_rng(order).permutation(100)
    m2 = reduce(add, (pieces[i] for i in shuffled)).m2
    assert digits(m2, float(exact(x)[1])) > 13
