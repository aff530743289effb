"""Int8 is smaller, close, and honest about what it cannot shrink."""

import numpy as np
import onnx
import pytest
import torch

from seatrial.base.settings import CannotDo
from seatrial.engine.bundle import read
from seatrial.engine.export import bundle_of
from seatrial.engine.quantize import graph_of, products, quantize, sums_are_wide
from seatrial.engine.runtime import load

X = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)


class Sums(torch.nn.Module):
    def forward(self, x):
        return x.sum(1)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 4))
    return bundle_of(net, X[:2], tmp_path_factory.mktemp("net") / "b", card={"author": "me"})


@pytest.mark.parametrize("wide", [True, False])
def test_bytes_are_smaller_and_stay_close(plain, tmp_path, wide):
    small = quantize(plain, tmp_path / "b", wide=wide)
    assert small.size_mb < 0.45 * plain.size_mb
    a, b = (load(x).run({"input": X})["prediction"] for x in (plain, small))
    assert np.abs(a - b).max() < 0.1 * np.abs(a).max()
    assert small.signature == plain.signature and small.watch == plain.watch
    assert small.card["author"] == "me" and small.card["quantized"]["bits"] == (8 if wide else 7)


def test_seven_bits_stay_within_seven_bits(plain, tmp_path):
    largest = {}
    for wide in (True, False):
        graph = onnx.load(quantize(plain, tmp_path / str(wide), wide=wide).folder / "model.onnx").graph
        weights = [onnx.numpy_helper.to_array(t) for t in graph.initializer]
        largest[wide] = max(np.abs(w.astype(int)).max() for w in weights if w.dtype == np.int8 and w.ndim == 2)
    assert largest[True] > 64 >= largest[False]


def test_the_original_is_not_touched(plain, tmp_path):
    before = plain.manifest()
    quantize(plain, tmp_path / "b")
    assert read(plain.folder).manifest() == before


def test_twice_is_refused(plain, tmp_path):
    once = quantize(plain, tmp_path / "b")
    with pytest.raises(ValueError, match="int8 already"):
        quantize(once, tmp_path / "c")


def test_a_model_without_products_is_refused_and_leaves_nothing(tmp_path):
    sums = bundle_of(Sums(), X[:2], tmp_path / "sums")
    with pytest.raises(CannotDo, match="no matrix product"):
        quantize(sums, tmp_path / "b")
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("cpuinfo", "machine", "wide"),
    [
        ("flags: avx2 avx512_vnni", "x86_64", True),
        ("flags: avx2 avx_vnni", "x86_64", True),
        ("flags: avx2 avx512f", "x86_64", False),
        ("Features: fp asimd asimddp", "aarch64", True),
        ("", "arm64", True),
        ("", "AMD64", False),
    ],
)
def test_full_bytes_are_used_only_where_sums_cannot_saturate(cpuinfo, machine, wide):
    assert sums_are_wide(cpuinfo, machine) is wide


def test_a_layer_that_is_left_out_keeps_its_floats(plain, tmp_path):
    names = products(graph_of(plain))
    spared = quantize(plain, tmp_path / "b", exclude=names[:1])
    kept = [n.name for n in onnx.load(spared.folder / spared.graph).graph.node if n.op_type in {"MatMul", "Gemm"}]
    assert [n.removesuffix("_MatMul") for n in kept] == list(names[:1]) and spared.card["quantized"][
        "excluded"
    ] == list(names[:1])


def test_an_unknown_layer_cannot_be_left_out(plain, tmp_path):
    with pytest.raises(ValueError, match="exclude must name nodes"):
        quantize(plain, tmp_path / "b", exclude=["nobody"])
