"""A graph serves only if it answers as its original does; whatever people bring becomes a bundle or a sentence."""

import copy
import pickle
import warnings

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from sklearn.ensemble import GradientBoostingClassifier, RandomForestRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from seatrial.base.settings import CannotDo
from seatrial.engine.bundle import HashedNgrams, Signature, TensorSpec
from seatrial.engine.export import bundle_of, export
from seatrial.engine.parity import parity, strayed
from seatrial.engine.runtime import load

TEXT = Signature((TensorSpec("text", "BYTES", (-1,)),), (TensorSpec("rating", "FP32", (-1,)),))
ROWS = Signature((TensorSpec("x", "FP32", (-1, 3)),), (TensorSpec("y", "FP32", (-1,)),))
X = np.random.default_rng(0).normal(size=(80, 3)).astype(np.float32)


class Bag(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(50, 4, padding_idx=0)
        self.drop = torch.nn.Dropout(0.5)

    def forward(self, ids):
        return self.drop(self.table(ids)).sum((1, 2))


class Sums(torch.nn.Module):
    def forward(self, x):
        return x.sum(1)


class Two(torch.nn.Module):
    def forward(self, a, b):
        return a.sum(1), b * 2


class Python(torch.nn.Module):
    def forward(self, x):
        return x[:, 0] if float(x.sum()) > 0 else x[:, 1]


class Fixed(torch.nn.Module):
    def forward(self, x):
        return x.reshape(2, -1).sum(1)


@pytest.fixture(scope="module")
def bag(tmp_path_factory):
    torch.manual_seed(0)
    module = Bag()
    ids = {"ids": np.array([[1, 2, 3], [4, 0, 0]])}
    place = tmp_path_factory.mktemp("bag") / "bundle"
    return module, ids, export(module, ids, place, signature=TEXT, preparation=HashedNgrams(buckets=50))


def test_the_graph_answers_as_the_module_in_every_size(bag):
    module, ids, bundle = bag
    found = parity(bundle, lambda s: [module.eval()(torch.from_numpy(s["ids"])).detach().numpy()], ids, (1, 3, 64))
    assert {rows for rows, _ in found} == {1, 3, 64} and {n for _, n in found} == {1, 3, 6, 256}
    assert max(found.values()) < 1e-5


def test_the_callers_module_is_left_as_it_was(tmp_path):
    module = torch.nn.Sequential(torch.nn.Linear(3, 1), torch.nn.Dropout(0.5))
    before = copy.deepcopy(module.state_dict())
    export(module, {"input": X[:2]}, tmp_path / "b", signature=_single("input"))
    assert module.training
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())


def _single(name):
    return Signature((TensorSpec(name, "FP32", (-1, 3)),), (TensorSpec("y", "FP32", (-1,)),))


def test_the_file_holds_nothing_of_the_machine_that_made_it(bag):
    _, _, bundle = bag
    data = (bundle.folder / bundle.graph).read_bytes()
    assert b"site-packages" not in data and __file__.encode() not in data
    assert sorted(p.name for p in bundle.folder.iterdir()) == ["bundle.json", "model.onnx"]


def test_a_graph_that_strays_is_refused_with_the_difference_and_leaves_nothing(tmp_path):
    with pytest.raises(CannotDo, match=r"differ by .* at 1 rows, more than the tolerance -1"):
        export(torch.nn.Linear(3, 1), {"input": X[:2]}, tmp_path / "b", signature=_single("input"), tolerance=-1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("module", [Python(), Fixed()], ids=["asks Python", "fixed rows"])
def test_a_module_that_cannot_be_a_graph_is_one_sentence(module, tmp_path, capfd):
    with pytest.raises(CannotDo) as caught:
        export(module, {"x": X[:2]}, tmp_path / "b", signature=ROWS)
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == []
    assert capfd.readouterr().out == ""


def test_an_example_without_what_forward_takes_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"forward \(x\), got z"):
        export(Sums(), {"z": X}, tmp_path / "b", signature=ROWS)


@pytest.mark.parametrize(
    ("answer", "reference", "off"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0),
        ([1.0, 2.5], [1.0, 2.0], 0.25),
        ([0.1], [0.0], 0.1),
        ([np.nan], [1.0], np.inf),
        ([1.0], [np.nan], np.inf),
        ([1.0, 2.0], [1.0], np.inf),
    ],
)
def test_straying_is_relative_for_large_numbers_and_never_hides_a_nan(answer, reference, off):
    assert strayed(np.array(answer), np.array(reference)) == pytest.approx(off)


def test_labels_may_not_stray_at_all():
    assert strayed(np.array([1, 2]), np.array([1, 2])) == 0
    assert strayed(np.array(["a", "b"]), np.array(["a", "c"])) == np.inf


def test_a_module_with_several_inputs_and_outputs_becomes_a_bundle(tmp_path):
    bundle = bundle_of(Two(), (X[:4].astype(float), np.ones((4, 2), np.float32)), tmp_path / "b", outputs=["s", "d"])
    out = load(bundle).run({"a": X, "b": np.full((80, 2), 3.0)})
    np.testing.assert_allclose(out["s"], X.sum(1), atol=1e-5)
    assert (out["d"] == 6).all()


def test_text_becomes_a_bundle_by_naming_its_preparation(bag, tmp_path):
    module, _, bundle = bag
    step = HashedNgrams(buckets=50)
    said = bundle_of(module, ["a fine film", "dull"], tmp_path / "b", preparation=step, outputs=["rating"])
    assert said.signature == TEXT
    sent = {"text": ["one", "two words", "and three more"]}
    np.testing.assert_array_equal(load(said).run(sent)["rating"], load(bundle).run(sent)["rating"])


@pytest.mark.parametrize("columns", [1, 2])
def test_a_regressor_answers_as_it_did(columns, tmp_path):
    y = X[:, :columns] @ np.eye(columns)
    model = Ridge().fit(X, y[:, 0] if columns == 1 else y)
    bundle = bundle_of(model, X[:10], tmp_path / "b")
    assert bundle.signature.outputs[0].shape == ((-1,) if columns == 1 else (-1, 2))
    np.testing.assert_allclose(load(bundle).run({"x": X})["prediction"], model.predict(X), atol=1e-4)


@pytest.mark.parametrize("labels", [["no", "yes"], [0, 1], [3, 7, 9]])
def test_a_classifier_keeps_its_labels_and_probabilities(labels, tmp_path):
    y = np.array(labels)[np.digitize(X[:, 0], [0, 0.5][: len(labels) - 1])]
    model = LogisticRegression().fit(X, y)
    out = load(bundle_of(model, X, tmp_path / "b")).run({"x": X})
    assert out["label"].tolist() == model.predict(X).tolist()
    np.testing.assert_allclose(out["probabilities"], model.predict_proba(X), atol=1e-4)


@pytest.mark.parametrize(
    "model", [RandomForestRegressor(5, random_state=0), GradientBoostingClassifier(n_estimators=5)]
)
def test_trees_become_bundles(model, tmp_path):
    model.fit(X, X[:, 0] > 0 if hasattr(model, "predict_proba") else X[:, 0])
    assert load(bundle_of(model, X, tmp_path / "b")).run({"x": X})


@pytest.mark.parametrize(
    ("model", "rows", "error", "words"),
    [
        (LogisticRegression(), X, CannotDo, "fit it first"),
        (StandardScaler().fit(X), X, ValueError, "regressor or a classifier"),
        (Ridge().fit(X, X[:, 0]), [["a", "b", "c"]], ValueError, "rows of numbers"),
        (Ridge().fit(X, X[:, 0]), X[:0], ValueError, "rows of numbers"),
        (lambda x: x, X, ValueError, "got function"),
        ("model.pkl", None, ValueError, "got .model.pkl'"),
        ("lost.onnx", None, CannotDo, "not there"),
        (Sums(), (X, X), ValueError, "at most 1 tensors"),
    ],
)
def test_what_cannot_be_a_bundle_is_refused_and_leaves_nothing(model, rows, error, words, tmp_path):
    with pytest.raises(error, match=words):
        bundle_of(model, rows, tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


def graph(path, rows="rows", kind=TensorProto.FLOAT):
    "A graph that passes a matrix on."
    value = [helper.make_tensor_value_info(n, kind, [rows, 3]) for n in "xy"]
    model = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", value[:1], value[1:])
    onnx.save(helper.make_model(model, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_an_onnx_file_brings_its_own_signature(tmp_path):
    bundle = bundle_of(graph(tmp_path / "g.onnx"), X, tmp_path / "b")
    assert [str(s) for s in bundle.signature.inputs] == ["x FP32 [-1, 3]"]
    np.testing.assert_array_equal(load(bundle).run({"x": X})["y"], X)


def test_an_onnx_file_for_a_fixed_batch_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"any number of rows, but x has shape \[4, 3\]"):
        bundle_of(graph(tmp_path / "g.onnx", rows=4), None, tmp_path / "b")


def test_an_onnx_file_that_keeps_its_weights_elsewhere_is_refused(tmp_path):
    held = onnx.numpy_helper.from_array(np.ones((3, 500), np.float32), "w")
    sides = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["rows", d]) for n, d in (("x", 3), ("y", 500))]
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    model = helper.make_model(helper.make_graph(nodes, "g", sides[:1], sides[1:], [held]), ir_version=8)
    onnx.save(model, tmp_path / "g.onnx", save_as_external_data=True, location="g.data")
    with pytest.raises(CannotDo, match="another file"):
        bundle_of(tmp_path / "g.onnx", None, tmp_path / "b")


def test_an_example_that_does_not_fit_an_onnx_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match="x must have shape"):
        bundle_of(graph(tmp_path / "g.onnx"), X[:, :2], tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_an_onnx_file_may_leave_more_than_its_rows_free(tmp_path):
    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", "time"]) for name in ("ids", "y")]
    made = helper.make_graph([helper.make_node("Identity", ["ids"], ["y"])], "g", sides[:1], sides[1:])
    onnx.save(
        helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "free.onnx"
    )
    bundle = bundle_of(tmp_path / "free.onnx", np.ones((2, 5), np.float32), tmp_path / "b")
    assert [s.shape for s in (*bundle.signature.inputs, *bundle.signature.outputs)] == [(-1, -1), (-1, -1)]
    assert load(bundle).run({"ids": np.ones((3, 7), np.float32)})["y"].shape == (3, 7)


def scripted(module, path):
    "A TorchScript file, as people still have them."
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(module).save(path)
    return path


class Loop(torch.nn.Module):
    "Something that no graph can do for any number of rows."

    def forward(self, x: torch.Tensor):
        total = torch.zeros(x.shape[0])
        for i in range(x.shape[0]):
            total[i] = x[i].sum()
        return total


class Tokens(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(20, 4)

    def forward(self, ids: torch.Tensor):
        return self.table(ids).mean((1, 2))


@pytest.mark.parametrize("suffix", [".pt", ".torchscript"])
def test_a_torchscript_file_becomes_a_graph(suffix, tmp_path):
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh()).eval()
    bundle = bundle_of(scripted(module, tmp_path / f"old{suffix}"), X[:1], tmp_path / "b")
    assert bundle.graph == "model.onnx" and bundle.card["parity"]["largest"] < 1e-5
    said = load(bundle).run({"input": X})["prediction"]
    np.testing.assert_allclose(said, module(torch.from_numpy(X)).detach(), atol=1e-5)


def test_a_torchscript_file_that_no_graph_can_be_is_served_as_it_is_and_says_why(tmp_path):
    bundle = bundle_of(scripted(Loop(), tmp_path / "old.pt"), X[:2], tmp_path / "b", outputs=["sum"])
    assert bundle.graph == "model.pt" and "torch, because" in bundle.card["served_by"]
    engine = load(bundle.folder)
    assert engine.runtime == "torch" and engine.describe()["facts"]["form"] == "torchscript"
    np.testing.assert_allclose(engine.run({"x": X})["sum"], X.sum(1), atol=1e-5)


@pytest.mark.parametrize(
    ("content", "words"),
    [(lambda path: torch.save(Sums(), path), "pickle"), (lambda path: path.write_bytes(b"PK nothing"), "unknown")],
)
def test_what_is_no_torchscript_is_refused_unread(content, words, tmp_path):
    content(tmp_path / "old.pt")
    with pytest.raises(CannotDo, match=f"holds {words} content"):
        bundle_of(tmp_path / "old.pt", X[:2], tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_a_pickle_is_never_opened_whatever_it_is_called(tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path.joinpath("sprung").write_text, ("boom",))

    for name in ("trap.onnx", "trap.pt"):
        (tmp_path / name).write_bytes(pickle.dumps(Trap()))
        with pytest.raises(CannotDo, match="a pickle can run code and is never opened"):
            bundle_of(tmp_path / name, X[:2], tmp_path / "b")
    assert not (tmp_path / "sprung").exists()


@torch.library.custom_op("harbour_tests::twist", mutates_args=())
def twist(x: torch.Tensor) -> torch.Tensor:
    return x.flip(0)


@twist.register_fake
def _(x):
    return torch.empty_like(x)


class Twisted(torch.nn.Module):
    def forward(self, x):
        return twist(x).sum(1)


def test_an_operator_that_onnx_lacks_is_named_in_one_sentence(tmp_path):
    with pytest.raises(CannotDo, match=r"ONNX has no operator for harbour_tests\.twist") as caught:
        export(Twisted(), {"x": X[:2]}, tmp_path / "b", signature=ROWS)
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == []


class Short(torch.nn.Module):
    "Has positions for eight n-grams, while the preparation lets sixteen through."

    def __init__(self):
        super().__init__()
        self.table, self.place = torch.nn.Embedding(50, 4), torch.nn.Parameter(torch.ones(8, 4))

    def forward(self, ids):
        positions = torch.arange(ids.shape[1])
        return (self.table(ids) * torch.nn.functional.embedding(positions, self.place)).sum((1, 2))


def test_a_table_of_positions_that_ends_before_the_longest_text_is_found_at_export(tmp_path):
    step = HashedNgrams(buckets=50, width=16)
    with pytest.raises((CannotDo, IndexError)):
        export(Short(), {"ids": np.ones((2, 4), np.int64)}, tmp_path / "b", signature=TEXT, preparation=step)
    assert not (tmp_path / "b").exists()


def test_attention_answers_alike_in_every_batch_and_length(tmp_path):
    class Attention(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table = torch.nn.Embedding(50, 8, padding_idx=0)
            self.layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)

        def forward(self, ids):
            mask = ids > 0
            seen = self.layer(self.table(ids), src_key_padding_mask=~mask)
            return (seen * mask[:, :, None]).sum((1, 2)) / mask.sum(1).clamp(min=1)

    torch.manual_seed(0)
    step = HashedNgrams(buckets=50, width=64)
    ids = step({"text": np.array(["a fine harbour at dawn", "dull"], dtype=object)}, None)
    bundle = export(Attention(), ids, tmp_path / "b", signature=TEXT, preparation=step, batches=(1, 2, 3, 16, 64))
    assert bundle.card["parity"]["largest"] < 1e-4 and bundle.card["parity"]["batches"] == [1, 2, 3, 16, 64]
    assert not [f for f in bundle.folder.iterdir() if f.suffix == ".data"]  # one file
