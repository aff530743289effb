"""Fewer operations and fewer numbers, and what each of them changes."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from seatrial.base.settings import CannotDo
from seatrial.engine.bundle import Signature, TensorSpec
from seatrial.engine.export import export
from seatrial.engine.fuse import attentions, fuse
from seatrial.engine.prune import prune, smallest, thinned, two_of_four
from seatrial.engine.quantize import graph_of
from seatrial.engine.runtime import load
from tests.engine.nets import dense, linear

SIDES = ("input_ids", "attention_mask")
IDS = {"input_ids": np.array([[5, 6, 7, 0], [8, 9, 0, 0]]), "attention_mask": np.array([[1, 1, 1, 0], [1, 1, 0, 0]])}
TOKENS = Signature(tuple(TensorSpec(n, "INT64", (-1, -1)) for n in SIDES), (TensorSpec("score", "FP32", (-1,)),))
X = np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32)


class Heads(torch.nn.Module):
    "One attention of four heads."

    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(64, 16)
        self.q, self.k, self.v, self.out = (torch.nn.Linear(16, n) for n in (16, 16, 16, 1))

    def forward(self, input_ids, attention_mask):
        x = self.table(input_ids)
        q, k, v = (f(x).unflatten(-1, (4, 4)).transpose(1, 2) for f in (self.q, self.k, self.v))
        bias = (1 - attention_mask[:, None, None].float()) * -1e4
        y = ((q @ k.transpose(2, 3)) * 0.5 + bias).softmax(-1) @ v
        y = self.out(y.transpose(1, 2).flatten(2))[..., 0] * attention_mask
        return y.sum(1)


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    torch.manual_seed(0)
    return export(Heads().eval(), IDS, tmp_path_factory.mktemp("heads") / "b", signature=TOKENS, batches=(1, 3))


def test_an_attention_becomes_one_operation_with_its_heads_and_answers_alike(heads, tmp_path):
    found = attentions(graph_of(heads), IDS)
    assert [n for _, n in found] == [4] and found[0][0].scale == pytest.approx(0.5)
    fused = fuse(heads, tmp_path / "b")
    kinds = [n.op_type for n in graph_of(fused).graph.node]
    assert kinds.count("MultiHeadAttention") == 1 and "Softmax" not in kinds
    a, b = (load(x).infer(IDS)["score"] for x in (heads, fused))
    np.testing.assert_allclose(b, a, atol=1e-5)


def test_a_graph_without_attention_is_refused(tmp_path):
    line = dense(tmp_path / "line", [linear(np.random.default_rng(0), 8, n) for n in (8, 4)], between="Softmax")
    with pytest.raises(CannotDo, match="no attention that could be fused"):
        fuse(line, tmp_path / "b")
    assert not (tmp_path / "b").exists()


@given(hnp.arrays(np.float32, st.tuples(st.integers(1, 13), st.integers(1, 5)), elements=st.floats(-9, 9, width=32)))
def test_two_of_four_keeps_the_two_largest_of_every_four(w):
    mask, rows = two_of_four(w), len(w) // 4 * 4
    groups, sizes = mask[:rows].reshape(-1, 4, w.shape[1]), np.abs(w[:rows]).reshape(-1, 4, w.shape[1])
    assert (groups.sum(1) == 2).all() and mask[rows:].all()
    kept, gone = np.where(groups, sizes, np.inf).min(1), np.where(groups, -np.inf, sizes).max(1)
    assert (kept >= gone).all()


@given(st.floats(0, 0.95), st.integers(0, 99))
def test_the_smallest_go_wherever_they_are(share, seed):
    rng = np.random.default_rng(seed)
    matrices = [rng.normal(size=(20, 9)), 0.1 * rng.normal(size=(30, 5))]
    masks = smallest(matrices, share)
    gone = np.concatenate([np.abs(w[~m]) for w, m in zip(matrices, masks, strict=True)])
    kept = np.concatenate([np.abs(w[m]) for w, m in zip(matrices, masks, strict=True)])
    assert len(gone) == pytest.approx(share * 330, abs=1.5) and (not len(gone) or gone.max() <= kept.min())


@given(st.integers(1, 40), st.floats(0, 0.99))
def test_of_equal_weights_only_as_many_go_as_must(n, share):
    masks = smallest([np.ones((n, 2)), -np.ones((3, 1))], share)
    assert sum((~m).sum() for m in masks) == round(share * (2 * n + 3))
    assert [m.shape for m in masks] == [(n, 2), (3, 1)]


@pytest.mark.parametrize(
    ("rule", "left"),
    [
        ({"share": 0.5}, [[4, 0, 2, 0], [3, 0, 0, 5]]),  # .1 .2 .5 1 go
        ({"share": 0.25}, [[4, 1, 2, 0.5], [3, 0, 0, 5]]),
        ({"pattern": "2:4"}, [[4, 0, 2, 0], [3, 0, 0, 5]]),  # along the four inputs of each neuron
    ],
)
def test_pruning_by_hand(tmp_path, rule, left):
    w = np.array([[4.0, 1.0, 2.0, 0.5], [3.0, 0.1, 0.2, 5.0]])
    pruned = prune(dense(tmp_path / "net", [(w, None)]), tmp_path / "b", **rule)
    answers = load(pruned).run({"input": np.eye(4, dtype=np.float32)})["prediction"]
    np.testing.assert_array_equal(answers.T, np.array(left, np.float32))


def test_a_thinned_layer_keeps_its_kind_of_numbers():
    first, second = torch.nn.Linear(4, 6).double(), torch.nn.Linear(6, 2).double()
    a, b = thinned(first, second, 0.5)
    assert {p.dtype for p in (*a.parameters(), *b.parameters())} == {torch.float64}


@pytest.mark.parametrize(("pattern", "share", "zeros"), [("smallest", 0.4, 0.4), ("2:4", 0.4, 0.5)])
def test_a_pruned_bundle_holds_its_zeros_and_says_so(tmp_path, pattern, share, zeros):
    rng = np.random.default_rng(0)
    net = dense(tmp_path / "net", [linear(rng, 8, 64), linear(rng, 64, 4)], "Identity")
    made = prune(net, tmp_path / "b", share, pattern)
    note = made.card["pruned"]
    assert note["zeros"] == pytest.approx(zeros, abs=0.01) and note["compressed_mb"][1] <= note["compressed_mb"][0]
    assert np.isfinite(load(made).run({"input": X})["prediction"]).all()


@pytest.mark.parametrize("bias", [True, False])
def test_neurons_that_give_nothing_can_go_without_a_trace(bias):
    torch.manual_seed(0)
    first, second = torch.nn.Linear(8, 12, bias=bias), torch.nn.Linear(12, 3, bias=bias)
    with torch.no_grad():
        second.weight[:, ::2] = 0
    a, b = thinned(first, second, 0.5)
    x = torch.from_numpy(X)
    torch.testing.assert_close(b(torch.relu(a(x))), second(torch.relu(first(x))))
    assert a.out_features == b.in_features == 6


@pytest.mark.parametrize("odd", [{"share": 0}, {"share": 1}, {"pattern": "1:2"}])
def test_pruning_by_no_rule_is_refused(heads, tmp_path, odd):
    with pytest.raises(ValueError, match="pattern must be smallest or 2:4"):
        prune(heads, tmp_path / "b", **odd)
