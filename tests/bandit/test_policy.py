"The face of a policy: choices whose probability is exact, states that survive saving, refusals that change nothing."

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seatrial.bandit.policy import Choice, EpsilonGreedy, Floor, best, drawn, floored, kinds, optimistic, restored
from seatrial.bandit.thompson import Thompson

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
