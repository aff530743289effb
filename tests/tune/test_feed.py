"Feeding: no row is lost, no measurement cut, no answer misplaced."

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from seatrial.base.settings import CannotDo
from seatrial.tune.feed import batches, checked, lengths, out_of_memory, padding, predict


@settings(deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=60), st.integers(1, 9), st.booleans())
def test_every_row_is_in_exactly_one_batch(columns, batch, shuffled):
    rng = np.random.default_rng(1) if shuffled else None
    plan = batches(len(columns), batch, np.array(columns), rng)
    assert sorted(np.concatenate(plan).tolist()) == list(range(len(columns)))
    assert max(map(len, plan)) <= batch
    assert len(plan) == math.ceil(len(columns) / batch)


@settings(deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=7, max_size=7), min_size=1, max_size=9))
def test_length_is_the_last_column_in_use(rows):
    expected = [max([1, *(i + 1 for i, on in enumerate(row) if on)]) for row in rows]
    assert lengths(padding({"ids": np.array(rows, int)})).tolist() == expected


class Counted(nn.Module):
    "Answers with the sum of its ids and notes how wide its batches were."

    def __init__(self):
        super().__init__()
        self.head, self.widths = nn.Linear(1, 1), []

    def forward(self, ids, extra):
        self.widths.append((ids.shape[1], extra.shape[1]))
        return ids.sum(1).float() + extra.sum(1)


def test_cut_columns_are_padding_only_and_answers_keep_their_rows():
    rng = np.random.default_rng(0)
    used = rng.integers(1, 30, 50)
    ids = np.where(np.arange(30) < used[:, None], rng.integers(1, 9, (50, 30)), 0)
    extra = rng.normal(size=(50, 30)).astype(np.float32)  # as wide as the ids, but measurements
    model = Counted()
    answers = predict(model, {"ids": ids, "extra": extra}, batch=8)
    np.testing.assert_allclose(answers, ids.sum(1) + extra.sum(1), rtol=1e-4, atol=1e-4)
    assert min(w for w, _ in model.widths) < 15
    assert {w for _, w in model.widths} == {30}


class Heads(nn.Module):
    "Answers with a sum and the place of the largest; has no memory for more than `most` rows."

    def __init__(self, most=10**9):
        super().__init__()
        self.drop, self.most, self.modes = nn.Dropout(), most, []

    def forward(self, x):
        self.modes.append((self.training, self.drop.training))
        if len(x) > self.most:
            torch.empty(2**60)
        return x.sum(1), x.argmax(1)


X = np.random.default_rng(0).normal(size=(37, 5)).astype(np.float32)


def test_predict_leaves_the_mode_of_each_module_alone():
    model = Heads().train()
    model.drop.eval()
    predict(model, {"x": X})
    assert (model.training, model.drop.training) == (True, False)
    assert model.modes == [(False, False)]


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 60))
def test_several_answers_come_back_in_order_whatever_fits_into_memory(batch, most):
    total, largest = predict(Heads(most), {"x": X}, batch=batch)
    np.testing.assert_allclose(total, X.sum(1), rtol=1e-5)
    assert largest.dtype.kind == "i"
    assert (largest == X.argmax(1)).all()


def test_row_that_fits_nowhere_is_one_sentence():
    with pytest.raises(CannotDo, match="not even one row fits into the memory of 'cpu'"):
        predict(Heads(0), {"x": X})


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        predict(nn.Linear(3, 1), {"input": X})
    assert out_of_memory(MemoryError())
    assert not out_of_memory(ValueError("no"))


@pytest.mark.parametrize(
    "said",
    [
        "CUDA error: out of memory",
        "CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "MPS backend out of memory (MPS allocated: 1.2 GB)",
        "DefaultCPUAllocator: not enough memory: you tried",
        "std::bad_alloc",
    ],
)
def test_every_device_and_library_is_understood_when_memory_ran_out(said):
    assert out_of_memory(RuntimeError(said))


class Says(nn.Module):
    "Answers whatever it was given."

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x):
        return self.answer(x)


@pytest.mark.parametrize(
    ("answer", "got"),
    [
        (lambda x: x.sum(), r"got \(\) for 37 rows"),
        (lambda x: x[:1], r"got \(1, 5\) for 37 rows"),
        (lambda x: {"logits": x}, "got dict for 37 rows"),
        (lambda x: None, "got NoneType"),
    ],
)
def test_answers_that_are_not_one_for_each_row_are_refused(answer, got):
    with pytest.raises(ValueError, match=f"model must answer each row, {got}"):
        predict(Says(answer), {"x": X})


@pytest.mark.parametrize(
    ("inputs", "batch", "said"),
    [
        ({"x": X}, 0, "batch must be a whole number, at least 1, got 0"),
        ({"x": X}, 2.5, "batch must be a whole number, at least 1, got 2.5"),
        (X, 4, "inputs must be arrays by name.*got ndarray"),
        ({"x": np.array(["1", "2"])}, 4, "x must be prepared numbers"),
        ({"x": np.zeros((2, 5), "datetime64[s]")}, 4, "x must be prepared numbers"),
        ({"x": np.float32(1)}, 4, "equally many rows, at least 1, got {'x': 'a single number'}"),
        ({"z": X}, 4, "inputs must be those of Heads.forward"),
    ],
)
def test_questions_that_cannot_be_asked_are_refused(inputs, batch, said):
    with pytest.raises(ValueError, match=said):
        predict(Heads(), inputs, batch=batch)


@pytest.mark.parametrize(
    ("targets", "kind", "shape"),
    [
        (np.arange(37), np.int64, (37,)),
        (np.arange(37) % 2 == 0, np.float32, (37,)),
        (np.zeros((37, 4)), np.float32, (37, 4)),
        (np.ones((37, 2), np.int8), np.int64, (37, 2)),
    ],
)
def test_targets_keep_their_columns_and_their_kind(targets, kind, shape):
    got = checked(Heads(), ({"x": X}, targets), "train")[1]
    assert (got.dtype, got.shape) == (kind, shape)


@pytest.mark.parametrize(
    ("inputs", "targets", "said"),
    [
        ({"x": X}, np.zeros(36), r"train targets must have shape \(37,\) or \(37, columns\), got \(36,\)"),
        ({"x": X}, np.array(["a"] * 37), "train targets must be prepared numbers"),
        ({"x": X}, np.full(37, np.inf), "train targets must be finite.*row 0"),
        ({"z": X}, np.zeros(37), "train inputs must be those of Heads.forward"),
        ({"x": X, "y": X[:3]}, np.zeros(37), "train inputs must have equally many rows"),
        ({"x": X[:0]}, np.zeros(0), "train inputs must have equally many rows, at least 1"),
        (X, np.zeros(37), "train inputs must be arrays by name"),
        ({"x": X * np.float64(1e200)}, np.zeros(37), "train x must be finite, got more than float32 holds in row 0"),
        ({"x": X}, np.full(37, 2**63, np.uint64), "train targets must be finite, got more than int64 holds"),
    ],
)
def test_data_that_does_not_fit_is_refused_in_one_sentence(inputs, targets, said):
    with pytest.raises(ValueError, match=said):
        checked(Heads(), (inputs, targets), "train")


def test_data_that_is_no_pair_is_refused():
    with pytest.raises(ValueError, match=r"valid must be a pair \(inputs by name, targets\), got dict"):
        checked(Heads(), {"x": X}, "valid")
