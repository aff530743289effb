"""A trial's plan is checked before it starts, and its state follows from the decisions alone."""

import json
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seatrial.rollout.trial import (
    ENDS,
    METRICS,
    Gate,
    Plan,
    TrialState,
    aimed,
    draft,
    fold,
    moved,
    plan_from_dict,
    plan_to_dict,
)

HOUSE = SimpleNamespace(
    stages_share=(0.1, 0.5, 1.0), ab_share=0.5, dwell_s=60.0, units_min=50, alpha=0.05, margin_share=0.05
)
PLAN = Plan("t", "m", "1.0.0", "1.1.0", gates=(Gate("error_rate", margin=0.01),))

rising = st.lists(st.floats(0.001, 0.999), min_size=1, max_size=5, unique=True).map(lambda x: (*sorted(x), 1.0))
gates = st.builds(
    Gate,
    metric=st.sampled_from(sorted(set(METRICS) - {"disagreement"})),
    better=st.sampled_from(["lower", "higher"]),
    margin=st.floats(1e-6, 0.4),
    margin_share=st.floats(0, 0.5),
    kind=st.sampled_from(["guardrail", "goal"]),
)
plans = st.builds(
    Plan,
    trial=st.text(min_size=1),
    model=st.just("m"),
    champion=st.just("1.0.0"),
    challenger=st.just("1.1.0"),
    gates=st.lists(gates, min_size=1, max_size=4, unique_by=lambda g: (g.metric, g.kind)),
    stages=rising,
    dwell_s=st.floats(0, 1e6),
    units_min=st.integers(2, 10_000),
    alpha=st.floats(0.0001, 0.9999),
    salt=st.text(),
    outcome=st.just("y"),
)


def told(kind, time_s, stage=None, trial="t", model="m", plan=None):
    evidence = plan_to_dict(plan) if kind == "start" else {} if stage is None else {"stage": stage}
    return SimpleNamespace(kind=kind, model=model, trial=trial, time_s=time_s, reason="", evidence=evidence)


kinds = st.sampled_from(
    ["start", "advance", "advance", "hold", "promote", "finish", "rollback", "abort", "alias", "sneeze"]
)
rows = st.tuples(kinds, st.none() | st.integers(0, 4), st.sampled_from("ttu"), st.sampled_from("mmn"))
histories = st.lists(rows, max_size=30).map(
    lambda rows: [
        told(k, float(i), s, t, m, replace(PLAN, trial=t, model=m))
        for i, (k, s, t, m) in enumerate([("start", None, "t", "m"), *rows])
    ]
)


@given(plans)
def test_a_plan_survives_json_exactly(plan):
    assert plan_from_dict(json.loads(json.dumps(plan_to_dict(plan)))) == plan


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"stages": ()}, "stages must rise"),
        ({"stages": (0.5, 0.1, 1.0)}, "stages must rise"),
        ({"stages": (0.5, 0.5, 1.0)}, "stages must rise"),
        ({"stages": (0.0, 1.0)}, r"lie in \(0, 1\]"),
        ({"stages": (0.1, 1.5)}, "write 0.1 for 10 %"),
        ({"stages": (0.1, float("nan"))}, "stages must be a number"),
        ({"stages": (1.0,)}, "start below 1"),
        ({"stages": (0.1, 0.9)}, "end at 1"),
        ({"kind": "ab"}, "single share"),
        ({"kind": "ab", "stages": (1.0,)}, "leave the champion"),
        ({"kind": "ship"}, "kind must be one of"),
        ({"alpha": 5}, "alpha must lie"),
        ({"alpha": 0.0}, "alpha must lie"),
        ({"dwell_s": -1}, "dwell_s must be"),
        ({"dwell_s": "900"}, "dwell_s must be"),
        ({"units_min": 1}, "units_min must be"),
        ({"units_min": True}, "units_min must be"),
        ({"units_min": 2.5}, "units_min must be a whole number, got 2.5"),
        ({"outcome": 5}, "outcome must be a text, got 5"),
        ({"output": 5}, "output must be a text, got 5"),
        ({"horizon_s": 10.0}, "longer than dwell_s"),
        ({"trial": ""}, "trial must be a non-empty"),
        ({"challenger": "1.0.0"}, "must differ"),
        ({"gates": ()}, "gates of trial 't' must not be empty"),
        ({"gates": (Gate("abs_error", margin=1.0),)}, "outcome must be named"),
        ({"gates": (Gate("disagreement", margin=1.0),)}, "needs kind 'shadow'"),
        ({"gates": (Gate("error_rate", margin=0.1), Gate("error_rate", margin=0.2))}, "two guardrails on error_rate"),
    ],
)
def test_a_wrong_plan_is_refused_by_name(change, says):
    with pytest.raises(ValueError, match=says):
        replace(PLAN, **change)


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (lambda: Gate("latency", margin=1), "metric must be one of abs_error, squared_error"),
        (lambda: Gate("error_rate"), "equality can never be proved"),
        (lambda: Gate("error_rate", margin=-1), "margin of the gate on error_rate"),
        (lambda: Gate("error_rate", margin=5.0), "error_rate must be below 1 in all, got 5"),
        (lambda: Gate("error_rate", margin=0.6, margin_share=0.4), "error_rate must be below 1 in all, got 1"),
        (lambda: Gate("error_rate", margin=0.1, kind="wish"), "kind must be one of guardrail, goal"),
        (lambda: Gate("error_rate", "smaller", 0.1), "better must be one of lower, higher"),
        (lambda: plan_from_dict({"trial": "t"}), "could not be read"),
        (lambda: plan_from_dict(plan_to_dict(PLAN) | {"wind": 1}), "no wind"),
        (lambda: draft("regatta", "t", "m", "1", "2", HOUSE), "kind must be one of"),
    ],
)
def test_a_wrong_gate_or_record_is_refused_by_name(made, says):
    with pytest.raises(ValueError, match=says):
        made()


@pytest.mark.parametrize("kind", ["shadow", "ab", "canary"])
@pytest.mark.parametrize("outcome", ["", "rating"])
def test_every_kind_can_be_drafted_from_the_settings(kind, outcome):
    plan = draft(kind, "t", "m", "1", "2", HOUSE, outcome=outcome)
    assert plan.kind == kind
    assert ("abs_error" in {g.metric for g in plan.gates}) == bool(outcome)


@given(histories)
def test_fold_is_the_same_in_one_piece_and_in_many(history):
    whole = fold(history)
    for cut in range(len(history) + 1):
        assert fold(history[cut:], fold(history[:cut])) == whole


@given(histories)
def test_fold_does_not_touch_what_it_is_given(history):
    early = fold(history[:10])
    copy = dict(early)
    fold(history[10:], early)
    assert early == copy


@given(histories)
def test_an_ended_trial_never_moves_again_unless_a_new_one_starts(history):
    states = {}
    for d in history:
        before = states.get(d.model)
        states = fold([d], states)
        if before is not None and not before.live and d.kind != "start":
            assert states[d.model] is before


@given(histories)
def test_no_stage_is_ever_skipped_and_no_share_exceeds_the_plan(history):
    states = {}
    for d in history:
        before = states.get(d.model)
        states = fold([d], states)
        now = states.get(d.model)
        if now is None:
            continue
        share = now.shares()["challenger"]
        assert share <= now.plan.stages[now.stage]
        assert sum(now.shares().values()) == 1
        if before is not None and before.plan.trial == now.plan.trial and before.live:
            assert now.stage - before.stage in (0, 1)
        assert now.live or share == 0


@given(histories)
def test_only_a_canary_in_its_last_stage_can_be_promoted(history):
    for state in fold(history).values():
        assert state.status != "promoted" or state.last_stage


def test_a_second_start_is_ignored_while_one_is_live():
    rival = replace(PLAN, trial="rival")
    states = fold([told("start", 0.0, plan=PLAN), told("start", 1.0, trial="rival", plan=rival)])
    assert states["m"].plan.trial == "t"


def test_a_decision_about_a_stage_that_is_over_changes_nothing():
    state = TrialState(PLAN, (0.0, 1.0))
    for kind in ("advance", "promote", "rollback", "hold"):
        assert moved(state, kind, 2.0, evidence={"stage": 0}) is state


@pytest.mark.parametrize("kind", sorted(set(ENDS) - {"promote"}))
def test_every_end_but_promotion_sends_all_units_home(kind):
    state = moved(TrialState(PLAN, (0.0, 1.0, 2.0)), kind, 3.0)
    assert not state.live
    assert state.ended_s == 3.0
    assert state.shares() == {"challenger": 0.0, "champion": 1.0}


def test_a_shadow_answers_nobody_and_is_copied_to():
    plan = draft("shadow", "t", "m", "1", "2", HOUSE)
    state = TrialState(plan, (0.0,))
    assert state.shares() == {"challenger": 0.0, "champion": 1.0}
    assert state.copied_share() == 1.0
    assert moved(state, "finish", 1.0).copied_share() == 0.0
    assert moved(state, "promote", 1.0) is state


def test_what_servers_import_loads_neither_scipy_nor_sql():
    heavy = ("scipy", "sqlalchemy", "pyarrow", "torch", "mlflow")
    code = (
        f"import sys, seatrial.rollout.trial, seatrial.rollout.split; print([m for m in {heavy} if m in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


@pytest.mark.parametrize("end", sorted(ENDS))
@pytest.mark.parametrize("after", [*sorted(ENDS), "advance", "hold"])
def test_nothing_follows_an_end(end, after):
    ended = moved(TrialState(PLAN, tuple(float(i) for i in range(len(PLAN.stages)))), end, 9.0)
    assert not ended.live
    assert moved(ended, after, 10.0) is ended


def test_a_decision_about_another_trial_changes_nothing():
    started = fold([told("start", 0.0, plan=PLAN)])
    assert fold([told("rollback", 1.0, trial="other")], started) == started
    assert fold([told("rollback", 1.0, model="other")], started) == started


def test_a_start_that_cannot_be_read_begins_no_trial_and_stops_nobody():
    bad = told("start", 0.0, plan=PLAN)
    bad.evidence["wind"] = 7
    other = told("start", 1.0, trial="o", model="other", plan=replace(PLAN, trial="o", model="other"))
    states = fold([bad, told("hold", 0.5), other])
    assert set(states) == {"other"}
    assert fold([told("start", 2.0, plan=PLAN)], states)["m"].live


def test_an_output_is_the_one_that_the_model_has():
    plan = draft("canary", "t", "m", "1", "2", HOUSE, outcome="rating")
    assert aimed(plan, {"rating": True, "other": True}) is plan
    assert aimed(plan, {"prediction": True, "label": False}).output == "prediction"
    for outputs in ({"a": True, "b": True}, {"rating": False, "a": True}, {"label": False}):
        with pytest.raises(ValueError, match=r"output must be one of .*, got 'rating'"):
            aimed(plan, outputs)
    named = draft("canary", "t", "m", "1", "2", HOUSE, outcome="stars", output="rating")
    with pytest.raises(ValueError, match="output must be one of prediction, got 'rating'"):
        aimed(named, {"prediction": True})
    clicks = draft("ab", "t", "m", "1", "2", HOUSE, metric="outcome", outcome="click")
    assert aimed(clicks, {"a": True, "b": True}) is clicks
