"ADWIN, DDM, EDDM and KSWIN against plain and slow forms of themselves."

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from seatrial.drift.stream import delivered
from seatrial.drift.window import ADWIN, DDM, EDDM, KSWIN, enter, gap, together, widest

bits = st.lists(st.integers(0, 1), min_size=1, max_size=400)


@given(st.lists(st.integers(-100, 100), max_size=300), st.integers(1, 7))
def test_an_exponential_histogram_keeps_every_value_in_order_of_age(values, most):
    levels = []
    for x in values:
        enter(levels, x, most)
    assert together(levels) == sum(values)
    sizes = [1 << i for i in range(len(levels) - 1, -1, -1) for _ in levels[i]]
    blocks = [s for i in range(len(levels) - 1, -1, -1) for s in levels[i]]
    assert sum(sizes) == len(values) and all(len(b) <= most for b in levels)
    ends = np.cumsum([0, *sizes])
    assert blocks == [sum(values[a:b]) for a, b in pairwise(ends)]


def plain_adwin(values, delta, least=5):
    "The window itself, every cut tried, its oldest value dropped while one is significant."
    window, alarms = [], []
    for t, x in enumerate(values):
        window.append(x)
        cut = False
        while len(window) > 9:
            w, n = np.array(window), len(window)
            n0 = np.arange(least, n - least + 1)
            head = np.cumsum(w)[n0 - 1]
            inverse, log_term = 1 / n0 + 1 / (n - n0), math.log(2 * math.log(n) / delta)
            epsilon = np.sqrt(2 * inverse * w.var() * log_term) + 2 / 3 * inverse * log_term
            if not (np.abs(head / n0 - (w.sum() - head) / (n - n0)) >= epsilon).any():
                break
            window.pop(0)
            cut = True
        if cut:
            alarms.append(t)
    return alarms, len(window)


@pytest.mark.parametrize("seed", range(4))
def test_with_a_block_for_each_value_adwin_is_the_plain_window(seed):
    rng = np.random.default_rng(seed)
    values = np.concatenate([rng.random(150) < 0.2, rng.random(120) < 0.7]).astype(float).tolist()
    detector = ADWIN(delta=0.05, every=1, most=10**5)
    found = [t for t, x in enumerate(values) if detector.update(x).alarm]
    assert (found, detector.width) == plain_adwin(values, 0.05)


@settings(max_examples=30)
@given(bits, st.integers(1, 9))
def test_adwins_mean_is_that_of_the_newest_values(values, every):
    detector = ADWIN(delta=0.9, every=every, most=2)
    for t, x in enumerate(values):
        detector.update(x)
        assert detector.mean == pytest.approx(np.mean(values[t + 1 - detector.width : t + 1]))
        assert 1 <= detector.width <= t + 1


def test_adwin_scales_any_range_to_the_same_decisions():
    rng = np.random.default_rng(1)
    x = np.concatenate([rng.beta(2, 8, 300), rng.beta(5, 5, 100)])
    unit, other = ADWIN(every=1), ADWIN(every=1, lo=-50, hi=150)
    for v in x:
        assert unit.update(v).alarm == other.update(-50 + 200 * v).alarm
    assert unit.width == other.width < 400


def test_a_window_without_spread_can_still_be_cut():
    assert widest([[0.0] * 5, [], [], [0.0] * 4, [16.0] * 3], 85, 0.2, 0.1) > 1
    assert math.isnan(ADWIN().mean)


def plain_ddm(errors, sigmas=3, least=30):
    n = total = 0
    low, alarms = (math.inf, 1, 1), []
    for t, x in enumerate(errors):
        n, total = n + 1, total + x
        p = (total + 1) / (n + 2)
        s = math.sqrt(p * (1 - p) / n)
        if n >= least:
            low = min(low, (p + s, p, s))
            if p + s >= low[1] + sigmas * low[2]:
                alarms.append(t)
                n, total, low = 0, 0, (math.inf, 1, 1)
    return alarms


def plain_eddm(errors, beta=0.9, least=30):
    last, distances, longest, alarms = -1, [], 0.0, []
    for t, x in enumerate(errors):
        if x:
            distances.append(t - last)
            last = t
            if len(distances) >= least:
                reach = np.mean(distances) + 2 * np.std(distances)
                longest = max(longest, reach)
                if reach / longest <= beta:
                    alarms.append(t)
                    last, distances, longest = t, [], 0.0
    return alarms


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("detector", "plain"), [(DDM(), plain_ddm), (EDDM(), plain_eddm)], ids=["ddm", "eddm"])
def test_detectors_of_errors_are_their_textbook_form(detector, plain, seed):
    rng = np.random.default_rng(seed)
    errors = np.concatenate([rng.random(1500) < 0.15, rng.random(800) < 0.5]).astype(float)
    detector.reset()
    found = [t for t, x in enumerate(errors) if detector.update(x).alarm]
    assert found == plain(errors) != []


def test_a_flawless_start_is_not_reported_at_its_first_error():
    for quiet in (30, 40, 1000):
        detector = DDM()
        assert not any(detector.update(x).alarm for x in [0] * quiet + [1])
        assert any(detector.update(1).alarm for _ in range(2))


@given(*[st.lists(st.integers(0, 9), min_size=1, max_size=30)] * 2)
def test_the_gap_of_two_sorted_lists_is_kolmogorov_smirnovs(a, b):
    steps = [abs(np.mean(np.array(a) <= v) - np.mean(np.array(b) <= v)) for v in range(10)]
    assert gap(sorted(a), sorted(b)) == pytest.approx(max(steps))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans(), st.sampled_from([0.3, 0.05, 0.001]))
def test_left_out_comparisons_never_hide_an_alarm(seed, ties, alpha):
    rng = np.random.default_rng(seed)
    x = np.concatenate([rng.standard_normal(90), rng.standard_normal(60) + rng.choice([0, 1, 3])])
    x = (np.round(x) if ties else x).tolist()
    detector, window, size, r = KSWIN(alpha=alpha, size=40, recent=15), [], 40, 15
    limit = math.sqrt(-math.log(alpha / 2) / 2 * (1 / r + 1 / (size - r)))
    for v in x:
        window = [*window, v][-size:]
        far = len(window) == size and stats.ks_2samp(window[:-r], window[-r:], method="asymp").statistic >= limit
        assert detector.update(v).alarm == far
        window = window[-r:] if far else window


def test_kswin_cares_for_order_only():
    x = np.random.default_rng(2).standard_normal(600)
    x[300:] += 2
    plain, other = KSWIN(), KSWIN()
    assert [plain.update(v).alarm for v in x] == [other.update(np.exp(v)).alarm for v in x]
    assert plain.n < 600


def test_adwin_hardly_ever_cuts_a_window_that_is_in_control():
    rng = np.random.default_rng(3)
    found = delivered(ADWIN(delta=0.002), lambda n: (rng.random(n) < 0.3).astype(float), most=60_000)
    assert found.got <= 1


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: ADWIN(delta=0), "delta must be"),
        (lambda: ADWIN(lo=1, hi=1), "hi must be"),
        (lambda: ADWIN(every=0), "every must be"),
        (lambda: ADWIN(every=2.5), "every must be a whole number"),
        (lambda: KSWIN(recent="30"), "recent must be a whole number"),
        (lambda: DDM(sigmas=-1), "sigmas must be"),
        (lambda: EDDM(beta=1), "beta must be"),
        (lambda: KSWIN(alpha=2), "alpha must be"),
        (lambda: KSWIN(size=20), "size must be"),
    ],
)
def test_settings_that_cannot_be_are_refused(make, told):
    with pytest.raises(ValueError, match=told):
        make()
