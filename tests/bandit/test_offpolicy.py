"Estimators of another policy's value: exactly unbiased where promised, and identical where they should be."

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seatrial.bandit.offpolicy import CUT, ESTIMATORS, MODELLED, crossed, estimate, taught, tempered
from seatrial.bandit.overlap import Log
from seatrial.stats.comparison import NotEnough

TARGET = {"x": [0.1, 0.2, 0.7], "y": [0.6, 0.3, 0.1]}


def made(n=300, seed=0, **more):
    rng = np.random.default_rng(seed)
    p = np.array([0.5, 0.3, 0.2])
    a, x = rng.choice(3, n, p=p), rng.choice(["x", "y"], n)
    rate = np.where(x == "x", np.array([0.2, 0.4, 0.6])[a], np.array([0.6, 0.2, 0.1])[a])
    return Log(range(3), a, rng.random(n) < rate, p[a], x, **more)


def expected_over_every_log(estimator, target, p, rates, **how):
    whole = 0.0
    for played in product(range(len(p)), repeat=2):
        for got in product((0, 1), repeat=2):
            chance = np.prod([p[a] * (rates[a] if r else 1 - rates[a]) for a, r in zip(played, got, strict=True)])
            found = estimate(Log(range(len(p)), played, got, [p[a] for a in played]), target, estimator, **how)
            whole += chance * found.value
    return whole


@given(st.integers(0, 2**32 - 1), st.sampled_from(["ips", "dr"]))
def test_ips_and_doubly_robust_are_exactly_unbiased_with_any_model(seed, estimator):
    rng = np.random.default_rng(seed)
    p, target, rates = rng.dirichlet(np.ones(2)) * 0.98 + 0.01, rng.dirichlet(np.ones(2)), rng.random(2)
    model = rng.normal(size=(2, 2)) if estimator == "dr" else None
    found = expected_over_every_log(estimator, target / target.sum(), p / p.sum(), rates, model=model)
    assert found == pytest.approx(target @ rates, abs=1e-7)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("clipped", {"cut": np.inf}), ("ips", {})),
        (("dr", {"model": 0.0}), ("ips", {})),
        (("sndr", {"model": 0.0}), ("snips", {})),
        (("sndr", {"model": 0.3}), ("snips", {})),
        (("switch-dr", {"cut": 0}), ("dm", {})),
        (("switch-dr", {"cut": np.inf}), ("dr", {})),
        (("shrunk-dr", {"cut": 0}), ("dm", {})),
        (("shrunk-dr", {"cut": np.inf}), ("dr", {})),
    ],
)
def test_identities_hold(one, other):
    log = made()
    a, b = (estimate(log, TARGET.get, name, **how) for name, how in (one, other))
    assert a.value == pytest.approx(b.value) and a.se == pytest.approx(b.se)


@given(st.lists(st.floats(0, 100), min_size=2, max_size=20), st.floats(0.01, 1e4), st.sampled_from(CUT))
def test_tempered_weights_never_exceed_the_weights(w, cut, estimator):
    w = np.array(w)
    omega = tempered(w, estimator, cut)
    assert (omega >= 0).all() and (omega <= w + 1e-12).all()


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_log_evaluates_its_own_policy_as_its_mean(estimator):
    log = made(2000)
    found = estimate(log, [0.5, 0.3, 0.2], estimator)
    assert found.value == pytest.approx(log.rewards.mean(), abs=0.03) and found.effective_n == pytest.approx(2000)


@pytest.mark.parametrize("estimator", [e for e in ESTIMATORS if e != "dm"])
def test_the_standard_error_is_that_of_repeated_logs(estimator):
    how = {"cut": 3.0} if estimator in CUT else {}  # the standard error takes cut and model as given
    how |= {"model": 0.3} if estimator in CUT and estimator in MODELLED else {}
    found = [estimate(made(400, seed), TARGET.get, estimator, **how) for seed in range(200)]
    sd = np.std([f.value for f in found], ddof=1)
    assert np.mean([f.se for f in found]) == pytest.approx(sd, rel=0.25)


def test_no_row_is_predicted_by_a_model_that_saw_it():
    log = made(50)
    guess = crossed(log)
    for row in (0, 7, 49):
        flipped = log.rewards.copy()
        flipped[row] = 1 - flipped[row]
        other = crossed(Log(range(3), log.actions, flipped, log.propensities, log.contexts))
        assert np.array_equal(other[row], guess[row]) and not np.array_equal(other, guess)


@pytest.mark.parametrize("period", [5, 10])
def test_contexts_that_come_in_turn_are_learned_all_the_same(period):
    rng, n = np.random.default_rng(1), 4000
    x, a, rates = np.arange(n) % period, rng.integers(0, 3, n), rng.random((period, 3))
    log = Log(range(3), a, rng.random(n) < rates[x, a], np.full(n, 1 / 3), x)
    best = np.eye(3)[rates.argmax(1)]
    assert estimate(log, best[x], "dm").value == pytest.approx(rates.max(1).mean(), abs=0.05)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_target_on_arms_never_logged_is_said_in_the_answer(estimator):
    found = estimate(made(), [0.1, 0.2, 0.7], estimator)
    assert found.unseen == 0 and "never logged" not in found._repr_markdown_()
    log = made()
    log = log.part(log.chosen < 2)
    found = estimate(log, [0.1, 0.2, 0.7], estimator)
    assert found.unseen == pytest.approx(0.7) and "70.00% of the target on arms never logged" in found._repr_markdown_()


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_every_estimator_is_its_formula_row_by_row(estimator):
    rng, n, k, c = np.random.default_rng(0), 60, 4, 1.5
    p, target, q = rng.dirichlet(np.ones(k) * 2, n), rng.dirichlet(np.ones(k), n), rng.random((n, k))
    a, y = rng.integers(0, k, n), rng.random(n)
    w = [target[i, a[i]] / p[i, a[i]] for i in range(n)]
    base = [sum(target[i, j] * q[i, j] for j in range(k)) for i in range(n)]
    rest = [y[i] - q[i, a[i]] for i in range(n)]
    by_hand = {
        "ips": sum(w[i] * y[i] for i in range(n)) / n,
        "clipped": sum(min(w[i], c) * y[i] for i in range(n)) / n,
        "snips": sum(w[i] * y[i] for i in range(n)) / sum(w),
        "dm": sum(base) / n,
        "dr": sum(base[i] + w[i] * rest[i] for i in range(n)) / n,
        "sndr": sum(base) / n + sum(w[i] * rest[i] for i in range(n)) / sum(w),
        "switch-dr": sum(base[i] + (w[i] * rest[i] if w[i] <= c else 0) for i in range(n)) / n,
        "shrunk-dr": sum(base[i] + c * w[i] / (w[i] ** 2 + c) * rest[i] for i in range(n)) / n,
    }
    how = ({"cut": c} if estimator in CUT else {}) | ({"model": q} if estimator in MODELLED else {})
    found = estimate(Log(range(k), a, y, p[np.arange(n), a]), target, estimator, **how)
    assert found.value == pytest.approx(by_hand[estimator], rel=1e-12)


def test_a_ridge_model_finds_a_slope():
    rng = np.random.default_rng(0)
    x, a = rng.normal(size=(3000, 2)), rng.integers(0, 2, 3000)
    y = np.clip(0.5 + 0.1 * x[:, 0] * (1 - 2 * a), 0, 1)
    log = Log(range(2), a, y, np.full(3000, 0.5), x)
    truth = np.clip(0.5 + 0.1 * x[:, :1] * [1, -1], 0, 1)
    assert np.abs(taught(log, np.arange(2000), np.arange(2000, 3000)) - truth[2000:]).max() < 0.03


@pytest.mark.parametrize("how", [{"estimator": "magic"}, {"cut": 3}, {"estimator": "clipped", "cut": -1}])
def test_a_question_that_makes_no_sense_is_refused(how):
    with pytest.raises(ValueError, match="must be"):
        estimate(made(), TARGET.get, **how)


@pytest.mark.parametrize("model", [[0.1, 0.2], np.nan, np.full((300, 3), np.inf)])
def test_a_model_that_does_not_fit_is_refused(model):
    with pytest.raises(ValueError, match="model must hold a finite reward"):
        estimate(made(), TARGET.get, model=model)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_no_overlap_and_no_rows_are_results(estimator):
    log = made()
    assert isinstance(estimate(log.part(log.chosen == 0), [0, 0.5, 0.5], estimator), NotEnough)
    assert isinstance(estimate(log.part(slice(1)), TARGET.get, estimator), NotEnough)
    assert set(MODELLED) < set(ESTIMATORS)
