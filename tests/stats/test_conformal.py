"The promises of sorted columns hold at their stated rates, and one row less breaks them."

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from seatrial.stats.comparison import NotEnough
from seatrial.stats.conformal import threshold_for, widen


@given(n=st.integers(1, 3000), share=st.floats(0.001, 0.5), alpha=st.floats(0.001, 0.3))
def test_one_more_spared_negative_would_break_the_promise(n, share, alpha):
    found = threshold_for(np.arange(n), share, alpha)
    if isinstance(found, NotEnough):
        assert (1 - share) ** n > alpha and n < found.needed and (1 - share) ** found.needed <= alpha * (1 + 1e-9)
    else:
        k = found.above
        assert stats.binom.cdf(k, n, share) <= alpha < stats.binom.cdf(k + 1, n, share)
        assert stats.beta.sf(share, k + 1, n - k) == pytest.approx(stats.binom.cdf(k, n, share), rel=1e-6)


def test_ties_never_alarm_more():
    found = threshold_for(np.repeat([0.0, 1.0], [500, 500]), 0.3)
    assert found.value == 1 and found.above == 0


@given(n=st.integers(1, 200), miss=st.sampled_from([0.05, 0.1, 0.2, 1 / 3, 0.5]))
def test_a_band_is_the_classical_order_statistic(n, miss):
    zero, truth = np.zeros(n), np.random.default_rng(n).permutation(np.arange(1.0, n + 1))
    found, place = widen(zero, zero, truth, miss), np.ceil(round((n + 1) * (1 - miss), 9))
    if place > n:
        assert isinstance(found, NotEnough) and found.needed > n
        zero, truth = np.zeros(found.needed), np.arange(1.0, found.needed + 1)
        assert not isinstance(widen(zero, zero, truth, miss), NotEnough)
    else:
        assert found == place


def test_bands_cover_as_stated():
    rng, hits = np.random.default_rng(0), []
    for _ in range(1500):
        y = rng.lognormal(size=60)
        by = widen(np.full(59, 0.5), np.full(59, 2.0), y[:59], 0.1)
        hits.append(0.5 - by <= y[59] <= 2 + by)
    assert np.mean(hits) == pytest.approx(0.9, abs=4 * np.sqrt(0.09 / 1500))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: threshold_for([1, np.nan], 0.1), "negatives"),
        (lambda: threshold_for([1, 2], 1.0), "share"),
        (lambda: threshold_for([1, 2], 0.1, 0), "alpha"),
        (lambda: widen([0], [1, 2], [0], 0.1), "equally many, got 1, 2 and 1"),
        (lambda: widen([0], [1], [0], "a"), "miss"),
    ],
)
def test_bad_input_is_named(call, said):
    with pytest.raises(ValueError, match=said):
        call()
