"""One contract for every runtime that this machine has: the same answers, the same refusals, plain facts."""

import json
import os
import re
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from sklearn.linear_model import LinearRegression

from seatrial.base.settings import CannotDo
from seatrial.engine.bundle import Signature, TensorSpec, write
from seatrial.engine.preparation import HashedNgrams
from seatrial.engine.program import compiler
from seatrial.engine.runtime import RUNTIMES, load, runtimes
from seatrial.serve.server import launch
from tests.serve.harbour import settings_for, shelve

WEIGHTS = [1.0, -2.0, 0.5]
SIGNATURE = Signature((TensorSpec("x", "FP32", (-1, 3)),), (TensorSpec("y", "FP32", (-1,)),))
HAS_GPU = any(Path("/dev").glob("nvidia[0-9]*"))
GPU_ONLY = pytest.mark.skipif(not HAS_GPU, reason="needs an NVIDIA GPU, and this machine has none")
NO_CXX = pytest.mark.skipif(not compiler(), reason="needs a C++ compiler, and this machine has none")


class Weighted(torch.nn.Module):
    "A weighted sum of each row."

    def __init__(self):
        super().__init__()
        self.weights = torch.nn.Parameter(torch.tensor(WEIGHTS))

    def forward(self, x):
        return x @ self.weights


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("contract")


@pytest.fixture(scope="module")
def graph(place):
    info, float32 = helper.make_tensor_value_info, TensorProto.FLOAT
    held = [helper.make_tensor("w", float32, [3], WEIGHTS)]
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    made = helper.make_graph(nodes, "g", [info("x", float32, ["n", 3])], [info("y", float32, ["n"])], held)
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), place / "g.onnx")
    return write(place / "graph", signature=SIGNATURE, graph=place / "g.onnx")


def of_program(place, graph, request):
    example, free = {"x": torch.ones(2, 3)}, {"x": {0: torch.export.Dim("rows")}}
    torch.export.save(torch.export.export(Weighted(), (), example, dynamic_shapes=free), place / "g.pt2")
    return load(write(place / "program", signature=SIGNATURE, graph=place / "g.pt2"), threads=1)


def of_script(place, graph, request):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(Weighted()).save(place / "g.pt")
    return load(write(place / "script", signature=SIGNATURE, graph=place / "g.pt"), threads=1)


def of_estimator(place, graph, request):
    x = np.random.default_rng(0).normal(size=(50, 3))
    return load(graph, module=LinearRegression().fit(x, x @ WEIGHTS), threads=1)


def of_server(place, graph, request):
    shelve(place / "artifacts", {"sum": {"1.0.0": WEIGHTS}})
    running = launch(settings=settings_for(place / "artifacts"), port=0, log=place / "log")
    request.addfinalizer(lambda: running.__exit__(None, None, None))
    return load(f"{running.__enter__().url}/v2/models/sum")


ENGINES = {
    "onnx": lambda place, graph, request: load(graph, threads=1),
    "torch live": lambda place, graph, request: load(graph, "torch", module=Weighted(), threads=1),
    "torch program": of_program,
    "TorchScript": of_script,
    "torch compiled": lambda place, graph, request: load(graph, "torch-compiled", module=Weighted(), threads=1),
    "sklearn": of_estimator,
    "remote": of_server,
    "onnx cuda": lambda place, graph, request: load(graph, device="cuda"),
    "onnx-tensorrt": lambda place, graph, request: load(graph, "onnx-tensorrt", "cuda", cache=place / "engines"),
    "tensorrt": lambda place, graph, request: load(graph, "tensorrt", "cuda", cache=place / "engines"),
}
MARKS = {"torch compiled": [NO_CXX]} | {
    name: [GPU_ONLY, pytest.mark.gpu] for name in ("onnx cuda", "onnx-tensorrt", "tensorrt")
}


@pytest.fixture(scope="module", params=[pytest.param(name, marks=MARKS.get(name, [])) for name in ENGINES])
def engine(request, place, graph):
    opened = ENGINES[request.param](place, graph, request)
    yield opened
    opened.close()


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 16, 33, 64])
def test_every_runtime_answers_every_batch_as_numpy_does(engine, rows):
    x = np.random.default_rng(rows).normal(size=(rows, 3))
    out = engine.run({"x": x})
    (answer,) = out.values()
    assert answer.dtype == np.float32 and answer.shape == (rows,)
    np.testing.assert_allclose(answer, x @ WEIGHTS, rtol=1e-4, atol=1e-4)


def test_a_batch_changes_no_answer(engine):
    x = np.random.default_rng(0).normal(size=(64, 3))
    together = next(iter(engine.run({"x": x}).values()))
    apart = np.concatenate([next(iter(engine.run({"x": row[None]}).values())) for row in x])
    np.testing.assert_allclose(together, apart, rtol=1e-4, atol=1e-5)


def test_several_threads_get_their_own_answers(engine):
    def ask(seed):
        x = np.random.default_rng(seed).normal(size=(1 + seed % 5, 3))
        return next(iter(engine.run({"x": x}).values())), x @ WEIGHTS

    with ThreadPoolExecutor(4) as pool:
        for answer, right in pool.map(ask, range(40)):
            np.testing.assert_allclose(answer, right, rtol=1e-4, atol=1e-4)


def test_an_engine_that_was_closed_answers_or_opens_anew(engine):
    engine.close()
    assert next(iter(engine.run({"x": [[1, 2, 3]]}).values())).tolist() == [-1.5]


REFUSALS = [
    ({"x": [[1, 2]]}, "x must have shape [-1, 3] (-1 is any size), got [1, 2]"),
    ({"x": [1, 2, 3]}, "x must have shape [-1, 3] (-1 is any size), got [3]"),
    ({"x": [[1, 2, 3], [4, 5]]}, "x must have shape [-1, 3], got rows of different lengths"),
    ({"x": np.empty((0, 3))}, "x must hold at least one row and no empty axis, got shape [0, 3]"),
    ({"x": [[1, 2, np.nan]]}, "x must be finite FP32 numbers, got nan in row 0"),
    ({"x": [[1, np.inf, 3]]}, "x must be finite FP32 numbers, got inf in row 0"),
    ({"x": [[1, 1e300, 3]]}, "x must be finite FP32 numbers, got 1e+300 in row 0"),
    ({"x": [["a", "b", "c"]]}, "x must be FP32 numbers, got 'a'"),
    ({"z": [[1, 2, 3]]}, "inputs must be named x, got z"),
    ({}, "inputs must be named x, got none"),
]


@pytest.mark.parametrize(("sent", "sentence"), REFUSALS, ids=[s[:40] for _, s in REFUSALS])
def test_every_runtime_refuses_with_the_same_sentence(engine, sent, sentence):
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        engine.run(sent)


def test_every_runtime_says_in_plain_data_what_it_is(engine):
    facts = json.loads(json.dumps(engine.describe()))
    assert facts["runtime"] in RUNTIMES and facts["library"] and facts["device"] in {"cpu", "cuda", "remote"}
    assert facts["signature"]["inputs"][0]["name"] == "x"
    assert facts["out_of_memory"] == {"calls": 0, "failed_rows": 0, "served_rows": 0}


def test_threads_are_those_that_were_asked_for(engine):
    if engine.runtime == "remote":
        assert engine.threads == 0  # the server decides
    elif engine.call.device == "cpu":
        assert engine.threads == 1 == engine.describe()["facts"]["threads"]


def test_every_runtime_can_be_warmed(engine):
    assert list(engine.warm((1, 8))) == [1, 8]


def test_the_table_of_runtimes_knows_all_and_says_what_is_missing():
    rows = {r["runtime"]: r for r in runtimes().rows}
    assert set(rows) == set(RUNTIMES)
    assert all(rows[name]["here"] for name in ("onnx", "torch", "sklearn", "remote"))
    assert all(bool(r["lacks"]) != r["here"] for r in rows.values())
    assert json.dumps(runtimes().rows) and "| `tensorrt` |" in runtimes()._repr_markdown_()


@pytest.mark.skipif(HAS_GPU, reason="this machine has a GPU")
@pytest.mark.parametrize("runtime", ["onnx-tensorrt", "tensorrt"])
def test_what_needs_a_gpu_says_so_in_one_sentence(graph, runtime):
    with pytest.raises(CannotDo, match="needs an NVIDIA GPU") as caught:
        load(graph, runtime, "cuda")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        ({"runtime": "tensorrt"}, "device must be cuda"),
        ({"runtime": "sklearn", "device": "cuda"}, "device must be cpu"),
        ({"runtime": "remote"}, "model's address"),
        ({"timeout_s": 3}, "options of runtime 'onnx' must be among settings, got 'timeout_s'"),
        ({"runtime": "sklearn"}, "fitted estimator"),
    ],
)
def test_arguments_that_do_not_go_together_are_refused(graph, odd, words):
    with pytest.raises(ValueError, match=words):
        load(graph, **odd)


def test_an_address_is_for_the_remote_runtime_alone():
    with pytest.raises(ValueError, match="model's address"):
        load("http://127.0.0.1:1/v2/models/m", runtime="onnx")


def test_strings_never_reach_a_graph(tmp_path):
    spec = Signature((TensorSpec("text", "BYTES", (-1,)),), SIGNATURE.outputs)
    step = HashedNgrams(buckets=50)
    info = helper.make_tensor_value_info
    nodes = [
        helper.make_node("ReduceSum", ["ids", "axes"], ["sums"], keepdims=0),
        helper.make_node("Cast", ["sums"], ["y"], to=TensorProto.FLOAT),
    ]
    sides = [info("ids", TensorProto.INT64, ["n", "m"])], [info("y", TensorProto.FLOAT, ["n"])]
    axes = [onnx.numpy_helper.from_array(np.array([1]), "axes")]
    made = helper.make_graph(nodes, "g", *sides, axes)
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "g.onnx")
    engine = load(write(tmp_path / "b", signature=spec, graph=tmp_path / "g.onnx", preparation=step))
    assert engine.prepare({"text": ["one two"]})["ids"].dtype == np.int64
    assert engine.run({"text": ["one two", "three"]})["y"].shape == (2,)
    with pytest.raises(ValueError, match="text must be strings"):
        engine.run({"text": [1.0]})


def test_text_that_is_too_long_is_cut_only_where_the_bundle_says_so_and_counted():
    texts = {"text": np.array(["word " * 50, "word"], dtype=object)}
    cut = HashedNgrams(width=10, orders=(1,))(texts, None)
    assert cut["truncated"].tolist() == [True, False] and cut["ids"].shape == (2, 10)


def test_threads_of_the_card_are_taken_unless_the_caller_says_otherwise(graph):
    fit = replace(graph, card={"session": {"threads": 2}})
    assert load(fit).threads == 2 and load(fit, threads=1).threads == 1 and load(fit, threads=0).threads == 0
    with pytest.raises(CannotDo, match="'turbo'"):
        load(replace(graph, card={"session": {"turbo": True}}))


class Cramped(torch.nn.Module):
    "Has room for a few rows."

    def __init__(self, room):
        super().__init__()
        self.room = room

    def forward(self, x):
        if len(x) > self.room:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.\nStack")
        return x @ torch.tensor(WEIGHTS)


@pytest.mark.parametrize("room", [1, 5, 40])
def test_memory_that_runs_out_gives_the_same_answers_in_smaller_batches_and_is_told(graph, room):
    x = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
    engine = load(graph, module=Cramped(room), runtime="torch")
    np.testing.assert_allclose(engine.run({"x": x})["y"], load(graph).run({"x": x})["y"], atol=1e-5)
    told = engine.describe()["out_of_memory"]
    assert told["calls"] == 1 and told["failed_rows"] > room >= told["served_rows"] > 0


def test_one_row_that_does_not_fit_is_a_sentence(graph):
    engine = load(graph, module=Cramped(0), runtime="torch")
    with pytest.raises(CannotDo, match=r"can't allocate memory.*send less") as caught:
        engine.run({"x": [[1, 2, 3], [4, 5, 6]]})
    assert "\n" not in str(caught.value)


def test_a_live_model_needs_no_bundle_but_an_example():
    with pytest.raises(ValueError, match="example must show"):
        load(Weighted())
    with pytest.raises(ValueError, match="source must be a bundle"):
        load(object(), example=[[1.0]])
    x = np.ones((4, 3), np.float32)
    assert load(Weighted(), example=x).run({"x": x})["prediction"].tolist() == [-0.5] * 4
    assert os.sep not in load(Weighted(), example=x).describe()["graph"]
