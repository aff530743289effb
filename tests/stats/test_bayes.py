"Beliefs are updated and compared exactly, and say what they rest on."

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from seatrial.stats.bayes import (
    Beta,
    Normal,
    Posterior,
    chances,
    expected_loss,
    posterior_means,
    posterior_rates,
    quantile,
    typical,
)
from seatrial.stats.comparison import NotEnough, welch
from seatrial.stats.moments import Moments
from seatrial.stats.proportion import Count

whole = st.integers(1, 60)
positive = st.floats(0.5, 500)
betas = st.builds(Beta, positive, positive)


def exact_chance(c, t):
    "P(treatment > control) for whole parameters, without rounding."
    a, b, u, v = (int(x) for x in (c.a, c.b, t.a, t.b))
    term, total = Fraction(1), Fraction(0)
    for j in range(v):
        term *= Fraction(b + j, a + b + j)
    for i in range(u):
        total += term
        term *= Fraction((a + i) * (v + i), (a + b + v + i) * (i + 1))
    return total


@settings(deadline=None)
@given(a=whole, b=whole, u=whole, v=whole)
def test_the_chance_to_win_has_twelve_digits(a, b, u, v):
    win, lose = chances(Beta(a, b), Beta(u, v))
    assert win == pytest.approx(float(exact_chance(Beta(a, b), Beta(u, v))), rel=1e-11)
    assert lose == pytest.approx(float(exact_chance(Beta(u, v), Beta(a, b))), rel=1e-11)


@pytest.mark.parametrize("arms", [((900, 100), (20, 980)), ((1500, 500), (400, 1600)), ((5000, 1000), (900, 5100))])
def test_a_tiny_chance_is_exact_and_not_flushed_to_zero(arms):
    c, t = (Beta(*arm) for arm in arms)
    truth = exact_chance(c, t)
    win, lose = chances(c, t)
    assert lose == pytest.approx(1)
    if truth > Fraction(1, 10**300):
        assert win == pytest.approx(float(truth), rel=1e-9)
    else:
        assert win < 1e-290


@pytest.mark.parametrize("seed", range(12))
def test_chances_of_an_effect_agree_with_adaptive_quadrature(seed):
    rng = np.random.default_rng(seed)
    c, t, d, relative = (
        Beta(*rng.uniform(1, 90, 2)),
        Beta(*rng.uniform(1, 90, 2)),
        rng.uniform(-0.5, 0.5),
        seed % 2 == 0,
    )
    above, below = chances(c, t, d, relative)
    assert above + below == pytest.approx(1, abs=1e-9)

    def f(x):
        return stats.beta.pdf(x, c.a, c.b) * stats.beta.sf(x + d * x if relative else x + d, t.a, t.b)

    theirs, error = integrate.quad(f, 0, 1, points=[c.mean], epsabs=1e-11)
    assert above == pytest.approx(theirs, abs=max(1e-9, 10 * error))


@settings(max_examples=40, deadline=None)
@given(c=betas, t=betas)
def test_swapping_the_arms_swaps_everything(c, t):
    assert chances(c, t) == pytest.approx(chances(t, c)[::-1], rel=1e-8)
    assert expected_loss(c, t) == pytest.approx(expected_loss(c, t, "higher"), rel=1e-12)
    assert expected_loss(t, c) - expected_loss(c, t) == pytest.approx(c.mean - t.mean, abs=1e-10)
    assert expected_loss(t, c, "lower") == pytest.approx(expected_loss(c, t), rel=1e-8, abs=1e-14)


@settings(max_examples=25, deadline=None)
@given(c=betas, t=betas, p=st.sampled_from([1e-6, 0.025, 0.5, 0.9, 1 - 1e-6]), relative=st.booleans())
def test_a_quantile_is_passed_with_its_probability(c, t, p, relative):
    q = quantile(c, t, p, relative)
    above, below = chances(c, t, q, relative)
    assert min(above / (1 - p), 2) == pytest.approx(1, rel=1e-5) or min(below / p, 2) == pytest.approx(1, rel=1e-5)


def test_ten_million_units_lose_no_digits():
    c, t = Beta(1_000_000, 9_000_000), Beta(1_002_000, 8_998_000)
    win, lose = chances(c, t)
    assert win + lose == pytest.approx(1, abs=1e-12)
    sd = math.sqrt(sum(b.mean * (1 - b.mean) / (b.a + b.b + 1) for b in (c, t)))
    assert lose == pytest.approx(stats.norm.sf((t.mean - c.mean) / sd), rel=1e-3)
    one = posterior_rates((1_000_000, 10_000_000), (1_002_000, 10_000_000))
    assert one.upper - one.lower == pytest.approx(2 * 1.959964 * sd, rel=1e-4)


def test_a_rate_answers_the_same_for_counts_columns_and_moments():
    c, t = np.repeat([0, 1], [90, 10]), np.repeat([0, 1], [80, 25])
    first = posterior_rates(c, t)
    for a, b in [((10, 100), (25, 105)), (Count(10, 100), Count(25, 105)), (Moments.of(c), Moments.of(t))]:
        assert posterior_rates(a, b) == first


def test_draws_agree_with_every_number_of_the_answer():
    rng, n = np.random.default_rng(0), 400_000
    c, t = rng.beta(31, 171, n), rng.beta(46, 156, n)
    p = posterior_rates((30, 200), (45, 200), threshold=0.1, relative=True)
    d, lift = t - c, t / c - 1
    se = 4 * 0.5 / math.sqrt(n)
    assert p.win == pytest.approx((d > 0).mean(), abs=se)
    assert p.practical == pytest.approx((lift > 0.1).mean(), abs=se)
    assert p.loss_treatment == pytest.approx(np.maximum(-d, 0).mean(), rel=0.05)
    assert p.loss_control == pytest.approx(np.maximum(d, 0).mean(), rel=0.01)
    for q, x in [(p.lower, d), (p.lift_lower, lift)]:
        assert (x < q).mean() == pytest.approx(0.025, abs=se)
    for q, x in [(p.upper, d), (p.lift_upper, lift)]:
        assert (x > q).mean() == pytest.approx(0.025, abs=se)
    assert (lift < p.lift).mean() == pytest.approx(0.5, abs=se)


def test_better_lower_turns_chances_around_and_not_the_effect():
    up, down = (
        posterior_rates((30, 200), (45, 200), threshold=0.02),
        posterior_rates((30, 200), (45, 200), better="lower"),
    )
    assert (up.win, up.lose) == (down.lose, down.win) and up.effect == down.effect
    assert up.loss_treatment == pytest.approx(down.loss_control) and up.loss_control == pytest.approx(
        down.loss_treatment
    )
    fewer = posterior_rates((45, 200), (30, 200), better="lower", threshold=0.02)
    assert fewer.practical == pytest.approx(up.practical, rel=1e-9) and fewer.practical < fewer.win


# ---------------------------------------------------------------- means

samples = st.lists(st.floats(-100, 100), min_size=2, max_size=30).filter(lambda x: np.ptp(x) > 1e-3)


@settings(deadline=None)
@given(x=samples, y=samples)
def test_learning_in_two_steps_is_learning_at_once(x, y):
    prior = Normal(1.0, 3.0, 2.0, 5.0)
    steps, once = prior.after(Moments.of(x)).after(Moments.of(y)), prior.after(Moments.of(x + y))
    for name in ("mean", "weight", "sd", "sd_weight"):
        assert getattr(steps, name) == pytest.approx(getattr(once, name), rel=1e-9, abs=1e-9)


@settings(deadline=None)
@given(x=samples)
def test_a_flat_prior_gives_students_interval(x):
    belief, m = Normal().after(Moments.of(x)), Moments.of(x)
    t = stats.t(m.n - 1, m.mean, m.sd / math.sqrt(m.n))
    for p in (1e-8, 0.025, 0.7):
        assert belief.below(t.ppf(p)) == pytest.approx(p, rel=1e-6)
        assert belief.above(t.isf(p)) == pytest.approx(p, rel=1e-6)


@settings(max_examples=25, deadline=None)
@given(x=samples, y=samples)
def test_known_noise_has_a_closed_form(x, y):
    noise, (c, t) = 3.0, (Moments.of(x), Moments.of(y))
    p = posterior_means(c, t, prior=Normal(sd=noise, sd_weight=math.inf))
    se = noise * math.sqrt(1 / c.n + 1 / t.n)
    z = (t.mean - c.mean) / se
    assert (
        math.log(p.lose) == pytest.approx(stats.norm.logsf(z), abs=1e-8) if abs(z) < 25 else min(p.win, p.lose) < 1e-100
    )
    assert (p.lower, p.upper) == pytest.approx((p.effect - 1.959964 * se, p.effect + 1.959964 * se), abs=1e-5 * se)
    if abs(z) < 5:
        assert p.loss_treatment == pytest.approx(se * (stats.norm.pdf(z) - z * stats.norm.sf(z)), rel=1e-6)


def test_the_behrens_fisher_interval_is_that_of_draws():
    c, t = Moments(6, 1.0, 10.0), Moments(9, 3.0, 60.0)
    p, rng, n = posterior_means(c, t), np.random.default_rng(1), 400_000
    draws = [m.mean + m.sd / math.sqrt(m.n) * rng.standard_t(m.n - 1, n) for m in (c, t)]
    d = draws[1] - draws[0]
    assert ((d > p.lower) & (d < p.upper)).mean() == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / n))
    assert p.win == pytest.approx((d > 0).mean(), abs=0.003)
    assert p.loss_treatment == pytest.approx(np.maximum(-d, 0).mean(), rel=0.05)
    lift = d / np.abs(draws[0])
    assert ((lift > p.lift_lower) & (lift < p.lift_upper)).mean() == pytest.approx(0.95, abs=0.002)


def test_few_degrees_of_freedom_have_long_tails_and_keep_them():
    p = posterior_means([0.0, 1.0], [2.0, 3.0])
    assert 0.5 < p.win < 0.95 and p.loss_treatment == math.inf and p.upper > welch([0.0, 1.0], [2.0, 3.0]).upper
    q = posterior_means([0.0, 1.0, 0.5, 0.2], [1e6, 1e6 + 1, 1e6 + 2, 1e6])
    assert 0 < q.lose < 1e-10 and q.win == pytest.approx(1)


def test_large_samples_agree_with_the_one_sided_test():
    c, t = Moments(40_000, 10.0, 40_000 * 9.0), Moments(50_000, 10.8, 50_000 * 16.0)
    p, w = posterior_means(c, t), welch(c, t, side="greater")
    assert w.p_value < 1e-200 and math.log(p.lose) == pytest.approx(math.log(w.p_value), rel=1e-3)


def test_a_strong_prior_pulls_and_a_weak_one_does_not():
    c, t = Moments(50, 10.0, 450.0), Moments(50, 12.0, 450.0)
    strong, weak = (posterior_means(c, t, prior=Normal(10, w, 3, w)).effect for w in (5000, 0.01))
    assert strong < 0.05 and weak == pytest.approx(2, abs=0.01)


def test_no_noise_is_no_answer_but_a_prior_gives_one():
    assert isinstance(posterior_means([1.0, 1.0], [1.0, 2.0]), NotEnough)
    assert isinstance(posterior_means([1.0], [1.0, 2.0]), NotEnough)
    assert isinstance(posterior_means([], []), NotEnough)
    assert isinstance(posterior_means([1.0], [2.0], prior=Normal(0, 1, 1, 5)), Posterior)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Beta(0, 1), "a and b of a Beta must be positive"),
        (lambda: Beta(math.nan, 1), "a and b of a Beta must be positive"),
        (lambda: Beta("a", 1), "a and b of a Beta must be positive"),
        (lambda: Beta(3, 3).after(7, 5), "k must be between 0 and n=5, got k=7"),
        (lambda: Normal(math.inf), "mean must be a finite number"),
        (lambda: Normal(weight=-1), "must not be negative"),
        (lambda: Normal(sd=math.nan), "must not be negative"),
        (lambda: posterior_rates((7, 5), (1, 5)), "k must be between 0 and n=5, got k=7"),
        (lambda: posterior_rates((1, 5), (1, 5), 1.5), "alpha must lie strictly between 0 and 1"),
        (lambda: posterior_rates((1, 5), (1, 5), better="more"), "better must be one of"),
        (lambda: posterior_rates((1, 5), (1, 5), threshold=-1), "threshold must not be negative"),
        (lambda: posterior_means([1, math.nan], [1, 2]), "control must be finite, got 1 NaN"),
        (lambda: typical([1.0], [1.0]), "effects and errors must pair up"),
        (lambda: typical([1.0, 2.0], [1.0, 0.0]), "errors > 0"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ---------------------------------------------------------------- priors and promises


def test_the_prior_of_past_experiments_is_that_of_statsmodels():
    from statsmodels.stats.meta_analysis import combine_effects

    rng = np.random.default_rng(2)
    errors = rng.uniform(0.05, 0.3, 30)
    effects = rng.normal(0.1, 0.2, 30) + rng.normal(0, errors)
    theirs = combine_effects(effects, errors**2, method_re="dl")
    mean, sd = typical(effects, errors)
    assert sd**2 == pytest.approx(theirs.tau2, rel=1e-9) and mean == pytest.approx(theirs.mean_effect_re, rel=1e-9)


def test_chances_are_calibrated_when_the_truth_comes_from_the_prior():
    rng, prior, right, said = np.random.default_rng(3), Beta(20, 180), [], []
    for _ in range(600):
        rates = rng.beta(prior.a, prior.b, 2)
        n = int(rng.integers(50, 2000))
        p = chances(*(prior.after(int(rng.binomial(n, r)), n) for r in rates))[0]
        said.append(max(p, 1 - p))
        right.append((rates[1] > rates[0]) == (p > 0.5))
    error = math.sqrt(np.mean([p * (1 - p) for p in said]) / 600)
    assert np.mean(right) == pytest.approx(np.mean(said), abs=4 * error)


def test_the_answer_states_its_prior():
    assert "prior: Beta(2, 30) on each rate" in posterior_rates((1, 9), (2, 9), prior=Beta(2, 30))._repr_markdown_()
    told = posterior_means([1, 2.0], [3, 4.5], prior=Normal(1, 2, 3, math.inf))._repr_markdown_()
    assert "mean 1 worth 2 units, noise known to be 3" in told


@given(st.floats(0.003, 0.5), st.floats(0.003, 0.5), st.integers(0, 20))
@settings(max_examples=15, deadline=None)
def test_even_arms_are_even_however_little_the_prior_weighs(a, b, k):
    arm = Beta(a, b).after(k, 20)
    assert np.allclose(chances(arm, arm), 0.5, rtol=1e-8)


def test_arms_of_nothing_but_conversions_are_even():
    assert math.isclose(posterior_rates((10, 10), (10, 10), prior=Beta(0.01, 0.01)).win, 0.5, rel_tol=1e-8)


def test_beliefs_close_to_one_are_compared_as_their_mirror_images_close_to_zero():
    high = chances(Beta(10.01, 0.02), Beta(10.5, 0.01))
    assert np.allclose(high, chances(Beta(0.02, 10.01), Beta(0.01, 10.5))[::-1], rtol=1e-9)
    assert math.isclose(sum(high), 1, rel_tol=1e-9) and high[0] > 0.6
