"One training function: resumes to the bit, alone or in company, and says plainly what it refuses."

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from seatrial.tune.feed import predict
from seatrial.tune.replay import Buffer, Dark
from seatrial.tune.training import train
from tests.tune.nets import DATA, Net, Pull, X, Y, bits, interrupt


def trained(model=None, **recipe):
    model = model or Net()
    return bits(model), train(model, *DATA, **{"epochs": 4, "lr": 1e-2, "batch": 32, "patience": 9} | recipe), model


def end(**recipe):
    made = trained(**recipe)
    return bits(made[2]), made[1]


@pytest.mark.parametrize("at", [1, 4, 6, 9, 15])
@pytest.mark.parametrize("options", [{}, {"precision": "bf16"}, {"at_once": 7}], ids=["fp32", "bf16", "parts"])
def test_interrupted_and_called_again_ends_in_the_same_bits(at, options, tmp_path):
    whole, expected = end(**options)
    model, path = Net(), tmp_path / "run.pt"
    with pytest.raises(KeyboardInterrupt):
        trained(model, checkpoint=path, progress=interrupt(at), **options)
    again = trained(model, checkpoint=path, **options)[1]
    assert torch.equal(bits(model), whole)
    assert [e.valid_loss for e in again.history] == [e.valid_loss for e in expected.history]


class Odd(Net):
    "Batch normalization, tied weights, a transposed one, a frozen part, and a buffer that is not saved."

    def __init__(self):
        super().__init__(norm=nn.BatchNorm1d)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.one, self.two, self.still = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16)
            self.turned = nn.Parameter(torch.randn(16, 16).T / 4)
        self.two.weight = self.one.weight
        self.still.requires_grad_(False)
        self.register_buffer("mean", torch.zeros(16), persistent=False)

    def forward(self, x):
        h = self.body(x)
        h = self.two(self.one(h).tanh()) @ self.turned + self.still(h)
        if self.training:
            self.mean.mul_(0.9).add_(0.1 * h.detach().mean(0))
        return self.head(h - self.mean).squeeze(-1)


@pytest.mark.parametrize("at", [1, 5, 8, 14])
def test_networks_with_state_of_their_own_go_on_to_the_same_bits(at, tmp_path):
    whole, path = Odd(), tmp_path / "run.pt"
    trained(whole)
    with pytest.raises(KeyboardInterrupt):
        trained(Odd(), checkpoint=path, progress=interrupt(at))
    again = Odd()
    trained(again, checkpoint=path)
    assert torch.equal(bits(again), bits(whole))
    assert again.mean.any()


@pytest.mark.parametrize("at", [5, 14])
def test_memory_of_a_penalty_goes_on_drawing_where_it_was(at, tmp_path):
    labels = (X[:, 0] > 0).astype(np.int64)
    rows = {"x": X[:60], "label": labels[:60], "logits": X[:60, :2]}
    sides = ({"x": X[:100]}, labels[:100]), ({"x": X[100:]}, labels[100:])
    how = {"epochs": 4, "lr": 1e-2, "batch": 32, "patience": 9, "loss": functional.cross_entropy}

    def run(**options):
        net = Net(outputs=2)
        train(net, *sides, penalty=Dark(net, Buffer(20, 1).add(rows), batch=8), **how, **options)
        return bits(net)

    whole = run()
    with pytest.raises(KeyboardInterrupt):
        run(checkpoint=tmp_path / "run.pt", progress=interrupt(at))
    assert torch.equal(run(checkpoint=tmp_path / "run.pt"), whole)


def test_finished_run_answers_again_without_training(tmp_path):
    heard, path = [], tmp_path / "run.pt"
    first = end(checkpoint=path)
    second = end(checkpoint=path, progress=lambda *said: heard.append(said))
    assert torch.equal(first[0], second[0])
    assert heard == [(16, 16, "done")]


def test_progress_goes_on_counting_where_the_run_was_cut(tmp_path):
    heard = []
    with pytest.raises(KeyboardInterrupt):
        trained(checkpoint=tmp_path / "run.pt", progress=interrupt(6))
    trained(checkpoint=tmp_path / "run.pt", progress=lambda *said: heard.append(said[0]))
    assert heard == [*range(5, 17), 16]


@pytest.mark.parametrize(
    "other",
    [{"lr": 2e-2}, {"seed": 1}, {"batch": 16}, {"epochs": 5}, {"loss": functional.l1_loss}, {"precision": "bf16"}],
    ids=lambda other: next(iter(other)),
)
def test_checkpoint_of_other_choices_is_refused(other, tmp_path):
    trained(checkpoint=tmp_path / "run.pt")
    with pytest.raises(ValueError, match=f"belongs to another run .*{next(iter(other))} was"):
        trained(checkpoint=tmp_path / "run.pt", **other)


def test_checkpoint_of_other_data_or_another_network_is_refused(tmp_path):
    trained(checkpoint=tmp_path / "run.pt")
    how = {"epochs": 4, "lr": 1e-2, "batch": 32, "patience": 9, "checkpoint": tmp_path / "run.pt"}
    with pytest.raises(ValueError, match="valid was"):
        train(Net(), DATA[0], DATA[0], **how)
    with pytest.raises(ValueError, match="model was"):
        train(nn.Sequential(Net()), *[({"input": d["x"]}, y) for d, y in DATA], **how)


@pytest.mark.parametrize(
    ("first", "second", "what"),
    [
        (lambda n: {"loss": nn.HuberLoss(delta=1.0)}, lambda n: {"loss": nn.HuberLoss(delta=2.0)}, "loss"),
        (
            lambda n: {"loss": lambda a, b: (a - b).abs().mean()},
            lambda n: {"loss": lambda a, b: (a - b).mean()},
            "loss",
        ),
        (lambda n: {"penalty": Pull(n)}, lambda n: {"penalty": n.head.bias.sum}, "penalty"),
        (
            lambda n: {"groups": [{"params": n.head.parameters()}]},
            lambda n: {"groups": [{"params": n.body[0].parameters()}]},
            "legs",
        ),
        (
            lambda n: {"groups": [{"params": n.parameters()}]},
            lambda n: {"groups": [{"params": n.parameters(), "betas": (0.5, 0.9)}]},
            "legs",
        ),
    ],
    ids=["delta", "lambda", "penalty", "parameters", "betas"],
)
def test_checkpoint_of_choices_that_only_look_alike_is_refused(first, second, what, tmp_path):
    nets = Net(), Net()
    trained(nets[0], checkpoint=tmp_path / "run.pt", epochs=1, **first(nets[0]))
    with pytest.raises(ValueError, match=f"belongs to another run .*{what} was"):
        trained(nets[1], checkpoint=tmp_path / "run.pt", epochs=1, **second(nets[1]))


def test_checkpoint_of_another_dropout_is_refused(tmp_path):
    trained(Net(dropout=0.1), checkpoint=tmp_path / "run.pt", epochs=1)
    with pytest.raises(ValueError, match="model was"):
        trained(Net(dropout=0.2), checkpoint=tmp_path / "run.pt", epochs=1)


def test_row_that_batch_normalization_finds_alone_is_named():
    rows = {"x": X[:65]}, Y[:65]
    with pytest.raises(ValueError, match="needs 2 rows at a time: a batch of 1 rows of 65"):
        train(Net(norm=nn.BatchNorm1d), rows, DATA[1], batch=64, epochs=1)


def test_checkpoint_goes_on_with_other_means(tmp_path):
    plain = {"model": Net(dropout=0.0)}
    whole = end(**plain)[0]
    model = Net(dropout=0.0)
    with pytest.raises(KeyboardInterrupt):
        trained(model, checkpoint=tmp_path / "run.pt", progress=interrupt(9))
    trained(model, checkpoint=tmp_path / "run.pt", at_once=5, recompute=True)
    torch.testing.assert_close(bits(model), whole, atol=1e-5, rtol=0)


def test_classes_columns_and_several_answers_train_as_their_loss_says():
    labels = (X[:, 0] > 0).astype(int)
    net = Net(outputs=2)
    sides = [({"x": X[:100]}, labels[:100]), ({"x": X[100:]}, labels[100:])]
    train(net, *sides, epochs=20, lr=2e-2, batch=32, loss=functional.cross_entropy)
    assert (predict(net, {"x": X[100:]}).argmax(1) == labels[100:]).mean() > 0.85

    class Pair(Net):
        def forward(self, x):
            return super().forward(x), x.sum(1)

    def weighted(answers, targets):
        return (targets[:, 1] * (answers[0] - targets[:, 0]) ** 2).mean()

    both = np.column_stack([Y, np.ones(150)])
    pair, alone = Pair(), Net()
    left = train(pair, ({"x": X[:100]}, both[:100]), ({"x": X[100:]}, both[100:]), epochs=3, loss=weighted)
    right = train(alone, *DATA, epochs=3)
    assert [e.valid_loss for e in left.history] == pytest.approx([e.valid_loss for e in right.history], rel=1e-5)


def test_whole_number_targets_are_numbers_to_a_squared_error():
    counts = np.arange(150)
    sides = [({"x": X[:100]}, counts[:100]), ({"x": X[100:]}, counts[100:])]
    assert train(Net(), *sides, epochs=1).best_loss > 0


def test_parameters_that_ask_for_no_gradient_stay_and_sleep():
    net = Net()
    net.body.requires_grad_(False)
    before = bits(net.body)
    train(net, *DATA, epochs=2)
    assert torch.equal(bits(net.body), before)
    assert not any(p.requires_grad for p in net.body.parameters())


def test_groups_train_alone_and_at_their_own_rates():
    net = Net()
    body, head = bits(net.body), bits(net.head)
    train(net, *DATA, epochs=2, groups=[{"params": net.head.parameters(), "lr": 0.1}], lr=1e-9)
    assert torch.equal(bits(net.body), body)
    assert (bits(net.head) - head).abs().max() > 1e-3


def test_penalty_pulls():
    free, held = Net(), Net()
    train(free, *DATA, epochs=20, lr=2e-2)
    train(held, *DATA, epochs=20, lr=2e-2, penalty=Pull(held))
    assert held.head.weight.norm() < 0.8 * free.head.weight.norm()


@pytest.mark.parametrize("most", [1, 20])
def test_running_out_of_memory_is_survived_and_said(most):
    class Cramped(Net):
        def forward(self, x):
            if len(x) > most:
                torch.empty(2**60)
            return super().forward(x)

    cramped, roomy = Cramped(dropout=0.0), Net(dropout=0.0)
    history = trained(cramped)[1].history
    trained(roomy)
    torch.testing.assert_close(bits(cramped), bits(roomy), atol=1e-5, rtol=0)
    assert [e.at_once for e in history] == [0, *[1 if most == 1 else 16] * 4]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"lr": 0}, "lr must be a positive number, got 0"),
        ({"clip": -1}, "clip must be a positive number, got -1"),
        ({"weight_decay": -0.1}, "weight_decay must be 0 or more"),
        ({"processes": 0}, "processes must be at least 1"),
        ({"precision": "int8"}, "precision must be one of fp32, bf16, fp16"),
        ({"groups": [{"params": []}]}, "groups of 'train' must hold parameters of the model to train, got none"),
        ({"groups": [{"params": nn.Linear(1, 1).parameters()}]}, "got parameters of another model"),
        ({"epochs": 2.5}, "epochs must be a whole number, at least 1, got 2.5"),
        ({"batch": "8"}, "batch must be a whole number, at least 1, got '8'"),
        ({"seed": -1}, "seed must be 0 or more, got -1"),
        ({"lr": "fast"}, "lr must be a positive number, got 'fast'"),
        ({"loss": "mse"}, "loss must be a function, got 'mse'"),
        ({"penalty": 1.0}, "penalty must be a function, got 1.0"),
        ({"groups": [{"lr": 1.0}]}, "groups of 'train' must hold parameters of the model to train, got none"),
        ({"loss": lambda a, b: (a - b).square()}, "loss must return one number"),
    ],
)
def test_options_out_of_range_are_refused_by_name_and_value(options, said):
    net = Net()
    before = bits(net)
    with pytest.raises(ValueError, match=said):
        train(net, *DATA, **options)
    assert torch.equal(bits(net), before)


def test_targets_of_another_shape_than_those_of_validation_are_refused():
    with pytest.raises(ValueError, match=r"targets of train and valid must be alike.*\(100, 1\)"):
        train(Net(), (DATA[0][0], DATA[0][1][:, None]), DATA[1])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize(
    "options", [{"precision": p} for p in ("fp32", "bf16", "fp16")] + [{"compiled": True}], ids=str
)
def test_everything_trains_on_a_gpu_unchanged(options):
    net = Net()
    tuned = train(net, *DATA, epochs=10, lr=1e-2, batch=32, device="cuda", **options)
    assert tuned.best_loss < 0.5 * tuned.history[0].valid_loss
    assert next(net.parameters()).device.type == "cpu"
