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


def uneven(n, seed):
    "Half the visitors gain much from any arm, the other half little from the one arm of the target."
    rng, k = np.random.default_rng(seed), 10
    x, a = rng.integers(0, 2, n), rng.integers(0, k, n)
    log = Log(range(k), a, rng.random(n) < np.where(x, 0.3, 0.9), np.full(n, 1 / k), x, least=1 / k)
    return log, np.where(x[:, None], np.eye(k)[0], 1 / k)


def test_bets_keep_their_promise_where_one_kind_of_visitor_could_lose_far_more_than_another():
    ever, runs = 0, 100
    for seed in range(runs):
        log, target = uneven(600, seed)
        wealth = [fortune(laid(log, target, m), 0.4 if m else 0.6, path=True).max() for m in (False, True)]
        ever += max(wealth) >= np.log(2 / 0.1)
    assert ever / runs <= 0.1 + 3 * np.sqrt(0.1 * 0.9 / runs)


def test_a_floor_is_known_before_its_row():
    log, target = uneven(300, 0)
    other = Log(log.arms, log.actions, log.rewards, log.propensities, np.r_[log.contexts[:299], 1 - log.contexts[299]])
    flipped = np.where(other.contexts[:, None] == 1, np.eye(10)[0], 0.1)
    for mirrored in (False, True):
        floor = laid(log, target, mirrored).floor
        part = Log(log.arms, log.actions, log.rewards, log.propensities, other.contexts, least=0.1)
        assert floor[299] == laid(part, flipped, mirrored).floor[299] and (np.diff(floor) <= 0).all()


def test_a_bootstrap_has_a_p_value_that_agrees_with_its_bounds():
    for seed in range(20):
        log = made(200, seed)
        for alpha in (0.01, 0.05, 0.2):
            rng = np.random.default_rng(seed)
            c = improvement(log, [0.4, 0.3, 0.3], "snips", alpha, interval="bootstrap", rng=rng)
            assert 0 < c.p_value <= 1
            assert c.significant == (c.p_value < alpha) or abs(c.p_value - alpha) < 0.1 * alpha + 0.004


def test_a_bootstrap_p_value_keeps_its_level_where_nothing_is_gained():
    p = []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        a = rng.choice(3, 300, p=P)
        log = Log(range(3), a, rng.random(300) < 0.3, P[a])
        p.append(improvement(log, TARGET, "snips", interval="bootstrap", rng=rng, runs=200).p_value)
    assert np.mean(np.array(p) < 0.05) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 300)


@pytest.mark.parametrize("estimator", ["dm", "clipped", "shrunk-dr", "switch-dr"])
def test_the_bootstrap_of_a_biased_estimator_covers_the_policys_value(estimator):
    hits, gains = [], []
    for seed in range(150):
        rng = np.random.default_rng(seed)
        a, x = rng.choice(3, 300, p=P), rng.integers(0, 2, 300)
        rates = np.array([RATES, RATES[::-1]])
        log = Log(range(3), a, rng.random(300) < rates[x, a], P[a], x)
        target = np.array([TARGET, TARGET[::-1]])[x]
        how = {"interval": "bootstrap", "rng": rng, "runs": 200}
        v, c = (ask(log, target, estimator, **how) for ask in (evaluate, improvement))
        hits.append(v.lower <= RATES @ TARGET <= v.upper)
        gains.append(c.lower <= RATES @ TARGET - P @ (rates.mean(0)) <= c.upper)
    assert min(np.mean(hits), np.mean(gains)) >= 0.95 - 3 * np.sqrt(0.05 * 0.95 / 150)


@pytest.mark.parametrize("how", [{"rng": 3}, {"runs": 0}, {"runs": 1}, {"runs": 150.5}, {"runs": np.nan}])
def test_a_bootstrap_without_chance_or_without_draws_is_refused(how):
    for ask in (evaluate, improvement):
        with pytest.raises(ValueError, match="must be a"):
            ask(made(200), TARGET, interval="bootstrap", **({"rng": np.random.default_rng(0)} | how))


@pytest.mark.parametrize("interval", ["betting", "bootstrap"])
def test_arms_that_were_never_logged_are_said_in_the_answer(interval):
    log = made(500)
    log = Log(log.arms, *(np.asarray(x)[log.chosen < 2] for x in (log.actions, log.rewards, [0.5] * 500)))
    how = {"interval": interval, "rng": np.random.default_rng(0)}
    v, c = (ask(log, [0.1, 0.1, 0.8], "ips", **how) for ask in (evaluate, improvement))
    assert v.unseen == pytest.approx(0.8) and "80.00% of the target on arms never logged" in v._repr_markdown_()
    assert "80.00% of the target on arms never logged" in c.method


@pytest.mark.parametrize("p", [1e-12, 1e-90])
def test_tiny_propensities_do_not_overflow(p):
    log = Log("ab", ["a", "b"] * 50, [1, 0] * 50, [0.999, p] * 50)
    for ask in (evaluate, improvement):
        for interval in ("betting", "bootstrap"):
            found = ask(log, [0.5, 0.5], "ips", interval=interval, rng=np.random.default_rng(0))
            assert np.isfinite([found.lower, found.upper]).all()
