"Group-sequential designs: published tables, exact error rates, and what a look answers."

import math
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from seatrial.stats.comparison import Comparison, NotEnough, non_inferiority, welch
from seatrial.stats.group import (
    chance,
    constant_error,
    crossing,
    decide,
    drift_needed,
    exceeds,
    expected_information,
    final,
    futile,
    inflation,
    look,
    obrien_fleming,
    pocock,
    repeated_p,
    spending,
    spent,
    wang_tsiatis,
)
from seatrial.stats.moments import Moments

# Jennison and Turnbull (2000), tables 2.1 and 2.3, K = 1 ... 10
POCOCK = {
    0.01: [2.576, 2.772, 2.873, 2.939, 2.986, 3.023, 3.053, 3.078, 3.099, 3.117],
    0.05: [1.960, 2.178, 2.289, 2.361, 2.413, 2.453, 2.485, 2.512, 2.535, 2.555],
    0.10: [1.645, 1.875, 1.992, 2.067, 2.122, 2.164, 2.197, 2.225, 2.249, 2.270],
}
OBRIEN_FLEMING = {
    0.01: [2.576, 2.580, 2.595, 2.609, 2.621, 2.631, 2.640, 2.648, 2.654, 2.660],
    0.05: [1.960, 1.977, 2.004, 2.024, 2.040, 2.053, 2.063, 2.072, 2.080, 2.087],
    0.10: [1.645, 1.678, 1.710, 1.733, 1.751, 1.765, 1.776, 1.786, 1.794, 1.801],
}
# inflation factors, ibid., tables 2.2 and 2.4
POCOCK_MORE = {
    (0.8, 0.01): [1.000, 1.092, 1.137, 1.166, 1.187, 1.203, 1.216, 1.226, 1.236, 1.243],
    (0.8, 0.05): [1.000, 1.110, 1.166, 1.202, 1.229, 1.249, 1.265, 1.279, 1.291, 1.301],
    (0.8, 0.10): [1.000, 1.121, 1.184, 1.224, 1.254, 1.277, 1.296, 1.311, 1.325, 1.337],
    (0.9, 0.01): [1.000, 1.084, 1.125, 1.152, 1.170, 1.185, 1.197, 1.206, 1.215, 1.222],
    (0.9, 0.05): [1.000, 1.100, 1.151, 1.183, 1.207, 1.225, 1.239, 1.252, 1.262, 1.271],
    (0.9, 0.10): [1.000, 1.110, 1.166, 1.202, 1.228, 1.249, 1.266, 1.280, 1.292, 1.302],
}
OBRIEN_FLEMING_MORE = {
    (0.8, 0.01): [1.000, 1.001, 1.007, 1.011, 1.015, 1.017, 1.019, 1.021, 1.022, 1.024],
    (0.8, 0.05): [1.000, 1.008, 1.017, 1.024, 1.028, 1.032, 1.035, 1.037, 1.038, 1.040],
    (0.8, 0.10): [1.000, 1.016, 1.027, 1.035, 1.040, 1.044, 1.047, 1.049, 1.051, 1.053],
    (0.9, 0.01): [1.000, 1.001, 1.006, 1.010, 1.014, 1.016, 1.018, 1.020, 1.021, 1.022],
    (0.9, 0.05): [1.000, 1.007, 1.016, 1.022, 1.026, 1.030, 1.032, 1.034, 1.036, 1.037],
    (0.9, 0.10): [1.000, 1.014, 1.025, 1.032, 1.037, 1.041, 1.044, 1.046, 1.048, 1.049],
}
LD98 = [2.4380, 2.4268, 2.4101, 2.3966, 2.3859]  # printed; a finer grid moves their last digit by one
DESIGNS = [pocock(4), spending([0.2, 0.3, 0.7, 1.0]), spending(4, 0.025, 2, "greater")]
TIMES = st.lists(st.floats(0.02, 0.98), max_size=8, unique_by=lambda v: round(v, 2)).map(lambda v: [*sorted(v), 1.0])


@pytest.mark.parametrize(("make", "table"), [(pocock, POCOCK), (obrien_fleming, OBRIEN_FLEMING)])
def test_constants_are_those_of_jennison_and_turnbull(make, table):
    for alpha, row in table.items():
        ours = [make(k, alpha).upper[-1] for k in range(1, 11)]
        np.testing.assert_allclose(ours, row, atol=5.1e-4)


@pytest.mark.parametrize(("make", "table"), [(pocock, POCOCK_MORE), (obrien_fleming, OBRIEN_FLEMING_MORE)])
def test_inflation_factors_are_those_of_jennison_and_turnbull(make, table):
    for (power, alpha), row in table.items():
        ours = [inflation(make(k, alpha), power) for k in range(1, 11)]
        np.testing.assert_allclose(ours, row, atol=5.1e-4)


@pytest.mark.parametrize(
    ("looks", "published"),
    [
        (2, [2.963, 1.969]),
        (3, [3.710, 2.511, 1.993]),
        (4, [4.333, 2.963, 2.359, 2.014]),
        (5, [4.877, 3.357, 2.680, 2.290, 2.031]),
    ],
)
def test_spending_like_obrien_fleming_gives_the_published_boundaries(looks, published):
    np.testing.assert_allclose(spending(looks).upper, published, atol=5.1e-4)


def test_spending_like_pocock_gives_the_boundaries_of_ld98():
    np.testing.assert_allclose(spending(5, kind="pocock").upper, LD98, atol=1.1e-4)


def test_uneven_looks_and_futility_are_those_of_gsdesign():
    hwang = partial(lambda gamma, t, alpha: alpha * math.expm1(-gamma * t) / math.expm1(-gamma), -0.5)
    design = futile(spending([0.35, 0.7, 1.0], 0.025, side="greater"), 0.85, hwang)
    np.testing.assert_allclose(design.upper, [3.6128, 2.4406, 2.0002], atol=5.1e-5)
    np.testing.assert_allclose(design.lower[:2], [0.1860, 1.2406], atol=1e-4)
    assert chance(design, drift_needed(design, 0.85)) == pytest.approx(0.85)


@settings(max_examples=15, deadline=None)
@given(TIMES, st.sampled_from([0.01, 0.05, 0.2]), st.sampled_from(["obrien-fleming", "pocock", 1.0, 3.0]))
def test_spending_is_exact_at_any_times(times, alpha, kind):
    for side in ("two-sided", "greater"):
        design = spending(times, alpha, kind, side)
        assert constant_error(times, np.array(design.upper), side) == pytest.approx(alpha, rel=1e-8)


@settings(max_examples=15, deadline=None)
@given(TIMES, st.sampled_from([0.01, 0.05, 0.2]), st.floats(0, 0.5), st.sampled_from(["two-sided", "greater", "less"]))
def test_wang_and_tsiatis_is_exact_at_any_times(times, alpha, shape, side):
    design = wang_tsiatis(times, alpha, side, shape)
    assert constant_error(times, np.array(design.upper), side) == pytest.approx(alpha, rel=1e-8)


@settings(max_examples=15, deadline=None)
@given(TIMES, st.floats(-4, 4), st.floats(1.5, 4))
def test_probabilities_add_up_and_mirror(times, drift, z):
    upper, lower = np.full(len(times), z), np.full(len(times), -1.0)
    p = crossing(times, lower, upper, drift)
    q = crossing(times, -upper, -lower, -drift)
    assert (p >= 0).all() and p.sum() <= 1 + 1e-9
    np.testing.assert_allclose(p, q[:, ::-1], atol=1e-12)


def test_paths_cross_as_often_as_computed():
    t, lower, upper, drift = np.array([0.1, 0.4, 0.45, 1.0]), np.array([-2.0, -1, 0, 1]), np.full(4, 2.2), 1.5
    steps = np.diff(t, prepend=0)
    rng = np.random.default_rng(0)
    z = rng.normal(drift * steps, np.sqrt(steps), (400_000, 4)).cumsum(1) / np.sqrt(t)
    out = (z <= lower) | (z >= upper)
    at = np.where(out.any(1), out.argmax(1), -1)
    ours = crossing(t, lower, upper, drift)
    for k in range(4):
        above = ((at == k) & (z[:, k] >= upper[k])).mean()
        below = ((at == k) & (z[:, k] <= lower[k])).mean()
        assert abs(above - ours[k, 1]) < 4 * math.sqrt(max(above, 1e-5) / 400_000)
        assert abs(below - ours[k, 0]) < 4 * math.sqrt(max(below, 1e-5) / 400_000)


def test_looks_very_close_together_are_resolved():
    t = np.array([0.5, 0.5001, 1.0])
    two, three = crossing(t[[0, 2]], [-9, -9], [2.2, 2.0]), crossing(t, [-9, -9, -9], [2.2, 2.2, 2.0])
    assert 0 < three[:, 1].sum() - two[:, 1].sum() < 1e-3


def test_one_look_is_the_plain_test():
    assert pocock(1).upper[0] == pytest.approx(stats.norm.isf(0.025))
    assert spending(1, 0.025, side="greater").upper[0] == pytest.approx(stats.norm.isf(0.025))
    assert inflation(obrien_fleming(1)) == pytest.approx(1)
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=30), rng.normal(0.5, 2, size=40)
    for how in ({}, {"relative": True}, {"null": 0.3}):
        ours, once = look(pocock(1), 1, x + 5, y + 5, **how), welch(x + 5, y + 5, **how)
        np.testing.assert_allclose(
            [ours.effect, ours.lower, ours.upper, ours.p_value], [once.effect, once.lower, once.upper, once.p_value]
        )


def test_power_rises_and_trials_shorten_with_the_drift():
    design = wang_tsiatis(4)
    powers = [chance(design, m) for m in (0.5, 1, 2, 3, 4, 6)]
    ends = [expected_information(design, m) for m in (0.5, 1, 2, 3, 4, 6)]
    assert powers == sorted(powers) and ends == sorted(ends, reverse=True)


@settings(max_examples=15, deadline=None)
@given(
    st.integers(1, 4),
    st.floats(0.1, 6),
    st.sampled_from(DESIGNS),
)
def test_repeated_p_is_below_alpha_where_the_design_stops(k, z, design):
    p, stops = repeated_p(design, k, z), z >= design.upper[k - 1]
    assert (p <= design.alpha + 1e-7) == stops or abs(z - design.upper[k - 1]) < 1e-6


def test_repeated_p_is_a_tail_far_out():
    for design in (obrien_fleming(5), spending(5), pocock(3, side="greater")):
        p = [repeated_p(design, 3, z) for z in (10.0, 20.0, 30.0)]
        assert 1 > p[0] > p[1] > p[2] > 0 and p[2] < 1e-100
        assert p[2] >= stats.norm.sf(30.0)


def test_interval_excludes_null_exactly_where_p_is_below_alpha():
    rng = np.random.default_rng(2)
    for shift in np.linspace(0, 1, 12):
        x, y = rng.normal(size=60), rng.normal(shift, 1.5, size=50)
        for side in ("two-sided", "greater", "less"):
            for relative in (False, True):
                c = look(obrien_fleming(4, side=side), 3, x + 8, y + 8, relative=relative)
                assert c.significant == (c.p_value < 0.05) and c.side == side


def test_a_gain_for_greater_is_a_loss_for_less():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=80), rng.normal(0.6, 1, size=80)
    up, down = look(pocock(3, side="greater"), 2, x, y), look(pocock(3, side="less"), 2, y, x)
    assert (up.effect, up.lower, up.p_value) == pytest.approx((-down.effect, -down.upper, down.p_value))
    assert up.upper == math.inf and down.lower == -math.inf
    assert decide(pocock(3, side="greater"), 2, x, y) == decide(pocock(3, side="less"), 2, y, x) == "effect"
    ends = final(pocock(3, side="greater"), 2, x, y), final(pocock(3, side="less"), 2, y, x)
    assert ends[0].lower == pytest.approx(-ends[1].upper) and ends[0].effect == pytest.approx(-ends[1].effect)


def test_a_look_serves_as_a_guardrail():
    rng = np.random.default_rng(4)
    x, y = rng.normal(10, 1, 4000), rng.normal(10, 1, 4000)
    judged = non_inferiority(partial(look, spending(4), 2), x, y, margin=0.3)
    assert judged.verdict == "non-inferior" and judged.comparison.method.startswith("look 2 of 4")


def test_decisions_name_every_end():
    design = futile(spending(2, 0.05, side="greater"), 0.8)
    rng = np.random.default_rng(5)
    x = rng.normal(size=200)
    assert decide(design, 1, x, x + 1 + rng.normal(size=200)) == "effect"
    assert decide(design, 1, x, x - 1 + rng.normal(size=200)) == "futility"
    assert decide(design, 2, x, rng.permutation(x)) == "ended"
    assert decide(pocock(2), 1, x, rng.permutation(x)) == "continue"
    assert isinstance(look(design, 1, [1.0], [1.0]), NotEnough) and isinstance(
        final(design, 1, [1.0], [2.0]), NotEnough
    )


def test_a_futility_boundary_ends_null_trials_early_and_keeps_the_level():
    plain = spending(5, 0.025, side="greater")
    design = futile(plain, 0.9, "pocock")
    assert design.upper == plain.upper and all(a < b for a, b in zip(design.lower, design.lower[1:], strict=False))
    assert chance(design, 0.0) < 0.025
    assert expected_information(design, 0.0) < 0.6 < expected_information(plain, 0.0)
    assert 1.0 < inflation(design, 0.9) < 1.4


def test_stage_wise_p_values_are_uniform_and_the_estimate_is_median_unbiased():
    design, drift, rng = obrien_fleming(3), 2.0, np.random.default_rng(6)
    t = np.array(design.information)
    z = rng.normal(drift / 3, math.sqrt(1 / 3), (3000, 3)).cumsum(1) / np.sqrt(t)
    over = np.abs(z) >= np.array(design.upper)
    at = np.where(over.any(1), over.argmax(1), 2)
    p = [exceeds(design, k + 1, row[k], drift) for k, row in zip(at, z, strict=True)]
    assert stats.kstest(p, "uniform").pvalue > 1e-3


def test_final_at_the_only_look_is_the_plain_estimate():
    rng = np.random.default_rng(7)
    x, y = rng.normal(size=3000), rng.normal(0.05, 1, size=3000)
    ended, once = final(pocock(1), 1, x, y), welch(x, y)
    np.testing.assert_allclose(
        [ended.effect, ended.lower, ended.upper, ended.p_value],
        [once.effect, once.lower, once.upper, once.p_value],
        rtol=2e-3,
        atol=1e-5,
    )


def test_summaries_answer_as_samples_do():
    rng = np.random.default_rng(8)
    x, y = rng.normal(size=50), rng.normal(size=60)
    a = look(pocock(3), 2, x, y)
    b = look(pocock(3), 2, Moments.of(x), Moments.of(y))
    assert isinstance(a, Comparison) and a == b


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: pocock(0), "looks must be at least 1, got looks=0"),
        (lambda: pocock([0.5, 1.2]), "must be shares that increase within"),
        (lambda: spending([0.0, 1.0]), "must be shares that increase within"),
        (lambda: spending(3, alpha=5), "alpha must lie strictly between 0 and 1, got alpha=5"),
        (lambda: spending(3, kind="haybittle"), "kind must be one of"),
        (lambda: spending(3, kind=-1), "kind must be a positive finite number"),
        (lambda: wang_tsiatis(3, shape=math.nan), "shape must be a finite number"),
        (lambda: look(pocock(3), 4, [1.0, 2], [1.0, 2]), "got k=4"),
        (lambda: decide(pocock(3), 0, [1.0, 2], [1.0, 2]), "got k=0"),
        (lambda: final(pocock(3), 1.5, [1.0, 2], [1.0, 3]), "got k=1.5"),
        (lambda: look(pocock(3), 1, [1.0, math.nan], [1.0, 2]), "control must be finite"),
        (lambda: futile(pocock(3)), "side must be greater or less"),
        (lambda: drift_needed(pocock(3), 1.0), "power must lie strictly between 0 and 1"),
    ],
)
def test_bad_input_is_named(call, says):
    with pytest.raises(ValueError, match=says.replace("(", r"\(")):
        call()


def test_spending_curves_end_at_alpha_and_rise():
    for kind in ("obrien-fleming", "pocock", 0.5, 2):
        curve = [spent(t, 0.05, kind) for t in np.linspace(0.01, 1, 50)]
        assert curve == sorted(curve) and curve[-1] == pytest.approx(0.05)


def test_an_effect_beyond_doubt_is_still_estimated():
    rng = np.random.default_rng(9)
    x, y = rng.normal(size=500), rng.normal(30, 1, size=500)
    for design in (pocock([0.05, 1.0]), obrien_fleming([0.05, 1.0], side="greater")):
        ended = final(design, 1, x, y)
        assert 10 < ended.lower < ended.effect < 31 and 0 <= ended.p_value < 1e-100


@pytest.mark.parametrize(
    "design", [spending(3), spending(5), spending(5, kind=3.0), spending(3, kind="pocock"), pocock(5)]
)
def test_overwhelming_evidence_has_a_tiny_p(design):
    for k in range(1, design.looks + 1):
        found = [repeated_p(design, k, z) for z in (5.0, 11.9, 12.1, 20.0, 22.0, 30.0, 36.9)]
        assert all(0 < b < a for a, b in pairwise(found)), (k, found)
        assert all(p >= stats.norm.sf(z) for p, z in zip(found, (5.0, 11.9, 12.1, 20.0, 22.0, 30.0, 36.9), strict=True))
    assert found[-1] < 1e-250


def test_a_clear_effect_is_as_sharp_at_the_end_as_in_one_look():
    rng = np.random.default_rng(0)
    c, t = rng.normal(10, 1, 1000), rng.normal(15, 1, 1000)
    found, once = final(pocock(3), 1, c, t), welch(c, t)
    assert (found.lower, found.upper) == pytest.approx((once.lower, once.upper), rel=1e-6)


def test_a_lift_at_a_look_has_an_answer_or_none():
    assert isinstance(look(pocock(3), 1, [1.0, 2, 3, 4], [0.0] * 4, relative=True), NotEnough)
    assert isinstance(look(pocock(3), 1, [-1.0, 1, -2, 2], [30.0, 31, 32, 33], relative=True), NotEnough)


def test_the_relative_interval_of_a_look_excludes_null_where_its_p_is_small():
    rng = np.random.default_rng(3)
    for _ in range(40):
        c, t = rng.normal(5, 1, 12), rng.normal(6, 2, 8)
        found = look(pocock(3), 2, c, t, relative=True)
        assert abs(found.p_value - 0.05) < 1e-3 or found.significant == (found.p_value < 0.05)


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (lambda: spending([0.5, 0.5000001, 1.0]), "increase within .* by at least 0.001"),
        (lambda: obrien_fleming(3, alpha=0.9, side="greater"), "alpha must lie below"),
        (lambda: spending(3, kind=lambda t, a: 2 * a * t), "kind must spend an error that never falls"),
    ],
)
def test_a_plan_that_cannot_be_kept_is_refused(make, rule):
    with pytest.raises(ValueError, match=rule):
        make()
