"When an estimate may be believed: support, late labels, and what is refused."

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seatrial.drift.trust import Estimate, Late, beyond, doubted, late, resembling, support
from seatrial.stats.comparison import NotEnough

RNG = np.random.default_rng
UNIT = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=40)
GUESS = Estimate("accuracy", 0.9, 0.85, 0.95, 0.05, 0.9, 500, 3, "batch", 0.02, rows=np.array([0.9, 0.8, 1.0]))


def test_a_batch_like_the_reference_is_hardly_ever_doubted():
    rng = RNG(0)
    told = [support(rng.normal(size=(400, 3)), rng.normal(size=(100, 3)), rng) for _ in range(100)]
    assert sum(not s.trusted for s in told) <= 2


@pytest.mark.parametrize("moved", [6.0, 100.0, 1e6])
def test_a_batch_where_the_reference_has_no_rows_is_doubted_for_every_reason(moved):
    rng = RNG(1)
    s = support(rng.normal(size=(1000, 2)), rng.normal((moved, 0), 1, (200, 2)), rng, names=["heat", "load"])
    assert len(s.reasons) == 3 and "heat" in s.reasons[0] and s.resembling < 1 and s.auc > 0.99


def test_a_hole_in_the_middle_is_seen_though_no_single_value_lies_outside():
    rng = RNG(2)
    ring = rng.normal(size=(4000, 2))
    ring = ring[np.hypot(*ring.T) > 1.6]
    s = support(ring, 0.2 * rng.normal(size=(300, 2)), rng)
    assert max(b.share for b in s.outside) < 0.02 and not s.trusted and s.resembling < 50


def test_a_part_of_the_reference_is_supported_however_well_it_is_told_apart():
    rng = RNG(3)
    x = rng.normal(size=(4000, 2))
    s = support(x, x[x[:, 0] > 1.2][:300], rng)
    assert s.trusted and s.auc > 0.85


def test_one_outlier_in_the_reference_does_not_open_the_range():
    rng = RNG(4)
    r, c = rng.normal(size=(1000, 1)), rng.normal(10, 1, size=(100, 1))
    r[0] = 1e6
    assert beyond(r, c, ["x"])[0].share == 1.0


def test_the_number_of_resembling_rows_is_that_of_the_known_ratio_of_densities():
    rng = RNG(5)
    r, c = rng.normal(size=(20_000, 1)), rng.normal(0.8, 1, size=(20_000, 1))
    assert resembling(r, c, rng) / 20_000 == pytest.approx(np.exp(-0.64), rel=0.08)


def test_constant_columns_and_repeated_rows_are_taken():
    rng = RNG(6)
    x = np.column_stack([rng.integers(0, 2, 200), np.ones(200)])
    assert support(x, x[:50], rng).trusted


@given(UNIT)
def test_batches_and_single_labels_say_the_same_up_to_the_largest_evidence(rows):
    v, w = map(list, zip(*rows, strict=True))
    whole, single = Late("x").update(v, w), Late("x")
    for a, b in rows:
        single.update([a], [b])
    assert single.result.p_value <= whole.result.p_value * (1 + 1e-9)
    assert single.result.estimated == pytest.approx(whole.result.estimated)


@given(UNIT, UNIT)
def test_a_restored_watch_goes_on_as_if_nothing_had_happened(rows, more):
    (v, w), (a, b) = ([list(x) for x in zip(*part, strict=True)] for part in (rows, more))
    watch = Late("x", 0.05).update(v, w)
    again = Late.from_dict(json.loads(json.dumps(watch.to_dict())))
    assert watch.update(a, b).result == again.update(a, b).result


@given(st.lists(st.floats(0, 1), min_size=1, max_size=200))
@settings(max_examples=50)
def test_labels_that_say_what_was_estimated_never_contradict(v):
    assert Late("x").update(v, v).result.p_value == 1.0


@pytest.mark.parametrize("off", [0.0, 0.03, -0.03])
def test_the_watch_keeps_its_level_however_often_it_is_looked_at(off):
    rng, cried = RNG(7), 0
    for _ in range(120):
        chance, watch = rng.uniform(0.5, 0.95, 500), Late("accuracy", slack=0.03)
        right = rng.random(500) < chance + off
        for i in range(0, 500, 20):
            watch.update(chance[i : i + 20], right[i : i + 20])
        cried += watch.result.contradicted
    assert cried <= 0.05 * 120 + 3 * np.sqrt(0.05 * 0.95 * 120)


@pytest.mark.parametrize("off", [-0.15, 0.15])
def test_drift_is_found_on_either_side(off):
    rng = RNG(8)
    chance = rng.uniform(0.6, 0.8, 800)
    found = Late("accuracy", 0.02).update(chance, rng.random(800) < chance + off).result
    assert found.contradicted and found.words.startswith("concept drift: estimated accuracy 0.")
    assert (found.realised > found.estimated) == (off > 0)


def test_losses_beyond_the_largest_count_as_the_largest():
    found = Late("error", most=5.0).update([1.0, 1.0], [4.0, 1e9]).result
    assert found.realised == 4.5


def test_a_watch_takes_slack_and_bound_from_its_estimate_and_nothing_from_one_without_rows():
    watch = late(replace(GUESS, most=2.0))
    assert (watch.metric, watch.slack, watch.most, watch.result.n) == ("accuracy", 0.02, 2.0, 0)
    with pytest.raises(ValueError, match="a value for each row, which f1 has not"):
        late(replace(GUESS, metric="f1", rows=None))


def test_a_refused_call_changes_nothing():
    watch = Late("x").update([0.5], [1])
    before = json.dumps(watch.to_dict())
    for bad in (([np.nan], [1]), ([0.5], [-1]), ([0.5, 0.1], [1]), (["a"], [1]), ([np.inf], [0])):
        with pytest.raises(ValueError, match=r"estimated|realised"):
            watch.update(*bad)
    assert json.dumps(watch.to_dict()) == before


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"slack": -0.1}, "slack must lie from 0 to below most=1, got slack=-0.1"),
        ({"slack": 1.0}, "slack must lie from 0"),
        ({"most": 0.0}, "most must be a positive"),
        ({"alpha": 1.0}, "alpha must lie strictly between 0 and 1"),
        ({"seen": Late("x", most=2.0).to_dict()["seen"]}, "must hold differences within ±1, got up to 2"),
    ],
)
def test_bad_settings_are_refused_by_name(wrong, said):
    with pytest.raises(ValueError, match=said):
        Late("x", **wrong)


def test_tables_that_do_not_fit_are_refused_and_few_rows_are_an_answer():
    rng = RNG(9)
    x = rng.normal(size=(60, 2))
    with pytest.raises(ValueError, match="as wide, got 2 and 1"):
        support(x, x[:, :1], rng)
    with pytest.raises(ValueError, match="one entry a column, got 1 for 2"):
        support(x, x, rng, names=["a"])
    with pytest.raises(ValueError, match="current must be finite"):
        support(x, np.full((20, 2), np.nan), rng)
    assert isinstance(support(x, x[:9], rng), NotEnough) and isinstance(support(x, x[:0], rng), NotEnough)


def test_doubts_add_up_and_none_is_said_twice():
    e = doubted(doubted(GUESS, "a", "b"), "b", "c")
    assert e.reasons == ("a", "b", "c") and not e.trusted and GUESS.trusted and "not trusted" in e._repr_markdown_()


@pytest.mark.parametrize("name", ["estimated", "realised", "strongest"])
def test_a_saved_watch_with_a_broken_number_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be"):
        Late.from_dict(Late("accuracy").to_dict() | {name: float("nan")})
