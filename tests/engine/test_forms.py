"""Models come in odd forms: each becomes a bundle that answers as it did, or one sentence."""

import warnings
from collections import namedtuple

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from sklearn.cluster import KMeans
from sklearn.ensemble import IsolationForest, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.multioutput import MultiOutputClassifier
from sklearn.neighbors import LocalOutlierFactor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC, OneClassSVM

from seatrial.base.settings import CannotDo
from seatrial.engine.bundle import HashedNgrams, Signature, TensorSpec, read
from seatrial.engine.export import bundle_of, export
from seatrial.engine.parity import apart
from seatrial.engine.runtime import load

X = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
BATCHES = {"batches": (1, 2, 64)}
Pair = namedtuple("Pair", "total mean")


def of(function, *modules):
    "A module whose forward is a function of x."

    class Made(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = torch.nn.ModuleList(modules)

        def forward(self, x):
            return function(x, *self.parts)

    return Made()


@pytest.mark.parametrize(
    ("answer", "names"),
    [
        (lambda x: {"total": x.sum(1), "mean": x.mean(1), "cache": None}, ["total", "mean"]),
        (lambda x: (x.sum(1), (x.mean(1), x * 2)), ["output_0", "output_1_0", "output_1_1"]),
        (lambda x: Pair(x.sum(1), x.mean(1)), ["total", "mean"]),
        (lambda x: [x.sum(1)], ["prediction"]),
        (lambda x: {"logits": (x.sum(1), x.mean(1))}, ["logits_0", "logits_1"]),
    ],
    ids=["dict", "nested", "namedtuple", "list of one", "tuple in a dict"],
)
def test_every_tensor_of_an_answer_gets_a_name_from_where_it_stands(answer, names):
    module = of(lambda x: answer(x))
    live = load(module, example=X).run({"x": X})
    assert list(live) == names and [s.name for s in load(module, example=X).bundle.signature.outputs] == names


def test_a_dict_with_a_tuple_in_it_is_served_by_its_names(tmp_path):
    module = of(lambda x: {"total": x.sum(1), "ends": (x[:, 0], x[:, 2]), "cache": None})
    served = load(bundle_of(module, X, tmp_path / "b", **BATCHES)).run({"x": X})
    live = load(module, example=X).run({"x": X})
    assert list(served) == list(live) == ["total", "ends_0", "ends_1"]
    for name in live:
        np.testing.assert_allclose(served[name], live[name], atol=1e-5)


class Named(torch.nn.Module):
    def forward(self, *, x, scale):
        return (x * scale).sum(1)


class Stars(torch.nn.Module):
    def forward(self, *tensors):
        return tensors[0]


class Noted(torch.nn.Module):
    "Counts its calls, and drops in training."

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.drop, self.norm = torch.nn.Dropout(0.5), torch.nn.BatchNorm1d(3)

    def forward(self, x):
        self.calls += 1
        return self.drop(self.norm(x)).sum(1)


def test_keyword_only_tensors_go_by_their_names(tmp_path):
    bundle = bundle_of(Named(), {"x": X, "scale": X}, tmp_path / "b", **BATCHES)
    np.testing.assert_allclose(load(bundle).run({"x": X, "scale": X})["prediction"], (X * X).sum(1), atol=1e-5)


def test_a_module_left_in_training_with_buffers_is_exported_as_it_predicts(tmp_path):
    module = Noted().train()
    bundle = bundle_of(module, X, tmp_path / "b", **BATCHES)
    assert module.training and module.calls == 0
    np.testing.assert_allclose(
        load(bundle).run({"x": X})["prediction"], module.eval()(torch.from_numpy(X)).detach(), atol=1e-5
    )


def test_nested_lists_are_one_tensor(tmp_path):
    table = torch.nn.Embedding(10, 4)
    bundle = bundle_of(table, [[1, 2], [3, 4]], tmp_path / "b", **BATCHES)
    assert str(bundle.signature.inputs[0]) == "input INT64 [-1, 2]"


def test_a_module_in_double_precision_takes_floats_of_any_width(tmp_path):
    bundle = bundle_of(torch.nn.Linear(3, 1).double(), X, tmp_path / "b", **BATCHES)
    assert bundle.signature.inputs[0].datatype == "FP64"


@pytest.mark.parametrize(
    ("module", "example", "words"),
    [
        (torch.nn.Linear(3, 1), X[:, :2], "its forward failed on it"),
        (torch.nn.Linear(3, 1), X[:0], "at least one"),
        (torch.nn.Linear(3, 1), None, "numbers in rows"),
        (torch.nn.Linear(3, 1), 3.0, "numbers in rows"),
        (torch.nn.Linear(3, 1), np.array(["a"]), "numbers in rows"),
        (torch.nn.Linear(3, 1), {"input": X, "zz": X}, "got zz"),
        (Named(), {"x": X, "scale": X[:3]}, "x with 40, scale with 3"),
        (Stars(), X, "must name the tensors"),
        (of(lambda x: None), X, "got NoneType"),
        (of(lambda x: "text"), X, "got str"),
        (of(lambda x: x.sum()), X, "array of rows"),
        (of(lambda x: x.bfloat16()), X, "BFloat16"),
        (of(lambda x: 1 / 0), X, "division by zero"),
    ],
)
def test_what_no_bundle_can_be_made_of_is_one_sentence(module, example, words, tmp_path):
    with pytest.raises((ValueError, CannotDo), match=words) as caught:
        bundle_of(module, example, tmp_path / "b")
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == []


def test_outputs_must_be_as_many_as_the_answer_has(tmp_path):
    with pytest.raises(ValueError, match="must name the 1 tensors"):
        bundle_of(torch.nn.Linear(3, 1), X, tmp_path / "b", outputs=["a", "b"])


def test_a_model_that_mixes_the_rows_of_a_batch_is_refused(tmp_path):
    with pytest.raises(CannotDo, match=r"answers a row differently .* let forward treat rows apart"):
        bundle_of(of(lambda x: x - x.mean(0)), X, tmp_path / "b", **BATCHES)
    apart(lambda t: [t["x"].sum(1)], {"x": X}, 1e-4, "sums")


def test_answers_that_are_no_numbers_are_said_to_be_so(tmp_path):
    with pytest.raises(CannotDo, match="answers no finite numbers"):
        bundle_of(of(lambda x: torch.log(x).sum(1)), X, tmp_path / "b", **BATCHES)


class Both(torch.nn.Module):
    "Reads a text and a number."

    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(50, 4, padding_idx=0)

    def forward(self, ids, age):
        return self.table(ids).sum((1, 2)) + age


def test_a_number_passes_beside_the_text(tmp_path):
    torch.manual_seed(0)
    module, step = Both().eval(), HashedNgrams(buckets=50)
    sent = {"text": ["a fine film", "dull", ""], "age": np.array([1.0, 2.0, 3.0])}
    bundle = bundle_of(module, sent, tmp_path / "b", preparation=step, outputs=["rating"])
    assert str(bundle.signature.inputs[0]) == "text BYTES [-1]"
    ids = step({"text": np.array(sent["text"], dtype=object)}, None)["ids"]
    right = module(torch.from_numpy(ids), torch.from_numpy(sent["age"]).float()).detach()
    np.testing.assert_allclose(load(read(tmp_path / "b")).run(sent)["rating"], right, atol=1e-5)


class Masked(torch.nn.Module):
    "Reads numbers of tokens and their mask, which are equally long."

    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(50, 4)

    def forward(self, input_ids, attention_mask):
        seen = self.table(input_ids) * attention_mask[:, :, None]
        return seen.sum((1, 2)) / attention_mask.sum(1).clamp(min=1)


def test_two_tensors_that_share_a_length_are_exported_and_held_to_it(tmp_path):
    specs = [TensorSpec(name, "INT64", (-1, -1), axes=("", "length")) for name in ("input_ids", "attention_mask")]
    signature = Signature(tuple(specs), (TensorSpec("score", "FP32", (-1,)),))
    example = {name: np.ones((2, 5), np.int64) for name in ("input_ids", "attention_mask")}
    module = Masked().eval()
    bundle = export(module, example, tmp_path / "b", signature=signature, **BATCHES)
    assert read(tmp_path / "b").signature == signature
    for length in (1, 3, 17):
        ids = np.arange(2 * length).reshape(2, length) % 50
        right = module(torch.from_numpy(ids), torch.ones(2, length, dtype=torch.int64)).detach()
        answer = load(bundle).run({"input_ids": ids, "attention_mask": np.ones((2, length), int)})["score"]
        np.testing.assert_allclose(answer, right, atol=1e-5)
    with pytest.raises(ValueError, match="attention_mask must have the length of input_ids, which is 3, got 2"):
        load(bundle).run({"input_ids": np.ones((1, 3), int), "attention_mask": np.ones((1, 2), int)})
    again = bundle_of(bundle.folder / bundle.graph, None, tmp_path / "again")  # an ONNX file names its axes, too
    assert [s.axes[1:] for s in again.signature.inputs] == [("length",), ("length",)]


@pytest.mark.parametrize(
    "model",
    [
        IsolationForest(n_estimators=5, random_state=0),
        OneClassSVM(),
        LocalOutlierFactor(novelty=True),
        make_pipeline(StandardScaler(), IsolationForest(n_estimators=5, random_state=0)),
    ],
    ids=["forest", "one class", "local", "pipeline"],
)
def test_a_detector_of_outliers_answers_with_label_and_score(model, tmp_path):
    bundle = bundle_of(model.fit(X), X, tmp_path / "b")
    out, live = load(bundle).run({"x": X}), load(model, example=X).run({"x": X})
    assert out["label"].tolist() == live["label"].tolist() == model.predict(X).tolist()
    np.testing.assert_allclose(out["score"], model.decision_function(X), atol=1e-4)


def test_a_clustering_answers_with_labels(tmp_path):
    model = KMeans(3, n_init=1, random_state=0).fit(X)
    assert load(bundle_of(model, X, tmp_path / "b")).run({"x": X})["label"].tolist() == model.predict(X).tolist()


@pytest.mark.parametrize("scaled", [False, True])
def test_a_classifier_without_probabilities_keeps_its_labels(scaled, tmp_path):
    labels = np.array(["no", "yes"])[(X[:, 0] > 0).astype(int)]
    model = (make_pipeline(StandardScaler(), LinearSVC()) if scaled else LinearSVC()).fit(X, labels)
    assert load(bundle_of(model, X, tmp_path / "b")).run({"x": X})["label"].tolist() == model.predict(X).tolist()


@pytest.mark.parametrize("model", [RandomForestClassifier(3), MultiOutputClassifier(LogisticRegression())])
def test_a_classifier_of_several_labels_is_told_so(model, tmp_path):
    model.fit(X, (X[:, :2] > 0).astype(int))
    with pytest.raises(CannotDo, match="gives 2 labels a row"):
        bundle_of(model, X, tmp_path / "b")


def test_a_torch_program_becomes_a_graph(tmp_path):
    module, free = torch.nn.Linear(3, 2).eval(), {0: torch.export.Dim("rows")}
    torch.export.save(torch.export.export(module, (torch.ones(2, 3),), dynamic_shapes=(free,)), tmp_path / "m.pt2")
    bundle = bundle_of(tmp_path / "m.pt2", X, tmp_path / "b")
    assert bundle.graph == "model.onnx" and bundle.card["parity"]["largest"] < 1e-5
    np.testing.assert_allclose(
        load(bundle).run({"input": X})["prediction"], module(torch.from_numpy(X)).detach(), atol=1e-5
    )


def test_a_torch_file_for_one_number_of_rows_is_refused(tmp_path):
    torch.export.save(torch.export.export(torch.nn.Linear(3, 2), (torch.ones(4, 3),)), tmp_path / "m.pt2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(of(lambda x: x.reshape(4, 3).sum(1)), torch.ones(4, 3)).save(tmp_path / "m.pt")
    for name in ("m.pt", "m.pt2"):
        with pytest.raises((CannotDo, ValueError), match=r"cannot take 1 rows|its forward failed"):
            bundle_of(tmp_path / name, X[:4], tmp_path / "b")
    assert not (tmp_path / "b").exists()


def graph(path, value):
    "An ONNX file with one output of a given kind."
    side = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 3])]
    kind = "SequenceConstruct" if value.type.HasField("sequence_type") else "Identity"
    made = helper.make_graph([helper.make_node(kind, ["x"], ["y"])], "g", side, [value])
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_an_onnx_file_without_the_shapes_of_its_outputs_is_understood(tmp_path):
    path = graph(tmp_path / "g.onnx", helper.make_tensor_value_info("y", TensorProto.FLOAT, None))
    assert bundle_of(path, X, tmp_path / "b").signature.outputs[0].shape == (-1, 3)


def test_an_onnx_file_that_gives_a_sequence_is_told_what_to_do(tmp_path):
    path = graph(tmp_path / "g.onnx", helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, ["rows", 3]))
    with pytest.raises(ValueError, match=r"y is a sequence; export it so \(zipmap=False"):
        bundle_of(path, X, tmp_path / "b")


@pytest.mark.parametrize(
    ("opset", "ir", "words"), [(99, 8, "opset"), (17, 99, "max supported IR version"), (1, 3, "Relu")]
)
def test_a_graph_of_another_age_is_refused_with_the_reason_and_its_own_path(opset, ir, words, tmp_path):
    sides = [[helper.make_tensor_value_info(n, TensorProto.FLOAT, ["rows", 3])] for n in "xy"]
    made = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", *sides)
    onnx.save(
        helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir), tmp_path / "g.onnx"
    )
    with pytest.raises(CannotDo, match=words) as caught:
        bundle_of(tmp_path / "g.onnx", X, tmp_path / "b")
    assert str(tmp_path / "g.onnx") in str(caught.value) and "onnxruntime_src" not in str(caught.value)
