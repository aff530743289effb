from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seatrial.base.settings import CannotDo
from seatrial.engine.bundle import HashedNgrams, Signature, TensorSpec, Tokenizer
from seatrial.engine.call import Call
from seatrial.engine.lengths import LEAST, UNKNOWN, by_length, cuts, pieces_of
from seatrial.engine.pace import TRUSTED, Cost, learn, worth
from seatrial.engine.runtime import Bundle, Engine

LENGTHS = st.lists(st.integers(0, 60), min_size=1, max_size=64)


def spent(pieces, lengths, price):
    return sum(price + (end - start) * lengths[end - 1] for start, end in pieces)


@given(LENGTHS, st.floats(0, 1000))
def test_pieces_cover_every_row_once_and_never_cost_more_than_one_call(lengths, price):
    lengths = np.sort(lengths)
    pieces = cuts(lengths, price)
    assert [start for start, _ in pieces] == [0, *(end for _, end in pieces[:-1])] and pieces[-1][1] == len(lengths)
    assert spent(pieces, lengths, price) <= spent([(0, len(lengths))], lengths, price) + 1e-9
    single = [(i, i + 1) for i in range(len(lengths))]
    assert spent(pieces, lengths, price) <= spent(single, lengths, price) + 1e-9


@given(LENGTHS, st.floats(0, 100), st.data())
def test_no_random_division_of_the_rows_is_cheaper(lengths, price, data):
    ordered = np.sort(lengths)
    least = spent(cuts(ordered, price), ordered, price)
    groups = data.draw(st.lists(st.integers(0, 4), min_size=len(lengths), max_size=len(lengths)))
    parts = [np.array(lengths)[np.array(groups) == g] for g in set(groups)]
    assert least <= sum(price + len(part) * part.max() for part in parts) + 1e-9


@given(LENGTHS)
def test_rows_of_one_length_stay_in_one_call(lengths):
    (rows,) = pieces_of(np.full(len(lengths), 7), Cost())
    assert rows.tolist() == list(range(len(lengths)))


def test_dear_calls_are_learned_and_then_spared():
    lengths, dear, cheap = np.arange(1, 65), Cost(), Cost()
    assert worth(dear, UNKNOWN) == UNKNOWN and len(pieces_of(lengths, dear)) > 1
    for n in range(TRUSTED):
        learn(dear, 100 * n + 1, 1.0 + 1e-6 * n)
        learn(cheap, 100 * n + 1, 1e-9 * n)
    assert len(pieces_of(lengths, dear)) == 1
    assert worth(cheap, UNKNOWN) < LEAST  # a fit may say that calls are free, and nobody believes it
    assert len(pieces_of(lengths, cheap)) < 20


def engine(step, shape=(-1,), names=("ids",), device="cpu", run=None):
    "An engine that answers the sum of each row."
    sides = Signature((TensorSpec("text", "BYTES", (-1,)),), (TensorSpec("sum", "FP32", shape),))
    run = run or (lambda tensors: [tensors["ids"].sum(1)])
    return Engine(Bundle(Path(), sides, step, "", (), {}), "onnx", 0, Call(names, run, device, "a library"))


@given(st.lists(st.text("ab ", max_size=60), min_size=1, max_size=30))
def test_each_row_gets_its_own_answer_in_its_own_place(texts):
    whole = engine(HashedNgrams(buckets=50))
    cut, sent = by_length(whole), {"text": np.array(texts, object)}
    assert cut.call.run is not whole.call.run
    for _ in range(TRUSTED + 2):  # before and after the pace is known
        assert np.array_equal(cut.run(sent)["sum"], whole.run(sent)["sum"])


def test_an_engine_is_left_alone_where_pieces_could_change_an_answer():
    for other in (
        engine(HashedNgrams(), shape=(-1, -1)),  # an output as long as the input
        engine(HashedNgrams(), device="cuda"),
        engine(HashedNgrams(), names=("others",)),  # nobody tells how long the rows are
        engine(Tokenizer(), names=("input_ids",)),
    ):
        assert by_length(other) is other


def test_a_failure_inside_a_piece_is_the_failure_of_the_batch():
    def broken(tensors):
        if tensors["ids"].shape[1] > 20:
            raise RuntimeError("Invalid shape")
        return [tensors["ids"].sum(1)]

    cut = by_length(engine(HashedNgrams(), run=broken))
    sent = {"text": np.array(["a b"] * 30 + ["a b " * 30] * 2, object)}
    with pytest.raises(CannotDo, match="Invalid shape"):
        cut.run(sent)


def test_a_piece_that_does_not_fit_into_memory_is_halved():
    def small(tensors):
        if len(tensors["ids"]) > 8:
            raise MemoryError
        return [tensors["ids"].sum(1)]

    whole, cut = engine(HashedNgrams()), by_length(engine(HashedNgrams(), run=small))
    sent = {"text": np.array(["a b"] * 30 + ["a b " * 30] * 2, object)}
    assert np.array_equal(cut.run(sent)["sum"], whole.run(sent)["sum"]) and cut.strain.calls
