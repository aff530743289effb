"""Nothing slower and nothing worse is kept, and every row says why."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from seatrial.engine import fit as room
from seatrial.engine.bundle import read
from seatrial.engine.export import bundle_of
from seatrial.engine.fit import fit
from seatrial.engine.quantize import graph_of, rebuilt
from seatrial.engine.race import Speed, front, losses, race, speed_of, too_slow, too_wrong
from seatrial.engine.runtime import load
from tests.engine.nets import dense, linear

RNG = np.random.default_rng(0)
X = RNG.normal(size=(128, 16)).astype(np.float32)


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    rng = np.random.default_rng(0)
    return dense(tmp_path_factory.mktemp("net"), [linear(rng, 16, 32), linear(rng, 32, 1)], "Tanh", flat=True)


def truth(bundle, noise=1.0):
    return load(bundle).run({"input": X})["prediction"] + np.random.default_rng(1).normal(0, noise, len(X))


def wrong(bundle, folder, rows):
    "A variant that has nothing to do with the model."
    return dense(folder, [linear(np.random.default_rng(9), 16, 1)], flat=True)


def overflown(bundle, folder, rows):
    "A variant whose answers are infinite."
    model = graph_of(bundle)
    next(n for n in model.graph.node if n.output[0] == "prediction").output[0] = "before"
    model.graph.node.append(helper.make_node("Div", ["before", "nothing"], ["prediction"]))
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0), "nothing"))
    return rebuilt(bundle, model, folder)


@pytest.fixture(scope="module")
def usual(net, tmp_path_factory):
    "A fit of three variants, and what was said meanwhile."
    told, place = [], tmp_path_factory.mktemp("usual") / "kept"
    tell = lambda share, what: told.append((share, what))  # noqa: E731
    rule = {"variants": ["int8", "packed", "static"], "batches": (1, 8), "seconds": 0.05}
    return fit(net, {"input": X}, truth(net), place, progress=tell, **rule), told


@pytest.fixture(scope="module")
def crowd(net, tmp_path_factory):
    "One variant and three numbers of threads."
    rule = {"variants": ["int8"], "threads": (1, 2, 3), "batches": (1,), "seconds": 0.05}
    return fit(net, {"input": X}, truth(net), tmp_path_factory.mktemp("crowd") / "kept", **rule)


@pytest.fixture(scope="module")
def spoilt(net, tmp_path_factory):
    "Two variants that nobody should keep, and two numbers of threads."
    rule = {"variants": ["wrong", "overflown"], "threads": [1, 2], "batches": (1,), "seconds": 0.05}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "VARIANTS", dict(room.VARIANTS) | {"wrong": (wrong,), "overflown": (overflown,)})
        return fit(net, {"input": X}, truth(net, 0.01), tmp_path_factory.mktemp("spoilt") / "kept", **rule)


class Ticks:
    "A clock that moves only when somebody works."

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Worker:
    "An engine of known speed."

    def __init__(self, clock, cost_s, log):
        self.clock, self.cost_s, self.log = clock, cost_s, log

    def run(self, inputs):
        self.log.append((self.cost_s, inputs["x"].tolist()))
        self.clock.now += self.cost_s


def test_a_race_gives_every_variant_the_same_rows_in_turn():
    clock, log = Ticks(), []
    engines = {"slow": Worker(clock, 0.02, log), "fast": Worker(clock, 0.01, log)}
    times = race(engines, {"x": np.arange(10)}, batches=(1, 4), seconds=0.9, clock=clock)
    assert set(times) == {1, 4} and len(times[1]["slow"]) == len(times[1]["fast"]) >= 12
    np.testing.assert_allclose(times[4]["slow"], 20)
    np.testing.assert_allclose(times[4]["fast"], 10)
    for first, second in zip(log[::2], log[1::2], strict=True):
        assert first[1] == second[1] and first[0] != second[0]
    assert log[0][0] != log[2][0]  # the order is rotated
    assert log[0][1] != log[2][1]  # and so are the rows


@given(st.floats(0.2, 5), st.integers(0, 1000))
def test_the_ratio_of_speeds_is_the_ratio_of_times(gain, seed):
    rng = np.random.default_rng(seed)
    base = rng.lognormal(0, 0.3, 60)  # what both share in a round
    s = speed_of(base * rng.lognormal(0, 0.01, 60), base / gain * rng.lognormal(0, 0.01, 60), 8)
    assert s.lower <= s.ratio <= s.upper and s.ratio == pytest.approx(gain, rel=0.02)


def test_equal_times_are_no_gain():
    assert too_slow([speed_of(np.full(20, 2.0), np.full(20, 2.0), 1)])


def test_no_difference_is_kept_no_more_often_than_alpha_says():
    rng = np.random.default_rng(1)
    kept = sum(
        not too_slow([speed_of(rng.lognormal(0, 0.1, 30), rng.lognormal(0, 0.1, 30), 8)], slack=0) for _ in range(1000)
    )
    assert kept <= 25 + 4 * np.sqrt(25)  # one side of alpha = 0.05


def speed(batch, lower, ratio, upper):
    return Speed(batch, ratio, lower, upper, 50)


@pytest.mark.parametrize(
    ("speeds", "words"),
    [
        ([speed(1, 1.5, 2, 2.5), speed(8, 0.9, 1, 1.1)], ""),
        ([speed(1, 1.5, 2, 2.5), speed(8, 0.5, 0.6, 0.7)], "slower: only 0.60 times as fast [0.50, 0.70] at 8 rows"),
        ([speed(1, 0.8, 1.1, 1.4)], "not shown to be faster"),
        ([speed(1, 1.005, 1.01, 1.015)], "not shown to be faster"),
        ([speed(1, 1.5, 2, 2.5), speed(8, 0.97, 0.98, 0.985)], ""),
    ],
)
def test_a_variant_must_be_faster_somewhere_and_slower_nowhere(speeds, words):
    assert words in too_slow(speeds) and bool(words) == bool(too_slow(speeds))


def test_a_loss_must_be_shown_to_stay_within_the_margin():
    base = np.abs(RNG.normal(1, 0.3, 400))
    assert too_wrong(base, base + RNG.normal(0, 0.01, 400), 0.02, 0.05)[1] == ""
    assert "not accurate enough" in too_wrong(base, base * 1.05 + RNG.normal(0, 0.01, 400), 0.02, 0.05)[1]
    assert "not accurate enough" in too_wrong(base[:10], base[:10] + RNG.normal(0, 0.3, 10), 0.02, 0.05)[1]


def test_the_same_answers_are_accurate_enough_and_one_row_is_not_enough():
    base = np.abs(RNG.normal(1, 0.3, 50))
    assert too_wrong(base, base.copy(), 0, 0.05)[1] == ""
    assert "cannot be compared" in too_wrong(base[:1], base[:1], 0.02, 0.05)[1]


def test_a_constant_harm_is_refused_though_it_has_no_spread():
    assert too_wrong(np.ones(50), np.full(50, 2.0), 0.02, 0.05)[1]


def test_the_kept_bundle_is_whole_and_the_report_is_plain_json(usual):
    result, _ = usual
    assert [r.variant for r in result.rows] == ["fp32", "int8", "packed", "static"]
    assert sum(r.verdict == "kept" for r in result.rows) == 1
    assert all(r.reason for r in result.rows)
    assert read(result.kept.folder) == result.kept
    told = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert told["rows"][1]["speeds"] and set(told["rows"][0]["latency_ms"]) == {"1", "8"}
    assert result._repr_markdown_().count("\n") == 5


def test_a_variant_that_answers_wrongly_is_refused_however_small_it_is(spoilt):
    assert spoilt.row("wrong").verdict == "refused" and "not accurate enough" in spoilt.row("wrong").reason
    assert [r.verdict for r in spoilt.rows if r.variant.startswith("fp32")].count("kept") == 1


def test_who_is_wrong_does_not_run(spoilt):
    assert [r.variant for r in spoilt.rows] == ["fp32", "fp32, 2 threads", "wrong", "overflown"]
    assert not spoilt.row("wrong").latency_ms and spoilt.row("wrong").loss_difference.lower > 0


def test_a_variant_whose_answers_are_no_numbers_is_refused_and_the_others_go_on(spoilt, net, tmp_path):
    assert "no finite number" in spoilt.row("overflown").reason and spoilt.row("fp32").latency_ms
    json.dumps(spoilt.to_dict(), allow_nan=False)
    with pytest.raises(ValueError, match="bundle must answer finite numbers"):
        fit(overflown(net, tmp_path / "h", None), {"input": X}, truth(net), tmp_path / "n", variants=[], batches=(1,))


def test_the_fastest_of_those_that_pass_is_kept():
    rows = [
        room.Row("fp32", "reference", "r"),
        room.Row("a", "passed", "ra", speeds=(speed(1, 1.5, 2, 2.5),)),
        room.Row("b", "passed", "rb", speeds=(speed(1, 2.5, 3, 3.5),)),
        room.Row("c", "refused", "rc", speeds=(speed(1, 8, 9, 10),)),
    ]
    assert [r.verdict for r in room._chosen(rows)] == ["reference", "passed", "kept", "refused"]


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        ({"loss": "mood"}, "loss must be among"),
        ({"variants": ["int3"]}, "variants must be among"),
        ({"margin": 1}, "margin must be"),
        ({"alpha": 0}, "alpha inside"),
        ({"batches": ()}, "batches must be"),
        ({"batches": (0,)}, "batches must be"),
        ({"batches": (1, 500)}, "500 rows or more"),
        ({"seconds": float("nan")}, "seconds must be"),
        ({"seconds": -1}, "seconds must be"),
        ({"seconds": float("inf")}, "seconds must be"),
        ({"output": "nobody"}, "output must be one of prediction, got 'nobody'"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused_before_anything_runs(net, tmp_path, odd, words):
    with pytest.raises(ValueError, match=words):
        fit(net, {"input": X}, np.zeros(len(X)), tmp_path / "kept", **odd)
    assert not (tmp_path / "kept").exists()


def test_targets_that_do_not_match_are_refused(net, tmp_path):
    with pytest.raises(ValueError, match="same 64 rows or more"):
        fit(net, {"input": X}, np.zeros(3), tmp_path / "kept")


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        (np.full(len(X), "up"), "targets must be numbers for loss abs_error, got .*up.*zero_one"),
        (np.full(len(X), None), "targets must be numbers"),
        (np.where(np.arange(len(X)) == 3, np.nan, 1.0), "targets must be finite, got nan in row 3"),
        (np.where(np.arange(len(X)) == 4, np.inf, 1.0), "targets must be finite, got inf in row 4"),
    ],
)
def test_targets_that_are_no_numbers_are_refused_by_their_name(net, tmp_path, targets, words):
    with pytest.raises(ValueError, match=words):
        fit(net, {"input": X}, targets, tmp_path / "kept", variants=[])
    assert not (tmp_path / "kept").exists()


def test_several_answers_a_row_cannot_be_judged_by_one_target(tmp_path):
    wide = load(dense(tmp_path, [linear(np.random.default_rng(0), 16, 4)]))
    for rows in (4, len(X)):  # four answers for four targets would be a square
        with pytest.raises(ValueError, match=rf"one number for each of {rows} rows, got prediction \({rows}, 4\)"):
            losses(wide, {"input": X[:rows]}, np.zeros(rows))


def test_answers_that_are_labels_have_no_error_in_size(tmp_path):
    from sklearn.linear_model import LogisticRegression

    engine = load(bundle_of(LogisticRegression().fit(X, np.where(X[:, 0] > 0, "up", "down")), X, tmp_path / "b"))
    with pytest.raises(ValueError, match=r"output must hold numbers for loss abs_error, got label; .*zero_one"):
        losses(engine, {"x": X}, np.zeros(len(X)))


def test_labels_are_judged_right_or_wrong(tmp_path):
    from sklearn.linear_model import LogisticRegression

    y = np.where(X[:, 0] > 0, "up", "down")
    engine = load(bundle_of(LogisticRegression().fit(X, y), X, tmp_path / "b"))
    wrong = losses(engine, {"x": X}, np.where(y == "up", "down", "up").astype(object), "zero_one")
    assert wrong.mean() > 0.9 and set(wrong) <= {0.0, 1.0}


def rows_of(**memory):
    fast = {"latency_ms": {1: 1.0, 8: 4.0}, "loss": 0.5}
    rows = [room.Row("fp32", "reference", "r", latency_ms={1: 2.0, 8: 9.0}, loss=0.5, memory_mb=100.0)]
    gains = {"a": 3.0, "b": 1.5}
    return rows + [
        room.Row(n, "passed", n, speeds=(speed(1, g - 0.2, g, g + 0.2),), memory_mb=memory[n], **fast)
        for n, g in gains.items()
    ]


@pytest.mark.parametrize(("weight", "kept"), [(1.0, "a"), (0.5, "b"), (0.0, "b")])
def test_a_level_weighs_speed_against_memory(weight, kept):
    chosen = room._chosen(rows_of(a=90.0, b=20.0), weight)
    assert [r.variant for r in chosen if r.verdict == "kept"] == [kept]


@pytest.mark.parametrize("weight", [0.5, 0.0])
@pytest.mark.parametrize(
    ("reference", "a", "b", "kept"),
    [(100.0, np.inf, 80.0, "b"), (np.inf, 90.0, 20.0, "b"), (np.inf, np.inf, 20.0, "b"), (np.inf, 20.0, np.inf, "a")],
)
def test_a_need_that_could_not_be_measured_is_the_largest_of_all(weight, reference, a, b, kept):
    rows = rows_of(a=a, b=b)
    chosen = room._chosen([replace(rows[0], memory_mb=reference), *rows[1:]], weight)
    assert [r.variant for r in chosen if r.verdict == "kept"] == [kept]


def test_where_no_need_could_be_measured_speed_decides():
    rows = [replace(r, memory_mb=np.inf) for r in rows_of(a=1.0, b=1.0)]
    assert [r.variant for r in room._chosen(rows[:1] + rows[:0:-1], 0.5) if r.verdict == "kept"] == ["a"]


def test_the_front_leaves_out_who_is_beaten_in_everything():
    chosen = room._chosen(rows_of(a=90.0, b=20.0), 1.0)
    assert [r.variant for r in chosen if r.front] == ["b"]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=9))
def test_nobody_on_the_front_is_beaten_and_everybody_else_is(points):
    named = dict(enumerate(points))
    ahead = front(named)
    beats = lambda a, b: all(x <= y for x, y in zip(a, b, strict=True)) and a != b  # noqa: E731
    assert all(any(beats(q, p) for q in points) != (i in ahead) for i, p in named.items())


def test_a_smaller_variant_needs_not_be_faster_but_never_slower():
    times = {1: {"fp32": np.full(20, 2.0), "v": np.full(20, 2.0)}}
    lost = (np.ones(50), None)
    bundle = type("B", (), {"size_mb": 1.0})
    engine = type("E", (), {"bundle": bundle, "threads": 1})
    judge = lambda mb, times=times: room._judge("v", engine, times, lost, {"fp32": 100.0, "v": mb}, 0.05)  # noqa: E731
    assert judge(50.0).verdict == "passed" and judge(99.0).verdict == "refused"
    slow = {1: {"fp32": np.full(20, 2.0) + np.arange(20) / 1e4, "v": np.full(20, 4.0)}}
    assert judge(50.0, slow).reason.startswith("slower")


def test_more_comparisons_make_wider_intervals(usual, crowd):
    assert usual[0].rule["compared"] == 1 and crowd.rule["compared"] == 3
    assert usual[0].kept.card.get("session") is None and crowd.kept.card["session"]["threads"] in (1, 2, 3)


def test_the_slower_half_leaves_after_the_heats(crowd):
    out = [r for r in crowd.rows if "heats" in r.reason]
    assert crowd.rule["compared"] == 3 and len(out) == 2 and all(r.verdict == "refused" for r in out)


def test_whoever_waits_is_told_and_the_budget_is_reported(usual):
    found, told = usual
    made = [f"make {v}" for v in ("int8", "packed", "static")]
    assert [w for _, w in told] == [*made, "ask fp32", "ask int8", "weigh fp32", "weigh int8", "race"]
    assert all(0 <= s <= 1 for s, _ in told) and found.rule["spent_s"] > 0
    assert "calibration rows" in found.row("static").reason


def test_static_ranges_come_from_the_rows_that_are_given(net, tmp_path):
    found = fit(
        net,
        {"input": X},
        truth(net),
        tmp_path / "k",
        variants=["static"],
        batches=(1,),
        seconds=0.05,
        calibration={"input": X[:32]},
    )
    assert found.row("static").latency_ms
    with pytest.raises(ValueError, match="must be named"):
        fit(net, {"input": X}, truth(net), tmp_path / "n", variants=["static"], calibration={"x": X[:32]})


def test_a_reason_names_no_folder_that_will_be_gone(usual):
    reason = usual[0].row("packed").reason
    assert "takes no attention_mask" in reason and "/" not in reason


def test_a_race_runs_as_many_rounds_as_it_must():
    clock = Ticks()
    times = race({"slow": Worker(clock, 9.0, [])}, {"x": np.arange(9)}, (1,), 0.1, clock, least=3)
    assert len(times[1]["slow"]) == 3
