"Shares stay inside their bounds, propensities are exact, and a winner is named only on proof."

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import binom

from seatrial.bandit.contextual import LinUCB
from seatrial.bandit.environment import Stationary
from seatrial.bandit.moving import fading, restarting, sliding
from seatrial.bandit.policy import floored, restored
from seatrial.bandit.segment import per_segment
from seatrial.bandit.simulation import sailed
from seatrial.bandit.thompson import Thompson
from seatrial.bandit.versions import (
    Bounded,
    Undecided,
    Won,
    bounded,
    evidence,
    fortune,
    record,
    winner,
    winners,
    within,
)
from seatrial.stats.comparison import NotEnough

ARMS = ["1.0.0", "1.1.0", "2.0.0"]


@st.composite
def bounds_and_shares(draw):
    k = draw(st.integers(2, 6))
    weights = [draw(st.floats(0, 1)) for _ in range(k)]
    weights = weights if sum(weights) > 1e-6 else [1.0] * k
    least = [draw(st.floats(0, 1 / k)) for _ in range(k)]
    most = [draw(st.floats(1 / k, 1)) for _ in range(k)]
    return [w / sum(weights) for w in weights], least, most


@given(bounds_and_shares())
def test_shares_keep_every_bound_and_add_up_to_one(given):
    p, least, most = given
    x = within(p, least, most)
    assert sum(x) == pytest.approx(1, abs=1e-9)
    assert all(lo - 1e-12 <= v <= hi + 1e-12 for v, lo, hi in zip(x, least, most, strict=True))


@given(bounds_and_shares())
@settings(max_examples=25)
def test_no_allowed_shares_are_nearer(given):
    p, least, most = given
    x = np.array(within(p, least, most))
    rule = {"type": "eq", "fun": lambda y: y.sum() - 1}
    start = np.full(len(p), 1 / len(p))
    found = minimize(
        lambda y: ((y - p) ** 2).sum(), start, bounds=list(zip(least, most, strict=True)), constraints=[rule]
    )
    assert ((x - p) ** 2).sum() <= found.fun + 1e-6


@given(bounds_and_shares())
def test_the_order_of_shares_under_equal_bounds_is_kept(given):
    p, least, most = given
    x = within(p, [min(least)] * len(p), [max(most)] * len(p))
    assert all(x[i] <= x[j] + 1e-12 for i in range(len(p)) for j in range(len(p)) if p[i] <= p[j])


def test_arms_are_drawn_with_the_bounded_shares_and_say_so():
    policy, rng = bounded(Thompson(ARMS), 0.1, {"2.0.0": 0.3}), np.random.default_rng(0)
    for _ in range(30):
        policy.learn("2.0.0", 1.0).learn("1.0.0", 0.0)
    p, n = policy.probabilities(), 6000
    choices = [policy.choose(None, rng) for _ in range(n)]
    for arm, share in zip(ARMS, p, strict=True):
        drawn = [c for c in choices if c.arm == arm]
        assert {c.propensity for c in drawn} == {share} and abs(len(drawn) / n - share) < 4.5 * 0.5 / math.sqrt(n)


def test_a_bounded_policy_per_factory_is_saved_and_goes_on():
    policy = per_segment(bounded(Thompson(ARMS), 0.1, 0.7), "factory")
    for t in range(60):
        policy.learn(ARMS[t % 3], float(t % 3 == 1), {"factory": "ab"[t % 2]})
    again = restored(json.loads(json.dumps(policy.to_dict())))
    assert again.probabilities({"factory": "a"}) == policy.probabilities({"factory": "a"})
    assert max(again.probabilities({"factory": "a"})) <= 0.7


@pytest.mark.parametrize(
    ("least", "most", "rule"),
    [
        (0.4, 0.9, "least must add up to 1 at most and most to 1 at least"),
        (0.0, 0.3, "least must add up to 1 at most and most to 1 at least"),
        (0.3, 0.2, "must have 0 <= least <= most <= 1"),
        (-0.1, 0.9, "must have 0 <= least <= most <= 1"),
        (math.nan, 0.9, "must have 0 <= least <= most <= 1"),
        ({"3.0.0": 0.1}, 0.9, "bounds must be for arms among 1.0.0, 1.1.0, 2.0.0, got 3.0.0"),
    ],
)
def test_bounds_that_cannot_be_kept_are_refused(least, most, rule):
    with pytest.raises(ValueError, match=rule):
        bounded(Thompson(ARMS), least, most)


def test_bounds_for_too_few_arms_are_refused():
    with pytest.raises(ValueError, match="least and most must hold one share for each of 3 arms, got 2 and 3"):
        Bounded(ARMS, inner=Thompson(ARMS), least=[0.1, 0.1])


@pytest.mark.parametrize("rate", [0.05, 0.5, 0.9])
@pytest.mark.parametrize("n", [3, 12])
def test_the_evidence_is_a_losing_game_under_the_claim(n, rate):
    "Exact expectation over all outcomes of n and 2 n plays with equal rates: at most 1."
    a, b = binom.pmf(np.arange(n + 1), n, rate), binom.pmf(np.arange(2 * n + 1), 2 * n, rate)
    e = [[math.exp(evidence((n, i), (2 * n, j))) for j in range(2 * n + 1)] for i in range(n + 1)]
    assert a @ np.array(e) @ b <= 1 + 1e-9


@given(st.integers(1, 400), st.integers(1, 400), st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=60)
def test_the_search_finds_the_least_fortune(n, m, x, y):
    found = evidence((n, x * n), (m, y * m))
    assert found <= fortune(np.linspace(-14, 14, 3001), (n, x * n), (m, y * m)).min() + 1e-4


@given(st.integers(1, 300), st.integers(1, 300), st.floats(0, 1))
@settings(max_examples=60)
def test_an_arm_that_is_not_ahead_has_no_evidence(n, m, x):
    assert evidence((n, x * n), (m, x * m)) < 0.5


def test_false_winners_are_rarer_than_alpha_however_often_one_looks():
    false, runs, alpha = 0, 120, 0.2
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        history = sailed(floored(Thompson(ARMS), 0.1), Stationary(ARMS, [0.7] * 3).course(300, rng), rng)
        plays = np.cumsum(history.chosen[:, None] == np.arange(3), axis=0)
        sums = np.cumsum((history.chosen[:, None] == np.arange(3)) * history.rewards[:, None], axis=0)
        looks = (dict(zip(ARMS, zip(plays[t], sums[t], strict=True), strict=True)) for t in range(9, 300, 10))
        false += any(isinstance(winner(seen, alpha), Won) for seen in looks)
    assert false / runs <= alpha


def test_a_clear_winner_is_named_with_its_evidence():
    won = winner({"a": (200, 180.0), "b": (60, 20.0), "c": (60, 24.0)}, 0.05)
    assert isinstance(won, Won) and won.arm == "a" and set(won.evidence) == {"b", "c"}
    assert won.needed == pytest.approx(60) and min(won.evidence.values()) >= 60 and won.plays == 320
    assert "**a has won** after 320 plays" in won._repr_markdown_()


def test_a_smaller_alpha_never_names_a_winner_sooner():
    seen = {"a": (200, 180.0), "b": (60, 35.0)}
    assert [isinstance(winner(seen, alpha), Won) for alpha in (0.5, 0.05, 1e-9)] == [True, True, False]


def test_an_open_question_names_the_rival_in_the_way():
    still = winner({"a": (100, 90.0), "b": (100, 88.0), "c": (100, 10.0)})
    assert isinstance(still, Undecided) and (still.leader, still.rival) == ("a", "b")
    assert "undecided" in still._repr_markdown_()


def test_an_arm_never_played_is_not_enough():
    answer = winner(floored(Thompson(ARMS)).learn("1.0.0", 1.0))
    assert isinstance(answer, NotEnough) and (answer.needed, answer.got) == (3, 1) and "1.1.0, 2.0.0" in answer.why


def test_a_record_is_that_of_the_policy_inside():
    policy = bounded(floored(Thompson(ARMS, lo=-1, hi=1)), 0.1, 0.8).learn("1.0.0", 0.0).learn("2.0.0", 1.0)
    assert record(policy) == {"1.0.0": (1, 0.5), "1.1.0": (0, 0), "2.0.0": (1, 1.0)}


@pytest.mark.parametrize(
    "policy",
    [
        fading(Thompson(ARMS)),
        sliding(Thompson(ARMS)),
        bounded(restarting(Thompson(ARMS))),
        LinUCB(ARMS, features=["x"]),
        per_segment(Thompson(ARMS)),
    ],
    ids=lambda p: p.kind,
)
def test_a_policy_whose_record_is_not_that_of_all_plays_is_refused(policy):
    with pytest.raises(ValueError, match="a winner can be named for a policy that remembers every play"):
        winner(policy)


@pytest.mark.parametrize("seen", [{"a": (3, 1.0)}, {"a": (3, 4.0), "b": (3, 1.0)}, {"a": (-1, 0.0), "b": (3, 1.0)}])
def test_a_record_that_cannot_be_is_refused(seen):
    with pytest.raises(ValueError, match="a record must hold 0 <= sum <= plays for at least two arms"):
        winner(seen)


def test_every_factory_has_its_own_answer_and_shares_alpha_with_the_others():
    policy = per_segment(Thompson(["a", "b"]), "factory")
    for t in range(240):
        policy.learn("ab"[t % 2], float(t % 2 == 0), {"factory": "north"})
        policy.learn("ab"[t % 2], float(t // 2 % 2), {"factory": "south"})
    alone, together = winners(policy), winners(policy, together=5)
    assert alone["north"].arm == "a" and isinstance(alone["south"], Undecided)
    assert together["north"].needed == pytest.approx(5 * alone["north"].needed)
    with pytest.raises(ValueError, match="policy must hold one policy for each segment, got Thompson"):
        winners(Thompson(["a", "b"]))


@pytest.mark.parametrize(
    ("better", "worse"),
    [((56_914, 56_914), (2, 1)), ((119, 2), (4_704, 0)), ((2, 1), (11_159, 0)), ((147, 103), (76_071, 0))],
)
def test_no_claim_is_refuted_less_than_the_evidence_says_where_an_arm_never_varied(better, worse):
    assert evidence(better, worse) <= fortune(np.linspace(-36, 36, 20_001), better, worse).min() + 1e-4
