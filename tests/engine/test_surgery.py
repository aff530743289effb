"""Whatever legal form a graph comes in, what is made of it is legal, runs, and answers alike; or nothing is made."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from seatrial.base.settings import CannotDo
from seatrial.engine.export import bundle_of
from seatrial.engine.narrow import halved, weight_only
from seatrial.engine.prune import prune
from seatrial.engine.quantize import graph_of, products, quantize, rebuilt
from seatrial.engine.runtime import load
from seatrial.engine.sensitive import spare, stays, suffering
from seatrial.engine.static import moved
from seatrial.engine.surgery import alike, in_order, observed, swept

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 16)).astype(np.float32)
WIDE, SQUARE, OUT = ((RNG.normal(size=s) / 4).astype(np.float32) for s in ((16, 32), (16, 16), (16, 4)))
BACK, BIAS = (RNG.normal(size=s).astype(np.float32) for s in ((32, 4), 32))
NODE = helper.make_node


def onnx_model(nodes, weights, opset=17, among_inputs=False, types=TensorProto.FLOAT):
    stored = [numpy_helper.from_array(v, k) for k, v in weights.items()]
    x, y = (helper.make_tensor_value_info(n, types, ["n", w]) for n, w in (("x", 16), ("y", 4)))
    named = [helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in stored]
    graph = helper.make_graph(nodes, "g", [x, *(named if among_inputs else [])], [y], stored)
    ir = 3 if among_inputs else 8
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)


def mlp(names=("a", "b", "c")):
    steps = (("Gemm", ["x", "w", "v"], ["h"]), ("Relu", ["h"], ["r"]), ("Gemm", ["r", "u"], ["y"]))
    return [NODE(*s, name=n) for s, n in zip(steps, names, strict=True)]


def branch(name, weight):
    out = [helper.make_tensor_value_info(f"{name}/o", TensorProto.FLOAT, None)]
    return helper.make_graph([NODE("MatMul", ["r", weight], [f"{name}/o"])], name, [], out)


MLP = {"w": WIDE, "v": BIAS, "u": BACK}
RELU, LAST = NODE("Relu", ["h"], ["r"], name="r"), NODE("MatMul", ["k", "o"], ["y"], name="c")
SHARED = [NODE("Gemm", ["x", "w"], ["h"], name="a"), RELU]
CHOICE = {"then_branch": branch("then", "w"), "else_branch": branch("else", "v")}
CONSTANTS = [NODE("Constant", [], [n], value=numpy_helper.from_array(v)) for n, v in (("w", WIDE), ("u", BACK))]
FORMS = {
    "as usual": (mlp(), MLP),
    "without names": (mlp(("", "", "")), MLP),
    "in opset 11": (mlp(), MLP, 11),
    "in opset 21": (mlp(), MLP, 21),
    "weights among inputs": (mlp(), MLP, 11, True),
    "weights as nodes": ([*CONSTANTS, *mlp()], {"v": BIAS}),
    "an empty last input": ([NODE("Gemm", ["x", "w", ""], ["h"], name="a"), *mlp()[1:]], {"w": WIDE, "u": BACK}),
    "a matrix shared": ([*SHARED, NODE("Gemm", ["r", "w"], ["k"], name="b"), LAST], {"w": SQUARE, "o": OUT}),
    "shared both ways": ([*SHARED, NODE("Gemm", ["r", "w"], ["k"], name="b", transB=1), LAST], {"w": SQUARE, "o": OUT}),
    "one layer": ([NODE("MatMul", ["x", "o"], ["y"])], {"o": OUT}),
    "a product of constants": (
        [NODE("MatMul", ["t", "w"], ["h"], name="a"), NODE("Add", ["x", "h"], ["k"], name="b"), LAST],
        {"t": X[:1], "w": SQUARE, "o": OUT},
    ),
    "branches": (
        [
            NODE("Relu", ["x"], ["r"], name="r"),
            NODE("ReduceSum", ["x"], ["s"], name="s", keepdims=0),
            NODE("Greater", ["s", "zero"], ["positive"], name="g"),
            NODE("If", ["positive"], ["k"], name="i", **CHOICE),
            LAST,
        ],
        {"zero": np.float32(0), "w": SQUARE, "v": SQUARE.T.copy(), "o": OUT},
    ),
}
CHANGES = {
    "bytes": quantize,
    "8 bits": weight_only,
    "halves": lambda b, to: halved(b, to, 0.05),
    "pruned": lambda b, to: prune(b, to, 0.01),
    "spared": lambda b, to: spare(b, to, {"x": X}, stays(b, {"x": X}, 0.05)),
}


def bundled(folder, *form, **more):
    onnx.save(onnx_model(*form, **more), folder / "g.onnx")
    return bundle_of(folder / "g.onnx", None, folder / "b")


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_graph_is_changed_into_a_legal_one_that_answers_alike(tmp_path, form, change):
    bundle = bundled(tmp_path, *FORMS[form])
    made = CHANGES[change](bundle, tmp_path / "made")
    onnx.checker.check_model(onnx.load(made.folder / made.graph), full_check=change == "halves")
    assert moved(bundle, made, {"x": X}) < 0.05


@pytest.mark.parametrize("form", FORMS)
def test_a_graph_in_its_plain_form_answers_the_same(tmp_path, form):
    bundle = bundled(tmp_path, *FORMS[form])
    model = graph_of(bundle)
    assert alike(bundle, rebuilt(bundle, swept(model, list(model.graph.node)), tmp_path / "c"), 1e-6)["largest"] <= 1e-6
    assert [i.name for i in model.graph.input] == ["x"]
    assert len({n.name for n in model.graph.node} - {""}) == len(model.graph.node)
    assert set(products(model)) == set(suffering(bundle, {"x": X}))


HALF = {"w": WIDE.astype(np.float16), "u": BACK.astype(np.float16)}
TWO = [NODE("MatMul", ["x", "w"], ["h"], name="a"), NODE("MatMul", ["h", "u"], ["y"], name="b")]


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_halves_are_not_halved_again_nor_turned_into_bytes(tmp_path, change):
    bundle = bundled(tmp_path, TWO, HALF, types=TensorProto.FLOAT16)
    with pytest.raises(ValueError, match=r"full precision.*holds halves already \(w\)"):
        change(bundle, tmp_path / "never")
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize("change", [weight_only, lambda b, to: halved(b, to, 0.05), quantize])
def test_what_cannot_run_in_its_new_form_is_refused_and_leaves_nothing(tmp_path, change):
    doubles = {"w": WIDE.astype(float), "u": BACK.astype(float)}
    bundle = bundled(tmp_path, TWO, doubles, types=TensorProto.DOUBLE)
    with pytest.raises(CannotDo, match=r"b/model.onnx (cannot run in its new form \(.*Type Error|has no )"):
        change(bundle, tmp_path / "never")
    assert not (tmp_path / "never").exists()


def test_bytes_in_a_convolution_are_bytes_already(tmp_path):
    weights = {"to": np.array([-1, 1, 4, 4]), "s": np.float32(0.1), "z": np.uint8(0), "i": np.int8(0)}
    weights |= {"q": RNG.integers(-9, 9, (8, 1, 4, 4)).astype(np.int8), "flat": np.array([-1, 8]), "o": BACK[:8]}
    steps = [
        ("Reshape", ["x", "to"], ["p"], {}),
        ("Cast", ["p"], ["b"], {"to": TensorProto.UINT8}),
        ("QLinearConv", ["b", "s", "z", "q", "s", "i", "s", "z"], ["c"], {}),
        ("Cast", ["c"], ["f"], {"to": TensorProto.FLOAT}),
        ("Reshape", ["f", "flat"], ["k"], {}),
        ("MatMul", ["k", "o"], ["y"], {}),
    ]
    bundle = bundled(tmp_path, [NODE(k, i, o, name=o[0], **more) for k, i, o, more in steps], weights)
    with pytest.raises(ValueError, match=r"holds int8 already \(QLinearConv\)"):
        quantize(bundle, tmp_path / "never")


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return bundled(tmp_path_factory.mktemp("plain"), *FORMS["as usual"])


@pytest.mark.parametrize("seed", range(5))
def test_shuffled_nodes_are_put_back_into_an_order_that_runs(plain, seed):
    model = graph_of(plain)
    nodes = list(model.graph.node)
    mixed = [nodes[i] for i in np.random.default_rng(seed).permutation(len(nodes))]
    onnx.checker.check_model(swept(model, in_order(mixed)))


@pytest.mark.parametrize("tolerance", [-1, float("nan")])
def test_a_tolerance_below_nothing_is_refused(plain, tmp_path, tolerance):
    with pytest.raises(ValueError, match="tolerance must be 0 or more"):
        alike(plain, plain, tolerance)
    with pytest.raises(ValueError, match="tolerance must be 0 or more"):
        halved(plain, tmp_path / "b", tolerance)
    assert not (tmp_path / "b").exists()


def test_tensors_that_a_graph_cannot_take_are_a_sentence(plain):
    with pytest.raises(CannotDo, match=r"cannot be run on \{'x': \(2, 3\)\}"):
        observed(graph_of(plain), {"x": X[:2, :3]})


def test_answers_are_seen_as_the_runtime_gives_them(plain):
    seen = observed(graph_of(plain), {"x": X})
    np.testing.assert_allclose(seen["y"], load(plain).run({"x": X})["y"], atol=1e-5)
    np.testing.assert_allclose(seen["r"], np.maximum(X @ WIDE + BIAS, 0), atol=1e-5)
