"What several tests of this room train: rows, a small network and a penalty that other processes can import."

import numpy as np
import torch
from torch import nn

RNG = np.random.default_rng(0)
X = RNG.normal(size=(150, 4)).astype(np.float32)
Y = (np.sin(X[:, 0]) + 0.5 * X[:, 1]).astype(np.float32)
DATA = ({"x": X[:100]}, Y[:100]), ({"x": X[100:]}, Y[100:])


class Net(nn.Module):
    "Small, with dropout, importable from another process."

    def __init__(self, dropout=0.2, seed=0, outputs=1, norm=nn.LayerNorm):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.body = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Dropout(dropout), norm(16))
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
    "All that a network holds, in one row."
    return torch.cat([v.detach().reshape(-1) for v in [*model.state_dict().values(), *model.buffers()]])


def interrupt(at):
    "A listener that presses Ctrl-C at a step."

    def press(done, total, words):
        if done == at:
            raise KeyboardInterrupt

    return press
