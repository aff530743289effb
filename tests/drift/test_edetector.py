"E-detectors: the bound on false alarms, whatever the distribution; and the score against people's marks."

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seatrial.drift.edetector import EDetector, agreement, met, played, stakes
from seatrial.drift.stream import delivered

RNG = np.random.default_rng


@given(st.floats(0.001, 0.999), st.floats(2, 1e9))
def test_stakes_never_lose_more_than_the_fortune(m, run_length):
    found = stakes(m, run_length)
    assert found[0] == 0.9 and all(0 < s < 1 for s in found)
    assert all(a == 2 * b for a, b in pairwise(found)) and len(found) < 40


@given(st.floats(0.01, 0.99), st.floats(0, 1), st.floats(0, 100), st.sampled_from(["sr", "cusum"]))
def test_a_round_of_bets_is_fair_at_the_mean_that_was_told(m, share, fortune, form):
    "Zeros and ones with mean m; every other distribution with this mean is a mixture of such pairs."
    win, lose = (played([fortune], [share], x / m - 1, form)[0] for x in (1, 0))
    before = fortune + 1 if form == "sr" else max(fortune, 1)
    assert m * win + (1 - m) * lose == pytest.approx(before) and lose >= 0


@given(st.lists(st.floats(0, 1), max_size=60))
def test_the_cusum_form_never_exceeds_the_other(values):
    sr, cusum = EDetector(mean=0.3, run_length=1e12), EDetector(mean=0.3, run_length=1e12, form="cusum")
    for x in values:
        if sr.update(x).alarm:
            break
        assert cusum.update(x).evidence <= sr.evidence * (1 + 1e-12)


def rare(rng, n):
    return (rng.random(n) < 0.03).astype(float)


def uniform(rng, n):
    return rng.random(n)


def skewed(rng, n):
    return rng.beta(0.2, 0.8, n)


def bursts(rng, n):
    "Spread in runs of thirty: dependent, the conditional mean always a half."
    return 0.5 + np.repeat(rng.choice([0.02, 0.5], n // 30 + 1), 30)[:n] * rng.choice([-1, 1], n)


@pytest.mark.parametrize(("draw", "mean"), [(rare, 0.03), (uniform, 0.5), (skewed, 0.2), (bursts, 0.5)])
@pytest.mark.parametrize("side", ["up", "both"])
def test_the_run_length_is_never_below_the_one_asked_for(draw, mean, side):
    rng = RNG(1)
    found = delivered(EDetector(mean=mean, run_length=200, side=side), lambda n: draw(rng, n), alarms=300)
    assert found.mean > 200 - 3 * found.se


@pytest.mark.parametrize("draw", [rare, skewed])
def test_the_cusum_form_delivers_many_times_what_was_asked(draw):
    rng, mean = RNG(2), {rare: 0.03, skewed: 0.2}[draw]
    detector = EDetector(mean=mean, run_length=40, form="cusum")
    found = delivered(detector, lambda n: draw(rng, n), alarms=150, most=200_000)
    assert found.mean > 2 * 40


def test_means_inside_the_tolerance_are_no_change():
    rng = RNG(3)
    for p in (0.25, 0.35):
        detector = EDetector(mean=0.3, tolerance=0.05, run_length=300)
        found = delivered(detector, lambda n, p=p: (rng.random(n) < p).astype(float), alarms=200, most=200_000)
        assert found.mean > 300 - 3 * found.se


def test_a_change_is_found_in_both_directions_and_only_where_it_is_watched():
    for side, up, down in (("up", True, False), ("down", False, True), ("both", True, True)):
        for moved, expected in ((0.8, up), (0.2, down)):
            detector = EDetector(mean=0.5, run_length=10_000, side=side, form="cusum")
            assert any(detector.update(moved).alarm for _ in range(300)) == expected


def test_any_range_is_the_same_game():
    rng = RNG(4)
    unit, other = EDetector(mean=0.3, tolerance=0.02), EDetector(mean=16, lo=10, hi=30, tolerance=0.4)
    for x in np.concatenate([rng.random(200) * 0.6, rng.random(50)]):
        assert unit.update(x).evidence == pytest.approx(other.update(10 + 20 * x).evidence, rel=1e-6)


def test_a_saved_state_of_another_size_is_refused_before_it_can_do_harm():
    detector = EDetector(mean=0.4).update(0.3)
    with pytest.raises(ValueError, match=f"one fortune for each of {len(detector.shares[0])} stakes, got 2"):
        EDetector.from_dict(detector.to_dict() | {"high": [1.0, 2.0]})


def test_evidence_is_the_mixture_written_out():
    x, detector = [0.0, 1.0, 0.3, 0.9], EDetector(mean=0.4, run_length=100)
    (up, down), total = detector.shares, 0.0
    for shares, values, m in ((up, x, 0.4), (down, [1 - v for v in x], 0.6)):
        for s in shares:
            total += sum(math.prod(1 + s * (v / m - 1) for v in values[start:]) for start in range(4)) / len(shares) / 2
    for v in x:
        detector.update(v)
    assert detector.evidence == pytest.approx(total / 100)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: EDetector(mean=0), "mean must lie strictly between"),
        (lambda: EDetector(mean=math.nan), "mean must lie strictly between"),
        (lambda: EDetector(mean=0.5, lo=1, hi=0), "hi must be one number"),
        (lambda: EDetector(mean=0.5, run_length=1), "run_length must be one number"),
        (lambda: EDetector(mean=0.5, tolerance=0.5), "tolerance must be one number"),
        (lambda: EDetector(mean=0.5, side="left"), "side must be one of"),
        (lambda: EDetector(mean=0.5, form="mixture"), "form must be one of"),
    ],
)
def test_settings_that_cannot_be_are_refused(make, told):
    with pytest.raises(ValueError, match=told):
        make()


# examples of van den Burg & Williams' own code (TCPDBench)
@pytest.mark.parametrize(
    ("marks", "found", "f1"),
    [
        ({"1": [10, 20], "2": [11, 20], "3": [10], "4": [0, 5]}, [10, 20], 1.0),
        ({"1": [], "2": [10], "3": [50]}, [10], 10 / 11),
        ({"1": [], "2": [10], "3": [50]}, [], 0.8),
    ],
)
def test_scores_are_those_of_the_benchmarks_own_examples(marks, found, f1):
    assert agreement(marks, found).f1 == pytest.approx(f1)


places = st.sets(st.integers(0, 60), max_size=12)


@given(places, places, st.integers(0, 8))
def test_no_point_meets_two_marks(marks, found, margin):
    hits = met(marks, found, margin)
    assert 0 <= hits <= min(len(marks), len(found))
    assert met(found | marks, found, 0) == len(found)


@given(st.lists(places, min_size=1, max_size=4))
def test_finding_every_mark_of_everybody_is_perfect(people):
    annotators = {str(i): sorted(p) for i, p in enumerate(people)}
    found = agreement(annotators, sorted(set().union(*people)), margin=0)
    assert (found.f1, found.precision, found.recall) == (1, 1, 1)


def test_an_empty_jury_is_refused():
    with pytest.raises(ValueError, match="annotators must be at least one"):
        agreement({}, [3])
