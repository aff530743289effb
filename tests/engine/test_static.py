"""Learnt ranges round as they say, clip beyond, and refuse to learn from nothing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import helper

from seatrial.base.settings import CannotDo
from seatrial.engine import static as room
from seatrial.engine.export import bundle_of
from seatrial.engine.quantize import graph_of, products, quantize, rebuilt
from seatrial.engine.runtime import load
from seatrial.engine.static import CALIBRATIONS, best_static, moved, static
from tests.engine.nets import dense, linear, saved

X = np.random.default_rng(0).normal(size=(96, 16)).astype(np.float32)
RNG = np.random.default_rng(1)
W, W2, B = RNG.normal(size=(16, 8)), 3 * RNG.normal(size=(8, 8)), 5 * RNG.normal(size=8)
ALIVE = np.arange(8) > 0  # the first column is dead
NODE = helper.make_node
GEMM = NODE("Gemm", ["x", "w", "b"], ["h"], name="first")
RELU, PLUS = NODE("Relu", ["h"], ["r"]), NODE("MatMul", ["x", "w"], ["m"], name="only")


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    rng = np.random.default_rng(3)
    return dense(tmp_path_factory.mktemp("net"), [linear(rng, 16, 64), linear(rng, 64, 2)])


@given(hnp.arrays(np.float32, st.integers(2, 300), elements=st.floats(-100, 100, width=32)))
def test_a_range_lies_within_what_was_seen(x):
    for name, choose in CALIBRATIONS.items():
        low, high = choose(x)
        assert x.min() - 1e-3 <= low <= high + 1e-6 and high <= x.max() + 1e-3, name


@pytest.mark.parametrize("method", CALIBRATIONS)
@pytest.mark.parametrize("wide", [True, False])
def test_answers_stay_close(net, tmp_path, method, wide):
    changed = static(net, tmp_path / "b", {"input": X[:64]}, method, wide=wide)
    assert moved(net, changed, {"input": X[64:]}) < (
        0.4 if method == "entropy" else 0.15
    )  # 64 rows make a thin histogram
    assert changed.card["quantized"]["calibration_rows"] == 64
    assert changed.card["quantized"]["bits"] == (8 if wide else 7)


def test_an_answer_does_not_depend_on_its_neighbours(net, tmp_path):
    engine = load(static(net, tmp_path / "b", {"input": X[:64]}))
    alone, together = (engine.run({"input": x})["prediction"][0] for x in (X[:1], np.append(X[:1], 100 * X[1:2], 0)))
    np.testing.assert_allclose(alone, together, atol=1e-6)


def test_what_lies_outside_the_range_is_clipped(net, tmp_path):
    engine = load(static(net, tmp_path / "b", {"input": X[:64]}))
    a, b = (engine.run({"input": np.full((1, 16), v, np.float32)})["prediction"] for v in (50, 5000))
    np.testing.assert_allclose(a, b)


def test_the_best_is_chosen_by_rows_that_calibrated_nothing(net, tmp_path):
    best = best_static(net, tmp_path / "b", {"input": X})
    off, how = best.card["quantized"]["moved"], best.card["quantized"]["method"]
    assert set(off) == set(CALIBRATIONS) and how.endswith(min(off, key=off.get))
    again = static(net, tmp_path / "again", {"input": X[::2]}, "minmax")
    assert off["minmax"] == pytest.approx(moved(net, again, {"input": X[1::2]}), abs=1e-4)


def test_a_layer_that_is_left_out_stays(net, tmp_path):
    names = products(graph_of(net))
    spared = static(net, tmp_path / "b", {"input": X}, exclude=names[:1])
    assert moved(net, spared, {"input": X}) < moved(net, static(net, tmp_path / "all", {"input": X}), {"input": X})
    with pytest.raises(CannotDo, match="no matrix product"):
        static(net, tmp_path / "none", {"input": X}, exclude=names)


@pytest.mark.parametrize(
    ("inputs", "says"),
    [({"input": X[:0]}, "row"), ({"input": X * np.nan}, "finite"), ({"x": X}, "must be named"), ({}, "must be named")],
)
def test_rows_that_teach_nothing_are_refused(net, tmp_path, inputs, says):
    with pytest.raises(ValueError, match=says):
        static(net, tmp_path / "b", inputs)
    assert not (tmp_path / "b").exists()


def test_one_row_cannot_both_teach_and_choose(net, tmp_path):
    with pytest.raises(ValueError, match="two rows or more"):
        best_static(net, tmp_path / "b", {"input": X[:1]})


@pytest.fixture(scope="module")
def giants(tmp_path_factory):
    "Two products that share their weights, between which one channel is a giant that says no more than the others."
    rng = np.random.default_rng(0)
    w, (v, b), size = linear(rng, 16, 16)[0].T, linear(rng, 16, 2), np.append(60, np.ones(15))
    w[0], v[:, 0] = w[0] / 60, v[:, 0] / 60
    steps = [
        ("MatMul", "xw", "a"),
        ("Relu", "a", "r"),
        ("Mul", "rs", "h"),
        ("MatMul", "hw", "k"),
        ("MatMul", "hv", "o"),
    ]
    steps += [("Add", "ob", "p"), ("MatMul", "kc", "q"), ("Add", "pq", "y")]
    nodes = [NODE(kind, [*takes], [gives], name=gives) for kind, takes, gives in steps]
    held = {"w": w, "s": size, "v": v.T, "b": b, "c": np.eye(16, 2)}
    return saved(tmp_path_factory.mktemp("giants"), nodes, {k: np.float32(a) for k, a in held.items()}, 16, 2)


def test_moving_giants_into_the_weights_changes_no_answer(giants, tmp_path):
    model = graph_of(giants)
    moved_away = room._smoothed(model, [{"x": X}], set(products(model)))
    assert any(n.name.startswith("smooth/") for n in moved_away.graph.node)
    a, b = (load(g).run({"x": X})["y"] for g in (giants, rebuilt(giants, moved_away, tmp_path / "b")))
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_giants_cost_less_when_they_are_moved(giants, tmp_path):
    off = {
        smooth: moved(giants, static(giants, tmp_path / f"{smooth}", {"x": X[:64]}, smooth=smooth), {"x": X})
        for smooth in (True, False)
    }
    assert off[True] < 0.9 * off[False]


@given(hnp.arrays(np.float32, st.integers(1, 40), elements=st.floats(0, 1e4, width=32)))
def test_no_channel_is_ever_made_larger(reach):
    s = room._divisors(reach)
    assert s is None or (s.min() >= 1 and (reach / s).max() <= 4.01 * np.median(reach))


def test_raw_features_of_unlike_sizes_are_divided_too(net, tmp_path):
    wide = X.copy()
    wide[:, 3] *= 1000
    assert static(net, tmp_path / "a", {"input": wide}).card["quantized"]["smoothed"] == 1
    assert static(net, tmp_path / "b", {"input": X}).card["quantized"]["smoothed"] == 0


def by_hand(folder, nodes, held, opset=17):
    "A bundle around a graph from x (n, 16) to y (n, 8)."
    return saved(folder, nodes, {k: np.float32(v) for k, v in held.items()}, 16, 8, opset)


@pytest.mark.parametrize(
    ("nodes", "held"),
    [
        ([GEMM, RELU, NODE("Gemm", ["r", "w2", "b"], ["y"], name="second")], {"w": W, "w2": W2, "b": B}),
        ([GEMM, NODE("Gemm", ["x", "v", "b"], ["g"]), NODE("Add", ["h", "g"], ["y"])], {"w": W, "v": 30 * W, "b": B}),
        ([NODE("Gemm", ["x", "w", "b"], ["y"], name="one", alpha=0.05)], {"w": W, "b": B}),
        ([NODE("Gemm", ["x", "w", "b"], ["y"], name="one", alpha=-4.0, beta=0.1)], {"w": W, "b": B}),
        ([NODE("Gemm", ["x", "w", "b"], ["y"], name="one")], {"w": W * ALIVE, "b": B}),
        ([NODE("Gemm", ["x", "w", "b"], ["y"], name="one")], {"w": W * 1e-6, "b": B}),
        ([NODE("Gemm", ["x", "w", "b"], ["y"], name="one")], {"w": W, "b": B[None]}),
        ([GEMM, NODE("Gemm", ["x", "w"], ["g"]), NODE("Mul", ["h", "g"], ["y"])], {"w": W * 1e-6, "b": 99 * B}),
        ([PLUS, NODE("Add", ["m", "b"], ["y"])], {"w": W[:, :1], "b": B}),
        ([PLUS, NODE("Add", ["b", "m"], ["y"])], {"w": W, "b": B[:1]}),
    ],
    ids=["bias of two", "same input", "alpha", "alpha and beta", "dead column", "tiny weights", "bias in a row",
         "weights of two", "one column", "one number"],
)  # fmt: skip
def test_a_bias_is_what_it_was_whatever_it_is_added_to(tmp_path, nodes, held):
    net = by_hand(tmp_path / "net", nodes, held)
    made = static(net, tmp_path / "b", {"x": X[:64]}, wide=True)
    assert moved(net, made, {"x": X}) < 0.03
    np.testing.assert_allclose(
        *(load(b).run({"x": 0 * X[:1]})["y"] for b in (made, net)), rtol=0.02, atol=0.05 if RELU in nodes else 1e-3
    )


def test_a_product_that_is_multiplied_afterwards_can_be_quantized_too(tmp_path):
    net = by_hand(tmp_path / "net", [NODE("Gemm", ["x", "w", "b"], ["y"], name="one", alpha=0.5)], {"w": W, "b": B})
    assert moved(net, quantize(net, tmp_path / "b", wide=True), {"x": X}) < 0.03


@pytest.mark.parametrize("opset", [9, 12, 13])
def test_a_graph_of_an_older_operator_set_is_understood(tmp_path, opset):
    net = by_hand(tmp_path / "net", [NODE("Gemm", ["x", "w", "b"], ["y"])], {"w": W, "b": B}, opset)  # no names either
    assert moved(net, static(net, tmp_path / "b", {"x": X[:64]}), {"x": X}) < 0.03


def test_a_node_that_is_not_there_cannot_be_left_out(net, tmp_path):
    for make in (static, best_static):
        with pytest.raises(ValueError, match=r"exclude must name nodes of the graph .* got 'nobody'"):
            make(net, tmp_path / "b", {"input": X}, exclude=["nobody"])
    assert not (tmp_path / "b").exists()


def test_answers_without_a_spread_cannot_be_said_to_move(tmp_path):
    net = dense(tmp_path / "net", [linear(RNG, 16, 1)], flat=True)
    with pytest.raises(ValueError, match="inputs must be rows with different numbers as prediction, got 1"):
        moved(net, net, {"input": X[:1]})
    with pytest.raises(ValueError, match="output must be one of prediction, got 'nobody'"):
        moved(net, net, {"input": X}, "nobody")


def test_an_answer_that_is_no_number_has_moved_for_ever(tmp_path):
    good, bad = (
        by_hand(tmp_path / n, [GEMM, NODE("Sqrt" if n == "bad" else "Abs", ["h"], ["y"])], {"w": W, "b": B})
        for n in ("good", "bad")
    )
    assert moved(good, bad, {"x": X}) == np.inf
    with pytest.raises(ValueError, match="different numbers as y"):
        moved(bad, good, {"x": X})


def test_a_classifier_is_judged_by_its_first_output_of_floats(tmp_path):
    from sklearn.linear_model import LogisticRegression

    net = bundle_of(LogisticRegression().fit(X, np.where(X[:, 0] > 0, "cat", "dog")), X, tmp_path / "b")
    assert net.signature.outputs[0].datatype == "BYTES" and moved(net, net, {"x": X}) == 0
    with pytest.raises(ValueError, match="different numbers as label"):
        moved(net, net, {"x": X}, "label")
