"Forgetting is exact, and a change is claimed falsely no more often than stated."

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seatrial.bandit.contextual import LinUCB
from seatrial.bandit.index import IMED, KLUCB, UCB1, UCBTuned
from seatrial.bandit.moving import Restart, Watch, Wrapped, fading, memory_for, records, restarting, sliding
from seatrial.bandit.policy import EpsilonGreedy, Policy, floored, restored
from seatrial.bandit.segment import per_segment
from seatrial.bandit.thompson import GaussianThompson, Thompson

plays = st.lists(st.tuples(st.integers(0, 2), st.floats(0, 1)), max_size=60)
COUNTING = [EpsilonGreedy, UCB1, UCBTuned, KLUCB, IMED, Thompson, GaussianThompson]


@given(plays, st.floats(1, 50))
def test_a_fading_record_is_the_discounted_sum(history, memory):
    policy, gamma = fading(UCBTuned(list("abc")), memory), 1 - 1 / memory
    for a, x in history:
        policy.learn("abc"[a], x)
    age = range(len(history) - 1, -1, -1)
    for name, power in (("n", 0), ("total", 1), ("squares", 2)):
        expected = [
            sum(gamma**i * x**power for (b, x), i in zip(history, age, strict=True) if a == b) for a in range(3)
        ]
        assert getattr(policy.inner, name) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(plays, st.integers(1, 30))
def test_a_sliding_record_is_that_of_the_last_plays_alone(history, window):
    policy, fresh = sliding(UCBTuned(list("abc")), window), UCBTuned(list("abc"))
    for a, x in history:
        policy.learn("abc"[a], x)
    for a, x in history[-window:]:
        fresh.learn("abc"[a], x)
    assert policy.inner.n == fresh.n
    assert policy.inner.total == pytest.approx(fresh.total, abs=1e-12)
    assert policy.inner.squares == pytest.approx(fresh.squares, abs=1e-12)
    assert restored(policy.to_dict()) == policy


def test_discounted_ucb_is_that_of_its_paper():
    policy = fading(UCB1(["a", "b"]), memory=50)
    for t in range(200):
        policy.learn("ab"[t % 2], t % 3 / 2)
    n, total = policy.inner.n, policy.inner.total
    width = [2 * math.sqrt(0.5 * math.log(sum(n)) / v) for v in n]
    assert policy.inner.indices() == pytest.approx([s / v + w for s, v, w in zip(total, n, width, strict=True)])


@pytest.mark.parametrize("kind", COUNTING)
def test_a_long_window_changes_nothing(kind):
    plain, wrapped = kind(["a", "b"]), sliding(kind(["a", "b"]), 1000)
    rng, twin = np.random.default_rng(0), np.random.default_rng(0)
    for t in range(200):
        arm = plain.choose(None, rng).arm
        assert wrapped.choose(None, twin).arm == arm
        reward = float(t * (arm == "a") % 7 < 3)
        plain.learn(arm, reward)
        wrapped.learn(arm, reward)


@pytest.mark.parametrize("kind", COUNTING)
def test_a_long_memory_forgets_next_to_nothing(kind):
    plain, wrapped = kind(["a", "b"]), fading(kind(["a", "b"]), 1e12)
    for t in range(200):
        plain.learn("ab"[t % 3 > 0], t % 5 / 4)
        wrapped.learn("ab"[t % 3 > 0], t % 5 / 4)
    assert wrapped.probabilities() == pytest.approx(plain.probabilities(), abs=1e-6)


@pytest.mark.parametrize("make", [lambda p: fading(p, 100), lambda p: sliding(p, 200), restarting])
@pytest.mark.parametrize("kind", [KLUCB, Thompson])
def test_the_new_best_arm_is_found(make, kind):
    policy, rng, chosen = make(kind(["a", "b"])), np.random.default_rng(1), []
    for t in range(3000):
        rates = {"a": 0.8, "b": 0.4} if t < 1500 else {"a": 0.2, "b": 0.6}
        chosen.append(policy.choose(None, rng).arm)
        policy.learn(chosen[-1], float(rng.random() < rates[chosen[-1]]))
    assert chosen[1000:1500].count("a") > 400 and chosen[2500:].count("b") > 350


@pytest.mark.parametrize("values", [lambda r: float(r.random() < 0.5), lambda r: r.random() ** 3, lambda r: 0.7])
def test_a_fortune_against_a_true_claim_seldom_grows(values):
    rng, runs, high = np.random.default_rng(3), 150, 0
    for _ in range(runs):
        watch = Watch()
        high += any(watch.update(values(rng)).log_e > math.log(5) for _ in range(300))
    assert high / runs <= 0.2 + 3 * math.sqrt(0.2 * 0.8 / runs)


def test_the_bets_hand_out_one_coin_over_all_sequences():
    "The money on all 2^12 sequences of a coin: what the bets paid is a probability over them."
    whole = 0.0
    for i in range(2**12):
        watch = Watch()
        for j in range(12):
            watch.update(i >> j & 1)
        whole += sum(math.exp(money) for money, _, _ in watch.bets)
    assert whole == pytest.approx(1, abs=1e-9)


@given(st.lists(st.floats(0, 1), max_size=200))
def test_the_bets_never_hold_more_than_one_coin_and_few_remain(values):
    watch = Watch()
    for x in values:
        watch.update(x)
    assert len(watch.bets) <= 25 and all(b[1] <= watch.n for b in watch.bets)
    assert [b[1] for b in watch.bets] == sorted((b[1] for b in watch.bets), reverse=True)
    assert math.isfinite(watch.log_e)


def test_an_empty_watch_has_its_coin():
    assert Watch().log_e == 0


def test_a_restart_forgets_all_and_says_why():
    policy = restarting(Thompson(["a", "b"], successes=2.0), alpha=0.01)
    for t in range(400):
        policy.learn("a", float(t < 200))
        if policy.restarts:
            break
    assert policy.moved == "a" and policy.restarts == 1 and t < 230
    assert sum(policy.inner.inner.n) == 0 and policy.inner.inner.successes == 2.0
    assert policy.watches == [Watch(), Watch()]


def test_a_restart_returns_to_the_policy_it_was_given():
    begun = Thompson(["a", "b"]).learn("b", 1.0)
    policy = restarting(begun, share=0)
    for t in range(400):
        policy.learn("a", float(t < 200))
    assert policy.restarts >= 1 and policy.inner.n[1] == 1


def test_rewards_of_any_range_are_watched_as_shares():
    policy = restarting(Thompson(["a", "b"], lo=-10, hi=30))
    for t in range(300):
        policy.learn("b", 30 if t < 150 else -10)
    assert policy.restarts == 1 and policy.moved == "b"


def test_advice_on_the_memory_follows_its_formula():
    memory, window = memory_for(10_000, 4)
    assert memory == pytest.approx(200) and window == math.ceil(2 * math.sqrt(10_000 * math.log(10_000) / 4))
    assert memory_for(100, 100)[0] == 4


def test_every_counting_policy_can_be_made_to_forget():
    assert all(records(kind(["a", "b"]))[:2] == [("n", 0), ("total", 1)] for kind in COUNTING)


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (lambda: fading(Thompson(["a", "b"]), 0.2), r"memory must lie in \[1, 1e\+12\], got memory=0.2"),
        (lambda: sliding(Thompson(["a", "b"]), 0), "window must be a whole number >= 1, got window=0"),
        (lambda: sliding(Thompson(["a", "b"]).learn("a", 1), 9), "the window must hold the plays of"),
        (lambda: fading(floored(Thompson(["a", "b"]))), "inner must learn by counting alone, .*, got kind='floor'"),
        (lambda: restarting(Thompson(["a", "b"]), alpha=0), "alpha must lie in"),
        (lambda: restarting(Thompson(["a", "b"]), share=0.7), r"share must lie in \[0, 0.5\], got share=0.7"),
        (lambda: Wrapped(["a", "b"]), "inner must be a policy with the arms a, b and rewards in"),
        (lambda: Wrapped(["a", "b"], hi=2, inner=UCB1(["a", "b"])), r"rewards in \[0, 2\]"),
        (
            lambda: Restart(["a", "b"], inner=UCB1(["a", "b"]), watches=[Watch()]),
            "one watcher for each of 2 arms, got 1",
        ),
        (lambda: Watch().update(1.5), r"x must lie in \[0, 1\], got x=1.5"),
        (lambda: Watch().update(math.nan), r"x must lie in \[0, 1\], got x=nan"),
        (lambda: memory_for(100, 0), "changes must lie in"),
    ],
)
def test_what_cannot_work_is_refused(make, rule):
    with pytest.raises(ValueError, match=rule):
        make()


def test_the_face_alone_passes_everything_through():
    inner = Thompson(["a", "b"])
    policy = Wrapped(["a", "b"], inner=inner).learn("a", 1.0)
    assert isinstance(policy, Policy) and policy.probabilities() == inner.probabilities() and inner.n == [1, 0]


def test_a_saved_window_with_an_arm_that_does_not_exist_is_refused():
    stored = sliding(Thompson(["a", "b"]), 2).learn("a", 1).to_dict()
    with pytest.raises(ValueError, match="the window must hold the plays of"):
        restored(stored | {"played": [0, 7], "earned": [1.0, 1.0]})


@pytest.mark.parametrize(
    "make",
    [
        lambda: LinUCB(["a", "b"], features=["x"]),
        lambda: floored(LinUCB(["a", "b"], features=["x"]), 0.1),
        lambda: per_segment(Thompson(["a", "b"]), "market"),
    ],
)
def test_a_contextual_policy_is_not_watched_for_a_mean_that_it_moves_itself(make):
    with pytest.raises(ValueError, match="inner must be a policy that is not contextual, got kind="):
        restarting(make())


def test_a_watched_policy_may_stand_in_each_segment():
    policy = per_segment(restarting(Thompson(["a", "b"])), "market").learn("a", 1, {"market": "de"})
    assert restored(policy.to_dict()).to_dict() == policy.to_dict()
