from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seatrial.registry.manifest import number
from seatrial.registry.numbering import architecture, bump_of, bumped, checked_metrics, full_lineage, gained


@given(st.tuples(*[st.integers(0, 50)] * 3), st.sampled_from(["major", "minor", "patch"]))
def test_every_bump_makes_a_higher_version(parts, bump):
    before = ".".join(map(str, parts))
    assert number(bumped(before, bump)) > number(before)


def version(metrics=None, signature="s", kind="a"):
    return SimpleNamespace(metrics=metrics or {}, signature=signature, lineage={"architecture": kind})


@pytest.mark.parametrize(
    ("old", "new", "better", "metric", "bump"),
    [
        (version({"mae": 1}), version({"mae": 0.9}), "lower", None, "minor"),
        (version({"mae": 1}), version({"mae": 1.0}), "lower", None, "patch"),
        (version({"mae": 1}), version({"mae": 0.9}), "higher", None, "patch"),
        (version({"mae": 1, "r2": 0.1}), version({"mae": 2, "r2": 0.2}), "higher", "r2", "minor"),
        (version({"mae": 1}), version({"r2": 0.9}), "higher", None, "patch"),
        (version({"mae": 1}), version(), "lower", None, "patch"),
        (version({"mae": 1}), version({"mae": 0.1}, signature="t"), "lower", None, "major"),
        (version({"mae": 1}), version({"mae": 9}, kind="b"), "lower", None, "major"),
    ],
)
def test_the_number_says_what_changed(old, new, better, metric, bump):
    assert bump_of(old, new, better, metric) == bump


def test_weights_and_names_do_not_make_an_architecture_but_operations_and_sizes_do(bundle):
    plain = architecture(bundle("plain"))
    assert architecture(bundle("weights", weights=(9.0, 9.5))) == plain
    assert architecture(bundle("renamed", output="score")) == plain
    assert architecture(bundle("kink", kink=True)) != plain
    assert architecture(bundle("wide", weights=(1.0, 2.0, 3.0))) != plain


@given(st.floats(), st.floats())
def test_a_gain_never_goes_both_ways(a, b):
    assert not (gained({"m": a}, {"m": b}) and gained({"m": b}, {"m": a}))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "1", None, True, [1.0]])
def test_a_metric_that_cannot_be_compared_is_refused(value):
    with pytest.raises(ValueError, match="metric 'mae' must be a finite number"):
        checked_metrics({"mae": value})


def test_the_callers_word_about_lineage_wins():
    assert full_lineage({"code": "tag 7"}, parent="1.0.0") == {"code": "tag 7", "parent": "1.0.0"}
