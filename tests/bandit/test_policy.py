"The face of a policy: choices whose probability is exact, states that survive saving, refusals that change nothing."

import json
import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seatrial.bandit.contextual import LinUCB
from seatrial.bandit.index import UCBTuned
from seatrial.bandit.moving import fading
from seatrial.bandit.policy import Choice, EpsilonGreedy, Floor, best, drawn, floored, kinds, optimistic, restored
from seatrial.bandit.thompson import GaussianThompson, Thompson

weights = st.lists(st.integers(0, 5), min_size=2, max_size=6).filter(any)


@given(weights, st.integers(0, 2**32 - 1))
def test_a_draw_carries_the_probability_of_what_was_drawn(w, seed):
    p = [x / sum(w) for x in w]
    names = [str(i) for i in range(len(p))]
    found = drawn(names, p, np.random.default_rng(seed))
    assert found.propensity == p[names.index(found.arm)] > 0


def test_arms_are_drawn_as_often_as_their_probability_says():
    rng, p, runs = np.random.default_rng(1), [0.5, 0.2, 0.0, 0.3], 40_000
    counts = np.zeros(4)
    for _ in range(runs):
        counts[int(drawn("0123", p, rng).arm)] += 1
    assert (np.abs(counts / runs - p) <= 4 * np.sqrt(np.multiply(p, np.subtract(1, p)) / runs)).all()


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=6))
def test_the_best_share_all_weight_among_them(values):
    p = best(values)
    assert sum(p) == pytest.approx(1) and all((x > 0) == (v == max(values)) for x, v in zip(p, values, strict=True))


@given(st.floats(0, 1), st.integers(2, 7), st.integers(0, 30))
def test_greedy_gives_every_arm_its_share_of_chance(epsilon, k, plays):
    policy = EpsilonGreedy([str(i) for i in range(k)], epsilon=epsilon)
    rng = np.random.default_rng(0)
    for _ in range(plays):
        policy.learn(policy.choose(None, rng).arm, rng.random())
    p = policy.probabilities()
    assert sum(p) == pytest.approx(1) and min(p) >= epsilon / k - 1e-12


def test_a_shrinking_share_halves_where_it_says():
    policy = EpsilonGreedy(["a", "b"], epsilon=0.8, half_after=10, n=[10, 0], total=[10, 0])
    assert policy.probabilities()[1] == pytest.approx(1 / 1 * 0.4 / 2 + 0.6)  # the arm never played is greedy's choice


@given(st.floats(0, 0.25), st.integers(0, 2**32 - 1))
def test_a_floor_holds_and_its_choice_says_the_probability(share, seed):
    rng = np.random.default_rng(seed)
    policy = floored(Thompson(list("abcd"), n=[50, 50, 0, 5], total=[45, 5, 0, 2]), share)
    p = policy.probabilities()
    found = policy.choose(None, rng)
    assert min(p) >= share - 1e-12 and sum(p) == pytest.approx(1)
    assert found.propensity == pytest.approx(p["abcd".index(found.arm)], rel=1e-6)


def test_a_floored_policy_draws_as_often_as_it_says():
    policy, rng, runs = floored(EpsilonGreedy(list("ab"), epsilon=0.0, n=[1, 1], total=[1, 0]), 0.1), None, 20_000
    rng = np.random.default_rng(0)
    worse = sum(policy.choose(None, rng).arm == "b" for _ in range(runs)) / runs
    assert abs(worse - 0.1) < 4 * math.sqrt(0.09 / runs)


def test_learning_through_a_floor_reaches_the_policy_below():
    policy = floored(Thompson(["a", "b"])).learn("a", 1.0)
    assert policy.inner.n == [1, 0] and policy.inner.total == [1, 0]


@given(st.floats(-10, 10), st.floats(0.1, 10), st.floats(0, 1))
def test_rewards_are_kept_as_shares_of_their_range(lo, width, share):
    policy = EpsilonGreedy(["a", "b"], lo=lo, hi=lo + width).learn("b", min(lo + share * width, lo + width))
    assert policy.total[1] == pytest.approx(share, abs=1e-9)


def test_optimism_comes_before_the_first_play_or_not_at_all():
    with pytest.raises(ValueError, match="an optimistic start must come before the first play, got 1 plays"):
        optimistic(EpsilonGreedy(["a", "b"]).learn("a", 1))
    assert optimistic(EpsilonGreedy(["a", "b"]), plays=3, reward=0.5).total == [1.5, 1.5]


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (lambda: EpsilonGreedy(["a"]), "arms must be at least two different names"),
        (lambda: EpsilonGreedy(["a", 1]), "arms must be at least two different names"),
        (lambda: EpsilonGreedy(["a", "b"], lo=1, hi=1), "lo must be less than hi"),
        (lambda: EpsilonGreedy(["a", "b"], epsilon=1.5), r"epsilon must lie in \[0, 1\], got epsilon=1.5"),
        (lambda: EpsilonGreedy(["a", "b"], n=[1]), "n must hold one number >= 0 for each of 2 arms"),
        (lambda: EpsilonGreedy(["a", "b"], total=[-1, 0]), "total must hold one number >= 0"),
        (lambda: floored(EpsilonGreedy(["a", "b"]), 0.6), r"share must lie in \[0, 0.5\]"),
        (lambda: Floor(["a", "b"]), "inner must be a policy with the arms a, b"),
    ],
)
def test_a_policy_that_cannot_work_is_refused(make, rule):
    with pytest.raises(ValueError, match=rule):
        make()


@pytest.mark.parametrize(
    ("stored", "rule"),
    [
        ({}, "kind must be one of"),
        ({"kind": "floor"}, "a saved floor must hold exactly"),
        ({"kind": "epsilon-greedy", "arms": ["a", "b"], "extra": 1}, "got a difference in"),
    ],
)
def test_a_foreign_or_cut_state_is_refused(stored, rule):
    with pytest.raises(ValueError, match=rule):
        restored(stored)


def test_a_floor_is_saved_with_the_policy_below():
    policy = floored(Thompson(["a", "b"]).learn("b", 1), 0.05)
    again = restored(json.loads(json.dumps(policy.to_dict())))
    assert again == policy and again.probabilities() == policy.probabilities()


def test_every_kind_has_a_name_of_its_own():
    assert "" not in kinds() and len(set(kinds().values())) == len(kinds())


def test_a_choice_is_the_arm_and_its_probability():
    assert Choice("a", 0.5) == ("a", 0.5)


@pytest.mark.parametrize("number", [np.float16, np.float32, np.int8, np.bool_, np.array, Fraction, Decimal])
def test_rewards_of_any_number_type_are_summed_in_full_and_saved(number):
    policy = EpsilonGreedy(["a", "b"], lo=np.float32(0), hi=np.int64(1), n=np.zeros(2, np.float32))
    for _ in range(3000):
        policy.learn("a", number(1))
    assert policy.total == [3000, 0]
    assert json.loads(json.dumps(policy.to_dict()))["total"] == [3000, 0]


@pytest.mark.parametrize("reward", ["1", b"1", None, [1], np.array([1.0]), 1j, 10**400])
def test_what_is_no_number_is_refused_as_a_reward(reward):
    policy = Thompson(["a", "b"])
    with pytest.raises(ValueError, match=r"reward must lie in \[0, 1\], got reward="):
        policy.learn("a", reward)
    assert policy.n == [0, 0]


def test_text_is_one_name_not_its_letters():
    with pytest.raises(ValueError, match=r"arms must be at least two different names, got \['champion'\]"):
        EpsilonGreedy("champion")


def test_a_range_without_a_finite_width_is_refused():
    with pytest.raises(ValueError, match="lo must be less than hi and both finite"):
        EpsilonGreedy(["a", "b"], lo=-1e308, hi=1.5e308)


def test_a_saved_record_that_earned_more_than_it_played_is_refused():
    with pytest.raises(ValueError, match="total must be at most n"):
        restored(Thompson(["a", "b"]).to_dict() | {"n": [1, 1], "total": [5, 0]})


def test_a_subclass_without_a_kind_of_its_own_leaves_its_parents_files_alone():
    class Nameless(Thompson):
        pass

    assert type(restored(Thompson(["a", "b"]).to_dict())) is Thompson
    with pytest.raises(ValueError, match="Nameless must have a kind of its own to be saved"):
        Nameless(["a", "b"]).to_dict()


@pytest.mark.parametrize("make", [floored, fading, lambda p: LinUCB(p.arms, features=["x"])])
def test_optimism_that_would_reach_nobody_is_refused(make):
    with pytest.raises(ValueError, match="policy must learn by counting, and not be wrapped yet"):
        optimistic(make(Thompson(["a", "b"])))


def test_imagined_plays_count_for_the_variance_as_well():
    policy, played = optimistic(UCBTuned(["a", "b"]), plays=3, reward=0.5), UCBTuned(["a", "b"])
    for arm in "aaabbb":
        played.learn(arm, 0.5)
    assert policy.to_dict() == played.to_dict()


@pytest.mark.parametrize("inner", [Thompson, GaussianThompson, lambda a: floored(Thompson(a), 0.2)])
def test_a_floor_states_the_same_chance_whichever_way_an_arm_was_drawn(inner):
    policy, rng = floored(inner(list("abc")).learn("a", 1).learn("b", 0), 0.1), np.random.default_rng(0)
    p = policy.probabilities()
    for _ in range(50):
        arm, propensity = policy.choose(None, rng)
        assert propensity == pytest.approx(p["abc".index(arm)], abs=1e-9)
    assert [policy.chance(a) for a in range(3)] == pytest.approx(p, abs=1e-9)
