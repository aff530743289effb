"Means of vectors and of what a kernel makes of them: levels, references, refusals."

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from seatrial.drift.kernel import fourier, mean_embedding, mixture_tail, mmd, squares, typical
from seatrial.stats.comparison import NotEnough

RNG = np.random.default_rng
BOTH = pytest.mark.parametrize("test", [mean_embedding, mmd])


def clouds(seed, n, m, d=3, moved=0.0):
    rng = RNG(seed)
    return rng.normal(size=(n, d)), rng.normal(size=(m, d)) + moved


@BOTH
@pytest.mark.parametrize(("n", "m", "d"), [(50, 50, 2), (200, 50, 384)])
def test_permutations_keep_their_level_at_every_size(test, n, m, d):
    rng, runs = RNG(1), 40 if d > 100 else 300
    draw = rng.standard_exponential  # skewed on purpose
    p = [test(draw((n, d)), draw((m, d)), rng, permutations=99).distance.p_value for _ in range(runs)]
    assert np.mean(np.array(p) <= 0.05) <= 0.05 + 3.5 * np.sqrt(0.05 * 0.95 / runs)


@BOTH
def test_the_law_keeps_its_level_where_it_takes_over(test):
    rng, runs = RNG(2), 40
    draw = rng.standard_exponential
    p = np.array([test(draw((2500, 5)), draw((300, 5)), rng, permutations=99).distance.p_value for _ in range(runs)])
    assert np.mean(p <= 0.05) <= 0.05 + 3.5 * np.sqrt(0.05 * 0.95 / runs)
    assert 0.3 < p.mean() < 0.7


@BOTH
def test_the_law_and_the_permutations_agree(test):
    r, c = clouds(3, 600, 400, moved=0.07)
    exact = test(r, c, RNG(0), permutations=4999, exact_rows=2000)
    by_law = test(r, c, RNG(0), exact_rows=0, **({"features": 2048} if test is mmd else {}))
    assert abs(exact.distance.value - by_law.distance.value) < 0.02
    assert 0.4 < (exact.distance.p_value + 1e-3) / (by_law.distance.p_value + 1e-3) < 2.5


def test_in_one_column_the_permutation_test_is_a_t_test_and_the_distance_is_cohens_d():
    r, c = clouds(4, 3000, 2000, d=1, moved=0.5)
    found = mean_embedding(r, c, RNG(0), exact_rows=0)
    assert abs(found.distance.value - 0.5) < 0.1
    r, c = clouds(5, 100, 80, d=1, moved=0.3)
    theirs = stats.ttest_ind(r[:, 0], c[:, 0]).pvalue
    mine = mean_embedding(r, c, RNG(0), permutations=9999).distance.p_value
    assert abs(mine - theirs) < 4 * np.sqrt(theirs * (1 - theirs) / 9999) + 1e-3


def test_mmd_is_its_definition_pair_by_pair():
    r, c = clouds(6, 30, 20, d=2, moved=1.0)
    rows = np.vstack([r, c])
    rows = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    pairs = [[np.linalg.norm(u - v) for v in rows] for u in rows]
    width = np.median(np.array(pairs)[np.triu_indices(50, 1)])
    k = np.exp(-(np.array(pairs) ** 2) / (2 * width**2))
    within = [b[~np.eye(len(b), dtype=bool)].mean() for b in (k[:30, :30], k[30:, 30:])]
    assert np.isclose(mmd(r, c, RNG(0)).distance.value ** 2, sum(within) - 2 * k[:30, 30:].mean())


def test_the_mean_is_blind_to_spread_and_the_kernel_is_not():
    rng = RNG(7)
    r, c = rng.normal(size=(400, 5)), 1.5 * rng.normal(size=(200, 5))
    assert mmd(r, c, RNG(0)).distance.p_value == 1 / 500
    assert mean_embedding(r, c, RNG(0)).distance.p_value > 0.01


def test_the_distance_does_not_grow_with_the_rows():
    def size(m):
        far = [mean_embedding(*clouds(s, 300, m, moved=0.4), RNG(0), permutations=19) for s in range(40)]
        return np.mean([f.distance.value for f in far])

    assert abs(size(50) - size(600)) < 0.06


@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=30), st.floats(0.1, 60))
def test_the_tail_of_a_mixture_is_a_probability_that_falls(weights, t):
    w = np.array(weights)
    tails = [mixture_tail(x, w) for x in (0.0, t, 1.5 * t, 3 * t)]
    assert all(0 <= p <= 1 for p in tails) and tails[0] > 0.9
    assert all(later <= sooner * 1.1 for sooner, later in itertools.pairwise(tails))


@pytest.mark.parametrize("df", [1, 2, 5, 50])
@pytest.mark.parametrize("p", [0.9, 0.5, 0.05, 1e-4, 1e-10])
def test_equal_weights_have_the_chi_squared_tail(df, p):
    assert np.isclose(mixture_tail(3 * stats.chi2.isf(p, df), np.full(df, 3.0)), p, rtol=0.06)


def test_an_unequal_mixture_has_the_tail_that_is_drawn():
    rng, weights = RNG(8), np.array([5.0, 1.0, 1.0, 0.3])
    drawn = rng.chisquare(1, size=(400_000, 4)) @ weights
    for q in (0.5, 0.9, 0.99, 0.999):
        assert np.isclose(mixture_tail(np.quantile(drawn, q), weights), 1 - q, rtol=0.12)


def test_waves_approach_the_kernel():
    x = RNG(9).normal(size=(60, 4))
    seen = fourier(1.5, 4, 20_000, RNG(0))(x)
    assert np.abs(seen @ seen.T - np.exp(-squares(x, x) / (2 * 1.5**2))).max() < 0.05
    assert np.isclose(squares(x, x)[3, 7], ((x[3] - x[7]) ** 2).sum())


def test_half_of_the_rows_alike_still_give_a_width():
    assert typical(np.repeat([[0.0, 0.0], [1.0, 1.0]], [90, 10], axis=0), RNG(0)) > 0
    assert typical(np.zeros((50, 2)), RNG(0)) > 0


@BOTH
def test_constant_tables_are_alike_and_different_constants_are_not(test):
    same = test(np.ones((50, 2)), np.ones((50, 2)), RNG(0), permutations=99)
    assert same.distance.value == 0 and same.distance.p_value == 1
    other = test(np.ones((50, 2)), np.zeros((50, 2)), RNG(0), permutations=99)
    assert other.distance.value > 0 and other.distance.p_value == 0.01


@BOTH
@pytest.mark.parametrize("rows", [0, 1, 9])
def test_too_few_rows_are_not_health(test, rows):
    r, c = clouds(10, 50, rows)
    assert isinstance(test(r, c, RNG(0)), NotEnough)


@BOTH
def test_bad_tables_and_settings_are_refused(test):
    r, c = clouds(11, 50, 50)
    with pytest.raises(ValueError, match="must be as wide, got 3 and 2 columns"):
        test(r, c[:, :2], RNG(0))
    with pytest.raises(ValueError, match="current must be finite, got 150 NaN"):
        test(r, c * np.nan, RNG(0))
    with pytest.raises(ValueError, match=r"permutations must be at least 19 \(p = 0.05\), got permutations=3"):
        test(r, c, RNG(0), permutations=3)
    with pytest.raises(ValueError, match="names must have one entry a column"):
        test(r, c, RNG(0), names=["a"])


@BOTH
def test_a_small_batch_against_a_large_reference_is_permuted_and_all_rows_are_reported(test):
    r, c = clouds(12, 6000, 40, moved=3.0)
    found = test(r, c, RNG(0), permutations=99).distance
    assert (found.n_reference, found.n_current, found.p_value) == (6000, 40, 0.01)


@pytest.mark.parametrize("scale", [2.0**-1000, 2.0**520, 2.0**1000])
def test_neither_test_depends_on_the_unit(scale):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 3)), rng.normal(0.3, 1, size=(60, 3))
    for test in (mean_embedding, mmd):
        plain, scaled = (test(x * s, y * s, np.random.default_rng(1)).distance for s in (1.0, scale))
        assert scaled.value == pytest.approx(plain.value) and scaled.p_value == plain.p_value


@pytest.mark.parametrize("test", [mean_embedding, mmd])
@pytest.mark.parametrize("n", [100, 3000])
def test_rows_that_are_all_one_have_not_moved(test, n):
    assert test(np.full((n, 2), 0.1), np.full((n, 2), 0.1), np.random.default_rng(0)).distance.p_value > 0.5


def test_the_law_of_many_rows_does_not_depend_on_the_unit():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(1500, 3)), rng.normal(size=(1500, 3))
    p = [mean_embedding(x * s, y * s, np.random.default_rng(1)).distance.p_value for s in (1.0, 2.0**-40, 2.0**200)]
    assert p[0] > 0.01 and p[1:] == pytest.approx([p[0], p[0]])
