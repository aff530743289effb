"One feature: kinds, gaps, words, and the index without its p-value."

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from seatrial.drift.distance import psi
from seatrial.drift.feature import (
    column,
    columns,
    compared,
    index_of,
    most_changed,
    movement,
    of_categories,
    of_gaps,
    of_numbers,
)
from seatrial.stats.comparison import NotEnough

RNG = np.random.default_rng


@given(st.lists(st.one_of(st.floats(-1e9, 1e9), st.none(), st.just(float("nan"))), max_size=30))
def test_no_row_is_lost_when_gaps_are_compared(values):
    found = column(values, "x", "compare")
    assert found.n == len(values)
    assert found.values.size == sum(v is not None and v == v for v in values)


@given(st.lists(st.one_of(st.text(max_size=3), st.none()), min_size=1, max_size=30))
def test_a_category_is_text_and_gaps_are_not_one_of_its_values(values):
    found = column(values, "x", "compare")
    kept = [v for v in values if v is not None]
    assert found.missing == len(values) - len(kept) and (not kept or found.values.tolist() == kept)


@pytest.mark.parametrize("values", [["a", None], [1.0, None], [1.0, float("nan")], [True, None], ["a", float("nan")]])
def test_gaps_are_refused_unless_they_were_announced(values):
    with pytest.raises(ValueError, match=r"must hold only numbers|must be finite"):
        column(values, "x")
    assert column(values, "x", "compare").missing == 1


@pytest.mark.parametrize("values", [[1, "two"], ["a", True], [b"a"], [{"a": 1}], [1 + 2j]])
def test_mixtures_are_refused_also_where_gaps_are_compared(values):
    for policy in ("refuse", "compare"):
        with pytest.raises(ValueError, match="must hold only numbers, only text or only booleans"):
            column(values, "x", policy)


def test_an_infinity_is_a_fault_and_never_a_gap():
    with pytest.raises(ValueError, match="must be finite, got 0 NaN and 1 infinite"):
        column([1.0, np.inf, np.nan], "x", "compare")


def test_a_feature_may_be_all_gaps_on_one_side():
    both = columns({"x": ["a"] * 60}, {"x": [None] * 60}, "compare")
    values, gaps = compared("x", *both["x"])
    assert isinstance(values.distance, NotEnough) and np.isnan(values.p_value) and not values.shifted
    assert gaps.p_value < 1e-20 and gaps.rose and gaps.gone == 1


def test_a_feature_without_gaps_is_one_question():
    x = column([1.0, 2.0, 3.0], "x")
    assert [f.kind for f in compared("x", x, x)] == ["number"]


def test_the_share_of_gaps_is_tested_as_fisher_does():
    r, c = column([None] * 3 + [1.0] * 97, "r", "compare"), column([None] * 5 + [1.0] * 45, "c", "compare")
    assert np.isclose(of_gaps("x", r, c).p_value, stats.fisher_exact([[97, 3], [45, 5]]).pvalue, rtol=0.3)


def test_gaps_that_stay_as_they_were_alarm_at_their_stated_rate_at_most():
    rng, p = RNG(0), []
    for _ in range(600):
        r, c = (np.where(rng.random(n) < 0.05, np.nan, 1.0) for n in (1000, 60))
        p.append(of_gaps("x", column(r, "r", "compare"), column(c, "c", "compare")).p_value)
    assert np.mean(np.array(p) <= 0.05) <= 0.05 + 3.5 * np.sqrt(0.05 * 0.95 / 600)


@given(st.integers(0, 2**31), st.sampled_from(["normal", "poisson"]))
def test_the_index_is_that_of_psi(seed, kind):
    rng = RNG(seed)
    r, c = (getattr(rng, kind)(3, size=n).astype(float) for n in (200, 60))
    assert np.isclose(of_numbers("x", r, c).psi, psi(r, c).value)


def test_an_empty_bin_on_both_sides_adds_nothing_to_the_index():
    r, c = np.array([10, 0, 20]), np.array([20, 0, 10])
    assert np.isclose(index_of(r, c), index_of(r[[0, 2]], c[[0, 2]])) and index_of(r, r) == 0


def test_words_tell_the_direction():
    assert movement(np.arange(101.0), np.arange(101.0) + 7) == "median 50 → 57"
    assert most_changed(["a", "b"], np.array([[50, 50], [0, 100]])) == "a (vanished): 50% → 0% of rows"
    assert most_changed(["a", "b"], np.array([[100, 0], [50, 50]])).startswith("a: 100% → 50%")
    million = RNG(0).normal(10, 1, 1_000_000)
    assert movement(million, million + 1).startswith("median 10 → 11")


def test_the_order_of_rows_does_not_matter():
    rng = RNG(1)
    r, c = rng.normal(size=300), rng.normal(0.3, 1, size=200)
    assert of_numbers("x", r, c) == of_numbers("x", rng.permutation(r), rng.permutation(c))


@pytest.mark.parametrize("kind", ["datetime64[ns]", "datetime64[D]", "timedelta64[ns]"])
def test_moments_are_no_numbers(kind):
    with pytest.raises(ValueError, match=r"must hold only numbers, only text or only booleans, got (date|time)"):
        column(np.arange(3).astype(kind), "x", "compare")


@pytest.mark.parametrize("values", [np.ones((3, 2)), "abc", {1.0, 2.0}])
def test_a_column_has_one_dimension(values):
    with pytest.raises(ValueError, match="must be one column of values"):
        column(values, "x")


def test_numpy_scalars_among_objects_are_what_they_hold():
    for value, kind in ((np.float32(1), "number"), (np.int64(1), "number"), (np.str_("a"), "category")):
        found = column(np.array([value, None, np.float32("nan")], dtype=object), "x", "compare")
        assert (found.kind, found.missing) == (kind, 2)
    with pytest.raises(ValueError, match="x must be finite, got a whole number beyond all floats"):
        column([10**400], "x")


def test_tables_of_pandas_and_pyarrow_are_taken_and_their_gaps_counted():
    pd, pa = pytest.importorskip("pandas"), pytest.importorskip("pyarrow")
    frame = pd.DataFrame(
        {"a": pd.array([1, None], dtype="Int64"), "b": pd.array(["x", None], dtype="string"), "c": [1.5, None]}
    )
    both = columns(frame, pa.table({"a": [1, None], "b": ["x", None], "c": [1.5, None]}), "compare")
    assert [(r.kind, c.kind, r.missing, c.missing) for r, c in both.values()] == [
        ("number", "number", 1, 1),
        ("category", "category", 1, 1),
        ("number", "number", 1, 1),
    ]
    with pytest.raises(ValueError, match="reference must have each feature once, got a more often"):
        columns(pd.DataFrame([[1, 2]], columns=["a", "a"]), {"a": [1]})
    with pytest.raises(ValueError, match="current must map the name of each feature to its values, got ndarray"):
        columns({"a": [1]}, np.ones((3, 2)))


def test_booleans_that_became_text_are_refused():
    with pytest.raises(ValueError, match="x must keep its kind, got booleans in reference and text in current"):
        columns({"x": [True, False]}, {"x": ["True", "False"]})


def test_a_new_category_is_named_however_rare_it_is_in_both_samples_together():
    r, c = np.repeat(["a", "b"], 50_000), np.repeat(["a", "b", "tv"], [20, 20, 10])
    found = of_categories("x", r, c)
    assert "tv (new): 0% → 20% of rows" in found.words and found.p_value < 1e-10


def test_a_direction_is_found_where_a_sum_would_overflow():
    x = np.linspace(1, 1.7, 60) * 1e308
    assert of_numbers("x", x / 2, x).rose and not of_numbers("x", x, x / 2).rose
