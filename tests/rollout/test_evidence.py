"""Evidence counts units, of one stage, on the side where they belong."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seatrial.rollout.evidence import Evidence, against, answer, by_unit, evidence, failed, values
from seatrial.rollout.split import assign
from seatrial.rollout.trial import Gate, Plan
from seatrial.stats.moments import Moments

ALL = [Gate(m, margin=0.9) for m in ("abs_error", "squared_error", "outcome", "error_rate", "latency_ms")]
PLAN = Plan("t", "m", "1", "2", gates=ALL, outcome="rating", stages=(0.25, 1.0))
NAMES = ("request_id", "unit", "variant", "outputs", "outcome", "latency_ms", "cached", "status")


def table(rows):
    return pa.table({n: pa.array([r[i] for r in rows]) for i, n in enumerate(NAMES)})


def row(i, unit=None, role=None, said=1.0, outcome=2.0, latency=5.0, cached=False, status="ok"):
    unit = f"u{i}" if unit is None else unit
    role = role or assign(unit or f"r{i}", PLAN.salt, {"challenger": 0.25, "champion": 0.75})
    return (f"r{i}", unit, role, json.dumps({"rating": said}), outcome, latency, cached, status)


@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.floats(-1e6, 1e6) | st.none()), max_size=40),
)
def test_by_unit_is_the_moments_of_the_units_own_means(rows):
    y = np.array([np.nan if v is None else v for _, v in rows], float)
    units = np.array([u for u, _ in rows], str)
    seen = {u for u, v in rows if v is not None}
    means = [np.mean([v for w, v in rows if w == u and v is not None]) for u in sorted(seen)]
    expected = Moments.of(means)
    found = by_unit(y, units)
    assert found.n == expected.n
    assert found.mean == pytest.approx(expected.mean, abs=1e-6)
    assert found.m2 == pytest.approx(expected.m2, rel=1e-6, abs=1e-3)


def test_a_thousand_requests_of_one_unit_count_once():
    rows = [row(i, unit="busy") for i in range(1000)] + [row(1000 + i) for i in range(50)]
    seen = evidence(table(rows), PLAN, 0)
    assert sum(seen.units.values()) == 51
    assert sum(seen.of("abs_error", v).n for v in ("champion", "challenger")) == 51


def test_requests_without_a_unit_are_units_of_their_own():
    seen = evidence(table([row(i, unit="") for i in range(30)]), PLAN, 0)
    assert sum(seen.units.values()) == 30


def test_rows_routed_by_other_shares_are_left_out():
    rows = [row(i) for i in range(200)]
    strays = [row(1000 + i, unit=f"u{i}", role="champion") for i in range(200) if rows[i][2] == "challenger"]
    assert strays
    assert evidence(table(rows + strays), PLAN, 0) == evidence(table(rows), PLAN, 0)


def test_at_full_share_no_row_of_the_champion_counts():
    rows = [row(i, role="champion") for i in range(20)]
    assert evidence(table(rows), PLAN, 1).units == {"champion": 0, "challenger": 0}


def test_metrics_are_what_they_say():
    t = table([row(0, said=1.0, outcome=3.0), row(1, status="timeout", said=9.0), row(2, cached=True, outcome=None)])
    assert values(t, "abs_error", PLAN).tolist()[0] == 2
    assert values(t, "squared_error", PLAN).tolist()[0] == 4
    assert np.isnan(values(t, "abs_error", PLAN)[1:]).all()  # failed; no outcome yet
    assert values(t, "error_rate", PLAN).tolist() == [0, 1, 0]
    assert np.isnan(values(t, "latency_ms", PLAN)).tolist() == [False, False, True]
    assert values(t, "outcome", PLAN).tolist()[:2] == [3.0, 2.0]


def test_a_shadow_is_compared_on_the_units_that_were_copied():
    gate = Gate("disagreement", margin=0.5)
    plan = Plan("t", "m", "1", "2", gates=(gate,), kind="shadow", stages=(0.5,), outcome="rating")
    rows = []
    for i in range(100):
        rows.append(row(i, role="champion", said=1.0))
        rows.append(row(i, role="shadow", said=1.25)) if assign(
            f"u{i}", "t", {"c": 0.5, "champion": 0.5}
        ) == "c" else None
    seen = evidence(table(rows), plan, 0)
    assert seen.units["champion"] == seen.units["challenger"] == len(rows) - 100
    assert seen.of("disagreement", "challenger").mean == pytest.approx(0.25)
    assert seen.of("disagreement", "champion").mean == 0


@pytest.mark.parametrize(
    "outputs", [None, "", "{}", '{"rating": null}', '{"rating": []}', '{"rating": [1, 2]}', '{"rating": "x"}']
)
def test_what_is_no_single_number_is_no_answer(outputs):
    assert np.isnan(answer(outputs, "rating"))


def test_a_missing_column_is_named():
    with pytest.raises(ValueError, match="'cached'"):
        values(table([row(0)]).drop_columns("cached"), "latency_ms", PLAN)


def test_no_rows_are_no_evidence():
    seen = evidence(table([row(0)]).slice(0, 0), PLAN, 0)
    assert seen.units == {"champion": 0, "challenger": 0}
    assert all(m.n == 0 for both in seen.moments.values() for m in both.values())


def test_at_full_share_the_champion_is_that_of_the_stage_before():
    a, b = Moments(9, 1.0, 2.0), Moments(7, 3.0, 1.0)
    now = Evidence(
        {"champion": 1, "challenger": 9}, {}, {"outcome": {"challenger": a, "champion": Moments(1, 0.0, 0.0)}}
    )
    before = Evidence({"champion": 7, "challenger": 3}, {}, {"outcome": {"champion": b}})
    seen = against(now, before)
    assert seen.reference
    assert (seen.of("outcome", "challenger"), seen.of("outcome", "champion")) == (a, b)
    assert seen.units == {"champion": 7, "challenger": 9}


@pytest.mark.parametrize("output", ["", "rating"])
@pytest.mark.parametrize("said", [None, [None], [[1.0, None]], float("nan"), float("inf")])
def test_an_answer_with_a_hole_is_a_failure(said, output):
    gates = (Gate("error_rate", margin=0.05),)
    plan = replace(PLAN, outcome="", output=output, gates=gates)
    seen = evidence(table([row(i, said=said) for i in range(100)]), plan, 0)
    assert [seen.of("error_rate", v).mean for v in ("champion", "challenger")] == [1.0, 1.0]


def test_only_the_named_output_counts_where_one_is_named():
    rows = [(*row(i)[:3], json.dumps({"rating": 1.0, "spread": None}), *row(i)[4:]) for i in range(100)]
    assert failed(table(rows), "rating").sum() == 0
    assert failed(table(rows)).sum() == failed(table(rows), "spread").sum() == 100


@pytest.mark.parametrize("huge", [1e160, 1e200, 1e300])
def test_one_impossible_outcome_spoils_its_metrics_and_no_other(huge):
    rows = [row(i, outcome=huge if i == 7 else 2.0 + i % 3) for i in range(200)]
    seen = evidence(table(rows), PLAN, 0)
    assert set(seen.trouble) == {"abs_error", "squared_error", "outcome"}
    assert f"{huge:g}" in seen.trouble["outcome"]
    assert set(seen.moments) == {"error_rate", "latency_ms"}
    assert against(seen, Evidence()).trouble == seen.trouble
