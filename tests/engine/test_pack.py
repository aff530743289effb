"""Padding is not computed, and nobody can tell from the answers."""

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seatrial.base.settings import CannotDo
from seatrial.engine.bundle import Signature, TensorSpec, read, write
from seatrial.engine.export import bundle_of, export
from seatrial.engine.pack import pack, token_wise
from seatrial.engine.quantize import graph_of, products, quantize, rebuilt
from seatrial.engine.runtime import load
from seatrial.engine.surgery import alike, observed, probes, swept, token_shaped

IDS = {"input_ids": np.array([[5, 6, 7, 0], [8, 9, 0, 0]]), "attention_mask": np.array([[1, 1, 1, 0], [1, 1, 0, 0]])}
TOKENS = Signature(tuple(TensorSpec(name, "INT64", (-1, -1)) for name in IDS), (TensorSpec("score", "FP32", (-1,)),))


class Tiny(torch.nn.Module):
    "A transformer block of one head, with or without respect for its padding."

    def __init__(self, careful=True):
        super().__init__()
        self.table, self.norm, self.careful = torch.nn.Embedding(64, 8), torch.nn.LayerNorm(8), careful
        self.q, self.k, self.v, self.up, self.down = (
            torch.nn.Linear(*size) for size in ((8, 8), (8, 8), (8, 8), (8, 32), (32, 1))
        )

    def forward(self, input_ids, attention_mask):
        x = self.norm(self.table(input_ids))
        scores = self.q(x) @ self.k(x).transpose(1, 2)
        scores = scores + (1 - attention_mask[:, None].float()) * -1e4
        x = x + scores.softmax(-1) @ self.v(x)
        y = self.down(torch.nn.functional.gelu(self.up(x)))[..., 0]
        weight = attention_mask.float() if self.careful else torch.ones_like(attention_mask).float()
        return (y * weight).sum(1) / weight.sum(1).clamp(min=1)


def tiny(folder, careful=True):
    torch.manual_seed(0)
    return export(Tiny(careful).eval(), IDS, folder, signature=TOKENS, batches=(1, 3))


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    room = tmp_path_factory.mktemp("pack")
    plain = tiny(room / "plain")
    return plain, pack(plain, room / "packed")


@settings(deadline=None, max_examples=40)
@given(st.lists(st.lists(st.integers(1, 63), min_size=0, max_size=12), min_size=1, max_size=9))
def test_any_batch_gets_the_answers_it_got_before(pair, rows):
    longest = max(1, *map(len, rows))
    ids = np.array([row + [0] * (longest - len(row)) for row in rows])
    mask = np.array([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    a, b = (load(x, threads=1).infer({"input_ids": ids, "attention_mask": mask})["score"] for x in pair)
    np.testing.assert_allclose(b, a, atol=1e-5)


def test_holes_and_left_padding_are_padding_too(pair):
    ids = np.array([[0, 5, 0, 7], [9, 0, 0, 3]])
    tensors = {"input_ids": ids, "attention_mask": (ids > 0).astype(np.int64)}
    a, b = (load(x, threads=1).infer(tensors)["score"] for x in pair)
    np.testing.assert_allclose(b, a, atol=1e-5)


def test_every_product_with_weights_runs_on_real_tokens_only(pair):
    model = graph_of(pair[1])
    ids = np.ones((3, 7), np.int64)
    mask = np.zeros((3, 7), np.int64)
    mask[:, :2] = 1
    stored = set(products(model))
    outputs = [n.output[0] for n in model.graph.node if n.name in stored]
    seen = observed(model, {"input_ids": ids, "attention_mask": mask}, outputs)
    assert len(seen) == 5 and {len(v) for v in seen.values()} == {6}


def test_a_model_that_lets_its_padding_count_is_refused_and_leaves_nothing(tmp_path):
    with pytest.raises(CannotDo, match="answers differ by"):
        pack(tiny(tmp_path / "careless", careful=False), tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_bytes_go_on_top_of_a_packed_graph(pair, tmp_path):
    both = quantize(pair[1], tmp_path / "b")
    assert both.card["packed"]["mask"] == "attention_mask" and both.card["quantized"]["bits"]
    assert np.isfinite(load(both).infer(IDS)["score"]).all()


@pytest.mark.parametrize("mask", ["attention_mask", "nothing"])
def test_a_graph_without_that_mask_is_refused(tmp_path, mask):
    line = bundle_of(torch.nn.Linear(3, 1), np.ones((2, 3), np.float32), tmp_path / "line")
    with pytest.raises(CannotDo, match=f"takes no {mask}"):
        pack(line, tmp_path / "b", mask=mask)


def test_a_mask_of_floats_is_refused(tmp_path):
    class Weighs(torch.nn.Module):
        def forward(self, x, attention_mask):
            return (x * attention_mask).sum(1)

    example = [np.ones((2, 3), np.float32)] * 2
    with pytest.raises(CannotDo, match="not INT64"):
        pack(bundle_of(Weighs(), example, tmp_path / "w"), tmp_path / "b")


def test_a_damaged_file_is_one_sentence(pair, tmp_path):
    copy = rebuilt(pair[0], graph_of(pair[0]), tmp_path / "copy")
    (copy.folder / copy.graph).write_bytes(b"\x08\x0a" + b"\xff" * 40)
    with pytest.raises(CannotDo, match="cannot be read as an ONNX graph"):
        pack(copy, tmp_path / "b")


def test_token_shaped_tensors_are_told_from_others(pair):
    model = graph_of(pair[0])
    width = token_shaped(model)
    wise = token_wise(model, width)
    assert {8, 32} <= set(width.values())
    assert not any(w for w, n in zip(wise, model.graph.node, strict=True) if n.op_type == "Softmax")


def test_what_leads_nowhere_is_swept_with_its_weights(pair):
    model = graph_of(pair[0])
    stray = onnx.helper.make_node("Identity", [model.graph.node[0].output[0]], ["stray"])
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(1000, np.float32), "heavy"))
    names = [n.name for n in model.graph.node]
    swept(model, [*model.graph.node, stray])
    assert [n.name for n in model.graph.node] == names and all(t.name != "heavy" for t in model.graph.initializer)


def test_probes_fit_any_signature(tmp_path):
    line = bundle_of(torch.nn.Linear(3, 1), np.ones((2, 3), np.float32), tmp_path / "line")
    assert [p["input"].shape for p in probes(line, batches=(1, 5))] == [(1, 3), (5, 3)]
    write_again = write(tmp_path / "again", signature=line.signature, graph=line.folder / line.graph)
    assert alike(line, read(write_again.folder))["largest"] == 0
