"Corrections for many hypotheses: against scipy and statsmodels, by brute force, and as promises that are counted."

import math
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from seatrial.stats.comparison import NotEnough, welch
from seatrial.stats.moments import Moments
from seatrial.stats.multiple import (
    PROCEDURES,
    adjust,
    benjamini_hochberg,
    benjamini_yekutieli,
    bonferroni,
    e_bh,
    e_closed,
    e_values,
    hochberg,
    holm,
    shared,
    simultaneous,
)
from seatrial.stats.sequential import always_valid

p_values = st.lists(st.floats(0, 1), min_size=1, max_size=60)
some_e = st.lists(st.floats(0, 200), min_size=1, max_size=7)
PUBLISHED = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459]
PUBLISHED += [0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0000]
THEIRS = {
    "bonferroni": "bonferroni",
    "holm": "holm",
    "hochberg": "simes-hochberg",
    "benjamini_hochberg": "fdr_bh",
    "benjamini_yekutieli": "fdr_by",
}
WAITING = NotEnough(2, 1, "a variance takes at least two values in each sample")


@given(p_values)
def test_adjusted_values_are_those_of_scipy(p):
    assert np.allclose(benjamini_hochberg(p).adjusted, stats.false_discovery_control(p))
    assert np.allclose(benjamini_yekutieli(p).adjusted, stats.false_discovery_control(p, method="by"))


@pytest.mark.parametrize("method", list(PROCEDURES))
@settings(max_examples=40)
@given(p=p_values)
def test_adjusted_values_are_those_of_statsmodels(method, p):
    assert np.allclose(adjust(p, method).adjusted, multipletests(p, method=THEIRS[method])[1])


@given(p_values, st.floats(0.001, 0.5))
def test_the_rejected_are_those_of_the_step_up_rule(p, q):
    ordered = np.sort(p)
    passed = np.flatnonzero(ordered <= q * np.arange(1, len(p) + 1) / len(p))
    last = ordered[passed[-1]] if passed.size else -1.0
    assert benjamini_hochberg(p, q).rejected.sum() == pytest.approx((np.array(p) <= last).sum(), abs=_ties(p, q))


def _ties(p, q):
    "Values that lie within rounding of their threshold may fall on either side."
    scaled = np.sort(p) * len(p) / np.arange(1, len(p) + 1)
    return len(p) if np.isclose(scaled, q, rtol=1e-12, atol=0).any() else 0


@given(p_values)
def test_each_procedure_rejects_what_the_more_cautious_one_does(p):
    chain = [f(p).adjusted for f in (bonferroni, holm, hochberg, benjamini_hochberg)]
    for cautious, bold in pairwise(chain):
        assert (bold <= cautious * (1 + 1e-12)).all()


@pytest.mark.parametrize("method", list(PROCEDURES))
@settings(max_examples=40)
@given(p=p_values, strict=st.floats(0.001, 0.2), generous=st.floats(0.2, 0.9))
def test_a_more_generous_rate_never_takes_a_rejection_back(method, p, strict, generous):
    assert (adjust(p, method, strict).rejected <= adjust(p, method, generous).rejected).all()


@pytest.mark.parametrize("method", list(PROCEDURES))
@settings(max_examples=40)
@given(p=p_values, random=st.randoms(use_true_random=False))
def test_the_order_does_not_matter(method, p, random):
    order = list(range(len(p)))
    random.shuffle(order)
    assert np.array_equal(adjust(np.array(p)[order], method).adjusted, adjust(p, method).adjusted[order])


def test_the_published_example_has_four_discoveries_and_bonferroni_three():
    assert benjamini_hochberg(PUBLISHED, 0.05).rejected.sum() == 4
    assert bonferroni(PUBLISHED, 0.05).rejected.sum() == 3


@pytest.mark.parametrize("method", list(PROCEDURES))
@settings(max_examples=40)
@given(p=p_values, silent=st.integers(1, 5))
def test_a_comparison_without_an_answer_counts_and_is_never_rejected(method, p, silent):
    found = adjust([*p, *[WAITING] * silent], method, 0.99)
    assert np.isnan(found.adjusted[len(p) :]).all() and not found.rejected[len(p) :].any()
    assert np.allclose(found.adjusted[: len(p)], adjust([*p, *[1.0] * silent], method).adjusted[: len(p)])


@pytest.mark.parametrize("method", list(PROCEDURES))
def test_comparisons_are_taken_as_they_are(method):
    seen = [welch([1.0, 2.0, 3.0], [9.0, 8.0, 8.5]), welch([1.0, 2.0, 3.0], [2.0, 1.0, 3.0])]
    assert np.array_equal(adjust(seen, method).adjusted, adjust([c.p_value for c in seen], method).adjusted)
    assert "without an answer" in adjust([*seen, WAITING], method)._repr_markdown_()


def test_tiny_p_values_stay_apart():
    assert holm([1e-300, 1e-250, 0.5]).adjusted[0] == 3e-300


@given(some_e)
def test_closed_testing_by_averages_agrees_with_all_groups(e):
    for i, adjusted in enumerate(e_closed(e).adjusted):
        rest = e[:i] + e[i + 1 :]
        groups = [(e[i], *g) for k in range(len(rest) + 1) for g in combinations(rest, k)]
        weakest = min(sum(g) / len(g) for g in groups)
        assert adjusted == pytest.approx(min(1.0, 1 / weakest if weakest else math.inf))


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=30))
def test_averages_reject_whatever_holm_does(e):
    inverse = [min(1.0, 1 / x) if x > 0 else 1.0 for x in e]
    assert (e_closed(e).adjusted <= holm(inverse).adjusted * (1 + 1e-12)).all()


@given(st.lists(st.floats(0, 1e4), min_size=1, max_size=30), st.floats(0.01, 0.5))
def test_e_bh_rejects_the_k_largest_that_reach_m_over_kq(e, q):
    ordered, k = np.sort(e)[::-1], np.arange(1, len(e) + 1)
    reached = np.flatnonzero(ordered * k * q * (1 + 1e-12) >= len(e))
    strictly = np.flatnonzero(ordered * k * q * (1 - 1e-12) >= len(e))
    most, least = (int(r[-1]) + 1 if r.size else 0 for r in (reached, strictly))
    ties = (np.array(e) == ordered[max(most - 1, 0)]).sum()
    assert least <= e_bh(e, q).rejected.sum() <= most + ties * (most > 0)


def test_an_infinite_e_value_is_always_rejected():
    for test in (e_bh, e_closed):
        assert test([math.inf, 0.0, 0.5]).rejected.tolist() == [True, False, False]


def test_e_values_of_comparisons_are_inverse_p_values():
    clear = always_valid(Moments(500, 0.0, 499.0), Moments(500, 0.5, 499.0))
    nothing = always_valid(Moments(500, 0.0, 499.0), Moments(500, 0.0, 499.0))
    assert e_values([clear, nothing, WAITING]).tolist() == [1 / clear.p_value, 0.0, 0.0]


def test_simultaneous_intervals_divide_alpha_by_weight():
    arms = {name: (Moments(50, 0.0, 49.0), Moments(50, 0.2, 49.0)) for name in "abc"}
    assert {c.alpha for c in simultaneous(welch, arms).values()} == {0.05 / 3}
    weighted = simultaneous(welch, arms, weights={"a": 2, "b": 1, "c": 1}, side="greater")
    assert [c.alpha for c in weighted.values()] == [0.025, 0.0125, 0.0125] and weighted["a"].side == "greater"


@given(st.floats(0.001, 0.5), st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=10))
def test_shares_of_alpha_add_up_to_it(alpha, weights):
    assert sum(shared(alpha, dict(enumerate(weights))).values()) == pytest.approx(alpha)


def _looks(runs, looks, batch, m, rng):
    "Moments after every batch of two arms that do not differ, metrics correlated by 0.5."
    arms = []
    for _ in range(2):
        x = np.sqrt(0.5) * (rng.normal(size=(runs, looks * batch, 1)) + rng.normal(size=(runs, looks * batch, m)))
        s, ss = (np.cumsum(v, axis=1)[:, batch - 1 :: batch] for v in (x, x * x))
        n = batch * np.arange(1, looks + 1)[:, None]
        arms.append((s / n, ss - s * s / n))
    return arms


def test_holm_on_always_valid_p_values_keeps_the_family_error_at_every_look():
    runs, looks, batch, m = 60, 10, 40, 20
    arms, alarms = _looks(runs, looks, batch, m, np.random.default_rng(3)), 0
    for run in range(runs):
        ever = False
        for look in range(looks):
            n = batch * (look + 1)
            pairs = [[Moments(n, mean[run, look, j], m2[run, look, j]) for mean, m2 in arms] for j in range(m)]
            seen = [always_valid(*pair) for pair in pairs]
            ever |= bool(holm(seen).rejected.any() or e_closed(e_values(seen)).rejected.any())
        alarms += ever
    assert alarms / runs <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


@pytest.mark.parametrize("rho", [0.0, 0.5])
def test_the_promised_rates_hold_for_fixed_sizes(rho):
    runs, m, moved = 1500, 20, 10
    rng = np.random.default_rng(7)
    z = np.sqrt(rho) * rng.normal(size=(runs, 1)) + np.sqrt(1 - rho) * rng.normal(size=(runs, m))
    p = stats.norm.sf(z + 3 * (np.arange(m) < moved))
    for name, f in PROCEDURES.items():
        hit = np.array([f(row).rejected for row in p])
        vain = hit[:, moved:].sum(1)
        wrong = vain > 0 if f(p[0]).promise == "family-wise error" else vain / np.maximum(hit.sum(1), 1)
        assert wrong.mean() <= 0.05 + 3 * wrong.std() / math.sqrt(runs), name


@pytest.mark.parametrize("f", list(PROCEDURES.values()))
@pytest.mark.parametrize(
    ("bad", "message"),
    [([0.1, math.nan], "p_values must be finite, got 1 NaN"), ([-0.1], "between 0 and 1"), ([1.1], "between 0 and 1")],
)
def test_what_is_no_p_value_is_refused(f, bad, message):
    with pytest.raises(ValueError, match=message):
        f(bad)


@pytest.mark.parametrize("f", [e_bh, e_closed])
@pytest.mark.parametrize("bad", [[1.0, -0.1], [math.nan]])
def test_what_is_no_e_value_is_refused(f, bad):
    with pytest.raises(ValueError, match="e_values must be at least 0"):
        f(bad)


@pytest.mark.parametrize("q", [0, 1, 5])
def test_a_rate_outside_its_range_is_refused(q):
    with pytest.raises(ValueError, match="q must lie strictly between 0 and 1"):
        benjamini_hochberg([0.1], q)
    for f in (bonferroni, holm, hochberg, e_closed):
        with pytest.raises(ValueError, match="level must lie strictly between 0 and 1"):
            f([0.1], q)


def test_what_cannot_be_meant_is_refused():
    with pytest.raises(ValueError, match="method must be one of bonferroni, holm"):
        adjust([0.1], "sidak")
    with pytest.raises(ValueError, match="weights must be positive"):
        shared(0.05, {"a": 1.0, "b": 0.0})
    with pytest.raises(ValueError, match="weights must name the metrics"):
        simultaneous(welch, {"a": ([1.0, 2.0], [2.0, 3.0])}, weights={"b": 1.0})


@pytest.mark.parametrize("f", [*PROCEDURES.values(), e_bh, e_closed])
def test_no_hypotheses_no_discoveries(f):
    assert f([]).rejected.size == 0 and f([]).adjusted.size == 0


def test_a_mapping_is_corrected_in_its_order_and_a_table_is_refused():
    assert holm({"a": 0.01, "b": 0.6}).adjusted.tolist() == holm([0.01, 0.6]).adjusted.tolist()
    with pytest.raises(ValueError, match="p_values must be one list of numbers, got 2 dimensions"):
        holm(np.full((2, 2), 0.01))


def test_an_alpha_cannot_be_shared_among_nobody():
    with pytest.raises(ValueError, match="weights must name at least one part of alpha, got none"):
        shared(0.05, {})
