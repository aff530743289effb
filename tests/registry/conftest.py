"Small real bundles and a registry in a temporary folder."

import shutil
from itertools import count
from pathlib import Path

import pytest
from onnx import TensorProto, helper
from onnx import save as save_onnx

from seatrial.base.journal import Journal
from seatrial.base.settings import PathSettings, Settings
from seatrial.engine.bundle import Signature, TensorSpec, write
from seatrial.registry.versions import Registry


def settings_in(folder):
    return Settings(paths=PathSettings(Path(folder) / "artifacts", Path(folder) / "data"))


def toy(folder, weights=(1.0, 2.0), kink=False, output="y"):
    "A bundle: x times weights, with kink=True the negative part cut off."
    folder = Path(folder)
    tensor = helper.make_tensor("w", TensorProto.FLOAT, [len(weights)], list(weights))
    nodes = [helper.make_node("MatMul", ["x", "w"], ["line" if kink else output])]
    nodes += [helper.make_node("Relu", ["line"], [output])] if kink else []
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", len(weights)])
    y = helper.make_tensor_value_info(output, TensorProto.FLOAT, ["rows"])
    graph = helper.make_graph(nodes, "toy", [x], [y], [tensor])
    source = folder.parent / f"{folder.name}.onnx"
    save_onnx(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), source)
    inputs, outputs = TensorSpec("x", "FP32", (-1, len(weights))), TensorSpec(output, "FP32", (-1,))
    return write(folder, signature=Signature((inputs,), (outputs,)), graph=source)


@pytest.fixture
def bundle(tmp_path):
    "Makes toy bundles below the test's own folder."
    return lambda name, **shape: toy(tmp_path / name, **shape)


@pytest.fixture
def settings(tmp_path, books):
    made = settings_in(tmp_path)
    made.paths.artifacts.mkdir()
    shutil.copy(books, made.paths.artifacts)
    return made


@pytest.fixture
def journal(settings):
    ticks = count(1000)
    with Journal(settings.paths.artifacts / "journal", clock=lambda: float(next(ticks))) as opened:
        yield opened


@pytest.fixture
def registry(settings, journal):
    return Registry(settings, journal)
