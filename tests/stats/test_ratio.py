"Ratios and clusters against other libraries, and what a simulation says of them."

import math

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st

from seatrial.stats.comparison import NotEnough, non_inferiority, paired, welch
from seatrial.stats.joint import Joint, clustered
from seatrial.stats.moments import Moments
from seatrial.stats.ratio import (
    clustered_means,
    design_effect,
    effective,
    linearized,
    paired_clusters,
    ratio_of_means,
    weighing,
)

seeds = st.integers(0, 2**32 - 1)


def arm(seed: int, n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    below = 1.0 + rng.poisson(rng.gamma(1, 5, n))
    return below * rng.gamma(2, 1, n), below


@given(seeds)
def test_the_variance_is_that_of_a_regression_with_clustered_errors(seed):
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 25, 300)
    y = rng.normal(size=300) + rng.normal(size=25)[ids]
    groups = np.unique(ids).size
    fit = sm.OLS(y, np.ones(300)).fit(cov_type="cluster", cov_kwds={"groups": ids, "use_correction": False})
    j = clustered(y, ids)
    assert linearized(j).m2 / groups**2 == pytest.approx(fit.cov_params()[0, 0], rel=1e-9)
    m, worth = weighing(j), effective(j)
    assert m.variance / m.n == pytest.approx(fit.cov_params()[0, 0] * worth / (worth - 1), rel=1e-9)


@given(seeds, st.booleans(), st.sampled_from(["two-sided", "greater", "less"]), st.floats(-0.5, 0.5))
def test_equal_weights_are_welchs_test(seed, relative, side, null):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(3, 1, 12), rng.normal(4, 2, 17)
    how = {"relative": relative, "side": side, "null": null}
    ours, theirs = ratio_of_means((2 * x, np.full(12, 2.0)), (2 * y, np.full(17, 2.0)), **how), welch(x, y, **how)
    for name in ("effect", "lower", "upper", "p_value", "baseline", "standardized"):
        assert getattr(ours, name) == pytest.approx(getattr(theirs, name), rel=1e-7)
    assert (ours.n_control, ours.n_treatment) == (12, 17)


@given(seeds, st.booleans())
def test_columns_tables_and_merged_shards_have_one_answer(seed, relative):
    c, t = arm(seed), arm(seed + 1)
    whole = ratio_of_means(c, t, relative=relative)
    table = ratio_of_means(np.column_stack(c), np.column_stack(t), relative=relative)
    parts = [[Joint.of(*p) for p in zip(*(np.array_split(v, 7) for v in a), strict=True)] for a in (c, t)]
    merged = ratio_of_means(*(sum(p[1:], p[0]) for p in parts), relative=relative)
    assert table == whole and merged.lower == pytest.approx(whole.lower, rel=1e-9)
    assert merged.p_value == pytest.approx(whole.p_value, rel=1e-7)


@given(seeds, st.floats(0.01, 100), st.floats(0.01, 100))
def test_a_lift_knows_no_units(seed, above, below):
    c, t = arm(seed), arm(seed + 1)
    scaled = [(above * x, below * y) for x, y in (c, t)]
    a, b = ratio_of_means(c, t, relative=True), ratio_of_means(*scaled, relative=True)
    assert (b.effect, b.lower, b.upper) == pytest.approx((a.effect, a.lower, a.upper), rel=1e-7, abs=1e-9)


@given(seeds, st.booleans())
def test_the_interval_excludes_null_exactly_where_p_is_below_alpha(seed, relative):
    found = ratio_of_means(arm(seed, 15), arm(seed + 1, 15), relative=relative)
    near = 0.01 if relative else 1e-9  # Satterthwaite's degrees of freedom depend on the lift that is asked about
    if abs(found.p_value - 0.05) > near and math.isfinite(found.lower):
        assert found.significant == (found.p_value < 0.05)


def test_clustered_means_are_ratios_of_sums_and_counts():
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 40, (2, 300)).astype(str)
    x, y = rng.normal(size=(2, 300))
    a = clustered_means(x, y, clusters=(ids[0], ids[1]))
    b = ratio_of_means(clustered(x, ids[0]), clustered(y, ids[1]))
    assert (a.lower, a.upper, a.p_value) == (b.lower, b.upper, b.p_value)
    assert a.effect == pytest.approx(y.mean() - x.mean(), rel=1e-9) and a.n_control == np.unique(ids[0]).size


def test_rows_that_are_their_own_clusters_have_no_design_effect():
    x = np.random.default_rng(0).normal(size=500)
    assert design_effect(x, np.arange(500)) == pytest.approx(1, rel=1e-12)
    assert design_effect(np.repeat(x, 10), np.repeat(np.arange(500), 10)) == pytest.approx(10, rel=0.01)
    assert math.isnan(design_effect(np.ones(10), np.arange(10)))


@pytest.mark.parametrize("relative", [False, True])
def test_intervals_hold_the_truth_at_the_stated_rate(relative):
    rng, held, runs = np.random.default_rng(5), 0, 1500
    for _ in range(runs):
        arms = []
        for lift in (1.0, 1.4):
            below = 1.0 + rng.poisson(rng.gamma(1, 5, 30))
            arms.append((lift * rng.binomial(below.astype(int), rng.beta(2, 8, 30)), below))
        found = ratio_of_means(*arms, relative=relative)
        held += found.lower <= (0.4 if relative else 0.08) <= found.upper
    assert held / runs > 0.95 - 4 * math.sqrt(0.95 * 0.05 / runs)


def test_the_question_may_be_a_margin():
    found = non_inferiority(ratio_of_means, arm(1, 5000), arm(2, 5000), margin=0.2)
    assert found.verdict == "non-inferior"


def test_far_out_p_values_are_not_flushed():
    c, t = (np.full(40, 5.0), np.ones(40)), (np.full(40, 6.0), np.ones(40))
    rng = np.random.default_rng(0)
    c, t = (c[0] + 1e-3 * rng.normal(size=40), c[1]), (t[0] + 1e-3 * rng.normal(size=40), t[1])
    assert 0 < ratio_of_means(c, t).p_value < 1e-190


@pytest.mark.parametrize(
    ("control", "treatment"),
    [
        (([0.0, 0.0], [0.0, 0.0]), arm(1)),
        (arm(1), ([], [])),
        (([1.0], [1.0]), arm(1)),
        (([1.0, 900.0], [1.0, 900.0]), arm(1)),
        (([1.0, 1.0, 1.0], [1.0, 1.0, 1.0]), ([2.0, 2.0, 2.0], [2.0, 2.0, 2.0])),
    ],
)
@pytest.mark.parametrize("relative", [False, True])
def test_too_little_is_a_result_of_its_own(control, treatment, relative):
    found = ratio_of_means(control, treatment, relative=relative)
    assert isinstance(found, NotEnough) and found.needed > 0 and found.why


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ((np.ones(5), "control"), "control must have two columns"),
        ((np.ones((5, 3)), "control"), "control must have two columns"),
        ((([1.0, math.nan], [1.0, 1.0]), "control"), "control above the line must be finite"),
        ((([1.0, 2.0], [1.0]), "control"), "columns must be of one length"),
    ],
)
def test_what_is_no_pair_of_columns_is_refused_by_name(bad, message):
    with pytest.raises(ValueError, match=message):
        ratio_of_means(bad[0], arm(1))


@pytest.mark.parametrize("how", [{"alpha": 1.5}, {"side": "both"}, {"null": math.nan}])
def test_bad_questions_are_refused_even_without_data(how):
    with pytest.raises(ValueError, match=next(iter(how))):
        ratio_of_means(([], []), ([], []), **how)


def test_a_ratio_of_nothing_is_refused():
    with pytest.raises(ValueError, match="below the line must not be 0"):
        linearized(Joint.of([1.0], [0.0]))
    assert isinstance(linearized(Joint.of([1.0, 2.0], [1.0, 1.0])), Moments)


@pytest.mark.parametrize("clusters", [None, ([1, 2, 3],), 5])
def test_clusters_that_are_not_two_columns_are_refused(clusters):
    with pytest.raises(ValueError, match="clusters must be two columns, of control and of treatment, got"):
        clustered_means([1.0, 2, 3], [1.0, 2, 3], clusters=clusters)


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("side", ["two-sided", "greater", "less"])
def test_paired_clusters_of_one_row_are_the_paired_t_test(side, relative):
    rng = np.random.default_rng(3)
    x = rng.lognormal(size=40)
    y = 1.1 * x + rng.normal(0, 0.3, 40)
    ours = paired_clusters(x, y, 0.1, clusters=np.arange(40), side=side, relative=relative, null=0.02)
    theirs = paired(x, y, 0.1, side=side, relative=relative, null=0.02)
    for name in ("effect", "lower", "upper", "p_value", "n_control", "baseline", "standardized"):
        assert getattr(ours, name) == pytest.approx(getattr(theirs, name), rel=1e-9)


def test_paired_clusters_weigh_rows_and_not_clusters():
    x, y = np.zeros(6), np.array([1.0, 1.0, 1.0, 1.2, 3.0, 0.5])
    found = paired_clusters(x, y, clusters=["a", "a", "a", "b", "b", "c"])
    assert found.effect == pytest.approx(y.mean()) and found.n_control == 3
    assert isinstance(paired_clusters(x, y, clusters=["a"] * 6), NotEnough)
    assert isinstance(paired_clusters(x, x, clusters=np.arange(6)), NotEnough)
    with pytest.raises(ValueError, match="must have one entry a row"):
        paired_clusters(x, y, clusters=["a"])
