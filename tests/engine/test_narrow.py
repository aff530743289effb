"""Fewer bits where they are asked for, fewer layers in bytes where the answers need it."""

import numpy as np
import onnx
import pytest

from seatrial.base.settings import CannotDo
from seatrial.engine.export import bundle_of
from seatrial.engine.narrow import halved, weight_only
from seatrial.engine.quantize import graph_of, products, quantize
from seatrial.engine.sensitive import spare, stays, suffering
from seatrial.engine.static import moved
from tests.engine.nets import dense, linear

X = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)


@pytest.fixture(scope="module")
def wild(tmp_path_factory):
    "Three layers; what goes into the last has one giant channel."
    rng = np.random.default_rng(5)
    a, b, c = (linear(rng, 64, n) for n in (64, 64, 1))
    b[0][0], c[0][0, 0] = 200 * b[0][0], c[0][0, 0] / 200
    return dense(tmp_path_factory.mktemp("wild"), [a, b, c], flat=True)


@pytest.mark.parametrize("block", [16, 64])
def test_more_bits_lie_closer_and_weigh_more(wild, tmp_path, block):
    made = {bits: weight_only(wild, tmp_path / f"{bits}", bits, block) for bits in (4, 8)}
    off = {bits: moved(wild, b, {"input": X}) for bits, b in made.items()}
    assert off[8] < off[4] < 0.5
    assert made[4].size_mb < made[8].size_mb < wild.size_mb
    assert made[4].card["quantized"]["bits"] == 4


def test_halves_take_half_and_stay(wild, tmp_path):
    half = halved(wild, tmp_path / "b")
    assert moved(wild, half, {"input": X}) < 0.01 and half.card["halved"]["tolerance"] == 0.01
    kinds = {t.data_type for t in onnx.load(half.folder / half.graph).graph.initializer if len(t.dims) == 2}
    assert kinds == {onnx.TensorProto.FLOAT16}


@pytest.mark.parametrize(("bits", "block"), [(5, 32), (8, 33), (0, 32), (4, 8)])
def test_sizes_that_do_not_exist_are_refused(wild, tmp_path, bits, block):
    with pytest.raises(ValueError, match="bits must be 4 or 8"):
        weight_only(wild, tmp_path / "b", bits, block)


def test_twice_is_refused(wild, tmp_path):
    small = weight_only(wild, tmp_path / "a")
    for again in (weight_only, halved, quantize):
        with pytest.raises(ValueError, match="holds int8 already"):
            again(small, tmp_path / "b")


def test_the_layer_behind_the_giant_suffers_most(wild):
    worst = suffering(wild, {"input": X})
    assert next(iter(worst)) == products(graph_of(wild))[2] and set(worst) == set(products(graph_of(wild)))


def test_only_as_many_are_let_off_as_are_needed(wild, tmp_path):
    asked = []

    def needs(n):
        def holds(bundle):
            asked.append(len(bundle.card["quantized"]["excluded"]))
            return "" if asked[-1] >= n else "not yet"

        return holds

    free = spare(wild, tmp_path / "free", {"input": X}, needs(0))
    one = spare(wild, tmp_path / "one", {"input": X}, needs(1))
    assert free.card["sensitive"]["spared"] == [] and len(one.card["sensitive"]["spared"]) == 1
    assert asked == [0, 0, 1]


def test_half_of_the_layers_and_no_more_are_let_off(tmp_path):
    rng = np.random.default_rng(0)
    deep = dense(tmp_path / "deep", [linear(rng, 64, 64) for _ in range(12)])
    asked = []
    with pytest.raises(CannotDo, match="even without 6 of 12 products: never"):
        spare(
            deep, tmp_path / "b", {"input": X}, lambda b: asked.append(len(b.card["quantized"]["excluded"])) or "never"
        )
    assert asked == [0, 1, 2, 4, 6]
    half = spare(
        deep, tmp_path / "c", {"input": X}, lambda b: "" if len(b.card["quantized"]["excluded"]) >= 6 else "not yet"
    )
    assert len(half.card["sensitive"]["spared"]) == 6 and half.card["sensitive"]["tried"]["5"] == "not yet"


def test_sparing_restores_what_bytes_have_spoilt(wild, tmp_path):
    spoilt = moved(wild, quantize(wild, tmp_path / "all"), {"input": X})
    spared = spare(wild, tmp_path / "some", {"input": X[::2]}, stays(wild, {"input": X}, 0.5 * spoilt))
    assert moved(wild, spared, {"input": X}) <= 0.5 * spoilt and len(spared.card["sensitive"]["spared"]) == 1


@pytest.mark.parametrize("answer", [True, False, None, 0.1])
def test_a_judge_says_why_and_not_whether(wild, tmp_path, answer):
    with pytest.raises(ValueError, match=f"holds must return why .* got {answer}"):
        spare(wild, tmp_path / "b", {"input": X}, lambda bundle: answer)
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("rows", "more", "says"),
    [
        (X, {"share": -0.1}, "share must be 0 or more"),
        (X, {"share": float("nan")}, "share must be 0 or more"),
        (X, {"output": "nobody"}, "output one of prediction"),
        (X[:1], {}, "got 1 without a spread"),
        (np.ones_like(X), {}, "got 64 without a spread"),
        (X[:0], {}, "at least one row"),
        (X * np.nan, {}, "finite"),
    ],
)
def test_a_margin_or_rows_that_mean_nothing_are_refused(wild, rows, more, says):
    with pytest.raises(ValueError, match=says):
        stays(wild, {"input": rows}, **more)


def test_a_classifier_is_judged_by_its_probabilities(tmp_path):
    from sklearn.neural_network import MLPClassifier

    model = MLPClassifier((32,), max_iter=5, random_state=0)
    with pytest.warns(UserWarning, match="hasn't converged"):
        model.fit(X, np.where(X[:, 0] > 0, "cat", "dog"))
    net = bundle_of(model, X[:4], tmp_path / "net")
    made = spare(net, tmp_path / "b", {"x": X}, stays(net, {"x": X}, 0.2))
    assert made.card["sensitive"]["tried"] == {"0": "held"}


@pytest.mark.parametrize("bits", [4, 8])
def test_a_weight_is_off_by_half_a_step_of_its_block_unless_it_mirrors_the_largest(tmp_path, bits):
    w = np.random.default_rng(1).normal(size=(64, 8)).astype(np.float32)
    packed = graph_in(weight_only(dense(tmp_path / "a", [(w.T, None)]), tmp_path / "b", bits, 32))
    q, s = packed.reshape(8, 2, 32), scales_in(onnx.load(tmp_path / "b" / "model.onnx")).reshape(8, 2, 1)
    exact, step = w.T.reshape(8, 2, 32), np.abs(s)
    off = np.abs(q * s - exact)
    cut = q == 2 ** (bits - 1) - 1
    assert (off[~cut] <= 0.5001 * np.broadcast_to(step, off.shape)[~cut]).all() and (off <= 1.0001 * step).all()


def graph_in(bundle):
    "The whole numbers of the only packed product, (columns, inputs)."
    graph = onnx.load(bundle.folder / bundle.graph).graph
    node = next(n for n in graph.node if n.op_type == "MatMulNBits")
    bits = next(a.i for a in node.attribute if a.name == "bits")
    raw = onnx.numpy_helper.to_array(next(t for t in graph.initializer if t.name == node.input[1]))
    parts = np.stack([raw & 15, raw >> 4], -1) if bits == 4 else raw  # the low half comes first
    return parts.reshape(8, -1).astype(int) - 2 ** (bits - 1)


def scales_in(model):
    node = next(n for n in model.graph.node if n.op_type == "MatMulNBits")
    return onnx.numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == node.input[2]))


def test_an_answer_that_stays_is_measured(wild, tmp_path):
    changed = quantize(wild, tmp_path / "all")
    off = moved(wild, changed, {"input": X})
    assert stays(wild, {"input": X}, 1.01 * off)(changed) == ""
    assert "answers move by" in stays(wild, {"input": X}, 0.99 * off)(changed)


def test_a_margin_that_nothing_meets_is_a_refusal(wild, tmp_path):
    with pytest.raises(CannotDo, match="do not hold even without 1 of 3 products: never"):
        spare(wild, tmp_path / "b", {"input": X}, lambda bundle: "never")
    assert not (tmp_path / "b").exists()
