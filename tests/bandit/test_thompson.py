"The probability of a Thompson choice is exact, however uneven the posteriors."

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from seatrial.bandit.thompson import GaussianThompson, Thompson, chance_to_win, normal_chance

shapes = st.floats(1, 1e5)


@given(shapes, shapes, shapes, shapes)
def test_two_chances_add_up_to_one(a, b, c, d):
    first, second = (chance_to_win(i, [a, c], [b, d]) for i in (0, 1))
    assert first + second == pytest.approx(1, abs=1e-8)


@given(shapes, shapes, shapes, shapes)
def test_the_chance_is_that_of_a_fine_sum_over_the_log_odds(a, b, c, d):
    z = np.linspace(-70, 70, 200_001)
    density = np.exp(a * -np.logaddexp(0, -z) + b * -np.logaddexp(0, z) - special.betaln(a, b))
    expected = (density * special.betainc(c, d, special.expit(z))).sum() * (z[1] - z[0])
    assert chance_to_win(0, [a, c], [b, d]) == pytest.approx(expected, abs=1e-8)


@given(st.floats(0.05, 1), st.floats(0.05, 9), st.floats(0.05, 1e4), st.floats(0.05, 9))
def test_a_prior_that_weighs_next_to_nothing_costs_no_digits(a, b, c, d):
    assert sum(chance_to_win(i, [a, c], [b, d]) for i in (0, 1)) == pytest.approx(1, abs=1e-8)


@pytest.mark.parametrize(("a", "b"), [(0.05, 0.05), (0.05, 0.3), (0.2, 0.1)])
def test_arms_with_a_faint_prior_win_as_often_as_they_are_probable(a, b):
    policy, rng, runs = Thompson(list("abc"), successes=a, failures=b), np.random.default_rng(4), 20_000
    seen = np.bincount([policy.draw(rng) for _ in range(runs)], minlength=3) / runs
    assert policy.probabilities() == pytest.approx([1 / 3] * 3, abs=1e-8)
    assert policy.choose(None, rng).propensity == pytest.approx(1 / 3, abs=1e-8)
    assert (np.abs(seen - 1 / 3) < 4.5 * np.sqrt(2 / 9 / runs)).all()


@pytest.mark.parametrize("n", [1e9, 1e6])
def test_records_without_end_and_spreads_next_to_nothing_keep_their_digits(n):
    assert chance_to_win(0, [n / 2, 5], [n / 2, 5]) == pytest.approx(0.5, abs=2e-8)
    assert normal_chance(0, [0.5, 0.5], [1e-9 / n**0.5] * 2) == pytest.approx(0.5, abs=1e-9)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(1, 40))
def test_whole_parameters_have_a_closed_sum(a, b, c, d):
    i, log = np.arange(c), special.betaln
    closed = sum(np.exp(log(a + i, b + d) - np.log(d + i) - log(1 + i, d) - log(a, b)))
    assert chance_to_win(1, [a, c], [b, d]) == pytest.approx(closed, rel=1e-8)


@given(st.floats(-2, 2), st.floats(1e-4, 10), st.floats(1e-4, 10))
def test_normal_chances_have_a_closed_form(gap, s, r):
    closed = stats.norm.cdf(-gap / np.hypot(s, r))
    assert normal_chance(0, [0.0, gap], [s, r]) == pytest.approx(closed, abs=1e-8)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=2, max_size=6), st.integers(0, 2**32 - 1))
def test_the_choice_says_the_probability_of_its_arm(counts, seed):
    names = [str(i) for i in range(len(counts))]
    policy = Thompson(names, n=[a + b for a, b in counts], total=[a for a, _ in counts])
    found = policy.choose(None, np.random.default_rng(seed))
    assert found.propensity == pytest.approx(policy.probabilities()[int(found.arm)], rel=1e-6)


@pytest.mark.parametrize("make", [Thompson, GaussianThompson])
def test_a_draw_is_the_choice_without_its_probability(make):
    policy = make(list("abc"), n=[10, 6, 3], total=[6, 4, 1])
    for seed in range(20):
        arm = policy.arms[policy.draw(np.random.default_rng(seed))]
        assert arm == policy.choose(None, np.random.default_rng(seed)).arm


@pytest.mark.parametrize("make", [Thompson, GaussianThompson])
def test_arms_are_drawn_as_often_as_they_are_probable(make):
    policy, rng, runs = make(list("abc"), n=[10, 6, 3], total=[6, 4, 1]), np.random.default_rng(0), 20_000
    p = np.array(policy.probabilities())
    seen = np.bincount(["abc".index(policy.choose(None, rng).arm) for _ in range(runs // 10)], minlength=3)
    assert (np.abs(seen / (runs // 10) - p) < 4.5 * np.sqrt(p * (1 - p) / (runs // 10))).all()


def test_equal_arms_have_equal_chances():
    assert Thompson(list("abcd")).probabilities() == pytest.approx([0.25] * 4, abs=1e-9)


def test_the_prior_decides_before_the_first_play():
    found = Thompson(["a", "b"], successes=2, failures=8)
    found.learn("a", 0)
    assert (
        found.probabilities()[0] < 0.5
        and found.probabilities()[0] > Thompson(["a", "b"]).learn("a", 0).probabilities()[0]
    )


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (lambda: Thompson(["a", "b"], failures=-1), r"failures must lie in \[0.05, 1e\+09\], got failures=-1"),
        (lambda: GaussianThompson(["a", "b"], sd=0), r"sd must lie in \[1e-09, 1\], got sd=0"),
    ],
)
def test_a_prior_without_weight_is_refused(make, rule):
    with pytest.raises(ValueError, match=rule):
        make()
