"""Nothing is promoted without proof, and harm ends a trial at once."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seatrial.rollout.canary import World, judge, rate_bounds, simulate, step
from seatrial.rollout.evidence import Evidence
from seatrial.rollout.trial import ENDS, Gate, Plan, TrialState, moved
from seatrial.stats.moments import Moments
from seatrial.stats.sequential import always_valid

ERROR = Gate("abs_error", margin_share=0.05)
PLAN = Plan("t", "m", "1", "2", gates=(ERROR, Gate("error_rate", margin=0.05)), outcome="y", dwell_s=600.0)

squares = st.just(0.0) | st.floats(1e-6, 1e5)
moments = st.builds(Moments, st.integers(0, 5000), st.floats(0, 100), squares)
rates = st.builds(Moments, st.integers(0, 5000), st.floats(0, 1), squares)
sides = lambda s: st.fixed_dictionaries({}, optional={"champion": s, "challenger": s})  # noqa: E731
seen = st.builds(
    Evidence,
    units=st.fixed_dictionaries({"champion": st.integers(0, 5000), "challenger": st.integers(0, 5000)}),
    moments=st.fixed_dictionaries({}, optional={"abs_error": sides(moments), "error_rate": sides(rates)}),
    reference=st.booleans(),
)
states = st.integers(1, 4).map(lambda n: TrialState(PLAN, tuple(float(i) for i in range(n))))


def shown(units=(5000, 5000), error=(1.0, 1.0), failures=(0.0, 0.0), sd=0.5):
    made = {}
    for i, role in enumerate(("champion", "challenger")):
        n = units[i]
        made.setdefault("abs_error", {})[role] = Moments(n, error[i], n * sd**2)
        made.setdefault("error_rate", {})[role] = Moments(n, failures[i], n * failures[i] * (1 - failures[i]))
    return Evidence({"champion": units[0], "challenger": units[1]}, {}, made)


@given(states, seen, st.floats(0, 1e6))
def test_going_forward_takes_dwell_units_and_every_gate(state, evidence, now_s):
    move = step(state, evidence, now_s)
    if move.kind in ("advance", "promote", "finish"):
        assert now_s - state.since_s >= PLAN.dwell_s
        assert all(g["answer"] == "passed" for g in move.evidence["gates"])
        assert all(min(g["n_champion"], g["n_challenger"]) >= PLAN.units_min for g in move.evidence["gates"])
        assert (move.kind == "promote") == state.last_stage


@given(states, seen, st.floats(0, 1e6))
def test_evidence_of_a_move_is_plain_json(state, evidence, now_s):
    move = step(state, evidence, now_s)
    assert json.loads(json.dumps(move.evidence, allow_nan=False)) == move.evidence
    assert move.evidence["stage"] == state.stage


@given(states, st.floats(0, 1e9))
def test_no_data_is_never_healthy(state, now_s):
    for nothing in (Evidence(), shown((0, 0)), shown((49, 49))):
        assert step(state, nothing, now_s).kind == "hold"


def test_one_silent_metric_is_enough_to_wait():
    evidence = shown((4500, 500), error=(1.0, 0.2))
    mute = replace(evidence, moments={"error_rate": evidence.moments["error_rate"]})
    state = TrialState(PLAN, (0.0,))
    assert step(state, evidence, 600.0).kind == "advance"
    assert step(state, mute, 600.0).kind == "hold"


def test_harm_needs_no_dwell():
    move = step(TrialState(PLAN, (0.0,)), shown((900, 100), error=(1.0, 3.0)), 0.001)
    assert (move.kind, move.verdict) == ("rollback", "stop")
    assert "abs_error" in move.reason


def test_total_failure_needs_no_fifty_victims():
    move = step(TrialState(PLAN, (0.0,)), shown((100, 12), failures=(0.0, 1.0)), 1.0)
    assert move.kind == "rollback"


def test_a_leaking_split_holds_however_good_it_looks_but_harm_still_ends_it():
    leaking = shown((9000, 600), error=(1.0, 0.2))
    move = step(TrialState(PLAN, (0.0,)), leaking, 1e6)
    assert (move.kind, move.verdict) == ("hold", "invalid")
    assert step(TrialState(PLAN, (0.0,)), shown((9000, 600), error=(1.0, 2.0)), 1.0).kind == "rollback"


def test_the_horizon_ends_waiting_but_never_promotes():
    plan = replace(PLAN, horizon_s=1000.0)
    assert step(TrialState(plan, (0.0,)), Evidence(), 999.0).kind == "hold"
    move = step(TrialState(plan, (0.0,)), Evidence(), 1000.0)
    assert (move.kind, move.verdict) == ("abort", "stop")


def test_an_ab_trial_asks_for_better_and_not_just_for_as_good():
    goal = Gate("abs_error", kind="goal")
    plan = replace(PLAN, kind="ab", stages=(0.5,), gates=(goal,))
    state = TrialState(plan, (0.0,))
    assert step(state, shown(), 600.0).kind == "hold"
    assert step(state, shown(error=(1.0, 0.8)), 600.0).kind == "finish"
    assert step(state, shown(error=(1.0, 1.2)), 600.0).kind == "abort"


def test_a_metric_that_should_rise_is_judged_the_other_way_round():
    gate = Gate("outcome", "higher", margin=0.05)
    low, high = Moments(5000, 0.3, 5000 * 0.01), Moments(5000, 0.5, 5000 * 0.01)
    assert judge(gate, low, high, PLAN).answer == "passed"
    assert judge(gate, high, low, PLAN).answer == "failed"


def test_an_ended_trial_cannot_be_stepped():
    with pytest.raises(ValueError, match="rolled_back"):
        step(moved(TrialState(PLAN, (0.0,)), "rollback", 1.0), Evidence(), 2.0)


@given(st.integers(1, 100_000), st.floats(0, 1), st.floats(1e-6, 0.5))
def test_rate_bounds_hold_the_rate_and_stay_in_the_unit_interval(n, rate, alpha):
    lower, upper = rate_bounds(Moments(n, rate, 0.0), alpha)
    assert 0 <= lower <= rate + 1e-9
    assert rate - 1e-9 <= upper <= 1


def world(scale=1.0, failures=0.0, **kw):
    error = lambda s: lambda rng, n: rng.gamma(2.0, 0.5 * s, n)  # noqa: E731
    fails = lambda r: lambda rng, n: (rng.random(n) < r).astype(float)  # noqa: E731
    sides = [{"abs_error": error(s), "error_rate": fails(f)} for s, f in ((1.0, 0.0), (scale, failures))]
    return World(2.0, *sides, **({"tick_s": 120.0, "until_s": 20_000.0} | kw))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.floats(0.3, 3.0), failures=st.sampled_from([0.0, 0.02, 0.5]))
def test_a_voyage_never_skips_a_stage_nor_leaves_an_end(seed, scale, failures):
    history = simulate(PLAN, world(scale, failures), np.random.default_rng(seed))
    stages = [s.stage for _, s, _ in history]
    assert all(b - a in (0, 1) for a, b in pairwise(stages))
    assert all(m.kind not in ENDS for _, _, m in history[:-1])
    assert history[-1][2].kind != "promote" or stages[-1] == len(PLAN.stages) - 1


def test_a_good_challenger_arrives_and_a_broken_one_does_not():
    fates = {
        name: [simulate(PLAN, w, np.random.default_rng(s))[-1][2].kind for s in range(15)]
        for name, w in {"good": world(0.7), "bad": world(1.6), "failing": world(0.7, 0.4)}.items()
    }
    assert set(fates["good"]) == {"promote"}
    assert set(fates["bad"]) == set(fates["failing"]) == {"rollback"}


def test_an_equal_challenger_is_rolled_back_no_more_often_than_promised():
    plan = replace(PLAN, alpha=0.2)
    ends = [simulate(plan, world(), np.random.default_rng(s))[-1][2].kind for s in range(60)]
    assert ends.count("rollback") / 60 <= plan.alpha


def test_a_stage_that_has_passed_still_lasts_its_dwell():
    state, good = TrialState(PLAN, (1000.0,)), shown((4500, 500), error=(1.0, 0.2))
    assert step(state, good, 1599.0).kind == "hold"
    assert step(state, good, 1600.0).kind == "advance"


def test_passing_takes_the_plans_units_even_where_the_bounds_are_exact():
    plan = replace(PLAN, gates=(Gate("error_rate", margin=0.5),), kind="ab", stages=(0.5,))
    state = TrialState(plan, (0.0,))
    assert step(state, shown((49, 49)), 600.0).kind == "hold"
    assert step(state, shown((50, 50)), 600.0).kind == "finish"


@pytest.mark.parametrize(("error", "said"), [(1.07, "failed"), (1.05, "open"), (1.03, "passed")])
def test_a_guardrail_turns_at_its_margin(error, said):
    evidence = shown((10**6, 10**6), error=(1.0, error), sd=0.1)
    assert judge(ERROR, *(evidence.of("abs_error", v) for v in ("champion", "challenger")), PLAN).answer == said


@pytest.mark.parametrize(("error", "said"), [(0.97, "failed"), (0.95, "open"), (0.93, "passed"), (1.2, "failed")])
def test_a_goal_turns_at_the_gain_that_it_asks(error, said):
    goal, evidence = Gate("abs_error", margin=0.05, kind="goal"), shown((10**6, 10**6), error=(1.0, error), sd=0.1)
    assert judge(goal, *(evidence.of("abs_error", v) for v in ("champion", "challenger")), PLAN).answer == said


def test_both_parts_of_a_margin_add_up():
    gate = Gate("abs_error", margin=0.5, margin_share=0.1)
    assert judge(gate, Moments(100, 2.0, 1.0), Moments(100, 2.0, 1.0), PLAN).margin == pytest.approx(0.7)


def test_alpha_is_shared_by_all_stages_and_gates():
    a, b = Moments(500, 1.0, 100.0), Moments(400, 1.1, 90.0)
    alone = always_valid(a, b, PLAN.alpha / 8, tuned_for=20 * PLAN.units_min)
    found = judge(Gate("abs_error", margin=0.05), a, b, PLAN)
    assert (found.lower, found.upper) == (alone.lower, alone.upper)
    failures = Gate("error_rate", margin=0.05)
    m = Moments(500, 0.0, 0.0)
    assert judge(failures, m, m, PLAN).upper == rate_bounds(m, PLAN.alpha / 16)[1]


def test_a_metric_that_cannot_be_computed_holds_but_never_hides_harm():
    state, trouble = TrialState(PLAN, (0.0,)), {"abs_error": "a value of 1e+200 has no finite spread"}
    spoilt = lambda e: replace(e, moments={"error_rate": e.moments["error_rate"]}, trouble=trouble)  # noqa: E731
    move = step(state, spoilt(shown((4500, 500))), 600.0)
    assert (move.kind, move.verdict) == ("hold", "invalid")
    assert "abs_error" in move.reason and "1e+200" in move.reason
    assert step(state, spoilt(shown((4500, 500), failures=(0.0, 1.0))), 600.0).kind == "rollback"


CASES = [("lower", "guardrail"), ("higher", "guardrail"), ("lower", "goal"), ("higher", "goal")]


@pytest.mark.parametrize(("better", "kind"), CASES)
@pytest.mark.parametrize("share", [0.05, 0.5, 1.0])
def test_a_challenger_at_its_margin_is_judged_wrongly_no_more_often_than_promised(better, kind, share):
    gate = Gate("abs_error", better, margin_share=share, kind=kind)
    plan = replace(PLAN, gates=(gate,), kind="ab", stages=(0.5,), units_min=50)
    rng, runs, looks = np.random.default_rng(8), 200, 40
    at = 1 + share * (1 if (better == "lower") == (kind == "guardrail") else -1)
    wrong = 0
    for _ in range(runs):
        champion, challenger = rng.normal(1.0, 0.5, 50 * looks), rng.normal(at, 0.2, 50 * looks)
        seen = ((Moments.of(champion[:n]), Moments.of(challenger[:n])) for n in range(50, 50 * looks + 1, 50))
        wrong += any(judge(gate, *arms, plan).answer != "open" for arms in seen)
    assert wrong / runs <= plan.alpha


@given(squares, squares, st.floats(-50, 50), st.floats(-50, 50), st.floats(0, 2), st.sampled_from(CASES))
def test_the_bounds_stand_around_the_effect_and_agree_with_the_answer(v, w, x, y, share, case):
    gate = Gate("abs_error", case[0], margin=0.1, margin_share=share, kind=case[1])
    found = judge(gate, Moments(300, x, v), Moments(200, y, w), PLAN)
    if np.isfinite(found.lower):
        assert found.lower <= found.effect + 1e-9 and found.effect - 1e-9 <= found.upper
    least, most = (found.lower, found.upper) if case[0] == "lower" else (-found.upper, -found.lower)
    limit = found.margin if case[1] == "guardrail" else -found.margin
    assert found.answer == ("failed" if least > limit else "passed" if most < limit else "open")
