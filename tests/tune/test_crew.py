"Several processes: the same weights as one, and trouble that comes home."

import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st

from seatrial.base.settings import CannotDo
from seatrial.tune.crew import Crew, launch
from seatrial.tune.training import Diverged, train
from tests.tune.nets import DATA, Net, Pull, bits, interrupt


@settings(deadline=None)
@given(st.integers(0, 50), st.integers(1, 9))
def test_each_row_of_a_batch_is_computed_by_one_process(n, size):
    shares = [Crew(rank, size).share(np.arange(n)) for rank in range(size)]
    assert sorted(np.concatenate(shares).tolist()) == list(range(n))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_two_processes_end_where_one_does_with_a_penalty_and_a_part_nobody_uses(tmp_path):
    ends, heard, epochs = [], [], []
    for processes in (1, 2):
        net = Net(dropout=0.0)
        tuned = train(
            net,
            *DATA,
            epochs=3,
            lr=1e-2,
            batch=33,
            processes=processes,
            penalty=Pull(net),
            checkpoint=tmp_path / f"{processes}.pt",
            progress=lambda *said: heard.append(said),
            after_epoch=epochs.append,
        )
        ends.append((bits(net), [e.valid_loss for e in tuned.history], [e.train_loss for e in tuned.history[1:]]))
    torch.testing.assert_close(ends[0][0], ends[1][0], atol=1e-5, rtol=0)
    assert ends[1][1] == pytest.approx(ends[0][1], rel=1e-4)
    assert ends[1][2] == pytest.approx(ends[0][2], rel=1e-4)
    assert [e.epoch for e in epochs] == [0, 1, 2, 3] * 2
    assert [done for done, _, _ in heard] == [*range(1, 13), 12] * 2


def test_trouble_in_another_process_comes_home_with_the_best_weights():
    net = Net(dropout=0.0)
    before = bits(net)
    with pytest.raises(Diverged, match="lower its lr"):
        train(net, *DATA, lr=1e30, epochs=2, processes=2)
    assert torch.equal(bits(net), before)


def test_what_cannot_be_imported_elsewhere_is_refused_before_anything_starts():
    with pytest.raises(ValueError, match="must be importable"):
        train(Net(), *DATA, processes=2, loss=lambda a, b: (a - b).square().mean())
    with pytest.raises(CannotDo, match="one for each GPU here, got 64"):
        launch(os.getpid, (), 64, "cuda")


class Fatal(Net):
    "Its second process is killed in the middle of training."

    def forward(self, x):
        if self.training and dist.get_rank() == 1:
            os.kill(os.getpid(), 9)
        return super().forward(x)


def test_process_that_disappears_ends_the_run_in_one_sentence():
    with pytest.raises(CannotDo, match=r"a training process ended early .*SIGKILL"):
        train(Fatal(), *DATA, processes=2, epochs=1)


class Foreign(Exception):
    "An error that cannot be built again from its words."

    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


def complain(say):
    raise Foreign("this", "that")


def test_errors_that_cannot_travel_send_their_words():
    with pytest.raises(RuntimeError, match="Foreign: this and that"):
        launch(complain, (), 2)


def test_interrupted_crew_with_batch_normalization_goes_on_to_the_same_bits(tmp_path):
    how = {"epochs": 3, "lr": 1e-2, "batch": 50, "processes": 2}
    whole, cut, again = (Net(norm=torch.nn.BatchNorm1d) for _ in range(3))
    train(whole, *DATA, **how)
    with pytest.raises(KeyboardInterrupt):
        train(cut, *DATA, checkpoint=tmp_path / "run.pt", progress=interrupt(4), **how)
    train(again, *DATA, checkpoint=tmp_path / "run.pt", **how)
    assert torch.equal(bits(again), bits(whole))


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"WORLD_SIZE": "2"}, "cannot be met .*RANK.*unset WORLD_SIZE"),
        ({"WORLD_SIZE": "two"}, "must be a whole number"),
    ],
)
def test_leftovers_of_a_batch_system_are_one_sentence(environment, said, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises((CannotDo, ValueError), match=said):
        train(Net(), *DATA, epochs=1)


def test_port_that_is_taken_is_one_sentence(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for name, value in {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(CannotDo, match=r"other processes cannot be met .*start with torchrun"):
            train(Net(), *DATA, epochs=1)


SAIL = """
import os, sys, time, torch
import torch.distributed as dist
from tests.tune.nets import DATA, Net, bits
from seatrial.tune.training import train

rank = int(os.environ["RANK"])
leave = dist.destroy_process_group
dist.destroy_process_group = lambda: (time.sleep(rank), leave())  # rank 1 still leaves while rank 0 is back already
net = Net(dropout=0.0, seed=rank)  # each process draws other first weights
train(net, *DATA, epochs=2, lr=1e-2, batch=33)
torch.save(bits(net), f"{sys.argv[1]}/{rank}.pt")
(x, y), valid = DATA
try:
    train(net, ({"x": x["x"][rank:]}, y[rank:]), valid, epochs=1)
except ValueError as error:
    open(f"{sys.argv[1]}/{rank}.txt", "w").write(str(error))
"""


def test_torchrun_shares_the_work_of_the_same_function_and_other_rows_are_refused(tmp_path):
    (tmp_path / "sail.py").write_text(SAIL)
    # the address is told, for a machine may not know its own name
    how = ["--standalone", "--local-addr=127.0.0.1", "--nproc-per-node=2"]
    launcher = [sys.executable, "-m", "torch.distributed.run", *how]
    env = {**os.environ, "PYTHONPATH": os.getcwd(), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    command = [*launcher, str(tmp_path / "sail.py"), str(tmp_path)]
    subprocess.run(command, check=True, env=env, capture_output=True, timeout=60)
    alone = Net(dropout=0.0)
    train(alone, *DATA, epochs=2, lr=1e-2, batch=33)
    ends = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    assert torch.equal(*ends)
    torch.testing.assert_close(ends[0], bits(alone), atol=1e-5, rtol=0)
    said = [(tmp_path / f"{rank}.txt").read_text() for rank in range(2)]
    assert said == ["every process must be given the same run, and they differ in train"] * 2
