"""Modules come in odd forms: each becomes a bundle that answers as it did, or one sentence."""

from collections import namedtuple

import numpy as np
import pytest
import torch

from seatrial.base.settings import CannotDo
from seatrial.engine.export import bundle_of
from seatrial.engine.runtime import load
from tests.engine.nets import of

X = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
BATCHES = {"batches": (1, 2, 64)}
Pair = namedtuple("Pair", "total mean")


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


class Odd(torch.nn.Module):
    "Takes tensors by keyword, counts its calls, drops in training, and answers with a dict that holds a tuple."

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.drop, self.norm = torch.nn.Dropout(0.5), torch.nn.BatchNorm1d(3)

    def forward(self, *, x, scale):
        self.calls += 1
        y = self.drop(self.norm(x)) * scale
        return {"total": y.sum(1), "ends": (x[:, 0], x[:, 2]), "cache": None}


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    "It, in double precision and left in training, its bundle, and whether exporting it left a trace."
    module = Odd().double().train()
    made = bundle_of(module, {"x": X, "scale": X}, tmp_path_factory.mktemp("odd") / "b", **BATCHES)
    return module, made, module.training and module.calls == 0


def test_a_dict_with_a_tuple_in_it_is_served_by_its_names(odd):
    sent = {"x": X, "scale": X}
    served, live = load(odd[1]).run(sent), load(odd[0].eval(), example=sent).run(sent)
    assert list(served) == list(live) == ["total", "ends_0", "ends_1"]
    for name in live:
        np.testing.assert_allclose(served[name], live[name], atol=1e-5)


def test_keyword_only_tensors_go_by_their_names(odd):
    answers = [load(odd[1]).run({"x": X, "scale": k * X})["total"] for k in (1, 2)]
    assert [s.name for s in odd[1].signature.inputs] == ["x", "scale"]
    np.testing.assert_allclose(2 * answers[0], answers[1], atol=1e-5)


def test_a_module_left_in_training_with_buffers_is_exported_as_it_predicts(odd):
    assert odd[2]
    module = Odd().double().eval()
    right = module(x=torch.from_numpy(X).double(), scale=torch.from_numpy(X).double())["total"].detach()
    np.testing.assert_allclose(load(odd[1]).run({"x": X, "scale": X})["total"], right, atol=1e-5)


def test_a_module_in_double_precision_takes_floats_of_any_width(odd):
    assert {s.datatype for s in odd[1].signature.inputs} == {"FP64"}
    a, b = (load(odd[1]).run({"x": x, "scale": x})["total"] for x in (X, X.astype(float)))
    np.testing.assert_array_equal(a, b)


class Named(torch.nn.Module):
    def forward(self, *, x, scale):
        return (x * scale).sum(1)


class Stars(torch.nn.Module):
    def forward(self, *tensors):
        return tensors[0]


def test_nested_lists_are_one_tensor(tmp_path):
    table = torch.nn.Embedding(10, 4)
    bundle = bundle_of(table, [[1, 2], [3, 4]], tmp_path / "b", **BATCHES)
    assert str(bundle.signature.inputs[0]) == "input INT64 [-1, 2]"


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
