"Updates under a gate: what passes, what is put back, and that every bit of it is."

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from seatrial.base.settings import CannotDo
from seatrial.tune.replay import Buffer
from seatrial.tune.update import Snapshot, check, commit_if, digest_of, gate, put_back, state_of


class Counting(nn.Module):
    "A network with a buffer that is saved, one that is not, and a number of zero dimensions."

    def __init__(self):
        super().__init__()
        self.line = nn.Linear(3, 2)
        self.norm = nn.BatchNorm1d(2)
        self.register_buffer("seen", torch.tensor(0), persistent=False)

    def forward(self, x):
        self.seen += len(x)
        return self.norm(self.line(x))


@pytest.fixture
def parts():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Counting()
    return {
        "model": model,
        "optimizer": torch.optim.AdamW(model.parameters(), 0.1),
        "memory": Buffer(5, 1).add({"x": np.arange(20.0)}),
        "rows": np.random.default_rng(2),
        "dropout": torch.Generator().manual_seed(3),
    }


def step(parts):
    x = torch.randn(8, 3, generator=parts["dropout"]) + float(parts["rows"].normal())
    parts["optimizer"].zero_grad()
    parts["model"](x).square().sum().backward()
    parts["optimizer"].step()
    parts["memory"].add({"x": np.arange(4.0)})


def losses():
    return {"old": np.zeros(300), "new": np.linspace(0, 1, 300)}


@pytest.mark.parametrize("warm", [0, 2])
def test_a_refused_update_leaves_every_part_as_it_was(parts, warm):
    for _ in range(warm):
        step(parts)
    before = digest_of(parts)
    update = commit_if(parts, lambda: step(parts), losses, gains=["new"])
    assert not update.committed
    assert update.tried != update.before == update.after == before == digest_of(parts)


@pytest.mark.parametrize("warm", [0, 2])
def test_what_follows_a_refused_update_is_what_would_have_been_without_it(parts, warm):
    for _ in range(warm):
        step(parts)
    snapshot = Snapshot.of(parts)
    step(parts)
    undisturbed = digest_of(parts)
    snapshot.restore(parts)
    commit_if(parts, lambda: [step(parts) for _ in range(3)], losses, gains=["new"])
    step(parts)
    assert digest_of(parts) == undisturbed


def test_each_part_counts_in_the_hash(parts):
    changes = {
        "model": lambda m: m.seen.add_(1),
        "optimizer": lambda o: o.param_groups[0].update(lr=0.2),
        "memory": lambda b: b.draw(1),
        "rows": lambda r: r.random(),
        "dropout": lambda g: torch.rand(1, generator=g),
    }
    for name, change in changes.items():
        before = digest_of(parts)
        change(parts[name])
        assert digest_of(parts) != before, name


def test_the_hash_tells_apart_what_compares_equal():
    class Holds:
        def __init__(self, value):
            self.value = value

        def state_dict(self):
            return {"value": self.value}

        def load_state_dict(self, state):
            self.value = state["value"]

    values = [0.0, -0.0, 0, False, None, "0", [0], (0,), torch.tensor(0.0), torch.tensor(-0.0), torch.zeros(1)]
    values += [np.zeros(1), np.zeros(1, np.float32), torch.zeros(1, dtype=torch.bfloat16), torch.tensor(False), {0: 0}]
    assert len({digest_of({"a": Holds(v)}) for v in values}) == len(values)


def test_a_snapshot_can_be_restored_twice_and_shares_nothing(parts):
    snapshot = Snapshot.of(parts)
    for _ in range(2):
        step(parts)
        snapshot.restore(parts)
        assert digest_of(parts) == snapshot.sha256


def test_an_exception_while_learning_or_measuring_puts_everything_back(parts):
    before, calls = digest_of(parts), []

    def learn(error):
        step(parts)
        raise error

    def fails_the_second_time():
        calls.append(1)
        if len(calls) > 1:
            raise OSError("no space left on device")
        return losses()

    for error in (KeyboardInterrupt(), RuntimeError("out of memory")):
        with pytest.raises(type(error)):
            commit_if(parts, lambda error=error: learn(error), losses)
        assert digest_of(parts) == before
    with pytest.raises(OSError, match="no space"):
        commit_if(parts, lambda: step(parts), fails_the_second_time)
    assert digest_of(parts) == before


def test_an_update_that_ends_in_nan_is_refused(parts):
    before, answers = digest_of(parts), iter([{"old": np.zeros(50)}, {"old": np.full(50, np.nan)}])
    update = commit_if(parts, lambda: step(parts), lambda: next(answers))
    assert not update.committed and "no numbers" in update.why and digest_of(parts) == before


def test_a_passed_update_stays(parts):
    rng = np.random.default_rng(0)
    answers = iter([{"old": np.zeros(400), "new": rng.random(400)}, {"old": np.zeros(400), "new": np.zeros(400)}])
    update = commit_if(parts, lambda: step(parts) or "done", lambda: next(answers), gains=["new"])
    assert update.committed and update.result == "done" and update.after == update.tried == digest_of(parts)
    assert "Committed" in update._repr_markdown_()


def test_one_kind_that_loses_is_enough_to_refuse():
    rng = np.random.default_rng(0)
    before = {name: rng.random(500) for name in "abc"}
    after = {**before, "b": before["b"] + 0.1 + 0.01 * rng.normal(size=500)}
    verdicts = {c.name: c.passed for c in gate(before, after)}
    assert verdicts == {"a": True, "b": False, "c": True}


def test_the_gate_passes_harm_at_the_margin_at_most_as_often_as_stated():
    rng, passed = np.random.default_rng(0), 0
    for _ in range(1000):
        before = rng.normal(size=200)
        passed += check("rows", before, before + 0.05 + 0.3 * rng.normal(size=200), margin=0.05).passed
    assert passed / 1000 < 0.05 + 3 * (0.05 * 0.95 / 1000) ** 0.5


def test_no_improvement_is_no_gain():
    x = np.linspace(0, 1, 100)
    assert not check("rows", x, x, "gained").passed
    assert check("rows", x, x).verdict == "unchanged"
    assert not check("rows", np.zeros(1), np.zeros(1)).passed


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 400), st.floats(0.001, 0.2))
def test_zero_one_losses_without_a_change_pass_only_with_rows_enough(n, margin):
    passed = check("rows", np.zeros(n), np.zeros(n), margin=margin).passed
    assert not passed or n > 1 / margin  # one broken row in n would be more than the margin


def test_bad_arguments_are_refused_before_anything_is_learned(parts):
    def never():
        raise AssertionError("learned")

    cases = [
        ({}, losses, {}, "parts must name"),
        (parts, losses, {"gains": ["other"]}, "gains"),
        (parts, losses, {"margin": 0}, "margin must be"),
        (parts, losses, {"alpha": 1}, "alpha must"),
        (parts, lambda: {}, {}, "at least one kind"),
        (parts, lambda: {"old": np.zeros((2, 2))}, {}, "one number a row"),
        (parts, lambda: {"old": np.array([])}, {}, "one number a row"),
        (parts, lambda: {"old": np.array([0, np.nan])}, {}, "old.*before"),
        ({"x": 3}, losses, {}, "state_dict"),
    ]
    for some, measured, options, words in cases:
        with pytest.raises(ValueError, match=words):
            commit_if(some, never, measured, **options)


def test_a_part_that_changed_its_shape_says_so():
    parts = {"model": nn.Linear(2, 2)}
    snapshot = Snapshot.of(parts)
    parts["model"] = nn.Linear(2, 3)
    with pytest.raises(CannotDo, match="must not change shapes"):
        snapshot.restore(parts)


def test_a_state_put_back_is_a_copy():
    model = nn.Linear(2, 2)
    state = state_of(model)
    put_back(model, state)
    with torch.no_grad():
        model.weight.add_(1)
    assert not torch.equal(model.weight, state["weight"])
