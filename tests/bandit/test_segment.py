"Each segment has a policy of its own, and strangers get what the rules say."

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seatrial.bandit.contextual import LinThompson, LinUCB
from seatrial.bandit.index import UCB1
from seatrial.bandit.policy import EpsilonGreedy, floored, restored
from seatrial.bandit.segment import PerSegment, per_segment
from seatrial.bandit.thompson import Thompson

ARMS = ["a", "b", "c"]


def at(segment):
    return {"segment": segment}


@given(st.lists(st.tuples(st.sampled_from("pqr"), st.sampled_from(ARMS), st.floats(0, 1)), max_size=60))
def test_a_segment_knows_what_a_policy_of_its_own_would_know(events):
    policy, alone, everybody = per_segment(Thompson(ARMS)), {s: Thompson(ARMS) for s in "pqr"}, Thompson(ARMS)
    for segment, arm, reward in events:
        policy.learn(arm, reward, at(segment))
        alone[segment].learn(arm, reward)
        everybody.learn(arm, reward)
    assert policy.pooled == everybody and policy.n == everybody.n and policy.total == everybody.total
    for segment in "pqr":
        assert policy.probabilities(at(segment)) == alone[segment].probabilities()


def test_the_rest_of_the_context_goes_to_the_policy_inside():
    policy, alone = per_segment(LinUCB(ARMS, features=["x"]), "market"), LinUCB(ARMS, features=["x"])
    for x in (0.5, -1.0, 2.0):
        policy.learn("b", 0.7, {"market": "de", "x": x})
        alone.learn("b", 0.7, {"x": x})
    assert policy.own["de"][0] == alone
    with pytest.raises(ValueError, match=r"missing=.'x'."):
        policy.learn("b", 0.7, {"market": "fr", "y": 1.0})
    assert list(policy.own) == ["de"] and sum(policy.n) == sum(policy.pooled.n) == 3


def test_choosing_makes_no_segment():
    policy, rng = per_segment(Thompson(ARMS)), np.random.default_rng(0)
    before = json.dumps(policy.to_dict())
    for i in range(10):
        policy.choose(at(f"stranger {i}"), rng)
        policy.probabilities(at(f"stranger {i}"))
    assert json.dumps(policy.to_dict()) == before


def test_a_cold_segment_is_served_by_the_pooled_policy_until_it_is_warm():
    policy = per_segment(EpsilonGreedy(ARMS, epsilon=0), cold=3)
    for arm, reward in (("a", 0.2), ("b", 0.9), ("c", 0.1)):
        policy.learn(arm, reward, at("old"))
    for plays in range(3):
        assert policy.probabilities(at("new")) == policy.pooled.probabilities() == [0, 1, 0]
        policy.learn(ARMS[plays], [1.0, 0.5, 0.5][plays], at("new"))
    assert policy.probabilities(at("new")) == [1, 0, 0] and policy.own["new"][1] == 3


def test_a_prototype_that_has_learned_is_what_every_segment_starts_from():
    policy = per_segment(Thompson(ARMS, n=[9, 9, 9], total=[9, 0, 0]))
    assert policy.probabilities(at("new"))[0] > 0.99
    policy.learn("b", 1.0, at("new"))
    assert policy.own["new"][0].n == [9, 10, 9] and policy.prototype.n == [9, 9, 9]


@pytest.mark.parametrize("unknown", ["own", "pooled", "refuse"])
def test_a_stranger_gets_what_the_rule_says(unknown):
    policy = per_segment(Thompson(ARMS), own=["known"], unknown=unknown)
    policy.learn("a", 1.0, at("known"))
    if unknown == "refuse":
        for act in (policy.probabilities, lambda c: policy.learn("a", 1.0, c)):
            with pytest.raises(ValueError, match="segment must be one of known, got segment='stranger'"):
                act(at("stranger"))
        assert sum(policy.pooled.n) == 1
    else:
        expected = Thompson(ARMS) if unknown == "own" else policy.pooled
        assert policy.probabilities(at("stranger")) == expected.probabilities()
        policy.learn("b", 1.0, at("stranger"))
        assert ("stranger" in policy.own) == (unknown == "own") and sum(policy.pooled.n) == 2


def test_more_segments_than_allowed_are_served_by_the_pooled_policy():
    policy = per_segment(UCB1(ARMS), most=2)
    for i in range(20):
        policy.learn(ARMS[i % 3], 0.5, at(str(i)))
    assert list(policy.own) == ["0", "1"] and sum(policy.pooled.n) == 20
    assert policy.probabilities(at("19")) == policy.pooled.probabilities()


@pytest.mark.parametrize("context", [None, {}, {"market": "de"}, {"segment": 3}, {"segment": None}, "de"])
def test_a_context_without_its_segment_is_refused_and_changes_nothing(context):
    policy = per_segment(Thompson(ARMS)).learn("a", 1.0, at("x"))
    before = json.dumps(policy.to_dict())
    for act in (policy.probabilities, lambda c: policy.learn("a", 1.0, c)):
        with pytest.raises(ValueError, match="context must name its segment as text"):
            act(context)
    assert json.dumps(policy.to_dict()) == before


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (lambda: PerSegment(ARMS), "prototype, pooled and own must be policies of one kind"),
        (lambda: PerSegment(ARMS, prototype=Thompson(["a", "b"])), "with the arms"),
        (lambda: PerSegment(ARMS, 0, 5, prototype=Thompson(ARMS)), "and range"),
        (lambda: per_segment(Thompson(ARMS), own=[("x", UCB1(ARMS), 0)]), "of one kind"),
        (lambda: per_segment(Thompson(ARMS), own=[("x", Thompson(ARMS), -1)]), "plays must lie in"),
        (lambda: per_segment(Thompson(ARMS), unknown="guess"), "unknown must be one of own, pooled, refuse"),
        (lambda: per_segment(Thompson(ARMS), most=0), "most must lie in"),
        (lambda: per_segment(Thompson(ARMS), cold=-1), "cold must lie in"),
    ],
)
def test_rules_that_cannot_be_are_refused(make, rule):
    with pytest.raises(ValueError, match=rule):
        make()


@pytest.mark.parametrize("prototype", [Thompson(ARMS), LinThompson(ARMS, features=["kind"])])
def test_segments_and_features_of_any_name_survive_saving(prototype):
    policy = floored(per_segment(prototype, "kind of shop", cold=2), 0.02)
    rest = {"kind": 0.5} if isinstance(prototype, LinThompson) else {}
    for i, name in enumerate(["kind", "arms", "", "ü", "kind"] * 3):
        policy.learn(ARMS[i % 3], 0.5, {"kind of shop": name} | rest)
    again = restored(json.loads(json.dumps(policy.to_dict())))
    assert again == policy
    one, other = np.random.default_rng(1), np.random.default_rng(1)
    for name in ("kind", "arms", "new"):
        context = {"kind of shop": name} | rest
        assert again.choose(context, one) == policy.choose(context, other)
