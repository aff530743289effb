"Always-valid comparisons: guarantees by simulation, and the stream."

import json
import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from seatrial.stats.comparison import SIDES, Comparison, NotEnough, stretched
from seatrial.stats.mixture import mixture, reach, units_needed
from seatrial.stats.moments import Moments
from seatrial.stats.peeking import course, sequence
from seatrial.stats.sequential import (
    Arm,
    Question,
    Running,
    against,
    always_valid,
    always_valid_paired,
    effective_units,
    msprt,
    p_value,
    two_arms,
)

batches = st.lists(st.floats(-100, 100, allow_subnormal=False), max_size=8)


def limit(runs):
    return 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


def drawn(n_c, n_t, rng, effect=0.0, scale=1.0, offset=0.0):
    "Two summaries, as normal samples of these sizes would give them."
    m2 = [scale**2 * rng.chisquare(n - 1) for n in (n_c, n_t)]
    means = [offset + scale * (shift + rng.normal() / math.sqrt(n)) for n, shift in ((n_c, 0.0), (n_t, effect))]
    return Moments(n_c, means[0], m2[0]), Moments(n_t, means[1], m2[1])


sizes = st.integers(2, 5000)
asks = st.fixed_dictionaries({"side": st.sampled_from(SIDES), "relative": st.booleans()})


@pytest.mark.parametrize("side", SIDES)
def test_a_truth_is_rarely_ever_excluded_from_the_very_first_unit_on(side):
    rng, rule = np.random.default_rng(0), sequence(Question(tuned_for=200, side=side, null=0.3))
    x, turns = rng.normal(size=(2000, 400)), np.arange(400)[None] % 2 == 1
    assert rule(*course(x + 0.3 * turns, turns)).any(axis=1).mean() <= limit(2000)


def test_a_small_arm_that_is_noisier_keeps_the_promise():
    rng = np.random.default_rng(1)
    treated = rng.random((1000, 500)) < 0.1
    x = rng.normal(0, np.where(treated, 3.0, 1.0))
    assert sequence(Question(tuned_for=200))(*course(x, treated)).any(axis=1).mean() <= limit(1000)


def test_asking_for_gains_never_alarms_on_losses():
    rng, rule = np.random.default_rng(2), sequence(Question(tuned_for=200, side="greater"))
    x, turns = rng.normal(size=(500, 400)), np.arange(400)[None] % 2 == 1
    worse, same = (rule(*course(x - loss * turns, turns)).any(axis=1) for loss in (0.1, 0.0))
    assert (worse <= same).all() and worse.mean() < 0.02  # a loss only takes alarms away, run by run


@given(sizes, sizes, st.floats(-1, 1), st.floats(10, 1e5), st.integers(0, 99))
def test_one_side_is_both_sides_at_nearly_twice_the_level(n, m, effect, tuned_for, seed):
    c, t = drawn(n, m, np.random.default_rng(seed), effect)
    question = Question(0.05, tuned_for, "greater")
    off, se, df, units = against(two_arms(arm(c), arm(t)), (c.mean, t.mean), question)
    up, down = (p_value(question.evidence(off, se, df, units), off, side) for side in ("greater", "less"))
    e = math.exp(min(question.evidence(off, se, df, units), 700))
    assert max(up, down) == 1 and min(up, down) == pytest.approx(min(1.0, 1 / max(2 * e - 1, 1)))


def arm(m):
    return Arm(m.n, m.mean, m.m2)


@given(sizes, sizes, st.floats(-0.5, 0.5), st.floats(0.001, 0.3), st.floats(10, 1e5), asks, st.integers(0, 99))
def test_each_end_of_the_interval_is_where_p_meets_alpha(n, m, effect, alpha, tuned_for, how, seed):
    c, t = drawn(n, m, np.random.default_rng(seed), effect, offset=-3.0 if seed % 2 else 3.0)
    found = always_valid(c, t, alpha, tuned_for, **how)
    if isinstance(found, NotEnough):
        return
    assert found.lower <= found.effect <= found.upper
    for end in (found.lower, found.upper):
        if math.isfinite(end):
            there = always_valid(c, t, alpha, tuned_for, null=end, **how)
            assert there.p_value == pytest.approx(alpha, rel=1e-5)


@given(sizes, sizes, st.floats(-1, 1), st.integers(0, 99))
def test_no_lift_is_no_difference_to_the_last_digit(n, m, effect, seed):
    c, t = drawn(n, m, np.random.default_rng(seed), effect, offset=2.0)
    absolute, relative = (always_valid(c, t, relative=r) for r in (False, True))
    if isinstance(absolute, Comparison):
        assert relative.p_value == absolute.p_value
        assert relative.lift == pytest.approx(absolute.lift)
        if math.isfinite(relative.lower):
            assert relative.significant == absolute.significant


@given(sizes, sizes, st.floats(-1, 1), asks, st.integers(0, 99))
def test_turning_the_metric_round_turns_the_answer_round(n, m, effect, how, seed):
    c, t = drawn(n, m, np.random.default_rng(seed), effect, offset=3.0)
    mirrored = how | {"side": {"greater": "less", "less": "greater"}.get(how["side"], how["side"])}
    there, back = always_valid(c, t, **how), always_valid(stretched(c, -1), stretched(t, -1), **mirrored)
    if isinstance(there, Comparison):
        assert [back.effect, back.lower, back.upper] == pytest.approx([-there.effect, -there.upper, -there.lower])
        assert back.p_value == pytest.approx(there.p_value)


@pytest.mark.parametrize("scale", [1e-150, 1e-12, 1.0, 1e12, 1e140])
@pytest.mark.parametrize("relative", [False, True])
def test_the_unit_of_measurement_changes_nothing(scale, relative):
    one, two = (drawn(300, 200, np.random.default_rng(3), 0.5, scale=k, offset=5.0 * k) for k in (1.0, scale))
    a, b = always_valid(*one, relative=relative), always_valid(*two, relative=relative)
    unit = 1.0 if relative else scale
    assert b.p_value == pytest.approx(a.p_value, rel=1e-6) and b.lower == pytest.approx(unit * a.lower, rel=1e-6)


def test_an_overwhelming_effect_has_a_small_p_and_not_zero():
    c, t = drawn(400, 400, np.random.default_rng(0), 3.0)
    assert 0 < always_valid(c, t).p_value < 1e-100 > always_valid(c, t, side="greater").p_value > 0


def test_a_control_that_may_be_zero_has_no_ends_of_its_lift():
    c, t = drawn(400, 400, np.random.default_rng(0), 1.0)
    found = always_valid(c, t, relative=True)
    assert (found.lower, found.upper) == (-math.inf, math.inf) and found.p_value < 1e-10
    nobody, some = Moments(500, 0.0, 0.0), Moments.of([0] * 480 + [1] * 20)
    for compare in (always_valid, msprt):
        silent = compare(nobody, some, relative=True)
        assert isinstance(silent, NotEnough) and "the control's mean is 0" in silent.why
        assert isinstance(compare(nobody, some), Comparison)
    assert isinstance(always_valid_paired([0.0] * 50, [0.0, 1.0] * 25, relative=True), NotEnough)
    running = Running(relative=True).update([0.0] * 500, [0.0] * 470 + [1.0] * 30)
    assert isinstance(running.result, NotEnough)


@pytest.mark.parametrize("compare", [always_valid, msprt, always_valid_paired])
def test_a_constant_treatment_cannot_be_tested_for_having_lost_everything(compare):
    varied, flat = [1.0, 2.0, 3.0, 4.0] * 50, [5.0] * 200
    assert isinstance(compare(varied, flat, relative=True, null=-1), NotEnough)
    assert isinstance(compare(varied, flat, relative=True, null=-0.9), Comparison)


def test_counts_of_any_integer_type_are_counts():
    large = (np.int32(100_000), np.int64(100_000), 100_000)
    found = [always_valid(Moments(n, 1.0, 1e5), Moments(n, 1.02, 1e5)).p_value for n in large]
    assert found[0] == found[1] == found[2] > 1e-6 and effective_units(*large[:1] * 2) == 200_000


@given(st.lists(st.tuples(sizes, sizes, st.integers(0, 99)), min_size=1, max_size=5), st.floats(10, 1e5), asks)
def test_an_array_of_looks_is_the_looks_one_by_one(looks, tuned_for, how):
    question = Question(0.05, tuned_for, **how)
    pairs = [drawn(n, m, np.random.default_rng(seed), 0.1, offset=1.0) for n, m, seed in looks]
    c, t = (Arm(*(np.array([getattr(p[i], k) for p in pairs], float) for k in ("n", "mean", "m2"))) for i in (0, 1))
    off, *rest = against(two_arms(c, t), (c.mean, t.mean), question)
    together = p_value(question.evidence(off, *rest), off, how["side"])
    reaches = reach(rest[1], rest[2], question.rho2, question.level)
    for (a, b), p, r in zip(pairs, together, reaches, strict=True):
        alone = always_valid(a, b, 0.05, tuned_for, **how)
        assert isinstance(alone, NotEnough) == math.isinf(r)
        if isinstance(alone, Comparison):
            assert alone.p_value == pytest.approx(float(p), rel=1e-9)


def test_pairs_on_the_relative_scale_are_the_test_of_their_contrast():
    rng = np.random.default_rng(4)
    before = rng.lognormal(1, 1, 400)
    after = 1.1 * before + rng.normal(0, 0.3, 400)
    found = always_valid_paired(before, after, relative=True)
    for end in (found.lower, found.upper):
        contrast = always_valid_paired((1 + end) * before, after)
        assert contrast.p_value == pytest.approx(0.05, rel=1e-6)
    assert found.lower < 0.1 < found.upper and always_valid_paired(before, after, side="less").p_value == 1


def test_columns_in_exact_proportion_have_one_lift():
    before = np.random.default_rng(5).lognormal(0, 1, 200)
    found = always_valid_paired(before, 1.5 * before, relative=True, null=0.5)
    assert found.lower == pytest.approx(0.5) == found.upper and found.p_value > 0.05


def test_known_noise_needs_no_second_value_spread():
    flat = Moments(50, 0.0, 0.0), Moments(50, 1.0, 0.0)
    assert isinstance(msprt(*flat), NotEnough) and msprt(*flat, sd=1.0).significant
    z2 = 25.0  # 1 / (1 / 50 + 1 / 50)
    g = 1 + 100 * mixture(0.05, 1000)
    assert msprt(*flat, sd=1.0).p_value == pytest.approx(min(1.0, math.sqrt(g) * math.exp(-z2 / 2 * (1 - 1 / g))))


def test_a_real_difference_is_found():
    rng = np.random.default_rng(1)
    found = [always_valid(rng.normal(0, 1, 800), rng.normal(0.3, 1, 800)) for _ in range(50)]
    assert np.mean([f.significant and f.effect > 0 for f in found]) > 0.95


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


@pytest.mark.parametrize(
    "other", [{"alpha": 0.1}, {"side": "less"}, {"relative": True}, {"null": 0.1}, {"tuned_for": 9}]
)
def test_shards_that_were_asked_differently_are_refused(other):
    with pytest.raises(ValueError, match="must share alpha, tuned_for, side, relative and null"):
        Running().merge(Running(**other))


def test_what_was_asked_is_saved_and_restored():
    asked = Running(0.01, 50, side="greater", relative=True, null=0.1).update([1.0, 2.0] * 50, [2.0, 3.0] * 50)
    again = Running.from_dict(json.loads(json.dumps(asked.to_dict())))
    assert again == asked and again.result == asked.result and again.result.side == "greater"
    old = {"alpha": 0.05, "tuned_for": 1000, "control": {"n": 1, "mean": 2.0, "m2": 0.0}, "treatment": {}}
    assert Running.from_dict(old).side == "two-sided"


def test_whatever_numbers_came_in_plain_ones_are_saved():
    odd = Running(np.float32(0.05), np.int64(1000), null=np.float64(0.1), relative=np.bool_(True))
    assert Running.from_dict(json.loads(json.dumps(odd.to_dict()))) == odd


@pytest.mark.parametrize("saved", [{}, {"alpha": 0.05}, Running().to_dict() | {"colour": "red"}])
def test_what_is_no_saved_stream_is_refused(saved):
    with pytest.raises(ValueError, match="a saved Running must hold alpha, tuned_for, control, treatment"):
        Running.from_dict(saved)


@pytest.mark.parametrize("sd", [0.0, -1.0, math.nan, math.inf, "a"])
def test_a_known_noise_is_a_positive_number(sd):
    with pytest.raises(ValueError, match="sd must be"):
        msprt([1.0], [2.0], sd=sd)


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


extremes = st.floats(-1e150, 1e150, allow_subnormal=False)


@example(1.0, 1.0, 5.9e-262, 2.5e-166, 4, 4, {"side": "two-sided", "relative": True})
@given(st.floats(0, 1e300), st.floats(0, 1e300), extremes, extremes, st.integers(2, 500), st.integers(2, 500), asks)
def test_nor_does_any_scale_or_side_break_on_extremes(m2_c, m2_t, mean_c, mean_t, n, m, how):
    found = always_valid(Moments(n, mean_c, m2_c), Moments(m, mean_t, m2_t), **how)
    if isinstance(found, Comparison):
        assert 0 <= found.p_value <= 1
        assert math.isnan(found.effect) or found.lower <= found.effect <= found.upper


def test_a_treatment_without_a_conversion_has_lost_much_but_not_provably_all():
    found = always_valid(Moments.of([0, 1] * 100), Moments.of([0] * 200), relative=True)
    assert found.effect == -1 and -1 < found.upper < -0.9 and found.p_value < 1e-6
    sparse = always_valid(Moments.of([0] * 1980 + [1] * 20), Moments.of([0] * 2000), relative=True)
    assert sparse.upper > -0.9 or math.isinf(sparse.upper)


@pytest.mark.parametrize("constant", [-1.0, 0.0, 1.0])
def test_one_arm_may_be_constant(constant):
    flat, varied = Moments.of([constant] * 200), Moments.of([0.5, 1.5] * 100)
    for pair in ((flat, varied), (varied, flat)):
        for relative in (False, True):
            found = always_valid(*pair, relative=relative)
            if relative and pair[0].mean == 0:
                assert isinstance(found, NotEnough)
            else:
                assert isinstance(found, Comparison) and 0 <= found.p_value <= 1


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_effective_units_never_exceed_the_units(n, m):
    assert effective_units(n, m) <= n + m and effective_units(n, n) == 2 * n
