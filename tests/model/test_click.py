"What is unknown is answered with the base rate, weights count rows, and a world of tastes is learnt."

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seatrial.engine.bundle import Signature, TensorSpec
from seatrial.engine.export import export
from seatrial.engine.runtime import load
from seatrial.model.click import ClickPredictor, deviations, drawn_world, shrinkage, toward_uniform, weighted_clicks
from seatrial.tune.feed import predict
from seatrial.tune.training import train


def world(seed=0, items=6, users=(3, 2), base_rate=0.1):
    torch.manual_seed(seed)
    model = ClickPredictor(items, 2, users, base_rate=base_rate)
    drawn_world(model, np.random.default_rng(seed))
    return model


def rows(n, seed=0, items=6, users=(3, 2)):
    rng = np.random.default_rng(seed)
    user = np.column_stack([rng.integers(1, k + 1, n) for k in users])
    return {"item": rng.integers(1, items + 1, n), "position": rng.integers(1, 3, n), "user": user}


def test_an_unknown_row_is_answered_with_the_base_rate_whatever_was_learnt():
    model = world()
    zero = {"item": np.zeros(1, np.int64), "position": np.zeros(1, np.int64), "user": np.zeros((1, 2), np.int64)}
    assert 1 / (1 + np.exp(-predict(model, zero)[0])) == pytest.approx(0.1, abs=1e-6)
    assert all((table.weight[0] == 0).all() for _, table in deviations(model))


def test_the_log_odds_are_the_sum_of_the_formula():
    model, x = world(1), rows(20, 1)
    by_hand = []
    for i, p, u in zip(*x.values(), strict=True):
        who = list(zip(model.user, model.user_taste, u, strict=True))
        taste = sum((model.item_taste.weight[i] @ t.weight[k]).item() for _, t, k in who)
        alone = (model.item.weight[i] + model.position.weight[p]).item() + sum(r.weight[k].item() for r, _, k in who)
        by_hand.append(model.base.item() + alone + taste)
    np.testing.assert_allclose(predict(model, x), by_hand, atol=1e-5)


def test_a_row_of_weight_two_is_two_rows():
    answers, clicks = torch.randn(5), torch.tensor([1.0, 0, 0, 1, 0])
    weights = torch.tensor([2.0, 1, 0, 1, 2])
    again = torch.repeat_interleave(torch.arange(5), weights.long())
    once = torch.stack([clicks, torch.ones(5)], 1)
    heavy = weighted_clicks(answers, torch.stack([clicks, weights], 1)) * 5
    assert torch.isclose(heavy, weighted_clicks(answers[again], once[again]) * len(again))


def test_what_was_learnt_from_many_rows_is_near_the_truth_and_from_few_near_the_base_rate():
    truth, seen, fresh = world(2), rows(60_000, 2), rows(2000, 3)
    rng = np.random.default_rng(4)
    chance = 1 / (1 + np.exp(-predict(truth, seen, 4096).astype(float)))
    click = (rng.random(len(chance)) < chance).astype(np.float32)
    errors = {}
    for n in (300, 60_000):
        torch.manual_seed(0)
        model = ClickPredictor(6, 2, (3, 2), base_rate=float(click.mean()))
        part = {k: v[:n] for k, v in seen.items()}, np.column_stack([click[:n], np.ones(n, np.float32)])
        recipe = {"epochs": 12, "lr": 0.03, "batch": 1024, "weight_decay": 0.0, "loss": weighted_clicks}
        train(model, part, part, **recipe, penalty=lambda model=model, n=n: shrinkage(model, n))
        errors[n] = float(np.mean((predict(model, fresh) - predict(truth, fresh)) ** 2))
        spread = float(np.std(predict(model, fresh)))
        assert spread < 0.6 * float(np.std(predict(truth, fresh))) or n > 300
    assert errors[60_000] < 0.05 < errors[300]


@given(p=st.lists(st.floats(1e-6, 1), min_size=1, max_size=20), most=st.floats(1, 1e6))
def test_weights_are_capped_and_otherwise_the_ratio(p, most):
    w = toward_uniform(p, 10, most)
    assert (w <= most).all() and (w > 0).all()
    free = 1 / (10 * np.array(p)) <= most
    np.testing.assert_allclose(w[free], 1 / (10 * np.array(p))[free])


def asked(model, **shapes):
    "Answers to codes of 1 in tensors of these shapes."
    sizes = {"item": (4,), "position": (4,), "user": (4, 2)} | shapes
    return model(**{name: torch.ones(size, dtype=torch.int64) for name, size in sizes.items()})


@pytest.mark.parametrize("code", [-1, -6, 7, 10**9])
def test_a_code_that_training_did_not_have_is_unknown_in_the_network_and_in_the_graph(code, tmp_path):
    model, x = world(), rows(5)
    specs = [TensorSpec(n, "INT64", (-1, *a.shape[1:])) for n, a in x.items()]
    signature = Signature(tuple(specs), (TensorSpec("score", "FP32", (-1,)),))
    engine = load(export(model, x, tmp_path / "b", signature=signature, batches=(1, 7)))
    for name in x:
        strange, unknown = ({n: np.full_like(a, c) if n == name else a for n, a in x.items()} for c in (code, 0))
        expected = predict(model, unknown)
        np.testing.assert_array_equal(predict(model, strange), expected)
        np.testing.assert_allclose(engine.run(strange)["score"], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: toward_uniform([0.0], 3), "greater than 0 and at most 1, got 0 to 0"),
        (lambda: toward_uniform([1.5], 3), "greater than 0 and at most 1, got 1.5"),
        (lambda: toward_uniform([np.nan], 3), "propensities"),
        (lambda: toward_uniform([0.5], 0), "at least 1"),
        (lambda: toward_uniform([0.5], 3, 0.5), "at least 1"),
        (lambda: ClickPredictor(0, 3, [2]), "items must be a whole number, at least 1, got 0"),
        (lambda: ClickPredictor(2.5, 3, [2]), "items must be a whole number, at least 1, got 2.5"),
        (lambda: ClickPredictor(3, 3, [2, 0]), r"users\[1\] must be a whole number, at least 1, got 0"),
        (lambda: ClickPredictor(3, 3, 4), r"users must be the levels of each user feature, such as \[6, 10\], got 4"),
        (lambda: asked(world(), user=(4, 3)), r"user \(batch, 2\), got \(4,\), \(4,\) and \(4, 3\)"),
        (lambda: asked(world(), item=(4, 1)), r"must have shape \(batch,\) and user .* got \(4, 1\)"),
        (lambda: ClickPredictor(3, 3, [2], base_rate=0), r"base_rate must be inside \(0, 1\), got 0"),
    ],
)
def test_bad_input_is_named(call, said):
    with pytest.raises(ValueError, match=said):
        call()
