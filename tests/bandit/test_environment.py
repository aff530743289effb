"Worlds pay what they say, and two policies on one course have the same luck."

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seatrial.bandit.environment import Linear, Moving, Segments, Stationary

WORLDS = {
    "stationary": Stationary(["a", "b"], [0.9, 0.2]),
    "jump": Moving(["a", "b"], {0: [0.9, 0.2], 50: [0.1, 0.2]}),
    "drift": Moving(["a", "b"], {0: [0.9, 0.2], 50: [0.1, 0.2]}, drift=True),
    "linear": Linear(["a", "b"], {"x": [0.3, -0.1], "y": [0.1, 0.1]}, [0.5, 0.4]),
    "segments": Segments(["a", "b"], {"de": [0.9, 0.2], "fr": [0.1, 0.2]}),
}
every_world = pytest.mark.parametrize("name", sorted(WORLDS))


@every_world
def test_a_course_is_the_same_for_the_same_seed_and_holds_means_only(name):
    first, second = (WORLDS[name].course(200, np.random.default_rng(3)) for _ in range(2))
    assert (first.rates == second.rates).all() and (first.luck == second.luck).all()
    assert list(first.contexts) == list(second.contexts) and len(first.contexts) == 200
    assert first.rates.min() >= 0 and first.rates.max() <= 1 and first.rates.shape == (200, 2)


@every_world
def test_an_arm_pays_its_mean(name):
    course = WORLDS[name].course(20_000, np.random.default_rng(0))
    for a in (0, 1):
        paid = np.array([course.reward(a, t, t) for t in range(20_000)])
        assert abs(paid.mean() - course.rates[:, a].mean()) < 4 * 0.5 / math.sqrt(20_000)


@every_world
def test_the_best_mean_of_a_step_is_that_of_no_arm_less(name):
    course = WORLDS[name].course(100, np.random.default_rng(1))
    assert all(course.best(t) == max(course.rates[t]) for t in range(100))
    assert WORLDS[name].best(0) == max(WORLDS[name].rates(0))
    assert WORLDS[name].reward("a", 0, np.random.default_rng(0)) in (0.0, 1.0)


@given(st.permutations(range(60)))
def test_the_luck_of_a_play_depends_on_nothing_but_its_number(steps):
    course = WORLDS["stationary"].course(60, np.random.default_rng(5))
    assert [course.reward(0, t, k) for k, t in enumerate(steps)] == [course.reward(0, t, t) for t in range(60)]


def test_dealing_moves_the_rates_among_the_arms_and_changes_none():
    dealt = Stationary(["a", "b", "c"], [0.1, 0.5, 0.9], shuffled=True)
    seen = [tuple(dealt.course(1, np.random.default_rng(s)).rates[0]) for s in range(60)]
    assert all(sorted(x) == [0.1, 0.5, 0.9] for x in seen) and len(set(seen)) == 6


def test_means_between_knots_stay_or_go_in_a_straight_line():
    jump, drift = WORLDS["jump"], WORLDS["drift"]
    assert jump.rates(49) == [0.9, 0.2] and jump.rates(50) == [0.1, 0.2] == jump.rates(10_000)
    assert drift.rates(25) == pytest.approx([0.5, 0.2]) and drift.rates(10_000) == [0.1, 0.2]


def test_a_linear_mean_is_linear_in_the_features_by_name():
    course = WORLDS["linear"].course(300, np.random.default_rng(2))
    x, y = (np.array([c[name] for c in course.contexts]) for name in ("x", "y"))
    assert np.allclose(course.rates[:, 0], 0.5 + 0.3 * x + 0.1 * y)
    assert np.allclose(course.rates[:, 1], 0.4 - 0.1 * x + 0.1 * y)


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (lambda: Stationary(["a"], [0.1]), "arms must be at least two different names"),
        (lambda: Stationary(["a", "b"], [0.1]), "rates must be one for each of 2 arms, got 1"),
        (lambda: Stationary(["a", "b"], [0.1, math.nan]), "rates must lie in"),
        (lambda: Stationary(["a", "b"], [0.1, 0.2], delay=0.5), "delay must be a whole number"),
        (lambda: Stationary(["a", "b"], [0.1, 0.2], delay=math.nan), "delay must be a whole number"),
        (lambda: Stationary(["a", "b"], [0.1, 0.2], delay=math.inf), "delay must be a whole number"),
        (lambda: Stationary(["a", "b"], [0.1, 0.2], delay=None), "delay must be a whole number"),
        (lambda: Moving(["a", "b"], {0: [0.1, 0.2], math.nan: [0.1, 0.2]}), "knots must lie at whole steps"),
        (lambda: Moving(["a", "b"], {0: [0.1, 0.2], "5": [0.1, 0.2]}), "knots must lie at whole steps"),
        (lambda: Linear(["a", "b"], {"x": [math.nan, 0.1]}, [0.5, 0.5]), r"weights must keep every mean in \[0, 1\]"),
        (lambda: Segments(["a", "b"], {}), "means must hold at least one segment"),
        (lambda: Moving(["a", "b"], {}), "knots must begin at step 0"),
        (lambda: Moving(["a", "b"], {0: [0.1, 0.2], -4: [0.1, 0.2]}), "knots must begin at step 0"),
        (lambda: Linear(["a", "b"], {"x": [0.1]}, [0.5, 0.5]), "weights must hold one for each of 2 arms"),
        (lambda: Linear(["a", "b"], {"x": [0.6, 0.1]}, [0.5, 0.5]), r"weights must keep every mean in \[0, 1\]"),
        (lambda: Segments(["a", "b"], {"de": [0.1, 1.2]}), "rates must lie in"),
    ],
)
def test_a_world_that_cannot_be_is_refused(make, rule):
    with pytest.raises(ValueError, match=rule):
        make()


def test_a_world_does_not_change_with_what_it_was_made_from():
    weights = {"x": [0.1, -0.1]}
    world = Linear(["a", "b"], weights, [0.5, 0.5])
    weights["x"][0] = 9.0
    assert world.course(50, np.random.default_rng(0)).rates.max() <= 0.6
