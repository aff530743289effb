"Continual learning: the four numbers, the five methods, and a gate that leaves no trace."

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from seatrial.tune.continual import METHODS, Among, Comparison, Continual, Course, Task, compare, course, learn_task
from seatrial.tune.update import digest_of


def task(name, classes, seed=0, n=60, turn=0.0):
    "Clouds around points on a circle off the origin, one a class; `turn` moves the circle on."
    rng, sides = np.random.default_rng(seed), {}
    for side in ("train", "valid", "test"):
        label = rng.choice(classes, n)
        angle = 2 * np.pi * label / 4 + turn
        x = 3 + 2 * np.stack([np.cos(angle), np.sin(angle)], 1) + 0.3 * rng.normal(size=(n, 2))
        sides[side] = ({"x": x.astype(np.float32)}, label)
    return Task(name, **sides, classes=tuple(classes))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 4))

    def forward(self, x):
        return self.layers(x)


def learner(method, seed=0, **options):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Net()
    recipe = {"epochs": 25, "patience": 25, "batch": 20, "progress": lambda *words: None}
    return Continual(model, 4, method, **{"seed": seed, "capacity": 30, "lr": 3e-2, "recipe": recipe} | options)


def halves(seed=0):
    return [task("early", (0, 1), seed), task("late", (2, 3), seed + 1)]


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 6), st.integers(0, 1000))
def test_the_four_numbers_are_their_definitions(tasks, seed):
    rng = np.random.default_rng(seed)
    r, b = rng.random((tasks, tasks)), rng.random(tasks)
    c, last = Course("any", r, b), tasks - 1
    assert c.average == pytest.approx(np.mean([r[last][j] for j in range(tasks)]))
    best = [max(r[i][j] for i in range(j, last)) for j in range(last)]
    assert c.forgetting == pytest.approx(np.mean([best[j] - r[last][j] for j in range(last)]))
    assert c.backward == pytest.approx(np.mean([r[last][j] - r[j][j] for j in range(last)]))
    assert c.forward == pytest.approx(np.mean([r[j - 1][j] - b[j] for j in range(1, tasks)]))
    assert c.forgetting >= -c.backward - 1e-12


def test_a_single_task_has_nothing_to_forget():
    c = Course("any", np.array([[0.9]]), np.array([0.1]))
    assert c.average == 0.9 and np.isnan([c.forgetting, c.backward, c.forward]).all()


def test_only_rivals_count_in_the_loss():
    logits, labels = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 3, 0, 2])
    told, low = Among([(0, 1), (3, 2)], 4)(logits, labels), 2 * (labels // 2)
    pairs = torch.stack([logits.gather(1, low[:, None])[:, 0], logits.gather(1, low[:, None] + 1)[:, 0]], 1)
    torch.testing.assert_close(told, functional.cross_entropy(pairs, labels - low))
    torch.testing.assert_close(Among([range(4)], 4)(logits, labels), functional.cross_entropy(logits, labels))


def test_rows_remember_what_a_naive_network_forgets():
    found = {m: course(learner(m), halves()) for m in METHODS}
    assert found["naive"].accuracy[1, 0] < 0.1 and found["naive"].forgetting > 0.9
    for method in ("joint", "replay", "der++"):
        assert found[method].average > 0.9, method


def test_ewc_forgets_less_when_the_world_turns():
    world = [task("here", range(4), 0), task("turned", range(4), 1, turn=0.6)]
    naive, ewc = (course(learner(m, strength=100.0), world) for m in ("naive", "ewc"))
    assert ewc.forgetting < naive.forgetting


@pytest.mark.parametrize("method", ["joint", "ewc", "der++"])
def test_a_course_repeats_to_the_bit(method):
    twins = [learner(method), learner(method)]
    courses = [course(twin, halves()) for twin in twins]
    assert np.array_equal(courses[0].accuracy, courses[1].accuracy)
    assert digest_of({"m": twins[0].model, "k": twins[0].memory}) == digest_of(
        {"m": twins[1].model, "k": twins[1].memory}
    )


@pytest.mark.parametrize("method", METHODS)
def test_a_refused_task_leaves_no_trace(method):
    first, second = halves()
    mine, twin = learner(method), learner(method)
    for one in (mine, twin):
        learn_task(one, first)
    parts = {"model": mine.model, "memory": mine.memory}
    before = digest_of(parts)
    noise = Task("noise", *((s[0], 1 - s[1]) for s in (first.train, first.valid)), first.test, (0, 1))
    refused = learn_task(mine, noise, margin=0.02)
    assert not refused.committed and refused.tried != before == digest_of(parts) and len(mine.learned) == 1
    for one in (mine, twin):
        learn_task(one, second)
    assert digest_of(parts) == digest_of({"model": twin.model, "memory": twin.memory})


def test_the_gate_refuses_the_naive_and_passes_replay():
    first, second = (task("early", (0, 1), 0, 200), task("late", (2, 3), 1, 200))
    for method, passes in (("naive", False), ("replay", True)):
        one = learner(method)
        assert learn_task(one, first, margin=0.05).committed
        assert learn_task(one, second, margin=0.05).committed is passes


def test_joint_sees_all_rows_from_the_first_weights():
    one = learner("joint")
    start = {name: v.clone() for name, v in one.model.state_dict().items()}
    course(one, halves())
    assert all(torch.equal(one.first[name], v) for name, v in start.items())
    assert all(not torch.equal(one.first[name], v) for name, v in one.model.state_dict().items())


def test_a_comparison_always_has_both_bounds_and_standard_errors():
    found = compare(learner, halves, methods=["replay"], seeds=range(2))
    assert list(found.courses) == ["naive", "replay", "joint"]
    x = [c.average for c in found.courses["replay"]]
    assert found.of("replay") == pytest.approx((np.mean(x), np.std(x, ddof=1) / 2**0.5))
    assert np.isnan(Comparison({"naive": found.courses["naive"][:1]}).of("naive")[1])
    assert "±" in found._repr_markdown_()


def test_a_memory_larger_than_all_rows_holds_all_of_them():
    one = learner("der++", capacity=1000)
    assert course(one, halves()).average > 0.9 and len(one.memory) == 120


def test_mistakes_are_one_sentence():
    first = task("early", (0, 1))
    none = ({"x": np.zeros((0, 2), np.float32)}, np.zeros(0, np.int64))
    nan = ({"x": np.full((60, 2), np.nan, np.float32)}, first.train[1])
    known = learner("naive")
    learn_task(known, first)
    cases = [
        (lambda: learner("magic"), "method must be one of naive, joint, replay, ewc, der\\+\\+, got 'magic'"),
        (lambda: learner("naive", slower=0), "slower must be"),
        (lambda: learner("replay", capacity=0), "capacity"),
        (lambda: learner("ewc", strength=-1), "strength"),
        (lambda: Task("none", none, first.valid, first.test, (0, 1)), "must have rows in train"),
        (lambda: Task("none", first.train, first.valid, none, (0, 1)), "must have rows in test"),
        (lambda: Task("odd", first.train, first.valid, first.test, (0,)), "classes out of \\(0,\\)"),
        (
            lambda: Task("odd", (first.train[0], first.train[1] + 0.5), first.valid, first.test, (0, 1)),
            "classes out of",
        ),
        (lambda: learn_task(learner("naive"), task("high", (3, 4))), "classes below 4"),
        (lambda: learn_task(known, first), "a name of its own"),
        (lambda: learn_task(known, Task("nan", nan, first.valid, first.test, (0, 1))), "NaN or an infinity in row 0"),
        (lambda: course(known, halves()), "a learner that has learned none"),
        (lambda: course(learner("naive"), []), "0 tasks"),
    ]
    for wrong, words in cases:
        with pytest.raises(ValueError, match=words):
            wrong()
