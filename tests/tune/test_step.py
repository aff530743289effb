"One step: the same gradient whatever the machine, and no neighbour disturbed."

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from seatrial.base.settings import CannotDo
from seatrial.tune.feed import Feed
from seatrial.tune.step import Stepper, awake, compiled, cosine, in_float, numbers_of, recomputed, take


@settings(deadline=None)
@given(st.integers(1, 400), st.floats(0, 1))
def test_schedule_climbs_to_its_rate_once_and_never_leaves_its_bounds(steps, warm_share):
    factors = [cosine(step, steps, warm_share) for step in range(steps)]
    assert all(0 < f <= 1 for f in factors)
    top = factors.index(max(factors))
    assert factors[: top + 1] == sorted(factors[: top + 1])
    assert factors[top:] == sorted(factors[top:], reverse=True)


RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(60, 4)).astype(np.float32), RNG.normal(size=60).astype(np.float32)


class Net(nn.Module):
    def __init__(self, most=10**9):
        super().__init__()
        self.layers, self.most = nn.ModuleList(nn.Linear(4, 4) for _ in range(3)), most

    def forward(self, x):
        if len(x) > self.most:
            torch.empty(2**60)
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x.sum(1)


def steps(n=3, most=10**9, rate=0.1, **options):
    torch.manual_seed(0)
    net = Net(most)
    it = Stepper(
        net, net, Feed.of({"x": X}), Y, nn.functional.mse_loss, torch.optim.AdamW(net.parameters(), rate), 9, **options
    )
    losses = [take(it, np.arange(i, i + 33)) for i in range(n)]
    return torch.cat([p.detach().reshape(-1) for p in net.parameters()]), losses, it


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 40))
def test_a_batch_in_parts_is_the_same_step(at_once):
    (whole, losses, _), (parts, in_parts, _) = steps(), steps(at_once=at_once)
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=0)
    assert in_parts == pytest.approx(losses, rel=1e-5)


@pytest.mark.parametrize("most", [1, 2, 7, 32])
def test_running_out_of_memory_changes_the_parts_and_not_the_step(most):
    (whole, losses, _), (small, in_parts, it) = steps(), steps(most=most)
    torch.testing.assert_close(small, whole, atol=1e-5, rtol=0)
    assert in_parts == pytest.approx(losses, rel=1e-5)
    assert 1 <= it.at_once <= most


def test_a_row_that_fits_nowhere_is_one_sentence():
    with pytest.raises(CannotDo, match=r"not even one row fits.*recompute=True"):
        steps(most=0)


def test_penalty_is_added_once_however_the_batch_is_cut():
    pull = {"penalty": lambda: torch.tensor(2.5)}
    plain, whole, parts = steps()[1], steps(**pull)[1], steps(at_once=5, **pull)[1]
    assert whole == pytest.approx([v + 2.5 for v in plain], rel=1e-5)
    assert parts == pytest.approx(whole, rel=1e-5)


def test_a_loss_that_is_no_number_moves_nothing():
    start = steps(0)[0]
    after, losses, it = steps(1, penalty=lambda: torch.tensor(float("nan")))
    assert torch.equal(start, after)
    assert np.isnan(losses).all()
    assert it.step == 0


def test_gradient_is_no_longer_than_the_clip():
    _, _, it = steps(1, clip=1e-3)
    norm = torch.cat([p.grad.reshape(-1) for p in it.trained]).norm().item()
    assert norm == pytest.approx(1e-3, rel=1e-3)


def test_recomputing_gives_the_same_bits_with_dropout_and_leaves_no_trace():
    net = nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.Dropout()) for _ in range(3)))
    grads = []
    for wanted in (False, True):
        torch.manual_seed(0)
        net.zero_grad()
        with recomputed(net, wanted):
            net(torch.from_numpy(X)).square().sum().backward()
        grads.append([p.grad.clone() for p in net.parameters()])
    assert all(map(torch.equal, *grads))
    assert all("forward" not in vars(module) for module in net.modules())


def test_recomputing_needs_layers():
    with pytest.raises(ValueError, match="Linear has none"), recomputed(nn.Linear(2, 1)):
        pass


def test_compiled_network_takes_the_same_step():
    def once(make):
        torch.manual_seed(0)
        net = nn.Linear(4, 1)
        feed, targets = Feed.of({"input": X}), Y[:, None]
        it = Stepper(net, make(net), feed, targets, nn.functional.mse_loss, torch.optim.AdamW(net.parameters(), 0.1), 9)
        return take(it, np.arange(33)), net.weight.detach()

    try:
        loss, weight = once(compiled)
    except CannotDo as error:
        pytest.skip(str(error))
    expected, same = once(lambda net: net)
    assert loss == pytest.approx(expected, rel=1e-4)
    torch.testing.assert_close(weight, same, atol=1e-5, rtol=0)


def test_missing_compiler_is_one_sentence(monkeypatch):
    def broken(graph, inputs):
        raise RuntimeError("no compiler here")

    net = Net()
    call = torch.compile(net, backend=broken)
    it = Stepper(net, call, Feed.of({"x": X}), Y, nn.functional.mse_loss, torch.optim.AdamW(net.parameters(), 0.1), 9)
    with pytest.raises(CannotDo, match=r"torch.compile does not work here.*compiled=False"):
        take(it, np.arange(33))


def test_bfloat16_computes_in_bfloat16_and_learns_in_float32():
    kinds = []

    class Spy(Net):
        def forward(self, x):
            answer = self.layers[0](x)
            kinds.append(answer.dtype)
            return super().forward(x)

    net = Spy()
    optimizer = torch.optim.AdamW(net.parameters(), 0.1)
    it = Stepper(net, net, Feed.of({"x": X}), Y, nn.functional.mse_loss, optimizer, 9, dtype=numbers_of("bf16", "cpu"))
    take(it, np.arange(33))
    assert kinds == [torch.bfloat16]
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    assert in_float((torch.ones(1, dtype=torch.bfloat16), torch.ones(1, dtype=torch.int64)))[0].dtype == torch.float32


@pytest.mark.parametrize(("precision", "kind"), [("int8", ValueError), ("fp16", CannotDo)])
def test_precision_that_is_not_there_is_refused(precision, kind):
    with pytest.raises(kind, match=precision):
        numbers_of(precision, "cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU: float16 gradients are scaled on CUDA")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_each_precision_learns_on_a_gpu(precision):
    from seatrial.tune.crew import Crew

    net = Net().cuda()
    optimizer = torch.optim.AdamW(net.parameters(), 0.05)
    dtype = numbers_of(precision, "cuda")
    feed = Feed.of({"x": X}, device="cuda")
    it = Stepper(net, net, feed, Y, nn.functional.mse_loss, optimizer, 50, dtype=dtype, crew=Crew(device="cuda"))
    losses = [take(it, np.arange(60)) for _ in range(50)]
    assert losses[-1] < losses[0]


def test_frozen_parts_sleep_and_their_surroundings_do_not():
    net = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), nn.Dropout(), nn.Linear(2, 1))
    awake(net.eval(), {id(p) for p in net[2].parameters()})
    assert [m.training for m in net] == [False, True, True]
    assert not net[0][1].training
