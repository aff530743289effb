"Index policies against their formulas, and the bound that none can beat."

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, special

from seatrial.bandit.index import IMED, KLUCB, UCB1, UCBTuned, highest, kl, lai_robbins

rates = st.sampled_from([0.0, 1.0]) | st.floats(1e-9, 1 - 1e-9)


@given(rates, rates)
def test_the_divergence_is_that_of_scipy(p, q):
    expected = special.rel_entr(p, q) + special.rel_entr(1 - p, 1 - q)
    assert kl(p, q) == pytest.approx(expected, rel=1e-6, abs=1e-9)


@given(st.floats(0, 0.999), st.floats(1e-8, 2))
def test_the_highest_rate_is_where_the_divergence_meets_the_level(p, level):
    q, nearly = highest(p, level), 1 - 1e-13
    if kl(p, nearly) <= level:
        assert q >= nearly * (1 - 1e-9)
    else:
        assert q == pytest.approx(optimize.brentq(lambda x: kl(p, x) - level, p, nearly, xtol=1e-15), rel=1e-6)


@given(rates, st.floats(0, 5))
def test_a_bound_is_never_below_the_mean_nor_above_one(p, level):
    assert p <= highest(p, level) <= 1


@given(st.integers(1, 500), st.integers(1, 500), rates, rates)
def test_bounds_are_those_of_their_papers(n, m, x, y):
    state = {"n": [n, m], "total": [n * x, m * y]}
    log_t = math.log(n + m)
    assert UCB1(["a", "b"], **state).indices()[0] == pytest.approx(x + math.sqrt(2 * log_t / n))
    assert KLUCB(["a", "b"], **state).indices()[0] == pytest.approx(highest(x, log_t / n), abs=1e-9)
    v = x - x * x + math.sqrt(2 * log_t / n)
    tuned = UCBTuned(["a", "b"], squares=state["total"], **state)
    assert tuned.indices()[0] == pytest.approx(x + math.sqrt(log_t / n * min(0.25, v)))
    if max(x, y) < 1:
        assert IMED(["a", "b"], **state).indices()[0] == pytest.approx(
            -n * kl(x, max(x, y)) - math.log(n), rel=1e-6, abs=1e-9
        )


@pytest.mark.parametrize("kind", [UCB1, UCBTuned, KLUCB, IMED])
def test_every_arm_is_tried_before_any_is_repeated(kind):
    policy, rng, seen = kind([str(i) for i in range(7)]), np.random.default_rng(0), []
    for _ in range(7):
        found = policy.choose(None, rng)
        assert found.propensity == pytest.approx(1 / (7 - len(seen)))
        seen.append(found.arm)
        policy.learn(found.arm, 0.5)
    assert len(set(seen)) == 7


@pytest.mark.parametrize("kind", [UCB1, UCBTuned, KLUCB, IMED])
@pytest.mark.parametrize("reward", [0.0, 1.0])
def test_arms_that_always_or_never_pay_are_no_difficulty(kind, reward):
    policy, rng = kind(["a", "b"]), np.random.default_rng(0)
    for _ in range(200):
        policy.learn(policy.choose(None, rng).arm, reward)
    assert sum(policy.n) == 200 and min(policy.n) >= 50  # nothing tells the arms apart


@pytest.mark.parametrize("kind", [UCBTuned, KLUCB, IMED])
def test_the_better_arm_gets_nearly_all_plays(kind):
    policy, rng = kind(["worse", "better"]), np.random.default_rng(0)
    for _ in range(2000):
        arm = policy.choose(None, rng).arm
        policy.learn(arm, float(rng.random() < {"worse": 0.2, "better": 0.6}[arm]))
    assert policy.n[1] > 1900


def test_the_lai_robbins_constant_is_that_of_its_formula():
    assert lai_robbins([0.9, 0.8]) == pytest.approx(0.1 / kl(0.8, 0.9)) == pytest.approx(2.252, abs=1e-3)
    assert lai_robbins([0.5, 0.5]) == 0


@pytest.mark.parametrize("rate", [math.nan, -0.1, 1.5, "0.5"])
def test_the_constant_of_no_rates_is_refused(rate):
    with pytest.raises(ValueError, match=r"rate must lie in \[0, 1\], got rate="):
        lai_robbins([0.5, rate])
