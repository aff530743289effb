"Rows that may be lengthened: what is permitted is tried, and what is served answers as if nothing had been filled."

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seatrial.base.settings import CannotDo
from seatrial.engine.bundle import read
from seatrial.engine.export import bundle_of
from seatrial.engine.parity import lengthened, loosened, padding
from seatrial.engine.runtime import load
from seatrial.engine.signature import Signature, TensorSpec, filled
from seatrial.model.quality import BagScorer
from seatrial.model.trend import Trend

RNG = np.random.default_rng(7)


@pytest.fixture(scope="module")
def bag(tmp_path_factory):
    "The quality bag, taking token numbers, which may be followed by zeros."
    torch.manual_seed(0)
    scorer, ids = BagScorer(500, 8).eval(), RNG.integers(1, 500, (6, 9))
    return load(bundle_of(scorer, ids, tmp_path_factory.mktemp("bag") / "b", ragged={"ids": 0}, outputs=["rating"]))


def week(rows, tokens):
    "What the trend model reads: a series of so many weeks, and a content of so many items, both with masks."
    series = RNG.integers(0, 900, (rows, tokens, 7)).astype(np.float32)
    found = {"content": RNG.normal(size=(rows, tokens, 4)), "content_mask": RNG.random((rows, tokens)) < 0.9}
    found |= {"series": series, "series_mask": RNG.random((rows, tokens, 7)) < 0.9}
    found |= {"ago": np.tile(7.0 * np.arange(tokens)[::-1], (rows, 1)), "now": np.full(rows, 19_000.0)}
    found |= {"signals": RNG.normal(size=(rows, 3)), "signals_mask": np.ones((rows, 3), bool)}
    return {name: a if a.dtype == bool else a.astype(np.float32) for name, a in found.items()}


@pytest.fixture(scope="module")
def trend(tmp_path_factory):
    "The trend model, whose series and content may both be lengthened, each by itself."
    torch.manual_seed(1)
    example, specs = week(4, 5), []
    for name, array in example.items():
        axis = {
            "content": "items",
            "content_mask": "items",
            "series": "tokens",
            "series_mask": "tokens",
            "ago": "tokens",
        }
        shape, kind = [-1, *array.shape[1:]], "BOOL" if array.dtype == bool else "FP32"
        if name in axis:
            shape[1] = -1
        names = ("rows", axis[name], *[""] * (array.ndim - 2)) if name in axis else ()
        specs.append(
            TensorSpec(name, kind, tuple(shape), axes=names, fill=kind != "BOOL" and 0.0 if name in axis else None)
        )
    answers = [
        TensorSpec("logit", "FP32", (-1,)),
        TensorSpec("ratio", "FP32", (-1,)),
        TensorSpec("weights", "FP32", (-1, 4)),
    ]
    model = Trend(content=4, signals=3, width=16, layers=1).eval()
    return load(bundle_of(model, example, tmp_path_factory.mktemp("trend") / "t", signature=Signature(specs, answers)))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 64), st.integers(0, 2**31))
def test_the_quality_bag_answers_longer_rows_as_it_answers_their_own(bag, length, rows, more, seed):
    own = {"ids": np.random.default_rng(seed).integers(1, 500, (rows, length))}
    long = bag.run(lengthened(bag.bundle.signature, own, more))
    np.testing.assert_allclose(long["rating"], bag.run(own)["rating"], rtol=1e-5, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.integers(1, 3), st.integers(1, 24))
def test_the_trend_model_answers_longer_series_as_it_answers_their_own(trend, tokens, rows, more):
    own = week(rows, tokens)
    own["series_mask"][:, -1] = True  # a series without a day has no level
    alone, long = trend.run(own), trend.run(lengthened(trend.bundle.signature, own, more))
    for name in alone:
        np.testing.assert_allclose(long[name], alone[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_the_permission_travels_with_the_bundle(bag):
    signature = read(bag.bundle.folder).signature
    assert signature.inputs[0].fill == 0 and signature.inputs[0].ragged == 1 and signature.inputs[0].shape == (-1, -1)
    assert bag.bundle.card["padding"] < 1e-5


def test_a_bundle_without_a_permission_has_none(tmp_path):
    made = bundle_of(BagScorer(50, 4).eval(), RNG.integers(1, 50, (4, 6)), tmp_path / "b")
    assert made.signature.inputs[0].fill is None and "padding" not in made.card


@pytest.mark.parametrize("fill", [1, 7])
def test_a_permission_that_changes_answers_is_refused_and_nothing_is_written(fill, tmp_path):
    with pytest.raises(CannotDo, match=r"answers differently .* when rows are lengthened"):
        bundle_of(BagScorer(50, 4).eval(), RNG.integers(1, 50, (4, 6)), tmp_path / "b", ragged={"ids": fill})
    assert not (tmp_path / "b").exists()


def test_an_onnx_file_may_have_the_permission_too_and_is_tried_on_the_example(bag, tmp_path):
    graph, ids = bag.bundle.folder / "model.onnx", RNG.integers(1, 500, (3, 5))
    assert bundle_of(graph, ids, tmp_path / "b", ragged={"ids": 0}).signature.inputs[0].fill == 0
    with pytest.raises(CannotDo, match="when rows are lengthened"):
        bundle_of(graph, ids, tmp_path / "c", ragged={"ids": 3})
    with pytest.raises(ValueError, match=r"example must show rows of model\.onnx"):
        bundle_of(graph, None, tmp_path / "d", ragged={"ids": 0})


def test_who_permits_what_there_is_not_hears_the_names():
    free = Signature((TensorSpec("ids", "INT64", (-1, -1)),), (TensorSpec("y", "FP32", (-1,)),))
    with pytest.raises(ValueError, match=r"ragged must name inputs \(ids\), got 'tokens'"):
        filled(free, {"tokens": 0})
    flat = Signature((TensorSpec("x", "FP32", (-1,)),), free.outputs)
    with pytest.raises(ValueError, match="ragged must name tensors with rows of some length, got x"):
        loosened(flat, {"x": 0}, lambda s: [s["x"]], {"x": np.ones(2, np.float32)})


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 9), st.integers(1, 6), st.integers(1, 9))
def test_outputs_as_long_as_the_rows_are_compared_without_what_was_filled(length, rows, width):
    specs = (TensorSpec("x", "FP64", (-1, width, -1), axes=("rows", "", "steps"), fill=0.0),)
    signature = Signature(specs, (TensorSpec("y", "FP64", (-1, -1, width), axes=("rows", "steps", "")),))
    example = {"x": np.random.default_rng(0).normal(size=(rows, width, length))}
    assert padding(lambda s: [2 * s["x"].transpose(0, 2, 1)], signature, example, 1e-9, "twice") == 0
    with pytest.raises(CannotDo):
        padding(lambda s: [s["x"].transpose(0, 2, 1) + s["x"].shape[2]], signature, example, 1e-9, "counted")
