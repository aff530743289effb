"""Each row is answered by itself, whatever stands beside it."""

import numpy as np
import pytest
import torch

from seatrial.base.settings import CannotDo
from seatrial.engine.bundle import HashedNgrams, Signature, TensorSpec, read
from seatrial.engine.export import bundle_of, export
from seatrial.engine.parity import apart
from seatrial.engine.runtime import load
from tests.engine.nets import of

X = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
BATCHES = {"batches": (1, 2, 64)}


def test_a_model_that_mixes_the_rows_of_a_batch_is_refused(tmp_path):
    with pytest.raises(CannotDo, match=r"answers a row differently .* let forward treat rows apart"):
        bundle_of(of(lambda x: x - x.mean(0)), X, tmp_path / "b", **BATCHES)
    apart(lambda t: [t["x"].sum(1)], {"x": X}, 1e-4, "sums")


def test_answers_that_are_no_numbers_are_said_to_be_so(tmp_path):
    with pytest.raises(CannotDo, match="answers no finite numbers"):
        bundle_of(of(lambda x: torch.log(x).sum(1)), X, tmp_path / "b", **BATCHES)


class Both(torch.nn.Module):
    "Reads a text and a number."

    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(50, 4, padding_idx=0)

    def forward(self, ids, age):
        return self.table(ids).sum((1, 2)) + age


def test_a_number_passes_beside_the_text(tmp_path):
    torch.manual_seed(0)
    module, step = Both().eval(), HashedNgrams(buckets=50)
    sent = {"text": ["a fine film", "dull", ""], "age": np.array([1.0, 2.0, 3.0])}
    bundle = bundle_of(module, sent, tmp_path / "b", preparation=step, outputs=["rating"])
    assert str(bundle.signature.inputs[0]) == "text BYTES [-1]"
    ids = step({"text": np.array(sent["text"], dtype=object)}, None)["ids"]
    right = module(torch.from_numpy(ids), torch.from_numpy(sent["age"]).float()).detach()
    np.testing.assert_allclose(load(read(tmp_path / "b")).run(sent)["rating"], right, atol=1e-5)


class Masked(torch.nn.Module):
    "Reads numbers of tokens and their mask, which are equally long."

    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(50, 4)

    def forward(self, input_ids, attention_mask):
        seen = self.table(input_ids) * attention_mask[:, :, None]
        return seen.sum((1, 2)) / attention_mask.sum(1).clamp(min=1)


def test_two_tensors_that_share_a_length_are_exported_and_held_to_it(tmp_path):
    specs = [TensorSpec(name, "INT64", (-1, -1), axes=("", "length")) for name in ("input_ids", "attention_mask")]
    signature = Signature(tuple(specs), (TensorSpec("score", "FP32", (-1,)),))
    example = {name: np.ones((2, 5), np.int64) for name in ("input_ids", "attention_mask")}
    module = Masked().eval()
    bundle = export(module, example, tmp_path / "b", signature=signature, **BATCHES)
    assert read(tmp_path / "b").signature == signature
    for length in (1, 3, 17):
        ids = np.arange(2 * length).reshape(2, length) % 50
        right = module(torch.from_numpy(ids), torch.ones(2, length, dtype=torch.int64)).detach()
        answer = load(bundle).run({"input_ids": ids, "attention_mask": np.ones((2, length), int)})["score"]
        np.testing.assert_allclose(answer, right, atol=1e-5)
    with pytest.raises(ValueError, match="attention_mask must have the length of input_ids, which is 3, got 2"):
        load(bundle).run({"input_ids": np.ones((1, 3), int), "attention_mask": np.ones((1, 2), int)})
    again = bundle_of(bundle.folder / bundle.graph, None, tmp_path / "again")  # an ONNX file names its axes, too
    assert [s.axes[1:] for s in again.signature.inputs] == [("length",), ("length",)]
