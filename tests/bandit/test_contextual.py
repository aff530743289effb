"A contextual policy is the regression it says it is, and its propensities are those of its draws."

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, special

from seatrial.bandit.contextual import (
    LIMIT,
    LinThompson,
    LinUCB,
    LogisticThompson,
    absorb,
    declared,
    logistic,
    settled,
    standardized,
    vector,
)
from seatrial.bandit.policy import Floor, floored, restored

NAMES = ["x", "y", "z"]
MODELS = [LinUCB, LinThompson, LogisticThompson]
every_model = pytest.mark.parametrize("make", MODELS)


def visitors(n, seed=0):
    return [dict(zip(NAMES, row, strict=True)) for row in np.random.default_rng(seed).normal(size=(n, 3)).tolist()]


def taught(policy, n=60, seed=0):
    rng = np.random.default_rng(seed)
    for who in visitors(n, seed):
        policy.learn(policy.arms[rng.integers(len(policy.arms))], float(rng.random() < 0.5), who)
    return policy


@given(st.integers(1, 8), st.integers(0, 80), st.floats(0.1, 100), st.booleans(), st.integers(0, 2**32 - 1))
@settings(max_examples=40)
def test_the_weights_are_those_of_ridge_regression_by_a_solver(d, n, ridge, intercept, seed):
    rng = np.random.default_rng(seed)
    names = [f"f{i}" for i in range(d)]
    policy = LinUCB(["a", "b"], features=names, ridge=ridge, intercept=intercept)
    X, r = rng.normal(size=(n, d)), rng.random(n)
    for row, reward in zip(X.tolist(), r, strict=True):
        policy.learn("a", reward, dict(zip(names, row, strict=True)))
    full = np.column_stack([np.ones(n), X]) if intercept else X
    A = full.T @ full + ridge * np.eye(d + intercept)
    assert policy.weight[0] == pytest.approx(np.linalg.solve(A, full.T @ r), rel=1e-8, abs=1e-10)
    assert policy.inverse[0] == pytest.approx(np.linalg.inv(A), rel=1e-8, abs=1e-10)
    assert (policy.weight[1] == 0).all()


@given(st.integers(1, 12), st.floats(1e-3, 1e3), st.integers(0, 2**32 - 1))
@settings(max_examples=40)
def test_an_absorbed_observation_is_an_outer_product_more(d, g, seed):
    rng = np.random.default_rng(seed)
    root, x = rng.normal(size=(d, d + 2)), rng.normal(size=d)
    A = root @ root.T + np.eye(d)
    inverse = np.linalg.inv(A)
    inverse = (inverse + inverse.T) / 2
    z = inverse @ x
    absorb(inverse, z, x @ z, g)
    assert inverse == pytest.approx(np.linalg.inv(A + g * np.outer(x, x)), rel=1e-7, abs=1e-9)
    assert (inverse == inverse.T).all()


def test_ten_thousand_updates_at_the_limit_of_scale_leave_a_usable_state():
    policy, rng = LinThompson(["a", "b"], features=NAMES, ridge=1e-6), np.random.default_rng(0)
    for row in (LIMIT / 2 + rng.normal(size=(10_000, 3)) * [1, 1e-3, 1]).tolist():
        policy.learn("a", 0.5, dict(zip(NAMES, row, strict=True)))
    mean, sd = policy.posterior(dict.fromkeys(NAMES, LIMIT / 2))
    assert mean[0] == pytest.approx(0.5, abs=0.05) and 0 < sd[0] < 0.1 and np.isfinite(sd).all()
    assert restored(json.loads(json.dumps(policy.to_dict()))) == policy


@given(st.floats(-300, 300), st.floats(0, 1e6), st.floats(0, 1))
def test_the_settled_log_odds_leave_their_own_residual(u0, v, y):
    u = settled(u0, v, y)
    assert abs(u - u0 - v * (y - logistic(u))) <= 1e-9 * (1 + v) * (1 + abs(u))
    assert logistic(u) == pytest.approx(special.expit(u), rel=1e-12)


def test_one_logistic_step_is_the_most_probable_weight():
    policy = LogisticThompson(["a", "b"], features=NAMES, ridge=0.5)
    who = {"x": 1.5, "y": -2.0, "z": 0.3}
    x = vector(policy.features, who)

    def loss(w):
        return 0.25 * w @ w - special.log_expit(w @ x)

    policy.learn("a", 1.0, who)
    assert policy.weight[0] == pytest.approx(optimize.minimize(loss, np.zeros(4), tol=1e-12).x, abs=1e-5)
    p = special.expit(policy.weight[0] @ x)
    A = 0.5 * np.eye(4) + p * (1 - p) * np.outer(x, x)
    assert policy.inverse[0] == pytest.approx(np.linalg.inv(A), rel=1e-9)


@pytest.mark.parametrize("make", [LinThompson, LogisticThompson])
def test_arms_are_drawn_as_often_as_they_are_probable(make):
    policy, rng, runs = taught(make(list("abcd"), features=NAMES)), np.random.default_rng(1), 20_000
    who = visitors(1, seed=9)[0]
    p = np.array(policy.probabilities(who))
    seen = np.bincount([policy.draw(who, rng) for _ in range(runs)], minlength=4) / runs
    assert (np.abs(seen - p) < 4.5 * np.sqrt(p * (1 - p) / runs)).all()


@pytest.mark.parametrize("make", [LinThompson, LogisticThompson])
def test_choose_and_draw_take_the_same_arm_from_the_same_chance(make):
    policy = taught(make(list("abcd"), features=NAMES))
    for seed, who in enumerate(visitors(30)):
        arm, p = policy.choose(who, np.random.default_rng(seed))
        place = policy.draw(who, np.random.default_rng(seed))
        assert policy.arms[place] == arm and p == pytest.approx(policy.probabilities(who)[place], rel=1e-6)


def test_the_bonus_of_linucb_is_alpha_standard_errors():
    policy, who = taught(LinUCB(list("abc"), features=NAMES, alpha=0.7)), visitors(1, seed=4)[0]
    mean, error = policy.estimate(who)
    p = policy.probabilities(who)
    assert p[int(np.argmax(mean + 0.7 * error))] == 1 and sum(p) == 1
    assert policy.choose(who, np.random.default_rng(0)).propensity == 1


@every_model
def test_arms_of_which_nothing_is_known_share_alike(make):
    policy = make(list("abc"), features=NAMES)
    assert policy.probabilities(visitors(1)[0]) == pytest.approx([1 / 3] * 3, abs=1e-9)


@every_model
def test_a_visitor_without_any_feature_is_borne_without_an_intercept(make):
    policy = make(list("abc"), features=NAMES, intercept=False)
    nobody = dict.fromkeys(NAMES, 0.0)
    policy.learn("a", 1.0, nobody)
    assert policy.probabilities(nobody) == pytest.approx([1 / 3] * 3, abs=1e-9)


@every_model
def test_the_order_of_the_names_in_a_context_does_not_matter(make):
    one, other = make(list("ab"), features=NAMES), make(list("ab"), features=NAMES)
    for who in visitors(30):
        one.learn("a", 0.3, who)
        other.learn("a", 0.3, dict(reversed(who.items())))
    assert one == other


@every_model
@pytest.mark.parametrize(
    ("context", "rule"),
    [
        (None, "context must map x, y, z to numbers, got None"),
        ([1, 2, 3], "context must map x, y, z to numbers"),
        ({"x": 1, "y": 2}, "missing=.'z'. and unknown=.."),
        ({"x": 1, "y": 2, "z": 3, "w": 4}, "missing=.. and unknown=.'w'."),
        ({"x": 1, "y": 2, "Z": 3}, "missing=.'z'. and unknown=.'Z'."),
        ({"x": 1, "y": 2, "z": float("nan")}, "z must be a number within 1000 x 1 of 0, got z=nan"),
        ({"x": 1, "y": float("inf"), "z": 0}, "y must be a number .* got y=inf"),
        ({"x": "1", "y": 2, "z": 3}, "x must be a number .* got x='1'"),
        ({"x": None, "y": 2, "z": 3}, "x must be a number .* got x=None"),
        ({"x": 1j, "y": 2, "z": 3}, "x must be a number .* got x=1j"),
        ({"x": 10**400, "y": 2, "z": 3}, "x must be a number"),
        ({"x": 1, "y": 2, "z": -1001}, "z must be a number .* got z=-1001"),
        ({"x": np.array([1.0, 2.0]), "y": 2, "z": 3}, "x must be a number"),
    ],
)
def test_a_bad_context_is_refused_by_name_and_changes_nothing(make, context, rule):
    policy = taught(make(list("ab"), features=NAMES))
    before = json.dumps(policy.to_dict())
    for act in (
        lambda: policy.learn("a", 1.0, context),
        lambda: policy.choose(context, np.random.default_rng(0)),
        lambda: policy.probabilities(context),
    ):
        with pytest.raises(ValueError, match=rule):
            act()
    assert json.dumps(policy.to_dict()) == before


def test_numbers_of_numpy_and_truth_values_are_numbers():
    features = declared(NAMES)
    given = {"x": np.float32(0.5), "y": True, "z": np.int64(3)}
    assert vector(features, given).tolist() == [1, 0.5, 1, 3]


@pytest.mark.parametrize(
    ("features", "rule"),
    [
        ([], "features must be at least one name"),
        (["x", "x"], "all different"),
        ([("x", 0, 0)], "x must have a finite centre and a scale > 0"),
        ([("x", float("nan"), 1)], "x must have a finite centre"),
        ([(3, 0, 1)], "features must be at least one name"),
    ],
)
def test_features_that_cannot_be_are_refused(features, rule):
    with pytest.raises(ValueError, match=rule):
        LinUCB(["a", "b"], features=features)


def test_standardized_features_have_mean_zero_and_spread_one():
    columns = {"age": [20, 30, 70], "mobile": [0, 1, 1]}
    features = standardized(columns)
    rows = [vector(features, {n: v[i] for n, v in columns.items()}, intercept=False) for i in range(3)]
    assert np.mean(rows, 0) == pytest.approx([0, 0], abs=1e-12) and np.std(rows, 0) == pytest.approx([1, 1])
    with pytest.raises(ValueError, match="age must have a finite centre"):
        standardized({"age": [1, 2, np.nan]})


@every_model
@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"weight": [[0.0] * 4]}, "weight must be finite and of shape"),
        ({"inverse": [[[1.0]]] * 2}, "inverse must be finite and of shape"),
        ({"inverse": (-np.tile(np.eye(4), (2, 1, 1))).tolist()}, "inverse must be symmetric and positive definite"),
        ({"inverse": np.tile(np.triu(np.ones((4, 4))), (2, 1, 1)).tolist()}, "inverse must be symmetric"),
        ({"ridge": 0}, "ridge must lie in"),
    ],
)
def test_a_state_that_fits_nothing_is_refused(make, change, rule):
    with pytest.raises(ValueError, match=rule):
        restored(make(["a", "b"], features=NAMES).to_dict() | change)


@every_model
def test_a_restored_policy_goes_on_identically_below_a_floor(make):
    policy = floored(taught(make(list("abc"), features=standardized({n: [-1, 0, 2] for n in NAMES}))), 0.05)
    again = restored(json.loads(json.dumps(policy.to_dict())))
    assert isinstance(again, Floor) and again == policy
    one, other = np.random.default_rng(3), np.random.default_rng(3)
    for who in visitors(40, seed=5):
        choice = policy.choose(who, one)
        assert again.choose(who, other) == choice and choice.propensity >= 0.05
        policy.learn(choice.arm, 0.4, who)
        again.learn(choice.arm, 0.4, who)
    assert again.to_dict() == policy.to_dict()


@every_model
def test_the_visitor_decides_which_arm_is_preferred(make):
    policy, rng = make(["low", "high"], features=["x"]), np.random.default_rng(0)
    for _ in range(600):
        x = float(rng.choice([-1, 1]))
        arm = policy.choose({"x": x}, rng).arm
        policy.learn(arm, float(rng.random() < (0.8 if (arm == "high") == (x > 0) else 0.2)), {"x": x})
    assert policy.probabilities({"x": 1.0})[1] > 0.9 and policy.probabilities({"x": -1.0})[0] > 0.9


@pytest.mark.parametrize("make", MODELS)
def test_text_is_one_feature_not_its_letters(make):
    assert make(["a", "b"], features="age").features == [("age", 0.0, 1.0)]


@pytest.mark.parametrize("make", [LinThompson, LogisticThompson])
def test_the_chance_of_one_arm_is_its_share_of_all(make):
    policy, who = make(list("abc"), features=NAMES), visitors(1, seed=2)[0]
    policy.learn("a", 1.0, who).learn("b", 0.0, who)
    assert [policy.chance(a, who) for a in range(3)] == pytest.approx(policy.probabilities(who), abs=1e-9)


@pytest.mark.parametrize("make", MODELS)
def test_short_floats_teach_what_long_ones_do(make):
    policy, twin = (make(["a", "b"], features=NAMES) for _ in range(2))
    who = dict.fromkeys(NAMES, 0.5)
    for reward in (1, 0, 1):
        policy.learn("a", np.float16(reward), {k: np.float16(v) for k, v in who.items()})
        twin.learn("a", float(reward), who)
    assert json.dumps(policy.to_dict()) == json.dumps(twin.to_dict())
