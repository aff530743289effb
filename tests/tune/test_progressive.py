"Progressive fine-tuning: what may move, what must not, and what is left after an accident."

import math

import numpy as np
import pytest
import torch
from torch import nn

from seatrial.base.settings import CannotDo
from seatrial.tune.feed import predict
from seatrial.tune.progressive import AT_ONCE, FEW, STAGES, Stage, Tuned, progressive, rates, solved, thawed
from seatrial.tune.training import Diverged


class Tower(nn.Module):
    "A head on three layers with dropout: deep enough for every stage to differ."

    def __init__(self, seed=0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.layers = nn.ModuleList(
                nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Dropout(0.2), nn.LayerNorm(4)) for _ in range(3)
            )
            self.head = nn.Linear(4, 1)
        self.seen = []

    def forward(self, x):
        self.seen.append([part.training for part in self.parts()])
        for layer in self.layers:
            x = layer(x)
        return self.head(x).squeeze(-1)

    def parts(self):
        return [self.head, *reversed(self.layers)]


def weights(model):
    return {name: v.clone() for name, v in model.state_dict().items()}


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 4)).astype(np.float32)
    y = np.sin(x[:, 0]) + 0.5 * x[:, 1] + 0.1 * rng.normal(size=120).astype(np.float32)
    return ({"x": x[:80]}, y[:80]), ({"x": x[80:]}, y[80:])


def valid_loss(model, valid):
    return float(((predict(model, valid[0]) - valid[1]) ** 2).mean())


def test_default_stages_go_deeper_and_slower():
    assert [s.share for s in STAGES] == [0, 0.25, 0.5, 1]
    assert [s.lr for s in STAGES] == sorted((s.lr for s in STAGES), reverse=True)


@pytest.mark.parametrize(("share", "trained"), [(0, 1), (0.25, 2), (0.34, 3), (1, 4)])
def test_only_thawed_parts_move_and_only_they_drop_out(share, trained, data):
    model = Tower()
    before = [weights(part) for part in model.parts()]
    model.seen.clear()
    progressive(model, *data, stages=[Stage("one", share, 1e-2)], epochs=3, patience=9)
    moved = [not same(b, weights(part)) for b, part in zip(before, model.parts(), strict=True)]
    assert moved == [True] * trained + [False] * (4 - trained)
    assert len(thawed(model, share)) == trained
    assert {tuple(s) for s in model.seen} == {(False,) * 4, (True,) * trained + (False,) * (4 - trained)}


@pytest.mark.parametrize("lr", [1e-3, 0.1, 3.0])
def test_model_leaves_with_its_best_weights_and_never_worse_than_it_came(lr, data):
    model = Tower()
    came = valid_loss(model, data[1])
    tuned = progressive(model, *data, stages=[Stage("a", 0.5, lr), Stage("b", 1, lr)], epochs=4, patience=9)
    left = valid_loss(model, data[1])
    assert left == pytest.approx(tuned.best_loss, rel=1e-5)
    assert left == pytest.approx(min(e.valid_loss for e in tuned.history), rel=1e-5)
    assert left <= came * (1 + 1e-6)
    assert not model.training


def test_a_stage_starts_from_the_best_weights_not_from_the_last(data):
    stages = [Stage("good", 1, 1e-2), Stage("wild", 1, 30.0), Stage("still", 1, 1e-12)]
    tuned = progressive(Tower(), *data, stages=stages, epochs=3, patience=9)
    losses = {s.name: [e.valid_loss for e in tuned.history if e.stage == s.name] for s in stages}
    assert min(losses["wild"]) > min(losses["good"])
    assert losses["still"] == pytest.approx([min(losses["good"])] * 3, rel=1e-4)
    assert tuned.best_stage == "good" or tuned.best_loss == pytest.approx(min(losses["good"]), rel=1e-4)


def test_patience_ends_a_stage_and_the_next_one_still_runs(data):
    stages = [Stage("wild", 1, 1e3), Stage("good", 1, 1e-2)]
    history = progressive(Tower(), *data, stages=stages, epochs=10, patience=2).history
    wild = [e for e in history if e.stage == "wild"]
    assert len(wild) < 10
    assert [e.best for e in wild[-2:]] == [False, False]
    assert any(e.stage == "good" and e.best for e in history)


def test_same_seed_same_bits_and_another_seed_others(data):
    runs = []
    for seed in (3, 3, 4):
        model = Tower()
        progressive(model, *data, stages=AT_ONCE, epochs=3, seed=seed)
        runs.append(weights(model))
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


def test_callers_random_numbers_gradients_and_flags_are_left_alone(data):
    model = Tower()
    model.layers[0].requires_grad_(False)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    progressive(model, *data, stages=AT_ONCE, epochs=2)
    assert torch.equal(torch.rand(3), expected)
    assert [p.requires_grad for p in model.layers[0].parameters()] == [False] * 4
    assert all(p.requires_grad for p in model.head.parameters())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("at", [1, 3, 4, 7, 11])
def test_interrupted_run_leaves_the_best_weights_so_far(at, data):
    def press(done, total, words):
        if done == at:
            raise KeyboardInterrupt

    whole = progressive(Tower(), *data, stages=AT_ONCE, epochs=4, patience=9)
    model = Tower()
    with pytest.raises(KeyboardInterrupt):
        progressive(model, *data, stages=AT_ONCE, epochs=4, patience=9, progress=press)
    finished = (at - 1) // 3  # 80 rows in batches of 32: three steps an epoch
    expected = min(e.valid_loss for e in whole.history[: finished + 1])
    assert valid_loss(model, data[1]) == pytest.approx(expected, rel=1e-5)
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


@pytest.mark.parametrize("good_steps", [0, 2, 5])
def test_loss_that_is_no_number_stops_at_once_and_keeps_the_best(good_steps, data):
    calls = []

    def breaks(answers, targets):
        value = nn.functional.mse_loss(answers, targets)
        calls.append(answers.requires_grad)
        return value * math.nan if sum(calls) > good_steps else value

    model = Tower()
    came = valid_loss(model, data[1])
    with pytest.raises(Diverged, match=r"became nan in stage 'all'; lower its lr, now 0.01") as caught:
        progressive(model, *data, stages=AT_ONCE, epochs=4, loss=breaks)
    assert isinstance(caught.value, CannotDo)
    assert valid_loss(model, data[1]) <= came * (1 + 1e-6)


def test_progress_counts_every_step_up_to_the_end(data):
    heard = []
    progressive(Tower(), *data, stages=STAGES[:2], epochs=2, progress=lambda *said: heard.append(said))
    assert [done for done, _, _ in heard[:12]] == list(range(1, 13))
    assert {total for _, total, _ in heard} == {12}
    assert heard[-1] == (12, 12, "done")
    assert heard[0][2].startswith("head: loss ")


def test_bar_is_silent_where_nobody_looks(data, capfd):
    progressive(Tower(), *data, stages=AT_ONCE)
    assert capfd.readouterr() == ("", "")


def test_answers_of_the_wrong_shape_are_refused_before_any_step(data):
    class Column(Tower):
        def forward(self, x):
            return super().forward(x)[:, None]

    model = Column()
    before = weights(model)
    with pytest.raises(ValueError, match=r"one number a row, got \(40, 1\) for 40 rows"):
        progressive(model, *data)
    assert same(before, weights(model))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x, y: ({"x": x}, y[:-1]), r"train targets must have shape \(80,\).*got \(79,\)"),
        (lambda x, y: ({"x": x}, y[:, None]), r"targets of train and valid must be alike.*got \(80, 1\)"),
        (lambda x, y: ({"x": x}, np.where(np.arange(80) == 7, np.nan, y)), "train targets must be finite.*row 7"),
        (lambda x, y: ({"x": np.where(np.arange(80)[:, None] == 9, np.inf, x)}, y), "train x must be finite.*row 9"),
        (lambda x, y: ({"z": x}, y), "train inputs must be those of Tower.forward"),
        (lambda x, y: ({"x": x, "z": x}, y), "train inputs must be those of Tower.forward"),
        (lambda x, y: ({"x": x, "z": x[:3]}, y), "equally many rows"),
        (lambda x, y: ({"x": x[:0]}, y[:0]), "at least 1"),
        (lambda x, y: ({}, y), "at least 1"),
        (lambda x, y: ({"x": np.full(80, "text")}, y), "prepare the inputs first"),
    ],
)
def test_data_that_does_not_fit_is_refused_in_one_sentence(change, said, data):
    (inputs, targets), valid = data
    with pytest.raises(ValueError, match=said):
        progressive(Tower(), change(inputs["x"], targets), valid)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"batch": 0}, "batch must be at least 1, got 0"),
        ({"patience": -1}, "patience must be at least 1, got -1"),
        ({"stages": ()}, "stages must be at least 1, got 0"),
        ({"lr": 0.1}, "lr belongs to the stages, got lr=0.1"),
        ({"padded_by": "nothing"}, "padded_by must name an input"),
    ],
)
def test_options_out_of_range_are_refused_by_name_and_value(options, said, data):
    with pytest.raises(ValueError, match=said):
        progressive(Tower(), *data, **options)


@pytest.mark.parametrize("decay", [0, 1.01, -0.5, math.nan])
def test_decay_that_is_no_share_is_refused(decay):
    with pytest.raises(ValueError, match=r"decay of stage 'odd' must be inside \(0, 1\]"):
        Stage("odd", 0.5, 1e-3, decay)


def test_each_part_learns_slower_than_the_one_above_it_and_none_is_left_out():
    model = Tower()
    groups = rates(model, Stage("all", 1, 1e-2, 0.5)).groups
    assert [g["lr"] for g in groups] == [1e-2, 5e-3, 2.5e-3, 1.25e-3]
    assert sorted(id(p) for g in groups for p in g["params"]) == sorted(map(id, model.parameters()))


def test_tied_parameters_train_once_at_the_rate_of_the_upper_part():
    model = Tower()
    model.layers[0][0].weight = model.layers[2][0].weight
    groups = rates(model, Stage("all", 1, 1e-2, 0.5)).groups
    weights = [id(p) for g in groups for p in g["params"]]
    assert len(weights) == len(set(weights)) == len(list(model.parameters()))
    assert id(model.layers[2][0].weight) in [id(p) for p in groups[1]["params"]]


@pytest.mark.parametrize("at", [2, 8, 10, 13, 18])
def test_a_run_cut_off_in_any_stage_ends_in_the_same_bits(at, data, tmp_path):
    def press(done, total, words):
        if done == at:
            raise KeyboardInterrupt

    whole, cut = Tower(), Tower()
    expected = progressive(whole, *data, epochs=2)
    with pytest.raises(KeyboardInterrupt):
        progressive(cut, *data, epochs=2, checkpoint=tmp_path / "run.pt", progress=press)
    resumed = progressive(cut, *data, epochs=2, checkpoint=tmp_path / "run.pt")
    assert same(weights(whole), weights(cut))
    assert [e.valid_loss for e in resumed.history] == [e.valid_loss for e in expected.history]
    assert isinstance(resumed, Tuned)


@pytest.mark.parametrize(("share", "lr"), [(-0.1, 1e-3), (1.1, 1e-3), (math.nan, 1e-3), (0.5, 0), (0.5, math.inf)])
def test_impossible_stage_is_refused(share, lr):
    with pytest.raises(ValueError, match="of stage 'odd' must be"):
        Stage("odd", share, lr)


def test_parameter_in_no_part_is_named(data):
    model = Tower()
    model.extra = nn.Parameter(torch.zeros(1))
    with pytest.raises(ValueError, match="without 'extra'"):
        progressive(model, *data)


def test_model_without_parameters_has_nothing_to_train(data):
    class Fixed(nn.Identity):
        def parts(self):
            return [nn.Tanh()]

    with pytest.raises(ValueError, match=r"must hold parameters to train, got 1 parts without any"):
        progressive(Fixed(), *data)


def test_device_that_is_not_there_is_one_sentence_and_the_model_stays(data):
    model = Tower()
    with pytest.raises(CannotDo, match=r"device 'cuda:99' cannot be used here.*device='cpu'"):
        progressive(model, *data, device="cuda:99")
    assert {p.device.type for p in model.parameters()} == {"cpu"}


class Line(nn.Module):
    "A fixed layer and a linear head."

    def __init__(self, outputs=1, after=None):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body, self.head = nn.Linear(4, 6), nn.Sequential(nn.Dropout(0.5), nn.Linear(6, outputs))
        self.after = after or nn.Identity()

    def forward(self, x):
        return self.after(self.head(torch.tanh(self.body(x)))).squeeze(-1)

    def parts(self):
        return [self.head, self.body]


def features_of(model, x):
    with torch.inference_mode():
        return torch.tanh(model.body(torch.from_numpy(x))).numpy().astype(float)


@pytest.mark.parametrize("outputs", [1, 3])
def test_a_solved_head_is_the_ridge_that_leaving_out_each_row_likes_best(outputs, data):
    (inputs, y), _ = data
    y = y if outputs == 1 else np.column_stack([y, -y, y**2]).astype(np.float32)
    model = Line(outputs)
    body = weights(model.body)
    share = solved(model, (inputs, y))
    z, target = features_of(model, inputs["x"]), y.reshape(80, -1).astype(float)
    d = np.linalg.svd(z - z.mean(0), compute_uv=False)
    found = []
    for penalty in (d**2).mean() * 10.0 ** np.arange(-4, 4.5, 0.5):
        misses = []
        for i in range(80):  # by hand: fit without the row, look at the row
            rest = np.arange(80) != i
            a, b = z[rest] - z[rest].mean(0), target[rest] - target[rest].mean(0)
            w = np.linalg.solve(a.T @ a + penalty * np.eye(6), a.T @ b)
            misses.append(target[rest].mean(0) + (z[i] - z[rest].mean(0)) @ w - target[i])
        found.append((np.mean(np.square(misses)), penalty))
    missed, penalty = min(found)
    a = z - z.mean(0)
    expected = np.linalg.solve(a.T @ a + penalty * np.eye(6), a.T @ (target - target.mean(0))).T
    assert np.allclose(model.head[1].weight.detach().numpy(), expected, rtol=1e-3, atol=1e-5)
    assert share == pytest.approx(1 - missed / target.var(0).mean(), rel=1e-4)
    assert same(body, weights(model.body))


def test_a_softer_head_speaks_more_quietly_and_says_the_same_on_average(data):
    (inputs, y), _ = data
    lengths = []
    for soft in (1, 10, 100):
        model = Line()
        solved(model, (inputs, y), soft)
        lengths.append(float(model.head[1].weight.detach().norm()))
        assert predict(model, inputs).mean() == pytest.approx(y.mean(), abs=1e-4)
    assert lengths == sorted(lengths, reverse=True)


def test_solving_a_head_leaves_modes_hooks_and_luck_alone(data):
    model = Line()
    model.train()
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    solved(model, data[0])
    assert torch.equal(torch.rand(2), expected)
    assert all(m.training for m in model.modules())
    assert not model.head[1]._forward_pre_hooks
    assert [p.requires_grad for p in model.parameters()] == [True] * 4


@pytest.mark.parametrize(
    ("model", "change", "said"),
    [
        (Line(after=nn.Sigmoid()), {}, "what its head's last linear map says"),
        (Line(3), {}, r"answer one number for each target, got 3 for targets of shape \(80,\)"),
        (Tower(), {"rows": 2}, "at least 3 rows with targets that differ, got 2"),
        (Tower(), {"same": True}, "at least 3 rows with targets that differ, got 80"),
        (Tower(), {"soft": 0.5}, "soft must be at least 1, got 0.5"),
        (Tower(), {"soft": math.nan}, "soft must be at least 1, got nan"),
    ],
)
def test_a_head_that_cannot_be_solved_is_left_as_it_was(model, change, said, data):
    (inputs, y), _ = data
    rows, before = change.get("rows", 80), weights(model)
    y = np.ones_like(y) if change.get("same") else y
    with pytest.raises(ValueError, match=said):
        solved(model, ({"x": inputs["x"][:rows]}, y[:rows]), change.get("soft", 1.0))
    assert same(before, weights(model))


def test_a_head_without_a_linear_map_is_told_to_train_instead(data):
    model = Line()
    model.head[1] = nn.Linear(6, 1, bias=False)
    with pytest.raises(ValueError, match="linear map and its bias"):
        solved(model, data[0])


def test_the_plan_for_few_rows_begins_at_the_solved_head(data):
    model = Tower()
    solved(model, data[0], soft=10)
    came = valid_loss(model, data[1])
    tuned = progressive(model, *data, FEW, epochs=2)
    assert tuned.history[0].valid_loss == pytest.approx(came, rel=1e-5)
    assert tuned.best_loss <= came
