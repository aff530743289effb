"""Whatever a policy is called, it keeps the promises of the face: one row of CASES for each kind.

A new kind needs one row: how to make it for given arms and range, the context in which it chooses, and how closely
its propensity is computed. `test_every_policy_of_the_room_stands_in_the_table` fails until the row is there.
"""

import importlib
import json
import math
import pkgutil
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

import seatrial.bandit
from seatrial.bandit.contextual import LinThompson, LinUCB, LogisticThompson
from seatrial.bandit.delayed import delayed
from seatrial.bandit.index import IMED, KLUCB, UCB1, UCBTuned
from seatrial.bandit.moving import fading, restarting, sliding
from seatrial.bandit.policy import EpsilonGreedy, Policy, floored, kinds, restored
from seatrial.bandit.segment import per_segment
from seatrial.bandit.thompson import GaussianThompson, Thompson
from seatrial.bandit.versions import bounded

for module in pkgutil.iter_modules(seatrial.bandit.__path__):
    importlib.import_module(f"seatrial.bandit.{module.name}")


class Case(NamedTuple):
    make: Callable[..., Policy]  # (arms, lo=, hi=) -> policy
    context: dict[str, Any] | None = None  # in which it chooses and learns
    exact: float = 1e-6  # relative error of its propensity
    steps: int = 400  # after which it must prefer an arm of .9 to one of .1


WHERE = {"x": 1.0, "y": -0.5}  # a context of numbers, declared by name

CASES = {
    "epsilon-greedy": Case(EpsilonGreedy),
    "floor": Case(lambda arms, **r: floored(Thompson(arms, **r), 0.05)),
    "ucb1": Case(UCB1),
    "ucb-tuned": Case(UCBTuned),
    "kl-ucb": Case(KLUCB),
    "imed": Case(IMED),
    "thompson": Case(Thompson),
    "gaussian-thompson": Case(GaussianThompson),
    "fading": Case(lambda arms, **r: fading(Thompson(arms, **r), memory=200)),
    "sliding": Case(lambda arms, **r: sliding(UCBTuned(arms, **r), window=200)),
    "restart": Case(lambda arms, **r: restarting(Thompson(arms, **r))),
    "delayed": Case(lambda arms, **r: delayed(Thompson(arms, **r), patience=20, silence=r.get("lo", 0.0))),
    "bounded": Case(lambda arms, **r: bounded(Thompson(arms, **r), least=0.05, most=0.9)),
    "per-segment": Case(lambda arms, **r: per_segment(Thompson(arms, **r), "market"), {"market": "de"}),
    "linucb": Case(lambda arms, **r: LinUCB(arms, features=["x", "y"], **r), WHERE),
    "linear-thompson": Case(lambda arms, **r: LinThompson(arms, features=["x", "y"], **r), WHERE),
    "logistic-thompson": Case(lambda arms, **r: LogisticThompson(arms, features=["x", "y"], **r), WHERE),
}
RANGES = [(0, 1), (-5, -4), (-1e6, 1e6), (1e-9, 2e-9), (1e6, 1e6 + 1)]
every_kind = pytest.mark.parametrize("kind", sorted(CASES))
every_range = pytest.mark.parametrize(("lo", "hi"), RANGES)


def made(kind: str, arms="abc", lo=0.0, hi=1.0) -> Policy:
    return CASES[kind].make(list(arms), lo=lo, hi=hi)


def played(policy: Policy, kind: str, steps: int, seed: int = 0, rates=(0.9, 0.1, 0.1)) -> list[str]:
    "Yes-or-no rewards at the ends of the range; the arms chosen."
    rng, chosen, context = np.random.default_rng(seed), [], CASES[kind].context
    for _ in range(steps):
        arm = policy.choose(context, rng).arm
        win = rng.random() < rates[policy.arms.index(arm)]
        policy.learn(arm, policy.hi if win else policy.lo, context)
        chosen.append(arm)
    return chosen


def shares(policy: Policy, kind: str) -> list[float]:
    "The probabilities, checked to be some."
    p = policy.probabilities(CASES[kind].context)
    assert len(p) == len(policy.arms) and min(p) >= 0 and sum(p) == pytest.approx(1, abs=1e-9)
    return p


def text(policy: Policy) -> str:
    return json.dumps(policy.to_dict(), allow_nan=False)


def test_every_policy_of_the_room_stands_in_the_table():
    assert sorted(kinds()) == sorted(CASES)


@every_kind
def test_a_policy_is_of_the_kind_it_says(kind):
    assert type(made(kind)) is kinds()[kind] and made(kind).to_dict()["kind"] == kind


@every_kind
@pytest.mark.parametrize("arms", ["ab", "abcde"])
def test_a_choice_has_the_probability_that_the_policy_gives_its_arm(kind, arms):
    policy, rng, context = made(kind, arms), np.random.default_rng(1), CASES[kind].context
    for t in range(60):
        p = shares(policy, kind)
        arm, propensity = policy.choose(context, rng)
        assert 0 < propensity <= 1
        assert propensity == pytest.approx(p[policy.arms.index(arm)], rel=CASES[kind].exact, abs=1e-8)
        assert policy.learn(arm, float(t % 3 == 0), context) is policy


@every_kind
def test_the_same_seed_makes_the_same_choices(kind):
    first, second = (played(made(kind), kind, 80, seed=7) for _ in range(2))
    assert first == second


@every_kind
def test_choosing_alone_teaches_nothing(kind):
    policy, rng, context = made(kind), np.random.default_rng(0), CASES[kind].context
    played(policy, kind, 30)
    before = text(policy)
    for _ in range(5):
        policy.choose(context, rng)
        policy.probabilities(context)
    assert text(policy) == before


@every_kind
@pytest.mark.parametrize("reward", [math.nan, math.inf, -math.inf, 3.5, -2.5])
def test_a_reward_outside_the_range_is_refused_and_changes_nothing(kind, reward):
    policy = made(kind, lo=-2, hi=3)
    played(policy, kind, 10)
    before = text(policy)
    with pytest.raises(ValueError, match=r"reward must lie in \[-2, 3\], got reward="):
        policy.learn("a", reward, CASES[kind].context)
    assert text(policy) == before


@every_kind
def test_an_unknown_arm_is_refused_and_changes_nothing(kind):
    policy = made(kind)
    played(policy, kind, 10)
    before = text(policy)
    with pytest.raises(ValueError, match="arm must be one of a, b, c, got arm='z'"):
        policy.learn("z", 1.0, CASES[kind].context)
    assert text(policy) == before


@every_kind
def test_a_saved_policy_goes_on_as_if_nothing_had_happened(kind):
    policy = made(kind)
    played(policy, kind, 57)
    again = restored(json.loads(text(policy)))
    assert text(again) == text(policy)
    assert played(again, kind, 60, seed=3) == played(policy, kind, 60, seed=3)
    assert text(again) == text(policy)


@every_kind
def test_what_was_saved_does_not_move_with_the_policy(kind):
    policy = made(kind)
    played(policy, kind, 30)
    saved = policy.to_dict()
    before = json.dumps(saved)
    twin = restored(saved)
    played(policy, kind, 30)
    played(twin, kind, 30, seed=5)
    assert json.dumps(saved) == before


@every_kind
@every_range
def test_a_clearly_better_arm_is_preferred_whatever_the_range(kind, lo, hi):
    chosen = played(made(kind, lo=lo, hi=hi), kind, CASES[kind].steps, seed=2)
    assert chosen[-100:].count("a") >= 70


@every_kind
@pytest.mark.parametrize("reward", [-2.0, 0.5, 3.0])
def test_rewards_that_never_vary_are_borne(kind, reward):
    policy, rng, context = made(kind, lo=-2, hi=3), np.random.default_rng(0), CASES[kind].context
    for _ in range(150):
        arm, propensity = policy.choose(context, rng)
        assert 0 < propensity <= 1
        policy.learn(arm, reward, context)
    shares(policy, kind)
    text(policy)


@every_kind
def test_an_arm_fed_alone_for_long_leaves_probabilities(kind):
    policy, context = made(kind), CASES[kind].context
    for _ in range(500):
        policy.learn("b", 1.0, context)
    shares(policy, kind)


@every_kind
@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"arms": ["a"]}, "arms must be at least two different names"),
        ({"lo": 1.0}, "lo must be less than hi"),
        ({"hi": math.nan}, "lo must be less than hi and both finite"),
        ({"n": [1.0]}, "n must hold one number >= 0 for each of 3 arms"),
        ({"unheard_of": 1}, "must hold exactly"),
    ],
)
def test_a_damaged_state_is_refused(kind, change, rule):
    with pytest.raises(ValueError, match=rule):
        restored(made(kind).to_dict() | change)
