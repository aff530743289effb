"""Models come as files: each becomes a bundle that answers as it did, or one sentence."""

import warnings

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from seatrial.base.settings import CannotDo
from seatrial.engine.export import bundle_of
from seatrial.engine.runtime import load
from tests.engine.nets import of

X = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)


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
