"EWC: the Fisher information is the true one, and the parabola stands where each form says."

import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from seatrial.model.quality import BagScorer
from seatrial.tune.ewc import EWC, fisher, remember
from seatrial.tune.training import train
from seatrial.tune.update import digest_of


class Net(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        return self.layers(x)


def net(*sizes, seed=0, dropout=0.0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = []
        for a, b in pairwise(sizes):
            layers += [nn.Linear(a, b), nn.Tanh(), nn.Dropout(dropout)]
        return Net(*layers[:-2])


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)


def by_hand(model, x, classes=None):
    "The definition, one row and one class at a time."
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for row in torch.from_numpy(x):
        logs = torch.log_softmax(model(row[None])[0] if classes is None else model(row[None])[0][list(classes)], 0)
        for log in logs:
            grads = torch.autograd.grad(log, list(model.parameters()), retain_graph=True)
            for (name, _), g in zip(model.named_parameters(), grads, strict=True):
                total[name] += log.exp().detach() * g**2 / len(x)
    return total


@pytest.mark.parametrize("classes", [None, [0, 2], (3, 1), range(3)])
def test_the_fisher_is_its_definition(x, classes):
    model = net(4, 5, 4)
    found, exact = fisher(model, {"x": x}, classes=classes), by_hand(model, x, classes)
    for name, f in exact.items():
        torch.testing.assert_close(found[name], f, rtol=1e-4, atol=1e-7)


def test_for_softmax_regression_it_is_the_curvature_of_the_loss_whatever_the_labels(x):
    model = net(4, 3)
    weight, bias = (p.detach() for p in model.parameters())
    for labels in (torch.zeros(30, dtype=torch.long), torch.arange(30) % 3):
        loss = lambda w, y=labels: functional.cross_entropy(torch.from_numpy(x) @ w.T + bias, y)  # noqa: E731
        curvature = torch.autograd.functional.hessian(loss, weight).reshape(12, 12).diag().reshape(3, 4)
        torch.testing.assert_close(fisher(model, {"x": x})["layers.0.weight"], curvature, rtol=1e-4, atol=1e-6)


def test_drawn_labels_have_the_full_expectation_as_their_mean(x):
    model = net(4, 6, 3)
    full = fisher(model, {"x": x})
    drawn = fisher(model, {"x": x}, draws=5000)
    for name, f in full.items():
        torch.testing.assert_close(drawn[name], f, rtol=0.15, atol=1e-3)


def test_a_model_of_numbers_has_the_fisher_of_a_normal_distribution(x):
    class Line(nn.Module):
        def __init__(self):
            super().__init__()
            self.line = nn.Linear(4, 1)

        def forward(self, x):
            return self.line(x).squeeze(-1)

    found = fisher(Line(), {"x": x}, noise=0.5)
    np.testing.assert_allclose(found["line.weight"][0].numpy(), (x**2).mean(0) / 0.5, rtol=1e-5)
    assert found["line.bias"].item() == pytest.approx(2)


def test_embeddings_of_padded_text_have_one_too():
    ids = np.array([[1, 2, 0], [2, 2, 3], [4, 0, 0]])
    found = fisher(BagScorer(6, 2), {"ids": ids})["embedding.weight"]
    assert (found[[1, 2, 3, 4]] > 0).all() and (found[[0, 5]] == 0).all()


def test_it_warns_of_nothing_and_leaves_the_model_as_it_was(x):
    model = net(4, 5, 3, dropout=0.5).train()
    model.layers[0].bias.requires_grad_(False)
    before = digest_of({"model": model})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, second = fisher(model, {"x": x}), fisher(model, {"x": x})
    assert all(torch.equal(first[name], second[name]) for name in first)  # dropout is off
    assert model.training and model.layers[2].training and digest_of({"model": model}) == before
    assert "layers.0.bias" not in first and all(p.grad is None for p in model.parameters())


def test_parts_that_were_asleep_stay_asleep(x):
    model = net(4, 5, 3, dropout=0.5).train()
    model.layers[2].eval()
    fisher(model, {"x": x})
    assert model.training and not model.layers[2].training


def test_a_few_rows_are_a_random_few(x):
    model = net(4, 3)
    a, b = (fisher(model, {"x": x}, rows=10, rng=np.random.default_rng(s))["layers.0.weight"] for s in (0, 1))
    again = fisher(model, {"x": x}, rows=10, rng=np.random.default_rng(0))["layers.0.weight"]
    assert torch.equal(a, again) and not torch.equal(a, b)
    torch.testing.assert_close(
        fisher(model, {"x": x}, rows=99)["layers.0.weight"], fisher(model, {"x": x})["layers.0.weight"]
    )


@pytest.mark.parametrize("form", ["sum", "online"])
def test_the_penalty_of_a_form_has_its_gradient(x, form):
    model = net(4, 3)
    ewc, kept = EWC(model, strength=2.0, form=form), []
    for seed in range(3):
        model.load_state_dict(net(4, 3, seed=seed).state_dict())
        rows = {"x": x[10 * seed : 10 * seed + 10]}
        remember(ewc, rows)
        kept.append((fisher(model, rows), dict(net(4, 3, seed=seed).named_parameters())))
    model.load_state_dict(net(4, 3, seed=9).state_dict())
    ewc().backward()
    for name, p in model.named_parameters():
        centre = [kept[-1][1][name]] * 3 if form == "online" else [w[name] for _, w in kept]
        exact = 2.0 * sum(f[name] * (p - c) for (f, _), c in zip(kept, centre, strict=True))
        torch.testing.assert_close(p.grad, exact.detach(), rtol=1e-3, atol=1e-5)


def test_decay_forgets_older_tasks(x):
    model = net(4, 3)
    ewc, once = EWC(model, decay=0.5), fisher(model, {"x": x})["layers.0.weight"]
    for _ in range(3):
        remember(ewc, {"x": x})
    torch.testing.assert_close(ewc.curvature["layers.0.weight"], 1.75 * once)


def test_before_the_first_task_nothing_is_penalized(x):
    assert EWC(net(4, 3))().item() == 0
    data = ({"x": x}, np.zeros(30, np.int64))
    model = net(4, 3)
    train(model, data, data, epochs=1, loss=functional.cross_entropy, penalty=EWC(model), progress=lambda *w: None)


def test_a_state_can_be_put_back(x):
    model = net(4, 3)
    ewc = remember(EWC(model), {"x": x})
    other = EWC(model)
    other.load_state_dict(ewc.state_dict())
    assert digest_of({"e": ewc}) == digest_of({"e": other})
    remember(other, {"x": x})
    assert digest_of({"e": ewc}) != digest_of({"e": other}) and ewc.tasks == 1


def test_a_strong_penalty_holds_what_matters_and_lets_go_of_the_rest(x):
    still = x.copy()
    still[:, 3] = 0  # the first task says nothing about this input
    model = net(4, 3)
    start = model.layers[0].weight.detach().clone()
    ewc = remember(EWC(model, strength=1e4), {"x": still})
    data = ({"x": 3 * x}, np.random.default_rng(1).integers(3, size=30))
    how = {"loss": functional.cross_entropy, "lr": 1e-2, "weight_decay": 0, "patience": 30}
    train(model, data, data, epochs=30, penalty=ewc, progress=lambda *w: None, **how)
    moved = (model.layers[0].weight.detach() - start).abs()
    assert moved[:, :3].max() < 0.1 * moved[:, 3].max()


def test_what_cannot_be_remembered_is_refused(x):
    labels = np.arange(30) % 3
    cases = [
        (lambda: remember(EWC(net(4, 3)), {"x": 100 * x}, labels), "must have learned the task"),
        (lambda: remember(EWC(net(4, 3)), {"x": x}, labels + 1), r"classes \[0, 1, 2\], got \[3\]"),
        (lambda: remember(EWC(net(4, 3)), {"x": x}, labels[:5]), "30 whole numbers"),
        (lambda: remember(EWC(net(4, 3)), {"x": x}, labels + 0.5), "30 whole numbers"),
        (lambda: fisher(net(4, 3), {"x": x * np.nan}), "finite"),
        (lambda: fisher(net(4, 3), {"x": x[:0]}), "at least 1"),
        (lambda: fisher(net(4, 3), {"ids": x}), "missing a required argument: 'x'"),
        (lambda: fisher(net(4, 3), {"x": x}, classes=[1, 3]), "classes must be below 3"),
        (lambda: fisher(net(4, 1), {"x": x}), "at least 2 different classes must compete, got 1 columns"),
        (lambda: fisher(net(4, 3), {"x": x}, classes=[1]), "at least 2 different classes"),
        (lambda: fisher(net(4, 3), {"x": x}, classes=[1, 1, 2]), "at least 2 different classes"),
        (lambda: fisher(net(4, 3).requires_grad_(False), {"x": x}), "must have a parameter that trains"),
        (lambda: fisher(net(4, 3), {"x": x}, noise=0), "noise must be positive"),
        (lambda: EWC(net(4, 3), strength=-1), "strength must be 0 or more"),
        (lambda: EWC(net(4, 3), strength=float("nan")), "strength must be 0 or more"),
        (lambda: EWC(net(4, 3), decay=0), "decay in"),
        (lambda: EWC(net(4, 3), form="both"), "form must be one of online, sum"),
    ]
    for wrong, words in cases:
        with pytest.raises(ValueError, match=words):
            wrong()
    broken = net(4, 3)
    with torch.no_grad():
        broken.layers[0].weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="finite numbers"):
        fisher(broken, {"x": x})
