"""One face over two runtimes, which refuses what does not fit and never falls back in silence."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from seatrial.base.settings import CannotDo
from seatrial.engine.bundle import HashedNgrams, Signature, TensorSpec, write
from seatrial.engine.runtime import example, load

SIGNATURE = Signature((TensorSpec("x", "FP32", (-1, 3)),), (TensorSpec("y", "FP32", (-1,)),))
GPU = any(Path("/dev").glob("nvidia[0-9]*"))


def linear(path, axes=(1,), inputs=("x",), outputs=("y",)):
    "A graph that adds up each row of x."
    info = helper.make_tensor_value_info
    held = [onnx.numpy_helper.from_array(np.array(axes, dtype=np.int64), "axes")]
    nodes = [helper.make_node("ReduceSum", [inputs[0], "axes"], [outputs[0]], keepdims=0)]
    graph = helper.make_graph(
        nodes,
        "g",
        [info(i, TensorProto.FLOAT, ["rows", 3]) for i in inputs],
        [info(o, TensorProto.FLOAT, None) for o in outputs],
        held,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture
def bundle(tmp_path):
    return write(tmp_path / "bundle", signature=SIGNATURE, graph=linear(tmp_path / "g.onnx"))


@pytest.fixture
def program(tmp_path):
    "The same sums as a torch program."
    import torch

    class Sums(torch.nn.Module):
        def forward(self, x):
            return x.sum(1)

    free = {"x": {0: torch.export.Dim("rows")}}
    exported = torch.export.export(Sums(), (), {"x": torch.ones(2, 3)}, dynamic_shapes=free)
    torch.export.save(exported, tmp_path / "g.pt2")
    return write(tmp_path / "program", signature=SIGNATURE, graph=tmp_path / "g.pt2")


@pytest.fixture(params=["onnx", "torch program", "live module"])
def engine(request, bundle):
    "Every runtime over the same function: one contract for all."
    if request.param == "onnx":
        return load(bundle, threads=1)
    if request.param == "torch program":
        return load(request.getfixturevalue("program"), runtime="torch")
    import torch

    class Sums(torch.nn.Module):
        def forward(self, x):
            return x.sum(1)

    return load(bundle, runtime="torch", module=Sums())


def test_every_runtime_gives_one_answer_a_row_under_the_clients_name(engine):
    for rows in (1, 2, 7, 64):
        x = np.random.default_rng(rows).normal(size=(rows, 3))
        out = engine.run({"x": x})
        assert list(out) == ["y"] and out["y"].dtype == np.float32
        np.testing.assert_allclose(out["y"], x.sum(1), atol=1e-5)


def test_every_runtime_says_what_it_is(engine):
    facts = engine.describe()
    assert facts["device"] == "cpu" and facts["signature"] == SIGNATURE.to_dict()
    assert facts["library"].split()[0] in {"onnxruntime", "torch"}
    assert list(engine.warm((1, 3))) == [1, 3]


def test_every_runtime_refuses_a_bad_request_before_it_runs(engine):
    for sent, words in [
        ({"x": [[1, 2]]}, "must have shape"),
        ({"x": [[1, 2, np.nan]]}, "nan"),
        ({"z": [1]}, "named x"),
    ]:
        with pytest.raises(ValueError, match=words):
            engine.run(sent)


def test_a_bundle_that_was_loaded_from_its_folder_answers_the_same(bundle):
    x = {"x": [[1, 2, 3]]}
    assert load(str(bundle.folder)).run(x)["y"] == load(bundle).run(x)["y"] == 6


def test_a_session_stays_on_the_cpu_alone(bundle):
    session = ort.InferenceSession(str(bundle.folder / bundle.graph), providers=["CPUExecutionProvider"])
    assert session.get_providers() == ["CPUExecutionProvider"]
    assert load(bundle).call.device == "cpu"


@pytest.mark.skipif(GPU, reason="this machine has a GPU")
@pytest.mark.parametrize("runtime", ["onnx", "torch"])
def test_a_missing_gpu_is_an_error_and_never_a_fallback(bundle, program, runtime, capfd):
    with pytest.raises(CannotDo, match="needs an NVIDIA GPU"):
        load(bundle if runtime == "onnx" else program, runtime=runtime, device="cuda")
    assert capfd.readouterr().err == ""


@pytest.mark.gpu
@pytest.mark.skipif(not GPU, reason="needs an NVIDIA GPU, and this machine has none")
def test_the_gpu_answers_as_the_cpu_does(bundle):
    x = {"x": np.random.default_rng(0).normal(size=(64, 3))}
    np.testing.assert_allclose(load(bundle, device="cuda").run(x)["y"], load(bundle).run(x)["y"], atol=1e-4)


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        ({"runtime": "tf"}, "runtime must be one of onnx, .*, got 'tf'"),
        ({"device": "tpu"}, "device must be one of cpu, cuda, got 'tpu'"),
        ({"threads": -1}, "threads must be"),
        ({"threads": 1.5}, "threads must be"),
        ({"module": object(), "runtime": "onnx"}, "module must come with runtime 'torch'"),
    ],
)
def test_a_choice_that_does_not_exist_is_refused(bundle, odd, words):
    with pytest.raises(ValueError, match=words):
        load(bundle, **odd)


def test_a_graph_is_not_given_to_the_wrong_runtime(bundle, program):
    with pytest.raises(CannotDo, match="runtime='torch'"):
        load(program, runtime="onnx")
    with pytest.raises(CannotDo, match="runtime='onnx'"):
        load(bundle, runtime="torch")


@pytest.mark.parametrize("cut", [1, 40, 100])
def test_a_cut_graph_is_refused_in_one_sentence(bundle, cut, capfd):
    path = bundle.folder / bundle.graph
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(CannotDo, match="export") as caught:
        load(bundle.folder).run({"x": [[1, 2, 3]]})
    assert "\n" not in str(caught.value)
    assert "[E:onnxruntime" not in capfd.readouterr().err


def test_a_damaged_program_is_refused(program):
    path = program.folder / program.graph
    data = path.read_bytes()
    path.write_bytes(data[:200] + bytes(len(data) - 400) + data[-200:])
    with pytest.raises(CannotDo):
        load(program.folder, runtime="torch")


def test_a_graph_that_returns_one_row_for_many_is_refused(tmp_path):
    wrong = write(tmp_path / "b", signature=SIGNATURE, graph=linear(tmp_path / "w.onnx", axes=(0,)))
    with pytest.raises(CannotDo, match="must be 2 rows"):
        load(wrong).run({"x": np.ones((2, 3))})


def test_a_graph_without_its_promised_output_is_refused(tmp_path):
    wrong = write(tmp_path / "b", signature=SIGNATURE, graph=linear(tmp_path / "w.onnx", outputs=("z",)))
    with pytest.raises(CannotDo, match="has no output y"):
        load(wrong)


def test_a_graph_that_wants_more_than_its_preparation_makes_is_refused(tmp_path):
    text = Signature((TensorSpec("text", "BYTES", (-1,)),), SIGNATURE.outputs)
    wrong = write(tmp_path / "b", signature=text, graph=linear(tmp_path / "w.onnx"), preparation=HashedNgrams())
    with pytest.raises(CannotDo, match="wants x"):
        load(wrong)


def test_an_example_fits_its_signature_whatever_that_is():
    specs = (TensorSpec("t", "BYTES", (-1,)), TensorSpec("i", "INT64", (-1, -1, 2)), TensorSpec("b", "BOOL", (-1,)))
    made = example(Signature(specs, SIGNATURE.outputs), 3)
    assert {k: v.shape for k, v in made.items()} == {"t": (3,), "i": (3, 1, 2), "b": (3,)}


def test_serving_an_onnx_bundle_never_imports_torch(bundle):
    code = "import sys; from seatrial.engine.runtime import load; "
    code += f"print(load({str(bundle.folder)!r}).run({{'x': [[1, 2, 3]]}})['y']); "
    code += "print(*{'torch', 'onnx', 'mlflow', 'sklearn', 'scipy', 'tokenizers'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out == "[6.]\n\n"
