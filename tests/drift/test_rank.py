"Distances by ranks: properties, references, exact laws, and one contract for every distance by name."

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from seatrial.drift.distance import MEASURES, Distance
from seatrial.drift.rank import METHODS, NUMBERS, RANKS, anderson, cramer, distance, ks, numbers, wasserstein
from seatrial.drift.walk import blocks, darling, mises, parted, steps, walk
from seatrial.stats.comparison import NotEnough

values = st.lists(st.floats(-1e6, 1e6).map(lambda v: round(v, 3)), min_size=2, max_size=60)
few_values = st.lists(st.integers(0, 4).map(float), min_size=2, max_size=40)


def staircases(a, b):
    "Both distribution functions at all values, by their definition."
    z = np.unique(np.concatenate([a, b]))
    return z, *(np.searchsorted(np.sort(x), z, side="right") / len(x) for x in (a, b))


@given(values | few_values, values | few_values)
def test_a_walk_finds_what_the_definitions_say(a, b):
    found, (z, f, g) = walk(np.sort(a), np.sort(b)), staircases(a, b)
    h = (len(a) * f + len(b) * g) / (len(a) + len(b))
    mass, inside = np.diff(h, prepend=0), h < 1 - 1e-12
    assert found.gap == pytest.approx(np.abs(f - g).max(), abs=1e-12) and found.distinct == z.size
    assert found.squares == pytest.approx((mass * (f - g) ** 2).sum(), abs=1e-12)
    weighted = (mass * (f - g) ** 2)[inside] / (h * (1 - h))[inside]
    assert found.weighted == pytest.approx(weighted.sum(), rel=1e-6, abs=1e-12)
    assert found.area == pytest.approx(stats.wasserstein_distance(a, b), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("draw", ["normal", "poisson"])
def test_blocks_part_no_ties_and_change_nothing(draw, monkeypatch):
    rng = np.random.default_rng(0)
    a, b = (np.sort(getattr(rng, draw)(size=n)) for n in (5000, 3000))
    whole = walk(a, b)
    monkeypatch.setattr("seatrial.drift.walk.BLOCK", 64)
    parts = list(blocks(a, b))
    assert sum(len(x) + len(y) for x, y, _ in parts) == 8000 and len(parts) > 1
    tops = [max(itertools.chain(x, y)) for x, y, _ in parts]
    assert (np.diff(tops) > 0).all()
    small = walk(a, b)
    for name in ("gap", "squares", "weighted", "area", "distinct"):
        assert getattr(small, name) == pytest.approx(getattr(whole, name), rel=1e-9)
    assert steps(*parts[0])[0].tolist() == np.unique(np.concatenate(parts[0][:2])).tolist()


def test_scipy_agrees_where_its_laws_hold():
    rng = np.random.default_rng(1)
    for n, m, shift in [(400, 300, 0.15), (1000, 900, 0.1), (150, 300, 0.2)]:
        x, y = rng.normal(size=n), rng.normal(shift, 1, size=m)
        theirs = stats.ks_2samp(x, y, method="asymp")
        assert ks(x, y).value == pytest.approx(theirs.statistic) and ks(x, y).p_value == pytest.approx(theirs.pvalue)
        theirs = stats.cramervonmises_2samp(x, y, method="asymptotic")
        assert n * m / (n + m) * cramer(x, y).value ** 2 == pytest.approx(theirs.statistic)
        assert cramer(x, y).p_value == pytest.approx(theirs.pvalue, rel=0.05, abs=1e-4)
    x, y = np.arange(400) / 400, np.arange(300) / 300 * 0.9 + 0.1
    theirs = stats.anderson_ksamp([x, y], variant="continuous")
    assert anderson(x, y).p_value == pytest.approx(theirs.pvalue, rel=0.1)


def test_small_samples_have_the_exact_law():
    rng = np.random.default_rng(2)
    for n, m in [(5, 7), (30, 20), (80, 100)]:
        x, y = rng.normal(size=n), rng.normal(0.5, 1, size=m)
        assert ks(x, y).p_value == pytest.approx(stats.ks_2samp(x, y, method="exact").pvalue, rel=1e-9)


@pytest.mark.parametrize("pooled", [[0, 0, 0, 1, 1, 2, 2], [1, 1, 1, 1, 2, 3, 3], [0, 1, 2, 3, 4, 5, 6]])
def test_ties_are_counted_as_every_order_would(pooled):
    pooled = np.array(pooled, float)
    tops = np.searchsorted(pooled, np.unique(pooled), side="right")
    deals = [np.isin(np.arange(7), pick) for pick in itertools.combinations(range(7), 3)]
    gaps = [walk(pooled[d], pooled[~d]).gap for d in deals]
    for gap in set(gaps):
        assert parted(gap, tops, 3, 4) == pytest.approx(np.mean(np.array(gaps) >= gap - 1e-9))


@pytest.mark.parametrize(
    ("law", "x", "p"),
    [
        (mises, 0.34730, 0.1),
        (mises, 0.46136, 0.05),
        (mises, 0.74346, 0.01),
        (darling, 1.933, 0.1),
        (darling, 2.492, 0.05),
        (darling, 3.857, 0.01),
    ],
)
def test_limits_have_the_published_points(law, x, p):
    assert law(x) == pytest.approx(p, rel=0.03)  # Anderson & Darling 1952, 1954


@pytest.mark.parametrize("law", [mises, darling])
def test_limits_fall_without_a_jump(law):
    p = np.array([law(x) for x in np.linspace(0.001, 20, 4001)])
    assert (np.diff(p) <= 1e-9).all() and p[0] == pytest.approx(1) and 0 < p[-1] < 1e-6


@given(values | few_values, values | few_values, st.sampled_from(METHODS))
def test_every_distance_keeps_the_contract(a, b, method):
    found = distance(a, b, method)
    assert isinstance(found, Distance) and found.value >= 0 and math.isfinite(found.value)
    assert 0 <= found.p_value <= 1 and (found.n_reference, found.n_current) == (len(a), len(b))
    same = distance(a, a, method)
    assert same.value == pytest.approx(0, abs=1e-7) and same.p_value > 0.3
    assert isinstance(distance(a, b[:1], method), NotEnough) and isinstance(distance([], b, method), NotEnough)


@pytest.mark.parametrize("method", NUMBERS)
@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("hole", [math.nan, math.inf])
def test_every_distance_of_numbers_refuses_holes(method, side, hole):
    sides = [[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]
    sides[side] = [1.0, hole]
    with pytest.raises(ValueError, match=f"{('reference', 'current')[side]} must be finite, got 1|got [01] NaN and"):
        distance(*sides, method)


@pytest.mark.parametrize("method", METHODS)
def test_every_distance_knows_text_or_says_that_it_does_not(method):
    if method in MEASURES or method == "missing":
        assert distance(["a", "b"] * 20, ["a", "c"] * 20, method).n_current == 40
    else:
        with pytest.raises(ValueError, match="for categories, got method="):
            distance(["a", "b"], ["a", "b"], method)


@pytest.mark.parametrize("method", NUMBERS)
def test_a_number_that_became_text_is_refused_by_every_distance(method):
    with pytest.raises(ValueError, match="must keep its kind"):
        distance([1.0, 2.0], ["1", "2"], method)


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="method must be one of ks, cramer-von-mises"):
        distance([1, 2], [1, 2], "euclid")
    with pytest.raises(ValueError, match="tests must be one of ks"):
        numbers([1, 2], [1, 2], ("ks", "euclid"))


@pytest.mark.parametrize("method", [*RANKS, "wasserstein"])
@pytest.mark.parametrize("draw", [lambda r, n: r.normal(size=n), lambda r, n: r.poisson(1.0, n).astype(float)])
@pytest.mark.parametrize(("n", "m"), [(50, 50), (400, 60)])
def test_p_values_by_ranks_are_honest_with_and_without_ties(method, draw, n, m):
    rng, runs = np.random.default_rng(7), 250
    p = np.array([distance(draw(rng, n), draw(rng, m), method).p_value for _ in range(runs)])
    assert 0.005 < np.mean(p <= 0.05) <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / runs)


def test_ranks_ignore_an_outlier_and_the_travelled_distance_does_not():
    rng = np.random.default_rng(8)
    x, y = rng.normal(size=2000), rng.normal(0.5, 1, size=1000)
    hit = np.append(y, 1e6)
    for method in RANKS:
        assert distance(x, hit, method).value == pytest.approx(distance(x, y, method).value, rel=0.05)
    assert wasserstein(x, hit).value > 100 * wasserstein(x, y).value


def test_the_travelled_distance_is_told_in_spreads_of_the_reference():
    rng = np.random.default_rng(9)
    x = rng.normal(50, 10, size=100_000)
    assert wasserstein(x, x + 5).value == pytest.approx(0.5, rel=0.02)
    assert wasserstein([0.0] * 90 + [1.0] * 10, [1.0] * 100).value == pytest.approx(0.9 / 0.3)
    assert wasserstein([3.0] * 10, [4.0] * 10).value == pytest.approx(2.0)


def test_dropping_holes_is_asked_for_and_counted():
    found = numbers([1.0, 2, math.nan, 4], [1.0, 2, 3], missing="drop")
    assert found["ks"].n_reference == 3


@pytest.mark.parametrize("test", ["anderson-darling", "cramer-von-mises", "wasserstein"])
def test_one_odd_row_has_the_chance_that_fisher_gives_it(test):
    r, c = np.repeat([0.0, 1.0], [99_900, 100]), np.repeat([0.0, 1.0], [49, 1])
    exact = stats.fisher_exact([[99_900, 100], [49, 1]]).pvalue
    for one, other in ((r, c), (c, r), (1 - r, 1 - c)):
        assert distance(one, other, test).p_value == pytest.approx(exact, rel=1e-6)
    assert distance(r, np.repeat([0.0, 1.0], [40, 10]), test).p_value < 1e-15


@pytest.mark.parametrize("rate", [0.0005, 0.01, 0.05])
def test_rare_values_do_not_cry_wolf(rate):
    rng, alarms = np.random.default_rng(5), []
    for _ in range(400):
        r, c = (np.where(rng.random(n) < rate, rng.exponential(size=n), 0.0) for n in (5000, 50))
        alarms.append([d.p_value <= 0.01 for d in numbers(r, c, (*RANKS, "wasserstein")).values()])
    assert np.mean(alarms, axis=0).max() <= 0.01 + 3 * math.sqrt(0.01 * 0.99 / 400)


def test_rare_values_hide_no_shift_of_the_others():
    rng = np.random.default_rng(6)
    r, c = rng.choice([0.0, 1.0, 99.0], 5000, p=[0.5, 0.495, 0.005]), rng.choice([0.0, 1.0], 50, p=[0.15, 0.85])
    assert anderson(r, c).p_value < 1e-3 and cramer(r, c).p_value < 1e-3


@pytest.mark.parametrize("power", [-1060, -990, 990, 1020])
def test_no_distance_depends_on_the_unit(power):
    rng = np.random.default_rng(7)
    x, y = rng.normal(size=200).round(2), rng.normal(0.2, 1, size=100).round(2)
    plain, scaled = (numbers(a, b, NUMBERS) for a, b in ((x, y), (np.ldexp(x, power), np.ldexp(y, power))))
    for test in NUMBERS:
        assert scaled[test].value == pytest.approx(plain[test].value, rel=1e-3)
        assert scaled[test].p_value == pytest.approx(plain[test].p_value, rel=1e-3)


def test_a_constant_that_is_no_sum_of_halves_has_no_spread():
    assert wasserstein([0.1] * 1000, [0.1] * 500 + [0.2] * 500).value == pytest.approx(
        wasserstein([1.0] * 1000, [1.0] * 500 + [2.0] * 500).value
    )
