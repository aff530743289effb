"Checkpoints: whole or not at all, of this run or refused."

import os
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seatrial.base.settings import CannotDo
from seatrial.tune.checkpoint import fingerprint, keep, kept, luck, relive, shape_of, tensors_back, tensors_of

ABOUT = {"lr": 0.1, "legs": [["all", [[None, 0.1, 2]]]]}


class Trap:
    "A pickle that leaves a file behind when it is opened."

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_what_was_kept_comes_back_as_it_was(tmp_path):
    state = {"w": torch.arange(3.0), "luck": luck(np.random.default_rng(1), "cpu"), "history": [{"a": None, "b": 0.5}]}
    keep(tmp_path / "deep" / "run.pt", ABOUT, state)
    back = kept(tmp_path / "deep" / "run.pt", ABOUT)
    assert torch.equal(back["w"], state["w"])
    assert back["history"] == state["history"]
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["run.pt"]


def test_no_file_means_begin(tmp_path):
    assert kept(tmp_path / "none.pt", ABOUT) is None


@given(st.integers(0, 2**63), st.integers(0, 50))
def test_generators_go_on_where_they_were(seed, drawn):
    with torch.random.fork_rng():
        rng = np.random.default_rng(seed)
        torch.manual_seed(seed % 2**31)
        rng.normal(size=drawn), torch.rand(drawn)
        state = luck(rng, "cpu")
        expected = rng.permutation(9).tolist(), torch.rand(3).tolist()
        relive(rng, "cpu", state)
        assert (rng.permutation(9).tolist(), torch.rand(3).tolist()) == expected


@pytest.mark.parametrize("cut", [0, 1, 100, -1])
def test_damaged_file_is_refused_and_left_where_it_is(cut, tmp_path):
    path = tmp_path / "run.pt"
    keep(path, ABOUT, {"w": torch.arange(100.0)})
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(CannotDo, match=r"is no intact checkpoint.*remove it or name another file"):
        kept(path, ABOUT)
    assert path.exists()


def test_one_flipped_bit_anywhere_is_refused_or_changes_nothing(tmp_path):
    path, state = tmp_path / "run.pt", {"w": torch.arange(40.0), "history": [{"loss": 0.5}], "step": 7}
    keep(path, ABOUT, state)
    whole, refused = path.read_bytes(), 0
    for at in range(0, len(whole), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :])
        try:
            back = kept(path, ABOUT)
        except CannotDo:
            refused += 1
        else:
            assert torch.equal(back.pop("w"), state["w"])
            assert back == {"history": [{"loss": 0.5}], "step": 7}
    assert refused > 0.3 * len(whole) / 7


def test_checkpoint_of_another_format_is_refused(tmp_path):
    torch.save({"format": 1, "about": "{}", "state": {}}, tmp_path / "run.pt")
    with pytest.raises(CannotDo, match=r"no intact checkpoint \(its format is 1, not 2\)"):
        kept(tmp_path / "run.pt", {})


def test_process_killed_while_writing_leaves_the_old_checkpoint_and_nothing_for_ever(tmp_path):
    path = tmp_path / "run.pt"
    keep(path, ABOUT, {"epoch": 1})
    with warnings.catch_warnings(action="ignore"):  # of forking beside threads: this child writes a file, and dies
        pid = os.fork()
    if not pid:  # the child dies when the first bytes of the new checkpoint are on their way
        os.fsync = lambda handle: os.kill(os.getpid(), 9)
        keep(path, ABOUT, {"epoch": 2})
    assert os.waitpid(pid, 0)[1] == 9
    assert len(list(tmp_path.iterdir())) == 2
    assert kept(path, ABOUT) == {"epoch": 1}
    keep(path, ABOUT, {"epoch": 2})
    assert kept(path, ABOUT) == {"epoch": 2}
    assert [p.name for p in tmp_path.iterdir()] == ["run.pt"]


def test_buffers_that_are_not_saved_with_a_network_come_back_too():
    class Growing(torch.nn.BatchNorm1d):
        def __init__(self):
            super().__init__(2)
            self.register_buffer("seen", torch.zeros(2), persistent=False)

    net = torch.nn.Sequential(Growing())
    before = tensors_of(net)
    net[0].seen += 1
    net[0].running_mean += 1
    tensors_back(net, before)
    assert net[0].seen.tolist() == net[0].running_mean.tolist() == [0, 0]
    net[0].seen = torch.ones(5)
    tensors_back(net, before)
    assert net[0].seen.tolist() == [0, 0]
    net[0].seen += 1
    assert before["unsaved 0.seen"].tolist() == [0, 0]


@pytest.mark.parametrize("content", ["pickle", "torch", "text", "folder"])
def test_foreign_file_is_refused_and_nothing_in_it_runs(content, tmp_path):
    path, sprung = tmp_path / "run.pt", tmp_path / "sprung"
    if content == "folder":
        path.mkdir()
    elif content == "torch":
        torch.save({"about": "{}", "state": Trap(sprung)}, path)
    else:
        path.write_bytes(pickle.dumps(Trap(sprung)) if content == "pickle" else b"weights: none")
    with pytest.raises(CannotDo, match="is no intact checkpoint"):
        kept(path, ABOUT)
    assert not sprung.exists()


def test_checkpoint_of_another_run_is_refused_by_what_differs(tmp_path):
    keep(tmp_path / "run.pt", ABOUT, {})
    with pytest.raises(ValueError, match=r"belongs to another run \(lr was 0.1, is 0.2\)"):
        kept(tmp_path / "run.pt", ABOUT | {"lr": 0.2})
    assert kept(tmp_path / "run.pt", {**ABOUT, "legs": (("all", ((None, 0.1, 2),)),)}) == {}


def test_failed_writing_leaves_the_old_checkpoint_and_no_half_file(tmp_path):
    path = tmp_path / "run.pt"
    keep(path, ABOUT, {"epoch": 1})
    with pytest.raises(ValueError, match="must hold tensors, text and numbers, got ndarray in 'state deep epoch'"):
        keep(path, ABOUT, {"deep": {"epoch": [np.zeros(2)]}})
    assert kept(path, ABOUT) == {"epoch": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["run.pt"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's device that is always full")
def test_full_disk_is_one_sentence(tmp_path):
    (tmp_path / "run.pt.part").symlink_to("/dev/full")
    with pytest.raises(CannotDo, match=r"run.pt' cannot be written \(.*make room or name another"):
        keep(tmp_path / "run.pt", ABOUT, {"w": torch.zeros(10**6)})
    assert not (tmp_path / "run.pt").exists()


def test_fingerprint_sees_every_byte_shape_type_and_name():
    x = np.arange(6.0)
    others = [{"y": x}, {"x": x.reshape(2, 3)}, {"x": x.astype(np.float32)}, {"x": x + 1e-15}, {"x": x, "y": x[:0]}]
    prints = [fingerprint(arrays) for arrays in [{"x": x}, *others]]
    assert len(set(prints)) == len(prints)
    assert fingerprint({"a": x, "b": x[::2]}) == fingerprint({"b": x[::2].copy(), "a": x})


def test_shape_of_a_network_is_not_its_weights():
    assert shape_of(torch.nn.Linear(2, 1)) == shape_of(torch.nn.Linear(2, 1))
    assert shape_of(torch.nn.Linear(2, 1)) != shape_of(torch.nn.Linear(2, 1, bias=False))
    assert shape_of(torch.nn.Dropout(0.1)) != shape_of(torch.nn.Dropout(0.2))
