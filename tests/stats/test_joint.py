"Properties of joint summaries that a reader need not see."

import json
import math
import re
from functools import reduce
from operator import add

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from seatrial.stats.joint import Joint, clustered, coded, joint_of_sums
from seatrial.stats.moments import Moments

values = st.floats(-1e6, 1e6, allow_subnormal=False)
tables = st.integers(1, 4).flatmap(lambda k: arrays(float, st.tuples(st.integers(2, 40), st.just(k)), elements=values))
rows_of_ids = st.lists(st.tuples(st.integers(0, 8), st.integers(-5, 5)), min_size=1, max_size=60)


def close(a: Joint, b: Joint, scale: float) -> bool:
    return (
        a.n == b.n
        and np.allclose(a.mean, b.mean, rtol=1e-9, atol=1e-9 * scale)
        and np.allclose(a.comoment, b.comoment, rtol=1e-9, atol=1e-9 * scale**2)
    )


@given(tables, st.integers(1, 10), st.randoms(use_true_random=False))
def test_shards_in_any_order_give_the_summary_of_the_whole(x, shards, random):
    pieces = [Joint.of(p) for p in np.array_split(x, shards)]
    random.shuffle(pieces)
    assert close(reduce(add, pieces), Joint.of(x), scale=1 + np.abs(x).max())


@given(tables)
def test_the_covariance_is_that_of_numpy_and_each_column_that_of_its_moments(x):
    j, scale = Joint.of(x), 1 + np.abs(x).max()
    assert np.allclose(j.covariance, np.cov(x.T).reshape(j.covariance.shape), rtol=1e-9, atol=1e-9 * scale**2)
    for i, c in enumerate(x.T):
        alone = Moments.of(c)
        assert math.isclose(j.marginal(i).mean, alone.mean, rel_tol=1e-12, abs_tol=1e-12 * scale)
        assert math.isclose(j.marginal(i).m2, alone.m2, rel_tol=1e-9, abs_tol=1e-12 * scale**2)


@given(tables, st.data())
def test_a_weighted_sum_of_columns_has_the_moments_of_the_sum(x, data):
    w = np.array(data.draw(st.lists(st.floats(-10, 10), min_size=x.shape[1], max_size=x.shape[1])))
    got, direct = Joint.of(x).combined(w), Moments.of(x @ w)
    scale = 1 + np.abs(x).max() * (1 + np.abs(w).max())
    assert math.isclose(got.mean, direct.mean, rel_tol=1e-9, abs_tol=1e-9 * scale)
    assert math.isclose(got.m2, direct.m2, rel_tol=1e-8, abs_tol=1e-9 * scale**2)


@given(tables)
def test_a_summary_survives_json(x):
    j = Joint.of(x, names=[f"c{i}" for i in range(x.shape[1])])
    assert Joint.from_dict(json.loads(json.dumps(j.to_dict()))) == j


def test_blocks_make_no_difference():
    x = np.random.default_rng(0).normal(1e5, 1, (100_000, 3))
    assert np.allclose(Joint.of(x).covariance, np.cov((x - 1e5).T), rtol=1e-10, atol=1e-13)


def test_a_constant_column_varies_with_nothing():
    j = Joint.of(np.full(1000, 0.1), np.random.default_rng(0).normal(size=1000))
    assert j.comoment[0].tolist() == [0.0, 0.0] and j.mean[0] == 0.1
    assert (j + j).comoment[0].tolist() == [0.0, 0.0]


def test_nothing_is_neutral_on_both_sides():
    some, none = Joint.of([1.0, 2.0], [5.0, 9.0]), Joint.of([], [])
    assert some + none == none + some == some and none.n == 0 and np.isnan(none.covariance).all()


@given(st.lists(st.tuples(st.integers(-1000, 1000), st.integers(-1000, 1000)), min_size=1, max_size=40))
def test_integer_sums_of_a_database_are_exact(rows):
    a, b = (np.array(c, dtype=object) for c in zip(*rows, strict=True))
    near = (3, -7)
    a, b = a - near[0], b - near[1]
    got = joint_of_sums(len(rows), (a.sum(), b.sum()), ((a @ a, a @ b), (a @ b, b @ b)), near)
    direct = Joint.of(np.array(rows, float))
    assert np.allclose(got.mean, direct.mean, rtol=1e-13, atol=1e-10)
    assert np.allclose(got.comoment, direct.comoment, rtol=1e-12, atol=1e-7)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (([1.0, 2.0], [1.0]), "columns must be of one length, got 1, 2 values"),
        (([1.0, math.nan], [1.0, 2.0]), "column 0 must be finite, got 1 NaN"),
        (([1.0, 2.0], ["a", "b"]), "column 1 must hold numbers"),
        (([1.0, 1e200], [1.0, 2.0]), re.escape("got the value 1e+200")),
        ((), "names must be one for each of 0 columns"),
    ],
)
def test_what_has_no_summary_is_refused_by_its_column(columns, message):
    with pytest.raises(ValueError, match=message):
        Joint.of(*columns)


def test_too_few_names_are_refused():
    with pytest.raises(ValueError, match="names must be one for each of 2 columns"):
        Joint.of([1.0], [2.0], names=["only"])


def test_dropping_takes_whole_rows():
    j = Joint.of([1.0, math.nan, 3.0, 4.0], [1.0, 2.0, math.inf, 8.0], missing="drop")
    assert j == Joint.of([1.0, 4.0], [1.0, 8.0])
    with pytest.raises(ValueError, match="missing must be one of refuse, drop, got missing='ignore'"):
        Joint.of([1.0], missing="ignore")


@pytest.mark.parametrize(
    "bad",
    [
        (3, [1.0], [[-1.0]]),
        (3, [math.nan], [[1.0]]),
        (-1, [1.0], [[1.0]]),
        (3, [1.0, 2.0], [[1.0]]),
        (math.nan, [1.0], [[1.0]]),
        (3, [1.0, 2.0], [[1.0, 5.0], [5.0, 1.0]]),
        (3, [1.0, 2.0], [[1.0, 0.5], [0.2, 1.0]]),
    ],
)
def test_an_impossible_summary_is_refused(bad):
    with pytest.raises(ValueError, match=r"Joint must have|n must be a finite number|comoment must"):
        Joint(*bad)


@given(rows_of_ids, st.sampled_from(["int", "gap", "text", "bytes"]))
def test_clusters_of_any_kind_of_name_have_the_same_sums(rows, kind):
    ids, values = (np.array(c) for c in zip(*rows, strict=True))
    named = {"int": ids, "gap": ids * 10**15 - 3, "text": ids.astype(str), "bytes": ids.astype("S")}[kind]
    expected = {i: (values[ids == i].sum(), (ids == i).sum()) for i in np.unique(ids)}
    got = clustered(values, named)
    assert got == Joint.of(np.array(list(expected.values()), float), names=("sum", "count"))
    code, count = coded(named)
    assert count.min() > 0 and (np.bincount(code) == count).all()


def test_a_row_without_a_cluster_is_refused():
    with pytest.raises(ValueError, match="clusters must name a cluster for every row, got 1 NaN of 2"):
        clustered([1.0, 2.0], [math.nan, 1.0])


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (np.array(["a", None], dtype=object), "got 1 NaN of 2"),
        (np.array([math.nan, 1], dtype=object), "got 1 NaN of 2"),
        (np.array(["a", 1], dtype=object), "clusters must be of one kind, numbers or text"),
        (None, "clusters must name a cluster for every row, got 1 NaN of 1"),
        (np.ma.masked_array([1, 2], [0, 1]), "got 1 NaN of 2"),
    ],
)
def test_clusters_without_a_name_or_of_two_kinds_are_refused(ids, message):
    with pytest.raises(ValueError, match=message):
        clustered([1.0, 2.0], ids)


def test_a_summary_is_a_copy_that_nobody_can_change():
    mean, comoment = np.array([1.0, 2.0]), np.eye(2)
    j = Joint(3, mean, comoment)
    mean[0] = comoment[0, 0] = 99
    assert j == Joint(3, [1.0, 2.0], np.eye(2))
    for own in (j.mean, j.comoment, j.tail):
        with pytest.raises(ValueError, match="read-only"):
            own[0] = 99


@pytest.mark.parametrize(
    ("totals", "products", "message"),
    [
        ([5.0, 2.0], [[30.0, 1.0]], "products must be 2 rows of 2"),
        ([5.0, 2.0], [[30.0, 1.0], [3.0]], "products must be 2 rows of 2"),
        ([math.inf], [[3.0]], "must be a finite number where n=5, got total=inf"),
        ([5.0, 2.0], [[30.0, math.inf], [math.inf, 8.0]], "products must hold finite numbers, got inf"),
        ([5.0, 2.0], [[30.0, None], [None, 8.0]], "products must hold finite numbers, got None"),
    ],
)
def test_sums_that_do_not_fit_are_refused(totals, products, message):
    with pytest.raises(ValueError, match=message):
        joint_of_sums(5, totals, products)


def test_sums_in_numpys_numbers_can_be_saved():
    whole = np.int64(5), np.array([5, 2]), np.array([[30, 1], [1, 8]])
    j = joint_of_sums(*whole)
    assert Joint.from_dict(json.loads(json.dumps(j.to_dict()))) == j == joint_of_sums(5, [5, 2], [[30, 1], [1, 8]])
    big = 2**40  # whose square no int64 holds
    sums = np.array([3 * big, 3 * big]), [[3 * big**2 + 2] * 2] * 2
    assert joint_of_sums(3, *sums).comoment.tolist() == [[2.0, 2.0], [2.0, 2.0]]
