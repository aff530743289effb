"""Memory is asked for where nobody is hurt, and the search finds what there is."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seatrial.base.settings import CannotDo
from seatrial.engine.bundle import Signature, TensorSpec
from seatrial.engine.export import bundle_of
from seatrial.engine.memory import footprint, largest_batch, longest, on_cpu, on_gpu, withstood
from seatrial.engine.preparation import HashedNgrams, Plain, Tokenizer
from seatrial.engine.runtime import load


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_what_is_found_fits_and_is_within_a_tenth_of_the_most(truth, most):
    found = largest_batch(lambda rows: rows <= truth, most=most, safety=0)
    best = min(truth, most)
    assert 0.9 * best - 1 <= found.proved <= best and found.rows == found.proved
    assert all(ok == (n <= truth) for n, ok in found.tried) and max(n for n, _ in found.tried) <= most


@given(st.integers(1, 5000), st.floats(0, 0.99))
def test_the_margin_is_taken_off_but_one_row_stays(truth, safety):
    found = largest_batch(lambda rows: rows <= truth, safety=safety)
    assert 1 <= found.rows <= max(1, (1 - safety) * found.proved)


def test_a_batch_that_does_not_fit_is_approached_by_doubling_and_never_doubled_past():
    seen = []
    largest_batch(lambda rows: (seen.append(rows), rows <= 100)[1])
    assert seen[:8] == [1, 2, 4, 8, 16, 32, 64, 128] and max(seen) == 128


@pytest.mark.parametrize("odd", [{"most": 0}, {"most": 1.5}, {"safety": 1}, {"safety": -0.1}])
def test_a_search_without_sense_is_refused(odd):
    with pytest.raises(ValueError, match="most must be"):
        largest_batch(lambda rows: True, **odd)


def test_no_row_is_no_batch():
    with pytest.raises(CannotDo, match="not even one row"):
        largest_batch(lambda rows: False)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    net = torch.nn.Sequential(torch.nn.Linear(8, 8192), torch.nn.ReLU(), torch.nn.Linear(8192, 1))
    return bundle_of(net, np.ones((2, 8), np.float32), tmp_path_factory.mktemp("net") / "b")


def test_more_rows_hold_more_memory(bundle):
    few, many = (footprint(bundle, rows, threads=1) for rows in (1, 2000))
    assert many - few > 0.8 * 2000 * 8192 * 4 / 1e6


def test_a_child_that_dies_is_no_fit(bundle, tmp_path):
    copy = bundle_of(torch.nn.Linear(2, 1), np.ones((2, 2), np.float32), tmp_path / "b")
    (copy.folder / copy.graph).write_bytes(b"no graph")
    assert footprint(copy) == float("inf")
    assert footprint(bundle, timeout_s=0.01) == float("inf")


def test_a_search_says_what_is_wrong_with_a_bundle_instead_of_asking_for_memory(tmp_path):
    copy = bundle_of(torch.nn.Linear(2, 1), np.ones((2, 2), np.float32), tmp_path / "b")
    (copy.folder / copy.graph).write_bytes(b"no graph")
    with pytest.raises(CannotDo, match=r"1 rows could not be tried: .*model.onnx holds unknown content"):
        largest_batch(on_cpu(copy))


def test_a_batch_that_takes_too_long_does_not_fit(bundle):
    with pytest.raises(CannotDo, match="not even one row"):
        largest_batch(on_cpu(bundle, timeout_s=0.01))


@pytest.mark.parametrize("limit", [0, -1, float("nan")])
def test_a_limit_of_nothing_is_refused(bundle, limit):
    with pytest.raises(ValueError, match="limit_mb must be above 0"):
        on_cpu(bundle, limit_mb=limit)


@pytest.mark.parametrize("odd", [{"threads": -1}, {"threads": "two"}, {"timeout_s": 0}, {"timeout_s": float("nan")}])
def test_a_child_is_not_started_with_nonsense(bundle, odd):
    with pytest.raises(ValueError, match="threads must be a whole number from 0 and timeout_s above 0"):
        footprint(bundle, 1, **odd)


class Tight(torch.nn.Module):
    "A layer on a device with room for so many rows."

    def __init__(self, room, words):
        super().__init__()
        self.room, self.words = room, words

    def forward(self, x):
        if len(x) > self.room:
            raise RuntimeError(self.words)
        return x.sum(1)


@pytest.mark.parametrize(
    "words", ["CUDA out of memory.", "DefaultCPUAllocator: can't allocate memory", "Failed to allocate memory for"]
)
@pytest.mark.parametrize("room", [1, 37, 4096])
def test_what_a_device_says_of_its_memory_bounds_the_batch(room, words):
    layer = Tight(room, words)
    found = largest_batch(withstood(lambda rows: layer(torch.ones(rows, 2))), safety=0.25)
    assert 0.9 * room - 1 <= found.proved <= room and found.rows == max(1, int(0.75 * found.proved))


def test_the_halves_of_an_engine_are_not_taken_for_a_batch_that_fits():
    engine = load(Tight(37, "CUDA out of memory."), example=np.ones((2, 2), np.float32))
    rows = lambda n: np.ones((n, 2), np.float32)  # noqa: E731
    assert len(engine.run({"x": rows(64)})["prediction"]) == 64
    assert 33 <= largest_batch(withstood(lambda n: engine.call.run({"x": rows(n)}))).proved <= 37


def test_what_is_not_about_memory_is_not_taken_for_it():
    with pytest.raises(RuntimeError, match="shape"):
        largest_batch(withstood(lambda n: Tight(0, "a wrong shape")(torch.ones(n, 2))))


@pytest.mark.parametrize("rows", [0, 1.5, None])
def test_rows_are_counted_from_one(bundle, rows):
    with pytest.raises(ValueError, match="rows must be"):
        footprint(bundle, rows)


def test_free_axes_are_filled(tmp_path):
    signature = Signature((TensorSpec("x", "FP32", (-1, -1)),), (TensorSpec("y", "FP32", (-1,)),))
    bundle = type("Bundle", (), {"signature": signature, "preparation": Plain()})
    assert longest(bundle, 3)["x"].shape == (3, 128)


@pytest.mark.parametrize("step", [Tokenizer(max_tokens=3000), HashedNgrams(width=3000)])
def test_texts_are_as_long_as_the_preparation_lets_through(step):
    signature = Signature((TensorSpec("text", "BYTES", (-1,)),), (TensorSpec("y", "FP32", (-1,)),))
    bundle = type("Bundle", (), {"signature": signature, "preparation": step})
    assert len(longest(bundle, 2)["text"][1].split()) == 3000


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without an NVIDIA GPU")
def test_without_a_gpu_it_says_so():
    with pytest.raises(CannotDo, match="NVIDIA GPU"):
        on_gpu(lambda rows: None)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_a_gpu_says_what_fits():
    limit = torch.cuda.mem_get_info()[0]
    fits = on_gpu(lambda rows: torch.empty(rows, 2**30, dtype=torch.uint8, device="cuda"))
    found = largest_batch(fits, most=1024)
    assert 0.7 * limit < found.proved * 2**30 <= limit
