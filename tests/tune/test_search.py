"Search: the same next trial from the same history, and no failure hidden."

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seatrial.base.settings import CannotDo
from seatrial.tune.search import Choice, Range, search

SPACE = {"x": Range(-1.0, 1.0), "n": Range(1, 64, log=True, whole=True), "kind": Choice(("a", "b", None))}


def valley(choices, report):
    return (choices["x"] - 0.3) ** 2 + 0.1 * (choices["kind"] != "a") + 0.01 * math.log(choices["n"])


def choices_of(found):
    return [t.choices for t in found.table]


@settings(deadline=None, max_examples=10)
@given(st.floats(-1e3, 1e3), st.floats(1e-3, 1e3), st.integers(1, 50))
def test_every_trial_lies_within_the_space(low, length, whole):
    space = {"x": Range(low, low + length), "n": Range(whole, 2 * whole, whole=True), "c": Choice((True, "yes"))}
    for t in search(lambda c, report: c["x"], space, trials=4, sampler="random").table:
        assert low <= t.choices["x"] <= low + length
        assert whole <= t.choices["n"] <= 2 * whole
        assert isinstance(t.choices["n"], int)
        assert t.choices["c"] in (True, "yes")


def test_same_seed_same_trials_and_another_seed_others():
    runs = [search(valley, SPACE, trials=14, seed=seed) for seed in (3, 3, 4)]
    assert choices_of(runs[0]) == choices_of(runs[1]) != choices_of(runs[2])


@pytest.mark.parametrize(("sampler", "at"), [("tpe", 12), ("random", 1)])
def test_interrupted_search_tries_what_it_would_have_tried(sampler, at, tmp_path):
    calls = []

    def tired(choices, report):
        calls.append(choices)
        if len(calls) == at:
            raise KeyboardInterrupt
        return valley(choices, report)

    how = {"trials": 13, "sampler": sampler, "seed": 2}
    whole, url = search(valley, SPACE, **how), f"sqlite:///{tmp_path}/s.db"
    with pytest.raises(KeyboardInterrupt):
        search(tired, SPACE, storage=url, **how)
    resumed = search(valley, SPACE, storage=url, **how)
    assert choices_of(resumed) == choices_of(whole)
    assert [t.value for t in resumed.table] == [t.value for t in whole.table]


def test_trials_are_counted_over_all_sittings(tmp_path):
    url, heard = f"sqlite:///{tmp_path}/s.db", []
    search(valley, SPACE, trials=5, storage=url)
    found = search(valley, SPACE, trials=8, storage=url, progress=lambda *said: heard.append(said[:2]))
    assert len(found.table) == 8
    assert heard == [(6, 8), (7, 8), (8, 8), (8, 8)]


def test_better_higher_looks_for_the_top():
    found = search(lambda c, report: -valley(c, report), SPACE, trials=12, better="higher")
    assert found.best_value == max(t.value for t in found.table)


def test_failing_trials_are_lines_with_their_reason():
    def brittle(choices, report):
        if choices["kind"] == "a":
            raise CannotDo("this machine cannot do that")
        return math.nan if choices["kind"] is None else choices["x"]

    found = search(brittle, SPACE, trials=15, sampler="random")
    reasons = {t.choices["kind"]: (t.state, t.value is None, t.reason) for t in found.table}
    assert reasons["a"] == ("failed", True, "CannotDo: this machine cannot do that")
    assert reasons[None] == ("failed", True, "ValueError: the objective returned nan")
    assert reasons["b"] == ("complete", False, "")
    assert found.best["kind"] == "b"


def test_no_trial_that_ends_is_one_sentence():
    def broken(choices, report):
        raise KeyError("width")

    with pytest.raises(CannotDo, match=r"none of 3 trials came to an end; the last one said: KeyError: 'width'"):
        search(broken, SPACE, trials=3)


def test_hopeless_trials_are_given_up_and_good_ones_never():
    seen = []

    def steps(choices, report):
        for step in range(10):
            report(step, valley(choices, report))
        seen.append(valley(choices, report))
        return seen[-1]

    found = search(steps, SPACE, trials=25)
    states = [t.state for t in found.table]
    assert states.count("pruned") > 3
    assert found.importance == {}  # those given up are missing where it would show
    assert found.best_value == min(seen)
    assert [t.state for t in search(steps, SPACE, trials=25, prune=False).table] == ["complete"] * 25


def test_no_trial_begins_after_the_time_is_over():
    calls = []

    def slow(choices, report):
        calls.append(choices)
        return choices["x"]

    found = search(slow, SPACE, trials=10**6, seconds=0.05)
    assert 1 <= len(found.table) == len(calls) < 10**6


def test_importance_goes_to_the_setting_that_matters():
    found = search(lambda c, report: c["x"] ** 2 + 0.001 * c["n"], SPACE, trials=30, sampler="random")
    assert max(found.importance, key=found.importance.get) == "x"
    assert sum(found.importance.values()) == pytest.approx(1)


def test_callers_optuna_verbosity_and_random_numbers_are_left_alone():
    import optuna

    level = optuna.logging.get_verbosity()
    np.random.seed(5)
    expected = np.random.random()
    np.random.seed(5)
    search(valley, SPACE, trials=12)
    assert np.random.random() == expected
    assert optuna.logging.get_verbosity() == level


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Range(1, 1), "from a number to a larger one"),
        (lambda: Range(0, math.inf), "from a number to a larger one"),
        (lambda: Range(0, 1, log=True), "must begin above 0"),
        (lambda: Range(0.5, 2, whole=True), "whole ends"),
        (lambda: Choice(("a",)), "at least 2 different"),
        (lambda: Choice(("a", "a")), "at least 2 different"),
        (lambda: Choice(([1], [2])), "texts or numbers"),
        (lambda: search(valley, {}), "at least one Range or Choice"),
        (lambda: search(valley, {"x": (0, 1)}), "Range or Choice, got"),
        (lambda: search(valley, SPACE, trials=0), "trials must be at least 1"),
        (lambda: search(valley, SPACE, seconds=0), "seconds above 0"),
        (lambda: search(valley, SPACE, better="up"), "better must be lower or higher"),
        (lambda: search(valley, SPACE, sampler="grid"), "sampler must be tpe or random"),
    ],
)
def test_what_is_no_search_is_refused_in_one_sentence(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_a_file_of_another_search_or_none_is_refused(tmp_path):
    url = f"sqlite:///{tmp_path}/s.db"
    search(valley, SPACE, trials=1, storage=url)
    with pytest.raises(ValueError, match="has another space"):
        search(valley, SPACE | {"x": Range(-2.0, 1.0)}, trials=2, storage=url)
    (tmp_path / "text.db").write_text("no database at all, only words" * 50)
    for broken in (f"sqlite:///{tmp_path}/text.db", "sqlite:////nowhere/at/all.db", "no url"):
        with pytest.raises(CannotDo, match=r"cannot be kept in .*use sqlite:///FILE.db"):
            search(valley, SPACE, trials=1, storage=broken)


def test_missing_optuna_is_one_sentence(monkeypatch):
    monkeypatch.setattr("seatrial.tune.search.find_spec", lambda name: None)
    with pytest.raises(CannotDo, match=r"pip install seatrial\[tune\]"):
        search(valley, SPACE)
