"Sketches: the stated error after any updates and merges, and what they are compared with."

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seatrial.drift.distance import psi
from seatrial.drift.rank import ks, wasserstein
from seatrial.drift.sketch import Sketch, against, cdf, quantile, restored
from seatrial.stats.comparison import NotEnough

numbers = st.floats(-1e9, 1e9, allow_subnormal=False)


def worst(sketch, x):
    "The largest error of the distribution function."
    x = np.sort(x)
    top = np.searchsorted(x, x, side="right") / x.size
    below = np.searchsorted(x, x, side="left") / x.size
    down = cdf(sketch, np.nextafter(x, -np.inf))
    return max(np.abs(cdf(sketch, x) - top).max(), np.abs(down - below).max())


@given(st.lists(st.lists(numbers, max_size=60), min_size=1, max_size=6), st.integers(0, 2**32 - 1))
def test_few_rows_are_kept_exactly(batches, seed):
    rng, sketch = np.random.default_rng(seed), Sketch(error=0.02)
    for batch in batches:
        sketch.update(batch, rng)
    x = np.concatenate([np.array(b, float) for b in batches])
    assert sketch.n == x.size
    if x.size:
        assert sketch.off == 0 and worst(sketch, x) == pytest.approx(0, abs=1e-12)


@given(
    st.lists(st.integers(1, 3000), min_size=1, max_size=25),
    st.sampled_from([0.02, 0.1, 0.3]),
    st.sampled_from(["normal", "ties", "sorted", "constant"]),
    st.integers(0, 2**32 - 1),
)
def test_the_error_is_within_what_is_stated_after_any_merges(sizes, error, kind, seed):
    rng = np.random.default_rng(seed)
    draw = {
        "normal": lambda n: rng.normal(rng.normal(), 1, n),
        "ties": lambda n: rng.poisson(3, n),
        "sorted": lambda n: np.sort(rng.normal(size=n)),
        "constant": lambda n: np.full(n, 7.0),
    }[kind]
    parts = [draw(n) for n in sizes]
    pool = [Sketch(error=error).update(p, rng) for p in parts]
    while len(pool) > 1:
        i, j = rng.choice(len(pool), 2, replace=False)
        pool[i].merge(pool[j], rng)
        del pool[j]
    x = np.concatenate(parts)
    assert pool[0].n == x.size == sum(v.size << h for h, v in enumerate(pool[0].levels))
    assert worst(pool[0], x) <= pool[0].off + 1e-12
    assert pool[0].off <= error
    assert (pool[0].low, pool[0].high) == (x.min(), x.max())


@pytest.mark.parametrize("rows", [1, 7, 100])
def test_the_promise_holds_for_crumbs(rows):
    rng = np.random.default_rng(1)
    x = rng.normal(size=20_000 if rows > 1 else 4000)
    sketch = Sketch(error=0.05)
    for start in range(0, x.size, rows):
        sketch.update(x[start : start + rows], rng)
    assert worst(sketch, x) <= sketch.off <= 0.05
    assert sum(v.size for v in sketch.levels) <= 3.5 * sketch.k


def test_a_million_rows_take_ten_kilobytes():
    rng = np.random.default_rng(0)
    x = rng.normal(size=1_000_000)
    sketch = Sketch(error=0.02).update(x, rng)
    assert len(json.dumps(sketch.to_dict())) < 15_000 and worst(sketch, x) <= sketch.off <= 0.005


def test_errors_are_balanced_between_up_and_down():
    x, off = np.arange(5000.0), []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        off.append(float(cdf(Sketch(error=0.3).update(x, rng), 2500.0)) - 2501 / 5000)
    assert abs(np.mean(off)) < 4 * np.std(off) / math.sqrt(300)


@given(st.lists(numbers, min_size=1, max_size=300), st.integers(0, 2**32 - 1))
def test_a_saved_sketch_goes_on_as_if_nothing_had_happened(x, seed):
    sketch = Sketch(error=0.5).update(x, np.random.default_rng(seed))
    again = restored(json.loads(json.dumps(sketch.to_dict())))
    for s in (sketch, again):
        s.update(x, np.random.default_rng(seed + 1))
    assert again.to_dict() == sketch.to_dict()


def test_a_merge_leaves_the_other_as_it_was():
    rng = np.random.default_rng(0)
    a, b = (Sketch(error=0.1).update(rng.normal(size=5000), rng) for _ in range(2))
    before = json.dumps(b.to_dict())
    a.merge(b, rng).update(rng.normal(size=5000), rng)
    assert json.dumps(b.to_dict()) == before


def test_quantiles_are_within_the_error():
    rng = np.random.default_rng(2)
    x = np.sort(rng.lognormal(size=30_000))
    sketch, q = Sketch(error=0.05).update(rng.permutation(x), rng), np.linspace(0, 1, 101)
    at = np.searchsorted(x, quantile(sketch, q), side="right") / x.size
    assert (np.abs(at - q) <= sketch.off + 1 / sketch.k).all()
    assert quantile(sketch, 0) == x[0] and quantile(sketch, 1) == x[-1]


def test_an_exact_sketch_gives_the_distances_of_the_rows():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=400), rng.normal(0.2, 1, size=300)
    found = against(Sketch(error=0.02).update(x, rng), y)
    for name, one in (("ks", ks(x, y)), ("psi", psi(x, y))):
        assert found[name].value == pytest.approx(one.value, rel=1e-9)
        assert found[name].p_value == pytest.approx(one.p_value, rel=0.15)
    theirs = wasserstein(x, y)
    assert found["wasserstein"].value == pytest.approx(theirs.value, rel=0.02)
    assert found["wasserstein"].p_value == pytest.approx(theirs.p_value, rel=0.25)


def test_the_error_of_a_sketch_makes_no_alarm():
    rng, alarms = np.random.default_rng(4), []
    for _ in range(60):
        sketch = Sketch(error=0.1).update(rng.normal(size=20_000), rng)
        alarms.append([d.p_value <= 0.05 for d in against(sketch, rng.normal(size=20_000)).values()])
    assert np.mean(alarms) <= 0.05 and np.sum(alarms, axis=0).max() <= 8
    moved = against(sketch, rng.normal(0.3, 1, size=5000))
    assert max(d.p_value for d in moved.values()) < 1e-6


def test_a_value_that_fills_a_bin_by_itself_is_cut_out():
    rng = np.random.default_rng(5)
    sketch = Sketch().update(np.full(5000, 7.0), rng)
    same, other = against(sketch, np.full(500, 7.0)), against(sketch, np.full(500, 6.5))
    assert all(d.value == pytest.approx(0, abs=1e-12) and d.p_value == 1 for d in same.values())
    assert other["ks"].value == 1 and other["psi"].value > 1 and other["psi"].p_value < 1e-10


@pytest.mark.parametrize(
    ("rows", "now"), [([], [1.0, 2.0]), ([1.0], [1.0, 2.0]), ([1.0, 2.0], []), ([1.0, 2.0], [3.0])]
)
def test_too_little_on_either_side_is_no_verdict(rows, now):
    sketch = Sketch().update(rows, np.random.default_rng(0))
    assert isinstance(against(sketch, now), NotEnough)


def test_bad_input_is_refused_and_changes_nothing():
    rng = np.random.default_rng(0)
    sketch = Sketch(error=0.1).update(np.arange(100.0), rng)
    before = sketch.to_dict()
    for bad, message in (
        (lambda: sketch.update([1.0, np.inf], rng), "x must be finite"),
        (lambda: sketch.merge(Sketch(error=0.2), rng), "must promise the same error"),
        (lambda: sketch.merge(sketch, rng), "must not be merged with itself"),
        (lambda: quantile(sketch, 1.5), "q must lie in"),
        (lambda: against(sketch, [1.0, 2.0], tests=["chi"]), "tests must be one of"),
        (lambda: against(sketch, [1.0, 2.0], bins=1), "bins must be at least 2"),
        (lambda: Sketch(error=0), "error must"),
        (lambda: restored(before | {"n": 99}), "levels must stand for n rows"),
        (lambda: restored({"n": 1}), "a saved sketch must hold"),
    ):
        with pytest.raises(ValueError, match=message):
            bad()
    assert sketch.to_dict() == before


@pytest.mark.parametrize("bad", [{"certain": -1.0}, {"variance": math.nan}, {"low": 100.0}, {"high": -100.0}])
def test_a_saved_sketch_that_contradicts_itself_is_refused(bad):
    good = Sketch().update(np.arange(90.0), np.random.default_rng(0)).to_dict()
    assert restored(good).n == 90
    with pytest.raises(ValueError, match=next(iter(bad))):
        restored(good | bad)


def test_a_constant_that_became_another_is_seen_from_a_sketch():
    kept = Sketch().update(np.ones(1000), np.random.default_rng(0))
    found = against(kept, np.zeros(100))
    assert all(d.p_value < 1e-20 for d in found.values())
    assert all(d.p_value == 1 for d in against(kept, np.ones(100)).values())


def test_nothing_is_read_off_an_empty_sketch_or_at_no_number():
    for ask in (cdf, quantile):
        with pytest.raises(ValueError, match="sketch must hold at least one row"):
            ask(Sketch(), [0.5])
    with pytest.raises(ValueError, match="x must hold no NaN"):
        cdf(Sketch().update([1.0], np.random.default_rng(0)), [math.nan])


@pytest.mark.parametrize("power", [-1000, 990])
def test_no_distance_from_a_sketch_depends_on_the_unit(power):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=500), rng.normal(size=100)
    plain, scaled = (
        against(Sketch().update(np.ldexp(x, p), np.random.default_rng(1)), np.ldexp(y, p)) for p in (0, power)
    )
    for test in plain:
        assert scaled[test].p_value == pytest.approx(plain[test].p_value, rel=1e-6)
