"A log is checked once, and says how much of it speaks about another policy."

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seatrial.bandit.overlap import Log, aimed, effective, overlap, weights
from seatrial.stats.comparison import NotEnough

ARMS = ("a", "b", "c")


def made(n, seed=0, p=(0.5, 0.3, 0.2), **more):
    rng = np.random.default_rng(seed)
    a = rng.choice(3, n, p=p)
    return Log(ARMS, np.array(ARMS)[a], rng.random(n), np.array(p)[a], **more)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"propensities": [0.5, 0.0]}, "propensity must be > 0 where the arm was played, got 0 in row 1"),
        ({"propensities": [0.5, 1.2]}, "propensity must be at most 1, got 1.2 in row 1"),
        ({"propensities": [0.5, np.nan]}, "propensities must be finite"),
        ({"rewards": [0, 2]}, r"rewards must lie in \[0, 1\], got 2 in row 1"),
        ({"rewards": [0]}, "got 2, 1 and 2 values"),
        ({"actions": ["a", "z"]}, "got 'z' in row 1"),
        ({"arms": ["a", "a"]}, "at least two different names"),
        ({"lo": 1.0}, "lo must be less than hi"),
        ({"least": 0.3}, "propensity must be at least 0.3"),
        ({"contexts": [1.0]}, "contexts must be a label or a row of numbers for each of 2 rows"),
        ({"contexts": [1.0, np.inf]}, "contexts must be finite"),
        ({"contexts": ["x", None]}, "contexts must be labels of one kind or rows of numbers, got NoneType, str"),
        ({"contexts": [{"market": "de"}, {"market": "fr"}]}, "contexts must be labels .* got dict"),
        ({"contexts": np.array([1, "x"], object)}, "contexts must be labels .* got int, str"),
        ({"propensities": [0.5, 1e-160]}, "propensity must be at least 1e-100, got 1e-160 in row 1"),
        ({"contexts": ["x", "y"], "names": ["age"]}, "names must be one for each number"),
    ],
)
def test_a_log_that_cannot_be_true_is_refused(change, words):
    good = {"arms": ["a", "b"], "actions": ["a", "b"], "rewards": [0, 1], "propensities": [0.5, 0.2]}
    Log(**good)
    with pytest.raises(ValueError, match=words):
        Log(**(good | change))


@pytest.mark.parametrize("target", [[0.5, 0.4, 0.2], [1.2, -0.2, 0], [0.5, 0.5], [np.nan, 0.5, 0.5], [[1, 0, 0]] * 3])
def test_a_target_that_is_no_distribution_is_refused(target):
    with pytest.raises(ValueError, match="target must"):
        aimed(made(5), target)


def test_a_function_of_the_context_gives_the_table_it_stands_for():
    table = {"x": [0.2, 0.3, 0.5], "y": [1.0, 0.0, 0.0]}
    by_label = made(50, contexts=np.array(["x", "y"])[np.arange(50) % 2])
    assert np.array_equal(aimed(by_label, table.get), [table["xy"[i % 2]] for i in range(50)])
    named = made(50, contexts=np.arange(100).reshape(50, 2), names=("age", "visits"))
    by_name = aimed(named, lambda c: [0, 0, 1] if c["age"] > 20 else [1, 0, 0])
    assert np.array_equal(by_name[:, 2], np.arange(50) > 10)
    assert np.array_equal(aimed(made(50), lambda c: [1, 0, 0]), np.tile([1, 0, 0], (50, 1)))


def test_a_function_that_does_not_know_a_context_is_named():
    log = made(4, contexts=["x", "x", "new", "x"])
    with pytest.raises(ValueError, match="target must give 3 probabilities for every context, got None for 'new'"):
        aimed(log, {"x": [0.2, 0.3, 0.5]}.get)


@pytest.mark.parametrize("contexts", [None, [], np.empty((0, 2))])
def test_a_function_may_be_asked_about_an_empty_log(contexts):
    assert isinstance(overlap(made(0, contexts=contexts), lambda _: [1, 0, 0]), NotEnough)


def test_a_log_cannot_be_changed_behind_its_back():
    p, y = np.array([0.5, 0.5]), np.array([0.0, 1.0])
    log = Log(("a", "b"), ["a", "b"], y, p)
    p[0], y[0] = 0, 7
    assert log.propensities.tolist() == [0.5, 0.5] and log.rewards.tolist() == [0, 1]
    with pytest.raises(ValueError, match="read-only"):
        log.propensities[0] = 0


@pytest.mark.parametrize("below", [np.nan, -0.1, 1.1])
def test_a_size_of_tiny_that_is_none_is_refused(below):
    with pytest.raises(ValueError, match="below must lie in"):
        overlap(made(10), [1, 0, 0], below)


@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=30))
def test_effective_rows_lie_between_none_and_all(w):
    w = np.array(w)
    assert 0 <= effective(w) <= w.size + 1e-9 and (effective(w) >= 1 - 1e-9) == bool(w.any())


def test_a_log_knows_all_about_its_own_policy():
    found = overlap(made(500), [0.5, 0.3, 0.2])
    assert found.effective_n == pytest.approx(500) and found.mean_weight == pytest.approx(1) and np.isnan(found.p_value)


def test_the_mean_weight_is_tested_at_its_stated_rate():
    p = [overlap(made(400, seed), [0.3, 0.3, 0.4]).p_value for seed in range(400)]
    assert np.mean(np.array(p) < 0.05) == pytest.approx(0.05, abs=4 * np.sqrt(0.05 * 0.95 / 400))


def test_what_was_never_shown_is_counted():
    found = overlap(made(500, p=(0.6, 0.4, 0.0)), [0.5, 0.2, 0.3])
    assert found.unseen == pytest.approx(0.3) and found.tiny == pytest.approx(0.3)
    assert found.mean_weight == pytest.approx(0.7, abs=0.1) and found.p_value < 1e-6


def test_too_few_rows_are_a_result():
    assert isinstance(overlap(made(1), [1, 0, 0]), NotEnough)
    assert made(0).n == 0 and weights(made(0), aimed(made(0), [1, 0, 0])).size == 0
    assert made(10).part(slice(3)).n == 3


def test_a_target_may_name_its_arms_and_is_refused_in_a_sentence_where_it_cannot():
    log = made(20)
    np.testing.assert_array_equal(aimed(log, {"c": 0.75, "a": 0.25}), aimed(log, [0.25, 0, 0.75]))
    with pytest.raises(ValueError, match="target must name arms of the log, got 'z'"):
        aimed(log, {"a": 0.5, "z": 0.5})
    with pytest.raises(ValueError, match="target must hold probabilities"):
        aimed(log, [{"a": 1}, 0, 0])
    with pytest.raises(ValueError, match="target must add up to 1"):
        aimed(log, {"a": 0.5})
