"Looking after every observation: the rules, the counting, and a quick form of the promise."

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from seatrial.stats.comparison import SIDES, welch
from seatrial.stats.moments import Moments
from seatrial.stats.peeking import (
    WORLDS,
    Share,
    bernoulli,
    course,
    false_alarms,
    lognormal,
    looks,
    normal,
    sequence,
    stopping_times,
    t_test,
)
from seatrial.stats.sequential import Question, always_valid

values = st.floats(-1e6, 1e6, allow_subnormal=False)
units = st.lists(st.tuples(values, st.booleans()), min_size=1, max_size=40)


@given(units)
def test_the_course_holds_the_moments_of_every_prefix(fed):
    x, treated = np.array([[v for v, _ in fed]]), np.array([[t for _, t in fed]])
    for arm, mask in zip(course(x, treated), (~treated, treated), strict=True):
        for i in range(x.size):
            m = Moments.of(x[0, : i + 1][mask[0, : i + 1]])
            scale = float(np.abs(x).max()) ** 2
            assert arm.n[0, i] == m.n and arm.mean[0, i] == pytest.approx(m.mean, rel=1e-9, abs=1e-9)
            assert arm.m2[0, i] == pytest.approx(m.m2, rel=1e-9, abs=1e-9 * scale)


def test_the_course_of_a_constant_has_no_spread():
    arm, _ = course(np.full((1, 1000), 0.1), np.zeros((1, 1000), bool))
    assert arm.m2.max() < 1e-25


def test_the_course_keeps_its_digits_far_from_zero():
    x = np.random.default_rng(0).normal(size=(1, 5000)) + 1e7
    arm, _ = course(x, np.zeros((1, 5000), bool))
    assert arm.m2[0, -1] == pytest.approx(Moments.of(x).m2, rel=1e-6)


def front_door(control, treatment, run, i, **how):
    c, t = (Moments(int(a.n[min(run, len(a.n) - 1), i]), a.mean[run, i], a.m2[run, i]) for a in (control, treatment))
    return getattr(always_valid(c, t, **how), "p_value", 1.0) <= how["alpha"]


@settings(max_examples=15)
@given(st.sampled_from(list(WORLDS)), st.sampled_from(SIDES), st.booleans(), st.sampled_from([0.5, 0.2]))
def test_a_rule_alarms_exactly_where_always_valid_does(world, side, relative, share):
    rng, how = np.random.default_rng(0), {"alpha": 0.2, "tuned_for": 30, "side": side, "relative": relative}
    treated = rng.random((3, 60)) < share
    arms = course(WORLDS[world](rng, 1.0 * treated), treated)
    ruled = sequence(Question(**how))(*arms)
    assert all(ruled[r, i] == front_door(*arms, r, i, **how) for r in range(3) for i in range(60))


def test_the_t_test_rule_is_the_t_test():
    rng, turns = np.random.default_rng(1), np.arange(80)[None] % 2 == 1
    x = rng.normal(size=(20, 80))
    ruled, spared = (t_test(0.1, every=k)(*course(x, turns)) for k in (1, 10))
    for r in range(20):
        for i in range(3, 80):
            p = welch(x[r, : i + 1][::2], x[r, 1 : i + 1][::2]).p_value
            assert abs(p - 0.1) < 1e-4 or ruled[r, i] == (p <= 0.1)
    assert (spared[:, 9::10] == ruled[:, 9::10]).all() and not np.delete(spared, np.arange(9, 80, 10), axis=1).any()


def test_the_same_seed_tells_the_same_story_and_all_rules_see_the_same_data():
    rules = {"one": t_test(), "two": t_test()}
    a, b = (stopping_times(normal(), rules, 30, 100, np.random.default_rng(0), share=0.3) for _ in range(2))
    assert (a["one"] == b["one"]).all() and (a["one"] == a["two"]).all() and len(a["one"]) == 30


def test_a_first_alarm_is_counted_in_units_and_none_is_infinite():
    def fourth(control, treatment):
        return (control.n + treatment.n + np.zeros_like(control.mean)) == 4

    def never(control, treatment):
        return np.zeros(control.mean.shape, bool)

    found = stopping_times(normal(), {"fourth": fourth, "never": never}, 5, 10, np.random.default_rng(0))
    assert (found["fourth"] == 4).all() and np.isinf(found["never"]).all()
    assert false_alarms(normal(), never, 5, 10, np.random.default_rng(0)) == Share(0, 5)


def test_arms_of_equal_share_grow_in_step_and_others_at_random():
    sizes = {}

    def remember(control, treatment):
        sizes["last"] = np.broadcast_to(treatment.n, control.mean.shape)[:, -1]
        return np.zeros(control.mean.shape, bool)

    false_alarms(normal(), remember, 50, 1000, np.random.default_rng(0))
    assert (sizes["last"] == 500).all()
    false_alarms(normal(), remember, 50, 1000, np.random.default_rng(0), share=0.1)
    assert sizes["last"].std() > 3 and abs(sizes["last"].mean() - 100) < 6


@pytest.mark.parametrize("world", list(WORLDS))
def test_a_lift_multiplies_the_mean(world):
    rng = np.random.default_rng(0)
    plain, lifted = (WORLDS[world](rng, np.full(400_000, lift)) for lift in (0.0, 0.5))
    tolerance = 5 * math.sqrt((plain.var() * 2.25 + lifted.var()) / 400_000)
    assert abs(1.5 * plain.mean() - lifted.mean()) <= tolerance


def test_a_share_knows_how_sure_it_is():
    share = Share(500, 10_000)
    assert share.rate == 0.05 and share.standard_error == pytest.approx(0.00218, abs=1e-5)
    theirs = stats.binomtest(500, 10_000).proportion_ci(method="wilson")
    assert share.upper == pytest.approx(theirs.high, rel=1e-9)


@pytest.mark.parametrize("share", [0.5, 0.1])
@pytest.mark.parametrize("world", list(WORLDS))
def test_nobody_who_looks_after_every_unit_is_alarmed_more_often_than_promised(world, share):
    found = false_alarms(
        WORLDS[world], sequence(Question(tuned_for=300)), 400, 1500, np.random.default_rng(2), share=share
    )
    assert found.rate <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)


@pytest.mark.parametrize("share", [0.9, 0.03])
@pytest.mark.parametrize(
    "draw", [bernoulli(0.02), lognormal(1.5), lambda rng, lift: -rng.lognormal(0, 1.5, lift.shape)]
)
def test_nor_with_arms_as_uneven_as_they_come(draw, share):
    found = false_alarms(draw, sequence(Question(tuned_for=100)), 400, 1000, np.random.default_rng(3), share=share)
    assert found.rate <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)


def test_a_true_lift_is_rarely_lost_on_the_relative_scale():
    table = looks(300, 1000, np.random.default_rng(4), tuned_for=200, lifts=(0.3,))
    assert len(table) == 12 and max(s.rate for s in table.values()) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 300)


def test_peeking_with_a_t_test_is_not_harmless():
    assert false_alarms(normal(), t_test(), 300, 1000, np.random.default_rng(5)).rate > 0.3


def test_a_wrong_tuning_hardly_delays():
    effect, rules = 0.3, {m: sequence(Question(tuned_for=m)) for m in (30, 300, 3000)}
    times = stopping_times(normal(), rules, 300, 4000, np.random.default_rng(6), lift=effect)
    means = {m: t.mean() for m, t in times.items()}
    assert np.isfinite(list(means.values())).all() and max(means.values()) < 1.25 * min(means.values())


@pytest.mark.parametrize(("runs", "units"), [(0, 10), (10, 0), (-1, 5)])
def test_nothing_cannot_be_counted(runs, units):
    with pytest.raises(ValueError, match=f"runs and units must be at least 1, got runs={runs}, units={units}"):
        stopping_times(normal(), {}, runs, units, np.random.default_rng(0))


@pytest.mark.parametrize("make", [lambda: bernoulli(1.5), lambda: t_test(0), lambda: Question(alpha=5)])
def test_what_is_no_rate_is_refused(make):
    with pytest.raises(ValueError, match="must lie strictly between 0 and 1"):
        make()


def test_a_spread_must_be_positive():
    for make in (lambda: normal(sd=0), lambda: lognormal(-1)):
        with pytest.raises(ValueError, match="must be a positive finite number"):
            make()
