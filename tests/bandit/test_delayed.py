"Outcomes are learned once, in any order, with the context of their choice, or not at all; nothing grows without bound."

import json
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from seatrial.bandit.contextual import LinUCB
from seatrial.bandit.delayed import Delayed, counting, delayed, imagined
from seatrial.bandit.index import IMED, KLUCB, UCB1, UCBTuned
from seatrial.bandit.moving import fading, restarting, sliding
from seatrial.bandit.policy import EpsilonGreedy, floored, restored
from seatrial.bandit.thompson import Thompson

outcomes = st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 4)), max_size=30)


def waiting(rows, **options) -> Delayed:
    "One pending choice for each row."
    policy = delayed(UCBTuned(["a", "b"]), **options)
    for i, (arm, _) in enumerate(rows):
        policy.register(f"r{i}", arm)
    return policy


@given(outcomes, st.randoms())
def test_the_order_in_which_outcomes_come_does_not_matter(rows, random):
    rewards = [(f"r{i}", quarters / 4) for i, (_, quarters) in enumerate(rows)]
    at_once = UCBTuned(["a", "b"])
    for (arm, quarters), _ in zip(rows, rewards, strict=True):
        at_once.learn(arm, quarters / 4)
    random.shuffle(rewards)
    one_by_one, batch = waiting(rows), waiting(rows).outcomes(dict(rewards))
    for request_id, reward in rewards:
        one_by_one.outcome(request_id, reward)
    assert one_by_one.inner == batch.inner == at_once
    assert not batch.pending and batch.waiting == [0, 0]


@given(outcomes, st.integers(1, 4))
def test_an_outcome_that_comes_again_is_counted_and_not_learned(rows, times):
    rewards = [(f"r{i}", quarters / 4) for i, (_, quarters) in enumerate(rows)]
    once, often = waiting(rows).outcomes(rewards), waiting(rows).outcomes(rewards * times)
    often.outcomes(rewards)
    assert often.inner == once.inner and often.repeated == len(rows) * times


def test_a_batch_is_learned_in_the_order_of_its_choices():
    policy = delayed(fading(Thompson(["a", "b"]), memory=2))
    policy.register("first", "a").register("second", "b").outcomes({"second": 1.0, "first": 1.0})
    assert policy.inner.inner.n == [0.5, 1.0]


@pytest.mark.parametrize(
    ("batch", "rule"),
    [
        ([("r0", 1.0), ("r9", 1.0)], "request_id must be that of a pending choice, got request_id='r9'"),
        ([("r0", 1.0), ("r0", 0.0)], "the outcome of 'r0' was reward=1 and cannot become reward=0"),
        ([("r0", 1.0), ("r1", 7.0)], r"reward must lie in \[0, 1\], got reward=7"),
        ([("r0", math.nan)], r"reward must lie in \[0, 1\], got reward=nan"),
        ([("r0", 1.0), ("old", 0.0)], "the outcome of 'old' was reward=1 and cannot become reward=0"),
    ],
)
def test_a_batch_with_an_impossible_line_changes_nothing(batch, rule):
    policy = waiting([("a", 0), ("b", 0)]).register("old", "a").outcome("old", 1.0)
    before = json.dumps(policy.to_dict())
    with pytest.raises(ValueError, match=rule):
        policy.outcomes(batch)
    assert json.dumps(policy.to_dict()) == before


@pytest.mark.parametrize(
    ("request_id", "rule"),
    [
        ("r0", "request_id must be new, got request_id='r0', which is pending"),
        ("done", "request_id must be new, got request_id='done', which is settled"),
        ("", "request_id must be text that is not empty"),
        (7, "request_id must be text that is not empty, got request_id=7"),
    ],
)
def test_a_request_is_chosen_for_once(request_id, rule):
    policy = waiting([("a", 0)]).register("done", "b").outcome("done", 0.0)
    before = json.dumps(policy.to_dict())
    for attempt in (
        lambda: policy.choose(None, np.random.default_rng(0), request_id=request_id),
        lambda: policy.register(request_id, "a"),
    ):
        with pytest.raises(ValueError, match=rule):
            attempt()
    assert json.dumps(policy.to_dict()) == before


def test_a_choice_for_an_unknown_arm_is_not_registered():
    policy = delayed(UCB1(["a", "b"]))
    with pytest.raises(ValueError, match="arm must be one of a, b, got arm='z'"):
        policy.register("r", "z")
    assert policy == delayed(UCB1(["a", "b"]))


def test_the_lowest_reward_of_any_range_is_learned_as_such():
    policy = delayed(UCB1(["a", "b"], lo=-1, hi=3))
    policy.register("r", "a").outcome("r", -1).outcome("r", -1)
    assert policy.inner.total == [0, 0] and policy.inner.n == [1, 0] and policy.settled == {"r": -1.0}


def test_a_context_is_learned_as_it_was_when_the_choice_was_made():
    policy, same = (LinUCB(["a", "b"], features=["x"]) for _ in range(2))
    policy, seen = delayed(policy), {"x": 2.0}
    policy.register("r", "a", seen)
    seen["x"] = -5.0
    policy = restored(json.loads(json.dumps(policy.to_dict()))).outcome("r", 1.0)
    assert policy.inner == same.learn("a", 1.0, {"x": 2.0})


@pytest.mark.parametrize("context", [None, {}, {"y": 1.0}, {"x": math.nan}])
def test_a_context_that_could_not_be_learned_from_is_refused_when_it_is_registered(context):
    policy = delayed(LinUCB(["a", "b"], features=["x"]))
    with pytest.raises(ValueError, match="x"):
        policy.register("r", "a", context)
    assert policy == delayed(LinUCB(["a", "b"], features=["x"]))


def test_a_context_of_numpy_numbers_is_kept_as_plain_json():
    policy = delayed(EpsilonGreedy(["a", "b"])).register("r", "a", {"x": np.float32(0.5), "n": np.int64(3), "m": "de"})
    assert json.loads(json.dumps(policy.to_dict()))["pending"] == [["r", "a", {"x": 0.5, "n": 3, "m": "de"}, 1]]


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 30))
def test_what_has_waited_too_long_is_given_up_and_its_outcome_counted(limit, patience, n):
    policy = waiting([("a", 0)] * n, limit=limit, patience=patience)
    left = min(n, limit, patience + 1)
    assert list(policy.pending) == [f"r{i}" for i in range(n - left, n)]
    assert policy.expired == n - left and sum(policy.inner.n) == 0
    assert len(policy.settled) == min(limit, n - left)
    for request_id in list(policy.settled):
        policy.outcome(request_id, 1.0)
    assert policy.late == len(policy.settled) and sum(policy.inner.n) == 0


@given(st.sampled_from([-1.0, 0.0, 2.0]), st.integers(0, 12))
def test_silence_is_learned_as_stated(silence, n):
    policy = delayed(UCB1(["a", "b"], lo=-1, hi=2), patience=3, silence=silence)
    for i in range(n):
        policy.register(str(i), "b")
    gone = max(0, n - 4)
    assert policy.inner.n[1] == gone and policy.inner.total[1] == pytest.approx(gone * (silence + 1) / 3)


class Traffic(RuleBasedStateMachine):
    "Choices and outcomes in any order, against a plain count of what was learned."

    ids = Bundle("ids")

    @initialize(limit=st.integers(1, 6), patience=st.integers(1, 9))
    def begin(self, limit, patience):
        self.policy, self.next = delayed(EpsilonGreedy(["a", "b"]), limit=limit, patience=patience), 0
        self.arms, self.learned = {}, Counter()

    @rule(target=ids, arm=st.sampled_from("ab"))
    def choose(self, arm):
        self.next += 1
        self.policy.register(str(self.next), arm)
        self.arms[str(self.next)] = arm
        return str(self.next)

    @rule(request_id=ids)
    def outcome(self, request_id):
        self.report(request_id)

    @rule(request_id=consumes(ids))
    def last_outcome(self, request_id):
        self.report(request_id)

    @rule()
    def restart(self):
        self.policy = restored(json.loads(json.dumps(self.policy.to_dict())))

    def report(self, request_id):
        known = request_id in self.policy.settled
        if request_id in self.policy.pending:
            self.learned[self.arms[request_id]] += 1
        elif not known:
            with pytest.raises(ValueError, match="request_id must be that of a pending choice"):
                self.policy.outcome(request_id, 1.0)
            return
        self.policy.outcome(request_id, 1.0)

    @invariant()
    def each_outcome_was_learned_once(self):
        if hasattr(self, "policy"):
            assert self.policy.inner.n == [self.learned["a"], self.learned["b"]]

    @invariant()
    def the_ledger_is_bounded_and_adds_up(self):
        if hasattr(self, "policy"):
            p = self.policy
            assert len(p.pending) <= p.limit and len(p.settled) <= p.limit
            assert p.waiting == [sum(arm == name for arm, _, _ in p.pending.values()) for name in p.arms]
            assert p.step == len(p.pending) + p.expired + sum(self.learned.values())


TestTraffic = Traffic.TestCase


@pytest.mark.parametrize("kind", [UCB1, UCBTuned, KLUCB, IMED])
def test_an_index_policy_repeats_itself_unless_pending_choices_count(kind):
    rng, share = np.random.default_rng(0), {}
    for virtual in (False, True):
        core = kind(["a", "b"]).learn("a", 0.6).learn("b", 0.5)
        policy = delayed(core, virtual=virtual)
        share[virtual] = [policy.choose(None, rng, request_id=str(i)).arm for i in range(60)].count("a") / 60
        assert core.n == [1, 1]
    assert share[False] in (0, 1) and 0.3 < share[True] < 0.95


def test_virtual_plays_leave_every_mean_where_it_was_and_are_taken_back():
    policy = delayed(KLUCB(["a", "b", "c"], n=[10, 5, 0], total=[4, 1, 0]), virtual=True)
    for i, arm in enumerate("aabc"):
        policy.register(str(i), arm)
    with imagined(policy):
        assert policy.inner.n == [12, 6, 1] and policy.inner.total == pytest.approx([0.4 * 12, 0.2 * 6, 5 / 15])
    assert policy.inner.n == [10, 5, 0] and policy.inner.total == [4, 1, 0]


def test_the_propensity_of_a_virtual_choice_is_that_of_the_moment():
    policy, rng = delayed(floored(KLUCB(["a", "b"]), 0.1), virtual=True), np.random.default_rng(0)
    for i in range(50):
        p = policy.probabilities()
        arm, propensity = policy.choose(None, rng, request_id=str(i))
        assert propensity == pytest.approx(p["ab".index(arm)])


@pytest.mark.parametrize("wrap", [lambda p: p, floored, fading, sliding, restarting, delayed])
def test_the_record_below_all_wrappers_is_found(wrap):
    core = Thompson(["a", "b"])
    assert counting(wrap(core)) is core


def test_a_delay_costs_blindness_and_little_more():
    "Two arms, 50 steps late, against the same fortune at once; the long form stands in the notebook."

    def lost(late, seed, steps=400):
        rng = np.random.default_rng(seed)
        luck = {arm: iter((rng.random(steps) < rate).tolist()) for arm, rate in (("a", 0.9), ("b", 0.6))}
        policy, arms, coming = delayed(Thompson(["a", "b"])), [], []
        for t in range(steps):
            if t > late:
                policy.outcome(str(t - 1 - late), coming[t - 1 - late])
            arms.append("ab"[policy.inner.draw(rng)])
            policy.register(str(t), arms[-1])
            coming.append(float(next(luck[arms[-1]])))
        return 0.3 * arms.count("b")

    found = np.array([(lost(0, s), lost(50, s)) for s in range(60)])
    rest = found[:, 1] - 1.05 * found[:, 0]
    assert rest.mean() < 50 * 0.15 + 3 * rest.std(ddof=1) / np.sqrt(60)


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (lambda: delayed(Thompson(["a", "b"]), limit=0), "limit must be a whole number >= 1, got limit=0"),
        (lambda: delayed(Thompson(["a", "b"]), patience=2.0), "patience must be a whole number >= 1, got patience=2.0"),
        (lambda: delayed(Thompson(["a", "b"]), silence=2), r"silence must lie in \[0, 1\], got silence=2"),
        (lambda: delayed(LinUCB(["a", "b"], features=["x"]), virtual=True), "inner must learn by counting alone"),
        (lambda: Delayed(["a", "b"]), "inner must be a policy with the arms a, b"),
        (
            lambda: Delayed(["a", "b"], inner=UCB1(["a", "b"]), pending=[["r", "z", None, 1]]),
            "arm must be one of a, b, got arm='z'",
        ),
    ],
)
def test_a_ledger_that_cannot_work_is_refused(make, rule):
    with pytest.raises(ValueError, match=rule):
        make()


@pytest.mark.parametrize(
    "context", [[1, 2], "de", 5, {"x": float("nan")}, {"x": np.arange(2)}, {"x": {1, 2}}, {"x": 1j}, {1: 2}]
)
def test_a_context_that_no_file_could_hold_is_refused_and_changes_nothing(context):
    policy = delayed(Thompson(["a", "b"])).register("first", "a", {"x": np.float32(0.5), "tags": ["new"]})
    before = json.dumps(policy.to_dict(), allow_nan=False)
    for refused in (
        lambda: policy.choose(context, np.random.default_rng(0), request_id="r"),
        lambda: policy.register("r", "a", context),
    ):
        with pytest.raises(ValueError, match="context must map names to what JSON can hold"):
            refused()
    assert json.dumps(policy.to_dict(), allow_nan=False) == before
    assert policy.register("r", "b").waiting == [1, 1]


def test_a_pending_context_is_not_touched_by_what_its_owner_does_later():
    context = {"x": 1.0, "tags": ["new"]}
    policy = delayed(Thompson(["a", "b"])).register("r", "a", context)
    context["tags"].append("sale")
    assert policy.pending["r"][1] == {"x": 1.0, "tags": ["new"]}
