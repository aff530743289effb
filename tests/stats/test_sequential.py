"Always-valid comparisons: guarantees by simulation, and the stream."

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seatrial.stats.comparison import Comparison, NotEnough, welch
from seatrial.stats.moments import Moments
from seatrial.stats.sequential import (
    BLEND,
    ONE,
    Running,
    always_valid,
    always_valid_paired,
    ceiling,
    effective_units,
    evidence,
    half_width,
    mixture,
    reach,
    units_needed,
)

batches = st.lists(st.floats(-100, 100, allow_subnormal=False), max_size=8)


def ever_excluded(draw, share, units, runs, truth=0.0, looks=None, tuned_for=1000):
    "Share of experiments in which any look excludes the truth; the exported function at every look."
    rng, missed = np.random.default_rng(0), 0
    for _ in range(runs):
        treated = rng.random(units) < share
        x = draw(rng, treated)
        running = {False: Moments(), True: Moments()}
        for i in range(units):
            running[bool(treated[i])] += Moments(1, float(x[i]), 0.0)
            if looks is not None and i not in looks:
                continue
            found = always_valid(running[False], running[True], tuned_for=tuned_for)
            if isinstance(found, Comparison) and not found.lower <= truth <= found.upper:
                missed += 1
                break
    return missed / runs


def limit(runs):
    return 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


def test_a_truth_is_rarely_ever_excluded_whoever_looks_after_every_unit():
    assert ever_excluded(lambda rng, t: rng.normal(0.3 * t, 1), 0.5, 400, 300, truth=0.3, tuned_for=200) <= limit(300)


def test_a_small_arm_of_rare_conversions_raises_no_false_alarm():
    rate = ever_excluded(lambda rng, t: (rng.random(t.size) < 0.1).astype(float), 0.1, 500, 300, tuned_for=200)
    assert rate <= limit(300)


def test_a_small_arm_that_is_noisier_keeps_the_promise():
    rate = ever_excluded(lambda rng, t: rng.normal(0, np.where(t, 3.0, 1.0)), 0.1, 500, 300, tuned_for=200)
    assert rate <= limit(300)


def test_a_real_difference_is_found():
    rng = np.random.default_rng(1)
    found = [always_valid(rng.normal(0, 1, 800), rng.normal(0.3, 1, 800)) for _ in range(50)]
    assert np.mean([f.significant and f.effect > 0 for f in found]) > 0.95


@given(st.integers(2, 5000), st.integers(2, 5000), st.floats(0.001, 0.3), st.floats(10, 1e5))
def test_the_interval_excludes_zero_exactly_where_p_is_below_alpha(n, m, alpha, tuned_for):
    rng = np.random.default_rng(n)
    c, t = Moments(n, 0.0, (n - 1) * rng.uniform(0.1, 2)), Moments(m, rng.normal(0, 0.5), (m - 1) * rng.uniform(0.1, 2))
    found = always_valid(c, t, alpha, tuned_for)
    if isinstance(found, Comparison) and abs(found.p_value - alpha) > 1e-9:
        assert found.significant == (found.p_value < alpha)
        once = welch(c, t, alpha)
        assert found.upper - found.lower > once.upper - once.lower


@given(st.floats(1, 1e5), st.floats(0.001, 1e5), st.floats(1e-6, 0.5), st.sampled_from([ONE, BLEND]))
def test_the_reach_is_where_the_evidence_meets_alpha(df, units, alpha, bets):
    r = float(reach(df, units, 1.0, alpha, bets))
    if math.isinf(r):
        assert ceiling(df, units, 1.0, bets) <= -math.log(alpha) * (1 + 1e-9)
    elif r < 1e6:
        assert evidence(r * r, df, units, 1.0, bets) == pytest.approx(-math.log(alpha), rel=1e-6, abs=1e-6)


@given(st.floats(0.001, 1e5), st.floats(1e-4, 0.5), st.floats(1, 1e4), st.floats(1.01, 10))
def test_fewer_degrees_of_freedom_only_widen(units, alpha, df, factor):
    assert reach(df, units, 1.0, alpha) >= reach(df * factor, units, 1.0, alpha) * (1 - 1e-9)


@pytest.mark.parametrize(("n", "g", "coefficients"), [(20, 50.0, 2), (400, 126.0, 2), (5000, 126.0, 3)])
def test_one_bet_reaches_as_far_as_that_of_lindon_et_al(n, g, coefficients):
    share, df = g / (g + n), n - coefficients  # in their letters, precision g of the mixture
    power = (share * 0.05**2) ** (1 / (df + 1))
    expected = math.sqrt(df * (1 - power) / (power - share))
    assert reach(df, n, 1 / g, 0.05, ONE) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("units", [50, 1000, 100_000])
@pytest.mark.parametrize("df", [1e10, math.inf])
def test_one_bet_with_many_degrees_of_freedom_is_equation_9(units, df):
    rho2 = mixture(0.05, 1000)
    g = units * rho2 + 1
    expected = math.sqrt(2 * g / (units * rho2) * math.log(math.sqrt(g) / 0.05))
    assert half_width(units, df, bets=ONE) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("tuned_for", [50, 1000, 20_000])
def test_not_enough_names_the_first_size_at_which_something_could_be_said(tuned_for):
    n = units_needed(mixture(0.05, tuned_for), 0.05)
    n += n % 2
    clear = Moments(n // 2, 0.0, 1e-9), Moments(n // 2, 1e9, 1e-9)
    assert isinstance(always_valid(*clear, tuned_for=tuned_for), Comparison)
    few = Moments(n // 2 - 1, 0.0, 1e-9), Moments(n // 2 - 1, 1e9, 1e-9)
    silent = always_valid(*few, tuned_for=tuned_for)
    assert isinstance(silent, NotEnough) and silent.got < silent.needed <= n


@given(st.integers(2, 400), st.integers(2, 400), st.floats(0, 5), st.floats(0.1, 5), st.floats(10, 1e5))
def test_more_is_needed_than_there_is_whenever_there_is_not_enough(n, m, sd_c, sd_t, tuned_for):
    found = always_valid(Moments(n, 0.0, (n - 1) * sd_c**2), Moments(m, 9.0, (m - 1) * sd_t**2), tuned_for=tuned_for)
    assert isinstance(found, Comparison) or found.needed > found.got


@settings(max_examples=50)
@given(st.lists(st.tuples(batches, batches), max_size=6), st.integers(0, 6))
def test_a_stream_that_was_saved_and_restored_goes_on_as_if_nothing_had_been(feed, cut):
    straight, stopped = Running(), Running()
    for i, (c, t) in enumerate(feed):
        straight.update(c, t)
        if i == cut:
            stopped = Running.from_dict(json.loads(json.dumps(stopped.to_dict())))
        stopped.update(c, t)
    assert stopped == straight


def test_shards_add_up_to_the_whole_in_any_order():
    rng = np.random.default_rng(0)
    c, t = rng.normal(5, 1, 600), rng.normal(5.2, 1, 600)
    whole = Running().update(c, t).result
    for seed in range(5):
        order, merged = np.random.default_rng(seed).permutation(20), Running()
        for i in order:
            merged.merge(Running().update(np.array_split(c, 20)[i], np.array_split(t, 20)[i]))
        assert merged.result.lower == pytest.approx(whole.lower, rel=1e-9)
        assert merged.result.n_treatment == 600


def test_what_is_kept_does_not_grow_with_what_came_in():
    small, large = Running().update([1.0, 2.0], [2.0]), Running().update(np.arange(1e5), np.arange(1e5))
    assert small.to_dict().keys() == large.to_dict().keys() and len(json.dumps(large.to_dict())) < 300


def test_a_batch_with_a_hole_leaves_the_stream_as_it_was():
    running = Running().update([1.0, 2.0], [3.0, 4.0])
    before = running.to_dict()
    with pytest.raises(ValueError, match="treatment must be finite, got 1 NaN"):
        running.update([5.0], [math.nan])
    assert running.to_dict() == before


def test_shards_that_bet_differently_are_refused():
    with pytest.raises(ValueError, match="must share alpha, tuned_for, side"):
        Running(alpha=0.05).merge(Running(alpha=0.1))


@pytest.mark.parametrize("tuned_for", [0, -5, math.inf, math.nan])
def test_a_bad_tuning_is_an_error_even_before_there_are_data(tuned_for):
    with pytest.raises(ValueError, match="tuned_for must be a positive number"):
        always_valid([], [], tuned_for=tuned_for)


def test_pairs_count_as_pairs():
    rng = np.random.default_rng(0)
    hard = rng.normal(0, 10, 300)
    found = always_valid_paired(hard, hard + rng.normal(0.2, 0.5, 300))
    assert found.significant and found.n_control == found.n_treatment == 300


@given(st.floats(0, 1e300), st.floats(0, 1e300), st.floats(-1e9, 1e9), st.integers(0, 500), st.integers(0, 500))
def test_any_two_summaries_have_an_answer_or_are_not_enough(m2_c, m2_t, effect, n, m):
    found = always_valid(Moments(n, 0.0, m2_c), Moments(m, effect, m2_t))
    assert isinstance(found, NotEnough) or (0 <= found.p_value <= 1 and found.lower <= effect <= found.upper)


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_effective_units_never_exceed_the_units(n, m):
    assert effective_units(n, m) <= n + m and effective_units(n, n) == 2 * n
