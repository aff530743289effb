"Intervals for a policy that never served: valid at every look, and refusing what cannot be asked."

import numpy as np
import pytest

from seatrial.bandit.hindsight import bet_bounds, evaluate, foreseen, fortune, improvement, laid
from seatrial.bandit.overlap import Log, aimed
from seatrial.stats.comparison import NotEnough

P, RATES, TARGET = np.array([0.7, 0.2, 0.1]), np.array([0.2, 0.3, 0.5]), np.array([0.1, 0.2, 0.7])
TRUTH = float(TARGET @ RATES)


def made(n, seed=0, least=0.0, lo=0.0, hi=1.0):
    rng = np.random.default_rng(seed)
    a = rng.choice(3, n, p=P)
    return Log(range(3), a, lo + (hi - lo) * (rng.random(n) < RATES[a]), P[a], lo=lo, hi=hi, least=least)


@pytest.mark.parametrize("least", [0.0, 0.1])
@pytest.mark.parametrize("rho", [0.0, 1.0])
def test_bets_refute_the_truth_at_any_look_at_most_as_often_as_stated(least, rho):
    ever, runs, gain = 0, 300, TRUTH - rho * float(P @ RATES)
    for seed in range(runs):
        log = made(400, seed, least)
        p = aimed(log, TARGET)
        wealth = [fortune(laid(log, p, m), 1 - rho - gain if m else gain, rho, path=True).max() for m in (False, True)]
        ever += max(wealth) >= np.log(2 / 0.1)
    assert ever / runs <= 0.1 + 3 * np.sqrt(0.1 * 0.9 / runs)


@pytest.mark.parametrize("least", [0.0, 0.1])
@pytest.mark.parametrize("mirrored", [False, True])
def test_no_score_falls_below_its_floor(least, mirrored):
    log = made(500, 1, least)
    bets = laid(log, aimed(log, TARGET), mirrored)
    assert (bets.score >= bets.floor - 1e-12).all() and (bets.floor <= 0).all()


def test_scores_of_early_rows_never_change():
    log = made(900, 2, 0.1)
    p = aimed(log, TARGET)
    early = laid(log.part(slice(300)), p[:300])
    assert np.array_equal(early.score, laid(log, p).score[:300])
    assert np.isnan(foreseen(log)[:32]).all() and np.isfinite(foreseen(log)[32:]).all()


def test_bounds_end_where_claims_are_refuted():
    log = made(800, 3, 0.1)
    p = aimed(log, TARGET)
    lower, upper = bet_bounds(log, p, 0.05)
    level = np.log(2 / 0.05)
    assert fortune(laid(log, p), lower - 1e-4)[0] >= level > fortune(laid(log, p), lower + 1e-3)[0]
    mirror = laid(log, p, True)
    assert fortune(mirror, 1 - upper - 1e-4)[0] >= level > fortune(mirror, 1 - upper + 1e-3)[0]


@pytest.mark.parametrize("interval", ["betting", "bootstrap"])
def test_another_unit_of_reward_scales_everything(interval):
    one, other = (
        evaluate(made(500, 4, 0.1, *ends), TARGET, interval=interval, rng=np.random.default_rng(0))
        for ends in ((0, 1), (-5, 15))
    )
    for name in ("value", "lower", "upper", "logged"):
        assert getattr(other, name) == pytest.approx(-5 + 20 * getattr(one, name), abs=1e-3)


def test_the_bootstrap_covers_one_look():
    hits = []
    for seed in range(200):
        v = evaluate(made(500, seed), TARGET, "snips", interval="bootstrap", rng=np.random.default_rng(seed), runs=300)
        hits.append(v.lower <= TRUTH <= v.upper)
    assert np.mean(hits) == pytest.approx(0.95, abs=4 * np.sqrt(0.05 * 0.95 / 200))


def test_better_is_found_and_worse_is_found():
    log = made(4000, 5, 0.1)
    good, bad = improvement(log, TARGET), improvement(log, [0.98, 0.01, 0.01])
    assert good.lower > 0 and good.p_value < 0.05 and good.baseline == pytest.approx(log.rewards.mean())
    assert bad.upper < 0 and bad.p_value < 0.05


def test_the_logged_policy_is_no_better_than_itself():
    same = improvement(made(1000, 6, 0.1), P)
    assert same.lower <= 0 <= same.upper and same.p_value == 1


@pytest.mark.parametrize("how", [{"interval": "hope"}, {"interval": "bootstrap"}, {"alpha": 0}, {"estimator": "magic"}])
def test_a_question_that_makes_no_sense_is_refused(how):
    for ask in (evaluate, improvement):
        with pytest.raises(ValueError, match="must"):
            ask(made(50), TARGET, **how)


def test_too_little_is_a_result():
    rng = np.random.default_rng(0)
    assert isinstance(evaluate(made(1), TARGET), NotEnough)
    assert isinstance(evaluate(made(8), TARGET, interval="bootstrap", rng=rng), NotEnough)
    only = made(300).part(slice(300))
    assert isinstance(improvement(only.part(only.chosen == 0), [0, 0.5, 0.5]), NotEnough)
