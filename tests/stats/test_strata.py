"Strata against other libraries, and what a simulation says of them."

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import StratifiedTable

from seatrial.stats.comparison import Comparison, NotEnough, equivalence, welch
from seatrial.stats.moments import Moments
from seatrial.stats.proportion import Count
from seatrial.stats.strata import by_stratum, mantel_haenszel, one_way, stratified, variance_saved

seeds = st.integers(0, 2**32 - 1)


def trial(seed: int, n: int = 120, kinds: int = 3) -> tuple[dict, dict]:
    rng = np.random.default_rng(seed)
    kind, treated = rng.integers(0, kinds, n), rng.random(n) < 0.5
    y = 5 + 2 * kind + rng.normal(size=n) + 0.5 * treated
    return tuple(by_stratum(y[m], kind[m]) for m in (~treated, treated))


@given(seeds)
def test_the_f_test_is_that_of_scipy(seed):
    rng = np.random.default_rng(seed)
    groups = [rng.normal(rng.normal(), 1 + rng.random(), rng.integers(2, 30)) for _ in range(rng.integers(2, 6))]
    ours, theirs = one_way({i: Moments.of(g) for i, g in enumerate(groups)}), stats.f_oneway(*groups)
    assert ours.f == pytest.approx(theirs.statistic, rel=1e-9)
    assert ours.p_value == pytest.approx(theirs.pvalue, rel=1e-7)
    everybody = np.concatenate(groups)
    assert ours.between + ours.within == pytest.approx(everybody.var() * everybody.size, rel=1e-10)


@given(seeds, st.booleans(), st.sampled_from(["two-sided", "greater", "less"]))
def test_one_stratum_is_welchs_test(seed, relative, side):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(3, 1, 12), rng.normal(4, 2, 17)
    how = {"relative": relative, "side": side}
    ours, theirs = stratified({"all": Moments.of(x)}, {"all": Moments.of(y)}, **how), welch(x, y, **how)
    for name in ("effect", "lower", "upper", "p_value", "baseline", "standardized"):
        assert getattr(ours, name) == pytest.approx(getattr(theirs, name), rel=1e-9)


@given(seeds)
def test_the_estimate_is_the_weighed_difference_and_given_weights_have_the_textbook_variance(seed):
    c, t = trial(seed)
    assume(all(m.n > 1 for arm in (c, t) for m in arm.values()) and c.keys() == t.keys())
    weights = {s: s + 1.0 for s in c}
    found, total = stratified(c, t, weights=weights), sum(weights.values())
    w = {s: v / total for s, v in weights.items()}
    assert found.effect == pytest.approx(sum(w[s] * (t[s].mean - c[s].mean) for s in w), rel=1e-9)
    se = math.sqrt(sum(w[s] ** 2 * (c[s].variance / c[s].n + t[s].variance / t[s].n) for s in w))
    z = (found.upper - found.lower) / 2 / se
    assert 1.96 < z < 3
    assert stratified(c, t).upper - stratified(c, t).lower > 0


@given(seeds, st.booleans())
def test_the_interval_excludes_null_exactly_where_p_is_below_alpha(seed, relative):
    found = stratified(*trial(seed, n=40, kinds=2), relative=relative)
    if (
        isinstance(found, Comparison)
        and abs(found.p_value - 0.05) > (0.01 if relative else 1e-9)
        and math.isfinite(found.lower)
    ):
        assert found.significant == (found.p_value < 0.05)


@given(seeds)
def test_the_two_scales_ask_one_question_when_nothing_differs(seed):
    c, t = trial(seed)
    a, b = stratified(c, t), stratified(c, t, relative=True)
    assert a.p_value == pytest.approx(b.p_value, rel=1e-9) and a.lift == pytest.approx(b.effect, rel=1e-9)


@given(seeds)
def test_shards_of_a_stratum_add_up(seed):
    rng = np.random.default_rng(seed)
    x, kind = rng.normal(size=200), rng.choice(["a", "b", "c"], 200)
    whole = by_stratum(x, kind)
    halves = [by_stratum(x[i::2], kind[i::2]) for i in (0, 1)]
    merged = {s: halves[0].get(s, Moments()) + halves[1].get(s, Moments()) for s in whole}
    assert all(merged[s].n == m.n and merged[s].m2 == pytest.approx(m.m2, rel=1e-10) for s, m in whole.items())
    assert {s: m.n for s, m in whole.items()} == {s: int((kind == s).sum()) for s in np.unique(kind)}


@pytest.mark.parametrize(("relative", "counted"), [(False, True), (False, False), (True, True), (True, False)])
def test_intervals_hold_the_truth_at_the_stated_rate(relative, counted):
    rng, held, runs = np.random.default_rng(7), 0, 1200
    for _ in range(runs):
        kind, treated = rng.integers(0, 2, 100), rng.random(100) < 0.5
        y = 4 + 3 * kind + rng.normal(size=100) + treated * (2 * kind)  # control 5.5, effect 1
        c, t = (by_stratum(y[m], kind[m]) for m in (~treated, treated))
        found = stratified(c, t, relative=relative, weights=None if counted else {0: 1, 1: 1})
        held += found.lower <= (1 / 5.5 if relative else 1.0) <= found.upper
    error = math.sqrt(0.95 * 0.05 / runs)
    assert abs(held / runs - 0.95) < 4 * error


def test_what_strata_explain_is_saved():
    c, t = trial(1, n=20_000, kinds=4)
    within, between = 1, 4 * 1.25
    assert variance_saved(c, t) == pytest.approx(between / (between + within), abs=0.02)
    same = {s: Moments(m.n, 0.0, float(m.n)) for s, m in c.items()}
    assert abs(variance_saved(same, same)) < 0.01
    assert math.isnan(variance_saved({"a": Moments()}, {"a": Moments()}))


def test_the_question_may_be_a_margin():
    assert equivalence(stratified, *trial(3, n=20_000), margin=0.6).verdict == "equivalent"


count = st.integers(0, 20)
counts = st.lists(st.tuples(count, count, count, count), min_size=1, max_size=8)


def tables(rows: list) -> tuple[dict, dict]:
    control = {i: (a, a + b) for i, (a, b, _, _) in enumerate(rows)}
    return control, {i: (c, c + d) for i, (_, _, c, d) in enumerate(rows)}


@given(seeds)
def test_the_test_of_no_difference_is_near_that_of_cochran_mantel_and_haenszel(seed):
    rng = np.random.default_rng(seed)
    base, rows = rng.uniform(0.2, 0.7, 30), []
    for p in base:
        k, j = rng.binomial(40, p), rng.binomial(40, p + 0.02)
        rows.append((k, 40 - k, j, 40 - j))
    theirs = StratifiedTable([np.array([[j, 40 - j], [k, 40 - k]]) for k, _, j, _ in rows]).test_null_odds()
    ours = mantel_haenszel(*tables(rows))
    z = stats.norm.isf(ours.p_value / 2)
    assert z == pytest.approx(math.sqrt(theirs.statistic), rel=0.05, abs=0.02)


@given(counts)
def test_a_difference_of_rates_lies_between_those_of_the_strata_or_there_is_not_enough(rows):
    control, treatment = tables(rows)
    found = mantel_haenszel(control, treatment)
    if isinstance(found, NotEnough):
        return
    both = [s for s in control if control[s][1] and treatment[s][1]]
    deltas = [treatment[s][0] / treatment[s][1] - control[s][0] / control[s][1] for s in both]
    assert min(deltas) - 1e-12 <= found.effect <= max(deltas) + 1e-12
    assert 0 <= found.p_value <= 1 and found.lower <= found.effect <= found.upper
    mirrored = mantel_haenszel(treatment, control)
    assert (mirrored.lower, mirrored.upper) == pytest.approx((-found.upper, -found.lower), abs=1e-9)


def test_sparse_strata_keep_the_promise():
    rng, held, runs = np.random.default_rng(2), 0, 800
    for _ in range(runs):
        p, visits = rng.beta(2, 4, 200) * 0.85, rng.poisson(1.5, (2, 200))
        k, j = rng.binomial(visits[0], p), rng.binomial(visits[1], p + 0.1)
        c, t = (
            {i: (int(a), int(b)) for i, (a, b) in enumerate(zip(hits, n, strict=True))}
            for hits, n in ((k, visits[0]), (j, visits[1]))
        )
        found = mantel_haenszel(c, t)
        held += found.lower <= 0.1 <= found.upper
    assert abs(held / runs - 0.95) < 4 * math.sqrt(0.95 * 0.05 / runs)


some = {"a": Moments(5, 1.0, 2.0), "b": Moments(5, 2.0, 2.0)}


@pytest.mark.parametrize(
    ("control", "treatment", "words"),
    [
        ({"a": some["a"]}, some, "control has 0 units of stratum 'b'"),
        (some, some | {"b": Moments(1, 2.0, 0.0)}, "treatment has 1 units of stratum 'b'"),
        ({}, {}, "noise is unknown"),
        ({"a": Moments(5, 1.0, 0.0)}, {"a": Moments(5, 2.0, 0.0)}, "noise is unknown"),
    ],
)
def test_too_little_is_a_result_that_names_the_stratum(control, treatment, words):
    found = stratified(control, treatment)
    assert isinstance(found, NotEnough) and words in found.why


@pytest.mark.parametrize(
    ("weights", "message"),
    [({"a": 1.0}, "got none for 'b'"), ({"a": -1.0, "b": 2.0}, "weights must be >= 0"), ({"a": 0, "b": 0}, "sum > 0")],
)
def test_weights_that_cannot_be_meant_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        stratified(some, some, weights=weights)


@pytest.mark.parametrize("bad", [(-1, 2), (3, 2), (0.5, 2)])
def test_counts_that_cannot_be_are_refused_by_their_stratum(bad):
    with pytest.raises(ValueError, match="treatment must have whole numbers with 0 <= k <= n in stratum 'shop'"):
        mantel_haenszel({"shop": (1, 2)}, {"shop": bad})


def test_groups_without_variation_have_no_f():
    assert isinstance(one_way({"a": Moments(3, 1.0, 0.0), "b": Moments(3, 2.0, 0.0)}), NotEnough)
    assert isinstance(one_way({"a": Moments(3, 1.0, 1.0)}), NotEnough)
    assert isinstance(one_way({}), NotEnough)


def test_values_and_strata_must_pair_up():
    with pytest.raises(ValueError, match="must pair up one to one, got 2 and 3"):
        by_stratum([1.0, 2.0], ["a", "b", "c"])
    assert by_stratum([], []) == {}


def test_a_lift_that_does_not_exist_is_not_enough_data():
    c, zeros = {"a": Moments.of([1.0, 2.0, 3.0])}, {"a": Moments.of([0.0, 0.0, 0.0])}
    assert isinstance(stratified(c, zeros, relative=True), NotEnough)
    assert isinstance(stratified({"a": Moments.of([-1.0, 0.0, 1.0])}, c, relative=True), NotEnough)


def test_one_stratum_has_the_lift_of_welch():
    c, t = Moments.of([3.0, 4.0, 5.0, 7.0]), Moments.of([4.0, 6.0, 6.5, 8.0])
    ours, theirs = stratified({"a": c}, {"a": t}, relative=True, weights={"a": 1}), welch(c, t, relative=True)
    assert (ours.effect, ours.lower, ours.upper) == pytest.approx((theirs.effect, theirs.lower, theirs.upper))


def test_what_is_no_summary_by_stratum_is_refused():
    with pytest.raises(ValueError, match="control must map every stratum to its Moments"):
        stratified({"a": [1.0, 2.0, 3.0]}, {"a": [1.0, 2.0, 3.0]})


def test_rates_over_strata_take_counts_and_refuse_what_is_none():
    counts = {"a": (3, 10), "b": (5, 9)}, {"a": (6, 12), "b": (7, 9)}
    as_counts = [{s: Count(*x) for s, x in arm.items()} for arm in counts]
    assert mantel_haenszel(*as_counts) == mantel_haenszel(*counts)
    with pytest.raises(ValueError, match="null must lie strictly between -1 and 1, got null=2"):
        mantel_haenszel(*counts, null=2)
    with pytest.raises(ValueError, match="control must have whole numbers with 0 <= k <= n"):
        mantel_haenszel({"a": (math.inf, math.inf)}, counts[1])
