"The season follows without being fooled, and the tail keeps what it promises."

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from seatrial.drift.season import WEEK_S, Season, Tail, centre, count_score, last_count, season, slot, tail
from seatrial.stats.comparison import NotEnough

HOUR = 3600.0


def test_a_week_has_168_slots_and_starts_on_monday():
    monday = 4 * 86400  # 5 January 1970
    assert [slot(monday + HOUR * h) for h in range(168)] == list(range(168))
    assert slot(monday - 1) == 167 and slot(monday - 1, zone_s=3600) == 0


@given(st.lists(st.floats(-1e3, 1e3), min_size=5, max_size=50), st.floats(1e6, 1e12))
def test_one_wild_value_moves_the_centre_by_no_more_than_its_share_of_the_spread(x, wild):
    x = np.array(x)
    assert centre(np.append(x, wild)) == pytest.approx(centre(np.append(x, 10 * wild)), rel=1e-9, abs=1e-9)


@given(st.integers(0, 500), st.floats(0.01, 300), st.floats(0, 2))
@settings(max_examples=60)
def test_the_score_of_a_count_grows_with_it_and_is_its_place_in_the_law(x, mean, phi):
    assert count_score(x, mean, phi) < count_score(x + 1, mean, phi) or count_score(x, mean, phi) > 30
    law = stats.nbinom(1 / phi, 1 / (1 + phi * mean)) if phi > 1e-4 else stats.poisson(mean)
    mid = law.cdf(x - 1) + law.pmf(x) / 2
    if 1e-6 < mid < 1 - 1e-6:
        assert count_score(x, mean, phi) == pytest.approx(stats.norm.ppf(mid), abs=0.05 if phi <= 1e-4 else 1e-5)


@given(st.integers(-1, 10**6))
def test_the_last_count_is_found(n):
    assert last_count(lambda x: x <= n) == n


def week_of(cycle, counts=True, weeks=6):
    rng = np.random.default_rng(1)
    at = HOUR * np.arange(168 * weeks)
    mean = 100 * np.exp(np.sin(at / 86400 * 2 * np.pi))
    x = rng.poisson(mean) if counts else mean * np.exp(rng.normal(0, 0.2, at.size))
    return season(at, x, HOUR, counts=counts, cycle=cycle), at, mean


@pytest.mark.parametrize("counts", [True, False])
@pytest.mark.parametrize("cycle", ["day", "week"])
def test_the_daily_shape_is_found(cycle, counts):
    s, at, mean = week_of(cycle, counts)
    found = np.array([s.expected(t) for t in at[:168]])
    assert np.abs(found / mean[:168] - 1).max() < 0.25


def test_a_flat_season_never_takes_a_shape():
    s, at, mean = week_of("flat")
    for t, x in zip(at + at[-1] + HOUR, mean, strict=True):
        s.learn(t, float(round(x)))
    assert len(set(s.cells)) == 1


@pytest.mark.parametrize("counts", [True, False])
def test_an_incident_does_not_become_the_ordinary(counts):
    s, at, _ = week_of("week", counts)
    before = s.expected(at[-1] + 9 * HOUR)
    for h in range(1, 9):
        s.learn(at[-1] + h * HOUR, 1e9)
    assert s.expected(at[-1] + 9 * HOUR) < 1.1 * before


@pytest.mark.parametrize("counts", [True, False])
def test_a_lasting_change_of_level_is_followed_within_weeks(counts):
    s, at, mean = week_of("week", counts)
    for i, (t, m) in enumerate(zip(at + at[-1] + HOUR, 1.5 * mean, strict=True)):
        s.learn(t, float(round(m)) if counts else m * (1.1 if i % 2 else 0.9))
    assert s.expected(2 * at[-1] + 2 * HOUR) == pytest.approx(1.5 * mean[0], rel=0.2)


@pytest.mark.parametrize("counts", [True, False])
def test_a_value_is_the_inverse_of_its_score(counts):
    s, at, _ = week_of("week", counts)
    for z in (-3.0, 0.0, 4.0):
        x = s.value(at[5], z)
        if counts:
            assert s.score(at[5], x) <= z < s.score(at[5], x + 1)
        else:
            assert s.score(at[5], x) == pytest.approx(z)


def test_a_saved_season_goes_on_as_the_one_that_was_saved():
    s, at, _ = week_of("week")
    again = Season(**json.loads(json.dumps(asdict(s), allow_nan=False)))
    for i in range(50):
        t = at[-1] + (i + 1) * HOUR
        assert s.score(t, 90) == again.score(t, 90) and s.learn(t, 90) is s
        again.learn(t, 90)
    assert s == again


@given(st.floats(1e-9, 0.04))
def test_chance_and_threshold_are_inverse(share):
    for t in (
        tail(np.random.default_rng(0).normal(size=900)),
        Tail(1000, 50, 1.0, 0.5, 0.0),
        Tail(1000, 50, 1, 1, 0.4),
    ):
        assert t.chance(t.at(share)) == pytest.approx(share, rel=1e-6)


def test_the_tail_agrees_with_the_weighted_moments_of_a_known_law():
    z = stats.genpareto.rvs(0.3, scale=2, size=200_000, random_state=0)
    t = tail(z)
    assert t.shape == pytest.approx(0.3, abs=0.06)
    assert stats.genpareto.sf(t.at(1e-4), 0.3, scale=2) == pytest.approx(1e-4, rel=0.3)


def test_few_scores_are_an_answer_of_their_own_and_constant_ones_no_trouble():
    assert isinstance(tail(np.arange(199.0)), NotEnough)
    assert math.isfinite(tail(np.zeros(1000)).at(1e-6))


@pytest.mark.parametrize(
    ("at", "values", "bucket", "more", "said"),
    [
        ([0, 0], [1, 1], 60, {}, "at_s must grow"),
        ([0, 60], [1], 60, {}, "at_s must grow"),
        ([0, math.nan], [1, 1], 60, {}, "at_s"),
        ([0, 60], [1, math.inf], 60, {}, "values"),
        ([0, 60], [1, -1], 60, {"counts": True}, "values must be whole"),
        ([0, 60], [1, 1], WEEK_S, {}, "bucket_s must be"),
        ([0, 60], [1, 1], 60, {"cycle": "year"}, "cycle must be one of week, day, flat"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(at, values, bucket, more, said):
    with pytest.raises(ValueError, match=said):
        season(at, values, bucket, **more)


def test_scores_go_on_where_chances_are_too_small_for_a_float():
    scores = [count_score(x, 100, 0.01) for x in (100, 1_000, 5_000, 10_000, 100_000)]
    assert scores == sorted(set(scores)) and scores[-1] > 100
    assert count_score(0, 1e4, 1e-6) < -100
    assert count_score(1_100, 100, 0.0) == pytest.approx(count_score(1_101, 100, 0.0), abs=0.2)


def test_one_request_in_a_dead_hour_hardly_moves_the_level():
    dead = Season([math.log(1e-3)] * 24 + [math.log(100.0)] * 144, [0.0] * 24, HOUR, counts=True)
    assert abs(dead.learn(4 * 86400, 3).level) < 0.01
