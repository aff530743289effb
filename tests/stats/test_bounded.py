"Bounded data at every look: fair games, the ladder's promise, shards, two arms and pairs."

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seatrial.stats.betting import always_valid_rates
from seatrial.stats.bounded import (
    BoundedMean,
    Bounds,
    Ladder,
    always_valid_bounded,
    always_valid_bounded_pairs,
    hedged,
    ladder,
    learnt_stakes,
    mean_evidence,
    scaled,
    split,
)
from seatrial.stats.comparison import NotEnough, non_inferiority

unit = st.floats(0, 1, allow_subnormal=False)
samples = st.lists(unit, min_size=1, max_size=40)
sides = st.sampled_from(["two-sided", "greater", "less"])


def courses(values, chances, n):
    "Every course of n values with its probability."
    runs = np.array(list(itertools.product(range(len(values)), repeat=n)))
    return np.asarray(values)[runs], np.asarray(chances)[runs].prod(axis=1)


@pytest.mark.parametrize(
    ("values", "chances"), [((0, 1), (0.9, 0.1)), ((0, 0.3, 1), (0.5, 0.3, 0.2)), ((0.2, 0.25, 0.9), (0.1, 0.8, 0.1))]
)
def test_the_committee_expects_one_coin_at_the_true_mean_and_less_beyond(values, chances):
    x, chance = courses(values, chances, 5)
    mean = float(np.dot(values, chances))
    for side, beyond in (("greater", mean + 0.05), ("less", mean - 0.05)):
        at, after = ([math.exp(mean_evidence(np.ones(5), row, m, side)) for row in x] for m in (mean, beyond))
        assert chance @ at == pytest.approx(1, rel=1e-9) and chance @ after < 1
    assert chance @ [math.exp(mean_evidence(np.ones(5), row, mean, "two-sided")) for row in x] <= 1


@pytest.mark.parametrize("values", [(0, 0.3, 1), (0.2, 0.5, 0.8)])
def test_the_learning_gambler_never_expects_more_than_one_coin(values):
    x, chance = courses(values, (0.4, 0.4, 0.2), 6)
    mean = float(np.dot(values, (0.4, 0.4, 0.2)))
    assert chance @ [math.exp(hedged(row, mean)[-1]) for row in x] <= 1


def test_stakes_are_learnt_from_the_past_only():
    x, y = np.full(20, 0.4), np.full(20, 0.4)
    y[10:] = 1.0
    assert np.array_equal(learnt_stakes(x, 0.05)[:11], learnt_stakes(y, 0.05)[:11])
    assert learnt_stakes(x, 0.05)[0] == pytest.approx(math.sqrt(2 * math.log(40) / (0.25 * math.log(2))))


@given(samples, st.integers(2, 300))
def test_a_split_keeps_number_and_mean(x, knots):
    weights = split(np.array(x), knots)
    assert weights.sum() == pytest.approx(len(x)) and (weights >= 0).all()
    assert weights @ ladder(knots) == pytest.approx(sum(x), abs=1e-9)


@given(samples, st.floats(0.01, 0.99), st.integers(2, 300), sides)
def test_knots_never_add_evidence(x, m, knots, side):
    x = np.array(x)
    assert mean_evidence(split(x, knots), ladder(knots), m, side) <= mean_evidence(np.ones(x.size), x, m, side) + 1e-9


@given(st.integers(0, 40), st.integers(0, 40), st.floats(0.01, 0.99), sides)
def test_nothing_is_lost_on_zeros_and_ones(zeros, ones, m, side):
    x = np.repeat([0.0, 1.0], [zeros, ones])
    kept = BoundedMean().update(x).log_e(m, side)
    assert kept == pytest.approx(float(mean_evidence(np.ones(x.size), x, m, side)), abs=1e-9)


@settings(deadline=None)
@given(samples, st.floats(0.001, 0.3), sides)
def test_the_bounds_are_where_the_evidence_refutes(x, alpha, side):
    watched = BoundedMean(alpha=alpha, side=side).update(x)
    found, level = watched.result, math.log((2 if side == "two-sided" else 1) / alpha)
    assert 0 <= found.lower <= found.upper <= 1
    if found.lower > 1e-6:
        assert side != "less" and watched.log_e(found.lower, "greater") >= level - 1e-6
        assert (watched.log_e(found.lower * np.linspace(0.01, 1, 50), "greater") >= level - 1e-6).all()
    if found.upper < 1 - 1e-6:
        assert side != "greater" and watched.log_e(found.upper, "less") >= level - 1e-6


@settings(deadline=None, max_examples=30)
@given(st.lists(samples, min_size=1, max_size=6), st.integers(0, 6), st.floats(-5, 5), st.floats(0.5, 10))
def test_a_stream_that_was_saved_and_restored_goes_on_as_if_nothing_had_been(feed, cut, lo, width):
    straight, stopped = (BoundedMean(lo, lo + width, alpha=0.1) for _ in range(2))
    for i, batch in enumerate(feed):
        values = np.clip(lo + width * np.array(batch), lo, lo + width)
        straight.update(values)
        if i == cut:
            stopped = BoundedMean.from_dict(json.loads(json.dumps(stopped.to_dict())))
        stopped.update(values)
    assert stopped.result == straight.result and stopped.to_dict() == straight.to_dict()


def test_neither_order_nor_shards_change_the_answer():
    x = np.random.default_rng(0).beta(0.5, 2, 900)
    whole = BoundedMean().update(x).result
    for seed in range(3):
        rng, merged = np.random.default_rng(seed), BoundedMean()
        for shard in np.array_split(rng.permutation(x), 13):
            merged.merge(BoundedMean().update(shard))
        assert np.allclose([merged.result.lower, merged.result.upper], [whole.lower, whole.upper], rtol=1e-6)
        assert merged.result.n == 900


def test_a_merge_multiplies_each_gamblers_money():
    rng = np.random.default_rng(1)
    a, b = rng.random(30), rng.random(50)
    both = BoundedMean().update(a).merge(BoundedMean().update(b))
    assert both.log_e(0.3) == pytest.approx(float(BoundedMean().update(np.r_[b, a]).log_e(0.3)), abs=1e-9)


def test_another_unit_is_the_same_question():
    x = np.random.default_rng(2).beta(2, 5, 500)
    plain, stars = BoundedMean().update(x).result, BoundedMean(1, 5).update(1 + 4 * x).result
    assert np.allclose([stars.lower, stars.upper], [1 + 4 * plain.lower, 1 + 4 * plain.upper], atol=1e-6)
    mirrored = BoundedMean().update(1 - x).result
    assert np.allclose([mirrored.lower, mirrored.upper], [1 - plain.upper, 1 - plain.lower], atol=1e-3)


@pytest.mark.parametrize("draw", [lambda rng, s: rng.beta(0.1, 0.9, s), lambda rng, s: rng.random(s) ** 9])
def test_a_mean_is_covered_at_all_looks(draw):
    rng, missed, runs = np.random.default_rng(3), 0, 200
    truth = float(draw(np.random.default_rng(9), 2_000_000).mean())
    for _ in range(runs):
        watched = BoundedMean()
        for x in draw(rng, (30, 10)):
            if watched.update(x).log_e(truth, "two-sided") >= math.log(20):
                missed += 1
                break
    assert missed / runs <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


def test_a_narrow_distribution_is_learnt_faster_than_a_coin():
    rng = np.random.default_rng(4)
    narrow, coin = BoundedMean().update(rng.beta(20, 180, 1000)).result, BoundedMean().update(rng.random(1000) < 0.1)
    assert narrow.upper - narrow.lower < 0.15 * (coin.result.upper - coin.result.lower)


def test_weights_above_one_are_bounded_by_the_largest():
    rng = np.random.default_rng(5)
    weights = np.where(rng.random(4000) < 0.1, 5.0, 0.5555)
    found = BoundedMean(0, 5).update(weights * (rng.random(4000) < 0.3)).result
    assert found.lower < 0.3 < found.upper < 0.45


def test_the_stream_does_not_grow():
    small, large = BoundedMean().update([0.5]), BoundedMean().update(np.random.default_rng(6).random(50_000))
    assert small.counts.size == large.counts.size and small.to_dict().keys() == large.to_dict().keys()


def test_two_arms_of_zeros_and_ones_are_two_rates():
    x, y = np.repeat([0, 1], [90, 10]), np.repeat([0, 1], [70, 30])
    for relative in (False, True):
        a = always_valid_bounded(x, y, relative=relative)
        b = always_valid_rates(x, y, relative=relative, share=0.5)
        assert np.allclose([a.effect, a.lower, a.upper], [b.effect, b.lower, b.upper], atol=1e-9)
        assert a.p_value == pytest.approx(b.p_value)


@settings(deadline=None, max_examples=30)
@given(st.integers(20, 200), st.floats(0.3, 3), sides, st.booleans(), st.floats(-0.3, 0.3), st.integers(0, 99))
def test_the_interval_excludes_the_null_exactly_where_p_is_below_alpha(n, shape, side, relative, null, seed):
    rng = np.random.default_rng(seed)
    c, t = 2 + 3 * rng.beta(shape, 2, n), 2 + 3 * rng.beta(2, 2, n)
    found = always_valid_bounded(c, t, 0.1, side=side, relative=relative, null=null, lo=2, hi=5)
    assert found.lower <= found.effect <= found.upper and found.baseline == pytest.approx(c.mean())
    if abs(math.log(max(found.p_value, 1e-300) / 0.1)) > 1e-3:
        assert found.significant == (found.p_value < 0.1)


def test_ladders_of_shards_serve_as_arms():
    rng = np.random.default_rng(7)
    c, t = rng.beta(2, 6, 800), rng.beta(2.6, 6, 800)
    arms = [Ladder().update(x[:300]).merge(Ladder.from_dict(Ladder().update(x[300:]).to_dict())) for x in (c, t)]
    whole, sharded = always_valid_bounded(c, t), always_valid_bounded(*arms)
    assert whole.significant and np.allclose([whole.lower, whole.upper], [sharded.lower, sharded.upper], rtol=1e-6)
    assert non_inferiority(always_valid_bounded, *arms, margin=0.02).verdict == "non-inferior"


def test_a_difference_and_a_lift_cover_the_truth():
    rng = np.random.default_rng(8)
    for _ in range(20):
        treated = rng.random(1500) < 0.3
        x = rng.beta(1, 9, 1500) * np.where(treated, 1.5, 1.0) / 1.5
        arms = x[~treated], x[treated]
        found, lift = (always_valid_bounded(*arms, share=0.3, relative=relative) for relative in (False, True))
        assert found.lower < 0.05 / 1.5 < found.upper and lift.lower < 0.5 < lift.upper


def test_pairs_know_who_is_who():
    rng = np.random.default_rng(9)
    hard = rng.random(300) * 0.8
    found = always_valid_bounded_pairs(hard, hard + 0.1 * rng.random(300))
    assert found.significant and found.n_control == 300 and found.effect == pytest.approx(0.05, abs=0.01)
    back = always_valid_bounded_pairs(hard + 0.1, hard, side="greater", null=-0.2)
    assert back.upper == math.inf and back.lower > -0.2 and back.p_value < 0.05


def test_evidence_for_a_guardrail_is_one_number():
    rng = np.random.default_rng(10)
    failing, sound = BoundedMean().update(rng.random(500) < 0.08), BoundedMean().update(rng.random(500) < 0.01)
    assert failing.e_value(0.02) > 20 > 1 > sound.e_value(0.02) and sound.e_value(0.05, "less") > 20


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: scaled([0.5, 1.2, 3.0], 0, 1), r"x must lie in \[0, 1\], got 1.2 \(2 of 3 outside\)"),
        (lambda: BoundedMean().update([0.5, math.nan]), "x must be finite, got 1 NaN"),
        (lambda: BoundedMean(3, 2), "lo must be smaller than hi, both finite, got lo=3 and hi=2"),
        (lambda: BoundedMean(0, math.inf), "hi=inf"),
        (lambda: BoundedMean(alpha=2).update([0.5]).result, "alpha must lie strictly between 0 and 1, got alpha=2"),
        (lambda: BoundedMean(side="up").result, "side must be one of"),
        (lambda: BoundedMean().merge(BoundedMean(0, 2)), "shards must share bounds and knots"),
        (lambda: BoundedMean().e_value(math.nan), "m must be a finite number, got m=nan"),
        (lambda: BoundedMean().e_value(0.5, "both"), "side must be one of"),
        (lambda: always_valid_bounded([0.5], [1.5]), r"treatment must lie in \[0, 1\], got 1.5"),
        (lambda: always_valid_bounded([0.5], [0.5], relative=True, lo=-1), "lo >= 0, got lo=-1"),
        (lambda: always_valid_bounded([0.5], [0.5], share=0), "share must lie strictly between 0 and 1"),
        (lambda: always_valid_bounded(np.ones(99), np.ones(1)), "got share=0.5 with 99 control, 1 treatment"),
        (lambda: always_valid_bounded(Ladder(0, 2), [0.5]), r"control must have the bounds \[0, 1\]"),
        (lambda: always_valid_bounded([0.5], [0.5], null=5), "null must lie strictly between -1 and 1, got null=5"),
        (lambda: always_valid_bounded([0.5], [0.5], null=-4, lo=-1, hi=3), "between -4 and 4, got null=-4"),
        (lambda: always_valid_bounded([0.5], [0.5], null=-1, relative=True), "null must be above -1"),
        (lambda: always_valid_bounded_pairs([0.5], [0.5], null=5), "null must lie strictly between -1 and 1"),
        (lambda: always_valid_bounded_pairs([1.0], [1.0], lo=1, hi=1), "lo must be smaller than hi"),
        (lambda: scaled([1.0], 1, 1), "lo must be smaller than hi"),
        (lambda: BoundedMean(alpha=-1), "alpha must lie strictly between 0 and 1, got alpha=-1"),
        (lambda: BoundedMean(side="both"), "side must be one of"),
        (lambda: BoundedMean(counts=[math.nan] * 257), "counts must be finite"),
        (lambda: BoundedMean(counts=[]), "counts must hold two or more weights"),
        (lambda: BoundedMean(counts=[3.0, -1.0], n=2), "none negative, got 2 weights, the least -1"),
        (lambda: BoundedMean(n=-5), "n must be the whole number that counts sum to, 0, got n=-5"),
        (lambda: Ladder(n=7), "n must be the whole number that counts sum to, 0, got n=7"),
        (lambda: BoundedMean().merge(BoundedMean(alpha=0.01)), "shards must share alpha and side"),
        (lambda: BoundedMean().merge(BoundedMean(side="less")), "shards must share alpha and side"),
        (lambda: BoundedMean.from_dict({}), "a saved BoundedMean must hold lo, hi, n, counts"),
        (lambda: Ladder.from_dict(BoundedMean().to_dict()), "a saved Ladder must hold"),
        (lambda: always_valid_bounded_pairs([0.5], [0.5, 0.6]), "must pair up one to one, got 1 and 2"),
    ],
)
def test_bad_input_is_named(call, says):
    with pytest.raises(ValueError, match=says):
        call()


@pytest.mark.parametrize("k", [0, 1])
def test_a_control_of_zeros_has_no_lift(k):
    assert isinstance(always_valid_bounded([0.0] * 5, [float(k)] * 5, relative=True), NotEnough)
    assert always_valid_bounded([0.0] * 5, [float(k)] * 5).effect == k


def test_whatever_numbers_came_in_plain_ones_are_saved():
    odd = BoundedMean(np.int64(0), np.float32(5), alpha=np.float32(0.05)).update(np.float32([1, 2]))
    again = BoundedMean.from_dict(json.loads(json.dumps(odd.to_dict())))
    assert again.result == odd.result and type(again.n) is int
    json.dumps(Ladder(lo=np.int64(0), hi=5).to_dict())


def test_a_watched_mean_takes_in_a_plain_ladder():
    assert BoundedMean(alpha=0.01).update([0.1]).merge(Ladder().update([0.3])).n == 2


def test_a_batch_with_a_value_out_of_bounds_changes_nothing():
    watched = BoundedMean().update([0.2, 0.4])
    before = watched.to_dict()
    with pytest.raises(ValueError, match="got 7"):
        watched.update([0.3, 7])
    assert watched.to_dict() == before


def test_before_any_data_the_bounds_are_those_of_the_range():
    empty = BoundedMean(1, 5).result
    assert isinstance(empty, Bounds) and (empty.lower, empty.upper) == (1, 5) and math.isnan(empty.mean)
    assert BoundedMean().e_value(0.3) == pytest.approx(1)
    assert isinstance(always_valid_bounded([], [0.5]), NotEnough)
    assert isinstance(always_valid_bounded_pairs([], []), NotEnough)
