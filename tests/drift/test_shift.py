"The report over many features: what it names, what it refuses, how often it errs."

import numpy as np
import pytest

from seatrial.drift.shift import bars, shift, windows


def draw(seed, n, moved=0.0, features=5):
    rng = np.random.default_rng(seed)
    return {f"f{i}": rng.normal(moved * (i == 0), 1, n) for i in range(features)}


def test_what_moved_is_named_and_nothing_else():
    found = shift(draw(0, 2000), draw(1, 500, moved=1.0))
    assert found.verdict == "shifted" and [f.name for f in found.shifted] == ["f0"]
    assert "f0 (median" in found.words and found.features[0].name == "f0"


def test_a_quiet_day_is_quiet():
    verdicts = [shift(draw(2 * i, 1000), draw(2 * i + 1, 200)).verdict for i in range(100)]
    assert verdicts.count("none") >= 90


def test_a_certain_change_below_the_floor_is_watched_and_wakes_nobody():
    rng = np.random.default_rng(0)
    found = shift({"x": rng.normal(size=200_000)}, {"x": rng.normal(0.03, 1, size=200_000)})
    assert found.verdict == "watch" and not found.shifted and "x" in found.words


def test_a_large_change_that_may_be_chance_is_not_named():
    found = shift(draw(0, 60, features=40), draw(1, 60, features=40))
    assert max(f.psi for f in found.features) > 0.1 and found.verdict == "none"


@pytest.mark.parametrize(("n", "m"), [(0, 100), (100, 0), (49, 100), (100, 49)])
def test_too_few_rows_are_not_health(n, m):
    found = shift(draw(0, n), draw(1, m))
    assert found.verdict == "not enough data" and found.features == () and "50" in found.words
    assert (found.n_reference, found.n_current) == (n, m)


@pytest.mark.parametrize("m", [50, 1000])
def test_few_of_the_named_features_are_named_in_vain(m):
    rng, vain, missed = np.random.default_rng(4), [], []
    for _ in range(12):
        reference = {f"f{i}": rng.normal(size=1000) for i in range(60)}
        current = {f"f{i}": rng.normal(0.8 * (i < 6), 1, m) for i in range(60)}
        named = {f.name for f in shift(reference, current, psi_floor=0.0).shifted}
        true = {f"f{i}" for i in range(6)}
        vain.append(len(named - true) / max(1, len(named)))
        missed.append(len(true - named) / 6)
    assert np.mean(vain) - 3 * np.std(vain) / np.sqrt(12) <= 0.05
    assert np.mean(missed) < (0.3 if m == 50 else 0.01)


def test_categories_and_booleans_are_compared_by_their_shares():
    reference = {"channel": ["web"] * 300 + ["app"] * 200, "cached": [True] * 100 + [False] * 400}
    current = {"channel": ["web"] * 50 + ["tv"] * 50, "cached": [True] * 20 + [False] * 80}
    found = {f.name: f for f in shift(reference, current).features}
    assert found["channel"].shifted and "tv (new): 0% → 50%" in found["channel"].words
    assert found["channel"].kind == found["cached"].kind == "category" and not found["cached"].shifted


def test_missing_and_new_features_are_refused_by_name_and_side():
    with pytest.raises(ValueError, match=r"got a \(only in reference\), c \(only in current\)"):
        shift({"a": [1.0], "b": [1.0]}, {"b": [1.0], "c": [1.0]})


def test_a_number_that_became_text_is_refused_by_name():
    with pytest.raises(ValueError, match="n_words must keep its kind, got number in reference and category in current"):
        shift({"n_words": [1, 2]}, {"n_words": ["1", "2"]})


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([1.0, np.nan], r"current\['x'\] must be finite, got 1 NaN"),
        ([1.0, None], r"current\['x'\] must hold only numbers, only text or only booleans, got NoneType, float"),
        (["a", None], "got NoneType, str"),
        (np.array(["2020-01-01"], dtype="datetime64[D]"), "got date"),
    ],
)
def test_what_cannot_be_compared_is_refused_by_name(bad, message):
    with pytest.raises(ValueError, match=message):
        shift({"x": [1.0, 2.0]}, {"x": bad})


def test_rows_must_belong_together():
    with pytest.raises(ValueError, match="every feature of reference must have as many rows"):
        shift({"a": [1.0, 2.0], "b": [1.0]}, {"a": [1.0], "b": [1.0]})


@pytest.mark.parametrize("bad", [{"fdr": 0.0}, {"fdr": 5}, {"psi_floor": -0.1}, {"psi_floor": np.nan}, {"rows_min": 1}])
def test_settings_outside_their_range_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        shift(draw(0, 100), draw(1, 100), **bad)


def test_a_report_renders_as_a_table_and_as_a_picture():
    plt = pytest.importorskip("matplotlib.pyplot")
    found = shift(draw(0, 500), draw(1, 500, moved=1.0))
    assert found._repr_markdown_().count("\n|") == 7 and "| **f0** |" in found._repr_markdown_()
    figure, ax = plt.subplots()
    assert [label.get_text() for label in bars(found, ax).get_yticklabels()][-1] == "f0"
    plt.close(figure)


def labelled(seed, n, moved=0.0, error=1.0):
    rng = np.random.default_rng(seed)
    return {
        "x": rng.normal(moved, 1, n),
        "answer: y": rng.normal(size=n),
        "rating": rng.normal(size=n),
        "error": rng.exponential(error, n),
    }


ROLES = {"rating": "label", "error": "error"}


@pytest.mark.parametrize(
    ("current", "roles", "recommendation"),
    [
        (labelled(1, 500), ROLES, "nothing"),
        (labelled(1, 500, moved=1.0), ROLES, "watch"),
        (labelled(1, 500, moved=1.0), {}, "retrain"),
        (labelled(1, 500, error=2.0), ROLES, "stop"),
        (labelled(1, 500, moved=1.0, error=2.0), ROLES, "stop"),
        (labelled(1, 500, moved=1.0, error=0.5), ROLES, "watch"),
        (labelled(1, 20, error=9.0), ROLES, "watch"),
    ],
)
def test_the_errors_decide_what_is_to_be_done(current, roles, recommendation):
    found = shift(labelled(0, 2000), current, roles=roles)
    assert found.recommendation == recommendation and found.why


def test_an_error_of_which_nothing_is_known_acquits_nobody():
    current = labelled(1, 500, moved=1.0)
    current["error"] = np.r_[current["error"][:20], np.full(480, np.nan)]
    reference = labelled(0, 2000)
    reference["error"][:1900] = np.nan
    found = shift(reference, current, roles=ROLES, missing="compare")
    assert found.recommendation == "retrain" and "error" in found.words and "Too few values" in found.words


def test_a_boolean_error_has_a_direction():
    reference = {"x": np.zeros(1000), "wrong": np.repeat([True, False], [100, 900])}
    more = {"x": np.zeros(400), "wrong": np.repeat([True, False], [140, 260])}
    less = {"x": np.zeros(400), "wrong": np.repeat([True, False], [1, 399])}
    found = [shift(reference, now, roles={"wrong": "error"}, psi_floor=0.05).recommendation for now in (more, less)]
    assert found == ["stop", "watch"]


def test_each_drift_is_named_by_whose_it_is():
    current = labelled(1, 500, moved=1.0)
    current["rating"] = current["rating"] + 1
    found = shift(labelled(0, 2000), current, roles=ROLES)
    assert "1 of 1 inputs has shifted (covariate drift)" in found.words
    assert "1 of 1 labels has shifted (label drift)" in found.words and "prediction" not in found.words
    assert {f.name: f.role for f in found.features}["answer: y"] == "prediction"


def test_values_that_stop_arriving_stop_the_model():
    rng = np.random.default_rng(0)
    reference, current = draw(0, 1000), draw(1, 300)
    current["f1"] = np.where(rng.random(300) < 0.8, np.nan, current["f1"])
    found = shift(reference, current, missing="compare")
    assert found.recommendation == "stop" and [f.name for f in found.shifted] == ["f1 (missing)"]
    current["f1"] = np.where(rng.random(300) < 0.1, np.nan, draw(1, 300)["f1"])
    assert shift(reference, current, missing="compare").recommendation == "retrain"


def test_gaps_on_both_sides_as_ever_are_a_quiet_day():
    rng = np.random.default_rng(2)
    sides = [{k: np.where(rng.random(n) < 0.2, np.nan, x) for k, x in draw(n, n).items()} for n in (1000, 300)]
    found = shift(*sides, missing="compare")
    assert found.verdict == "none" and len(found.features) == 10 and found.recommendation == "nothing"


def test_no_answer_to_any_question_is_not_health():
    gone = {"x": [None] * 100}
    found = shift({"x": [1.0, 2.0] * 50}, gone, missing="compare")
    assert found.recommendation == "stop"
    both = shift(gone, gone, missing="compare")
    assert both.recommendation != "stop" and "Too few values to say anything of x" in both.words


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"missing": "drop"}, "missing must be one of refuse, compare"),
        ({"roles": {"f9": "label"}}, "roles must name features of the report, got f9"),
        ({"roles": {"f0": "target"}}, "must be one of input, prediction, label, error"),
    ],
)
def test_unknown_policies_and_roles_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        shift(draw(0, 100), draw(1, 100), **bad)


def test_windows_lie_side_by_side_in_any_order_of_the_rows():
    rng = np.random.default_rng(3)
    t = rng.permutation(np.repeat(np.arange(100.0), 2))
    before, now = windows(t, now_s=90, current_s=10, reference_s=30)
    assert sorted(set(t[now])) == list(range(80, 90)) and sorted(set(t[before])) == list(range(50, 80))
    everything, _ = windows(t, now_s=90, current_s=10)
    assert sorted(set(t[everything])) == list(range(80)) and not (before & now).any()


@pytest.mark.parametrize("bad", [{"now_s": np.nan}, {"current_s": 0}, {"current_s": np.inf}, {"reference_s": -1}])
def test_windows_that_are_none_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        windows([1.0, 2.0], **{"now_s": 2.0, "current_s": 1.0} | bad)


def test_time_stamps_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match="time_s must be finite, got 1 NaN"):
        windows([1.0, np.nan], 2.0, 1.0)


def test_a_feature_without_values_on_either_side_is_not_health():
    found = shift(draw(0, 500) | {"gone": [None] * 500}, draw(1, 100) | {"gone": [None] * 100}, missing="compare")
    assert found.verdict == "none" and found.recommendation == "watch" and "too little" in found.why


def test_errors_that_have_certainly_grown_are_never_called_small():
    then, now = (np.arange(20_000) % k == 0 for k in (20, 10))
    found = shift({"wrong": then}, {"wrong": now}, roles={"wrong": "error"})
    assert found.recommendation == "watch" and "the errors have certainly grown" in found.why


def test_a_hundred_rare_flags_do_not_cry_wolf():
    rng, alarms = np.random.default_rng(8), 0
    for _ in range(10):
        sides = ({f"f{i}": (rng.random(n) < 0.0005) * 1 for i in range(100)} for n in (5000, 50))
        alarms += shift(*sides).verdict == "shifted"
    assert alarms <= 1
