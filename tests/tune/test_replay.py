"Replay: a fair memory, whatever the order and the size of what arrives, and penalties that pull where they should."

import json
import pickle
from collections import Counter
from contextlib import suppress
from itertools import combinations, product
from math import comb

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import nn
from torch.nn import functional

from seatrial.base.settings import CannotDo
from seatrial.tune.replay import Buffer, Dark, Replay, load, places, save
from seatrial.tune.training import train
from seatrial.tune.update import digest_of


class Scripted:
    def __init__(self, draws):
        self.draws = np.array(draws, np.int64)

    def integers(self, low, highs):
        assert (self.draws >= low).all() and (self.draws < highs).all()
        return self.draws


@pytest.mark.parametrize(("n", "k"), [(4, 1), (5, 2), (6, 3), (6, 5)])
def test_every_subset_is_exactly_equally_likely(n, k):
    memories = Counter()
    ways = list(product(*(range(t) for t in range(k + 1, n + 1))))
    for draws in ways:
        memory = list(range(k))
        for row, place in list(enumerate(places(Scripted(draws), 0, n, k)))[k:]:
            if place < k:
                memory[place] = row
        memories[tuple(sorted(memory))] += 1
    assert memories == {s: len(ways) // comb(n, k) for s in combinations(range(n), k)}


def test_real_draws_keep_every_row_equally_often():
    kept = np.concatenate([Buffer(20, s).add({"row": np.arange(200)}).columns["row"] for s in range(1500)])
    assert chisquare(np.bincount(kept, minlength=200)).pvalue > 0.001


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.integers(1, 30), st.integers(0, 10))
def test_the_size_of_arrivals_does_not_matter(sizes, capacity, seed):
    rows = {"row": np.arange(sum(sizes)), "x": np.arange(2.0 * sum(sizes)).reshape(-1, 2)}
    whole, parts = Buffer(capacity, seed).add(rows), Buffer(capacity, seed)
    for start, stop in zip(np.cumsum([0, *sizes]), np.cumsum(sizes), strict=False):
        parts.add({name: a[start:stop] for name, a in rows.items()})
    assert digest_of({"b": whole}) == digest_of({"b": parts})
    held = whole.columns["row"][: len(whole)]
    assert len(whole) == min(capacity, sum(sizes)) == len(set(held.tolist()))
    assert np.array_equal(whole.columns["x"][: len(whole)], rows["x"][held])


def test_a_saved_memory_goes_on_to_the_bit(tmp_path):
    memory = Buffer(7, 3).add({"x": np.arange(30.0).reshape(10, 3).astype(np.float32), "label": np.arange(10)})
    save(memory, tmp_path / "memory.npz")
    again = load(tmp_path / "memory.npz")
    for m in (memory, again):
        m.add({"x": np.ones((50, 3), np.float32), "label": np.arange(50)})
        m.draw(3)
    assert digest_of({"b": memory}) == digest_of({"b": again})
    half = Buffer(7).add({"label": np.arange(3)})
    save(half, tmp_path / "half.npz")
    assert len(load(tmp_path / "half.npz").add({"label": np.arange(9)})) == 7


def test_a_state_is_json_and_plain_arrays():
    state = Buffer(3).add({"x": np.zeros((9, 2))}).state_dict()
    assert json.loads(state.pop("about"))["seen"] == 9
    assert {a.dtype.kind for a in state.values()} == {"f"}


def test_what_is_no_memory_is_refused_in_one_sentence(tmp_path):
    files = {
        "text.npz": b"hello",
        "empty.npz": b"",
        "pickle.npz": pickle.dumps({"about": 1}),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    np.savez(tmp_path / "about.npz", about="{}")
    np.save(tmp_path / "array.npz.npy", np.zeros(3))
    for name in [*files, "other.npz", "about.npz", "array.npz.npy", "missing.npz"]:
        with pytest.raises(CannotDo, match="is no memory that `save` wrote"):
            load(tmp_path / name)
    with pytest.raises(CannotDo, match="cannot be written"):
        save(Buffer(1), tmp_path / "no" / "folder.npz")


def test_a_damaged_or_contradictory_memory_is_refused(tmp_path):
    path, memory = tmp_path / "m.npz", Buffer(7).add({"label": np.arange(9)})
    save(memory, path)
    whole = path.read_bytes()
    for at in range(0, len(whole), 11):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :])
        with suppress(CannotDo):
            assert digest_of({"b": load(path)}) == digest_of({"b": memory})
    state = memory.state_dict()
    about = json.loads(state["about"])
    for wrong in ({"seen": 10**6, "capacity": 50}, {"seen": 3}, {"seen": -1}, {"capacity": 10**15, "seen": 7}):
        np.savez(path, **{**state, "about": json.dumps(about | wrong)})
        with pytest.raises(CannotDo, match="is no memory that `save` wrote"):
            load(path)


def test_failed_saving_leaves_the_old_memory(tmp_path):
    path = tmp_path / "m.npz"
    save(Buffer(7).add({"label": np.arange(9)}), path)
    (tmp_path / "m.npz.part").mkdir()
    with pytest.raises(CannotDo, match="cannot be written"):
        save(Buffer(7), path)
    assert len(load(path)) == 7


@pytest.fixture
def memory():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 4)).astype(np.float32)
    return Buffer(40).add({"x": x, "label": rng.integers(3, size=60), "logits": x[:, :3]})


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.line = nn.Linear(4, 3)
        self.asked = []

    def forward(self, x):
        self.asked.append(len(x))
        return self.line(x)


def test_replay_is_the_loss_of_remembered_rows(memory):
    model = Line()
    x, label = (torch.from_numpy(memory.columns[n]) for n in ("x", "label"))
    exact = functional.cross_entropy(model(x), label)
    assert Replay(model, memory, batch=99)().item() == pytest.approx(exact.item(), rel=1e-5)
    assert Replay(model, memory, batch=99, weight=0.5)().item() == pytest.approx(exact.item() / 2, rel=1e-5)


def test_der_is_the_sum_of_its_two_terms(memory):
    model = Line()
    x, label, logits = (torch.from_numpy(memory.columns[n]) for n in ("x", "label", "logits"))
    exact = 0.3 * functional.mse_loss(model(x), logits) + 0.7 * functional.cross_entropy(model(x), label)
    assert Dark(model, memory, batch=99, alpha=0.3, beta=0.7)().item() == pytest.approx(exact.item(), rel=1e-5)


def test_the_two_terms_of_der_see_different_rows(memory):
    model, drawn = Line(), []
    draw = memory.draw
    memory.draw = lambda n: drawn.append(draw(n)) or drawn[-1]
    Dark(model, memory, batch=5)()
    assert len(drawn) == 2 and not np.array_equal(drawn[0]["x"], drawn[1]["x"])


def test_a_batch_larger_than_the_memory_is_all_of_it(memory):
    assert sorted(memory.draw(1000)["x"][:, 0]) == sorted(memory.columns["x"][:, 0])


def test_training_with_replay_repeats_to_the_bit(memory):
    def run():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = Line()
        buffer = Buffer(1)
        buffer.load_state_dict(memory.state_dict())
        data = ({"x": memory.columns["x"]}, memory.columns["label"])
        how = {"loss": functional.cross_entropy, "epochs": 2, "batch": 8}
        train(model, data, data, penalty=Dark(model, buffer, batch=8), progress=lambda *w: None, **how)
        return digest_of({"model": model, "buffer": buffer})

    assert run() == run()


def test_bad_rows_are_refused_and_leave_the_memory_as_it_was(memory):
    before, x, label = digest_of({"b": memory}), np.zeros((2, 4), np.float32), np.zeros(2, np.int64)
    logits = np.zeros((2, 3), np.float32)
    cases = [
        ({"x": x, "label": label}, "columns of the memory"),
        ({"x": x[:, :3], "label": label, "logits": logits}, "columns of the memory"),
        ({"x": x.astype(np.float64), "label": label, "logits": logits}, "columns of the memory"),
        ({"x": x, "label": label[:1], "logits": logits}, "equally many rows"),
        ({"x": x * np.nan, "label": label, "logits": logits}, "finite numbers"),
        ({"x": np.array(["a", "b"]), "label": label, "logits": logits}, "finite numbers"),
        ({}, "equally many rows"),
    ]
    for rows, words in cases:
        with pytest.raises(ValueError, match=words):
            memory.add(rows)
    for capacity in (0, -1, 2.5, True, "3"):
        with pytest.raises(ValueError, match="capacity must be a whole number"):
            Buffer(capacity)
    for n, held in ((0, memory), (1, Buffer(3))):
        with pytest.raises(ValueError, match="draw takes at least 1 row"):
            held.draw(n)
    with pytest.raises(ValueError, match="must hold logits"):
        Dark(Line(), Buffer(2).add({"x": x, "label": label}))()
    assert digest_of({"b": memory}) == before
