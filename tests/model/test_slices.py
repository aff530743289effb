"A slice's numbers are those of its rows alone; what is called worse is called so together."

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seatrial.model.slices import by_slice
from seatrial.stats.comparison import NotEnough, paired, welch
from seatrial.stats.multiple import benjamini_hochberg
from seatrial.stats.ratio import clustered_means


@given(seed=st.integers(0, 2**32 - 1), with_baseline=st.booleans())
def test_every_row_is_in_one_slice_of_each_column_and_compared_as_by_hand(seed, with_baseline):
    rng = np.random.default_rng(seed)
    loss, base = rng.gamma(2, size=60), rng.gamma(2, size=60)
    groups = {"a": rng.integers(0, 4, 60), "b": rng.choice(["x", "y"], 60)}
    found = by_slice(loss, groups, baseline=base if with_baseline else None)
    for by, column in groups.items():
        assert sum(r.n for r in found.rows if r.by == by) == 60
        for r in (r for r in found.rows if r.by == by):
            inside = column.astype(str) == r.name
            assert r.loss == pytest.approx(loss[inside].mean())
            hand = paired(base[inside], loss[inside]) if with_baseline else welch(loss[~inside], loss[inside])
            assert r.difference == hand
    effects = [r.difference.effect for r in found.rows if not isinstance(r.difference, NotEnough)]
    assert effects == sorted(effects, reverse=True)
    assert json.loads(json.dumps(found.to_dict())) is not None


def test_worse_is_decided_by_the_one_sided_test_over_all_slices():
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(8), 200)
    loss = rng.normal(1, 1, 1600) + np.where(group == 3, 0.5, 0.0) - np.where(group == 5, 0.5, 0.0)
    found = by_slice(loss, {"g": group})
    p = [welch(loss[group != k], loss[group == k], side="greater") for k in range(8)]
    rejected = set(np.flatnonzero(benjamini_hochberg(p, 0.05).rejected))
    assert {int(r.name) for r in found.worse} == rejected >= {3}
    assert 5 not in rejected  # better is not worse


def test_clusters_widen_what_they_should():
    rng = np.random.default_rng(1)
    house = np.repeat(np.arange(60), 10)
    loss = rng.normal(size=60)[house] + rng.normal(0, 0.1, 600)
    column = house % 2
    found = by_slice(loss, {"side": column}, clusters=house)
    one = next(r for r in found.rows if r.name == "1").difference
    inside = column == 1
    assert one == clustered_means(loss[~inside], loss[inside], clusters=(house[~inside], house[inside]))
    plain = next(r for r in by_slice(loss, {"side": column}).rows if r.name == "1").difference
    assert one.upper - one.lower > 2 * (plain.upper - plain.lower)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: by_slice([1.0, np.nan], {"g": [1, 2]}), "losses"),
        (lambda: by_slice([1.0, 2.0], {"g": [1]}), r"g must have one entry for each of 2 losses"),
        (lambda: by_slice([1.0, 2.0], {"g": [1, 2]}, baseline=[1.0]), "baseline must have one entry"),
        (lambda: by_slice([1.0, 2.0], {"g": [1, 2]}, clusters=[1]), "clusters must have one entry"),
        (lambda: by_slice([1.0, 2.0], {"g": [1, 2]}, alpha=0), "alpha"),
        (lambda: by_slice([1.0, 2.0], {}), "at least one column"),
        (lambda: by_slice([1.0, 2.0], [1, 2]), "name -> group of each row, got list"),
        (lambda: by_slice([1.0, 2.0], {"clusters": [1]}), "clusters must have one entry"),
    ],
)
def test_bad_columns_are_named(call, said):
    with pytest.raises(ValueError, match=said):
        call()


@pytest.mark.parametrize(
    "column",
    [
        [1.0, 1.0, np.nan, 2.0, 2.0, np.nan],
        np.array(["1.0", "1.0", None, "2.0", "2.0", None], object),
        np.array(["1.0", "1.0", np.nan, "2.0", "2.0", np.nan], object),
        np.array(["1.0", "1.0", None, 2.0, 2.0, np.nan], object),
    ],
)
def test_rows_without_a_group_are_a_slice_of_their_own(column):
    loss = np.array([1.0, 2.0, 9.0, 1.0, 3.0, 8.0])
    found = {r.name: r for r in by_slice(loss, {"g": column}).rows}
    assert {name: r.n for name, r in found.items()} == {"missing": 2, "1.0": 2, "2.0": 2}
    assert found["missing"].difference == welch(loss[[0, 1, 3, 4]], loss[[2, 5]])
    assert found["1.0"].difference == welch(loss[[2, 3, 4, 5]], loss[[0, 1]])


def test_a_date_and_a_truth_value_are_groups():
    loss = np.arange(4.0)
    days = np.array(["2020-01-01", "2020-01-02", "NaT", "2020-01-02"], "datetime64[D]")
    assert {r.name for r in by_slice(loss, {"day": days}).rows} == {"2020-01-01", "2020-01-02", "missing"}
    assert {r.name for r in by_slice(loss, {"late": loss > 1}).rows} == {"True", "False"}
