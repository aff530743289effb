"Several processes: the same weights as one, and trouble that comes home."

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from seatrial.base.settings import CannotDo
from seatrial.tune.crew import Crew, launch
from seatrial.tune.training import Diverged, train

RNG = np.random.default_rng(0)
X = RNG.normal(size=(150, 4)).astype(np.float32)
Y = (np.sin(X[:, 0]) + 0.5 * X[:, 1]).astype(np.float32)
DATA = ({"x": X[:100]}, Y[:100]), ({"x": X[100:]}, Y[100:])


class Net(nn.Module):
    "Small, with dropout, importable from another process."

    def __init__(self, dropout=0.2, seed=0, outputs=1):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.body = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Dropout(dropout), nn.LayerNorm(16))
            self.head, self.spare = nn.Linear(16, outputs), nn.Linear(2, 2)  # nobody asks the spare one

    def forward(self, x):
        return self.head(self.body(x)).squeeze(-1)


class Pull:
    "A penalty that holds the same network: distance of the head from zero."

    def __init__(self, model):
        self.model = model

    def __call__(self):
        return self.model.head.weight.square().sum()


def bits(model):
    return torch.cat([v.detach().reshape(-1) for v in model.state_dict().values()])


@settings(deadline=None)
@given(st.integers(0, 50), st.integers(1, 9))
def test_each_row_of_a_batch_is_computed_by_one_process(n, size):
    shares = [Crew(rank, size).share(np.arange(n)) for rank in range(size)]
    assert sorted(np.concatenate(shares).tolist()) == list(range(n))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_two_processes_end_where_one_does_with_a_penalty_and_a_part_nobody_uses(tmp_path):
    ends, heard = [], []
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
        )
        ends.append((bits(net), [e.valid_loss for e in tuned.history], [e.train_loss for e in tuned.history[1:]]))
    torch.testing.assert_close(ends[0][0], ends[1][0], atol=1e-5, rtol=0)
    assert ends[1][1] == pytest.approx(ends[0][1], rel=1e-4)
    assert ends[1][2] == pytest.approx(ends[0][2], rel=1e-4)
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
        launch(vanish, (), 64, "cuda")


def vanish(say):
    os._exit(3)


def test_process_that_disappears_ends_the_run_in_one_sentence():
    with pytest.raises(CannotDo, match="a training process ended early"):
        launch(vanish, (), 2)


def test_torchrun_shares_the_work_of_the_same_function(tmp_path):
    script = tmp_path / "sail.py"
    script.write_text(
        textwrap.dedent("""
        import os, sys, torch
        from tests.tune.test_crew import DATA, Net, bits, train
        net = Net(dropout=0.0)
        train(net, *DATA, epochs=2, lr=1e-2, batch=33)
        torch.save(bits(net), f"{sys.argv[1]}/{os.environ['RANK']}.pt")
        """)
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", script, tmp_path]
    env = {**os.environ, "PYTHONPATH": os.getcwd(), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    subprocess.run(list(map(str, command)), check=True, env=env, capture_output=True, timeout=120)
    alone = Net(dropout=0.0)
    train(alone, *DATA, epochs=2, lr=1e-2, batch=33)
    ends = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    assert torch.equal(*ends)
    torch.testing.assert_close(ends[0], bits(alone), atol=1e-5, rtol=0)
