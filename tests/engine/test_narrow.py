"""Fewer bits where they are asked for, fewer layers in bytes where the answers need it."""

import numpy as np
import onnx
import pytest
import torch

from seatrial.base.settings import CannotDo
from seatrial.engine.export import bundle_of
from seatrial.engine.narrow import halved, weight_only
from seatrial.engine.quantize import graph_of, products, quantize
from seatrial.engine.sensitive import spare, stays, suffering
from seatrial.engine.static import moved

X = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)


class Wild(torch.nn.Module):
    "Three layers; what goes into the last has one giant channel."

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (torch.nn.Linear(64, n) for n in (64, 64, 1))
        with torch.no_grad():
            self.b.weight[0] *= 200
            self.c.weight[0, 0] /= 200

    def forward(self, x):
        return self.c(torch.relu(self.b(torch.relu(self.a(x)))))[:, 0]


@pytest.fixture(scope="module")
def wild(tmp_path_factory):
    torch.manual_seed(0)
    return bundle_of(Wild(), X[:2], tmp_path_factory.mktemp("wild") / "b")


@pytest.mark.parametrize("block", [16, 64])
def test_more_bits_lie_closer_and_weigh_more(wild, tmp_path, block):
    made = {bits: weight_only(wild, tmp_path / f"{bits}", bits, block) for bits in (4, 8)}
    off = {bits: moved(wild, b, {"x": X}) for bits, b in made.items()}
    assert off[8] < off[4] < 0.5
    assert made[4].size_mb < made[8].size_mb < wild.size_mb
    assert made[4].card["quantized"]["bits"] == 4


def test_halves_take_half_and_stay(wild, tmp_path):
    half = halved(wild, tmp_path / "b")
    assert moved(wild, half, {"x": X}) < 0.01 and half.card["halved"]["tolerance"] == 0.01
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
    worst = suffering(wild, {"x": X})
    assert next(iter(worst)) == products(graph_of(wild))[2] and set(worst) == set(products(graph_of(wild)))


def test_only_as_many_are_let_off_as_are_needed(wild, tmp_path):
    asked = []

    def needs(n):
        def holds(bundle):
            asked.append(len(bundle.card["quantized"]["excluded"]))
            return "" if asked[-1] >= n else "not yet"

        return holds

    free = spare(wild, tmp_path / "free", {"x": X}, needs(0))
    one = spare(wild, tmp_path / "one", {"x": X}, needs(1))
    assert free.card["sensitive"]["spared"] == [] and len(one.card["sensitive"]["spared"]) == 1
    assert asked == [0, 0, 1]


def test_an_answer_that_stays_is_measured(wild, tmp_path):
    changed = quantize(wild, tmp_path / "all")
    off = moved(wild, changed, {"x": X})
    assert stays(wild, {"x": X}, 1.01 * off)(changed) == ""
    assert "answers move by" in stays(wild, {"x": X}, 0.99 * off)(changed)


def test_a_margin_that_nothing_meets_is_a_refusal(wild, tmp_path):
    with pytest.raises(CannotDo, match="do not hold even without 1 of 3 products: never"):
        spare(wild, tmp_path / "b", {"x": X}, lambda bundle: "never")
    assert not (tmp_path / "b").exists()
