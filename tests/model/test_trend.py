"What holds for every series, whatever is missing: no future, no echo from under a mask, one answer for one row."

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from seatrial.base.settings import CannotDo
from seatrial.engine.export import export, spec_of
from seatrial.engine.runtime import load
from seatrial.engine.signature import Signature
from seatrial.model.trend import (
    AGO,
    INPUTS,
    LEAST,
    MODALITIES,
    Forecast,
    Trend,
    absent,
    both,
    closed,
    exceeds,
    scaled,
    windows,
)
from seatrial.stats.calibration import Calibration
from seatrial.tune.feed import predict
from seatrial.tune.training import train

counts = st.lists(st.one_of(st.integers(0, 5000).map(float), st.just(float("nan"))), min_size=7, max_size=500)


def some(rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    made = {"content": rng.normal(size=(rows, 2, 16)), "series": rng.integers(0, 900, (rows, 16, 7))}
    made |= {"signals": rng.normal(size=(rows, 10)), "now": 16000 + np.arange(rows)}
    made |= {"ago": np.tile(7 * np.array(AGO), (rows, 1))}
    made = {n: a.astype(np.float32) for n, a in made.items()}
    shapes = {"content": (rows, 2), "series": (rows, 16, 7), "signals": (rows, 10)}
    return made | {f"{n}_mask": rng.random(s) < 0.8 for n, s in shapes.items()}


def asked(model, inputs):
    with torch.no_grad():
        return [a.numpy() for a in model.eval()(**{n: torch.as_tensor(a) for n, a in inputs.items()})]


def week(days) -> float:  # the definition, in plain Python
    there = [d for d in days if not np.isnan(d)]
    return sum(there) / len(there) if len(there) >= LEAST else float("nan")


@given(counts=counts, first=st.integers(0, 20000))
@settings(max_examples=40, deadline=None)
def test_windows_are_what_a_loop_over_the_days_says(counts, first):
    made, ratio = windows(counts, first)
    row = 0
    for today in range(6, len(counts)):
        last, ahead = week(counts[today - 6 : today + 1]), week(counts[today + 1 : today + 8])
        if not last > 0:
            continue
        assert made["now"][row] == first + today
        with np.errstate(divide="ignore"):
            np.testing.assert_allclose(ratio[row], np.log(ahead) - np.log(last), rtol=1e-12, atol=1e-12)
        for token in (0, 3, 8, 15):
            end = today - 7 * AGO[token]
            days = [counts[d] if d >= 0 else np.nan for d in range(end - 6, end + 1)]
            np.testing.assert_array_equal(made["series_mask"][row, token], ~np.isnan(days))
            np.testing.assert_array_equal(made["series"][row, token], np.nan_to_num(days))
        row += 1
    assert row == len(ratio) == len(made["series"])


@given(counts=counts, later=st.lists(st.integers(0, 5000).map(float), min_size=1, max_size=30))
@settings(max_examples=40, deadline=None)
def test_no_evening_sees_what_came_after_it(counts, later):
    before, after = windows(counts, 0)[0], windows([*counts, *later], 0)[0]
    for name, array in before.items():
        np.testing.assert_array_equal(after[name][: len(array)], array)


@given(bits=st.integers(0, 7), dirt=st.sampled_from([np.nan, np.inf, -1e30]), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_nothing_under_a_mask_is_heard_nor_gets_a_gradient(bits, dirt, seed):
    torch.manual_seed(seed)
    model, clean = Trend(layers=1).eval(), some(3, seed)
    torch.nn.init.normal_(model.amount.weight)
    for i, name in enumerate(MODALITIES[1:]):
        if bits & (1 << i):
            clean[f"{name}_mask"][:] = False
    foul = {n: torch.as_tensor(a.copy()) for n, a in clean.items()}
    for name in MODALITIES[1:]:
        foul[name][~foul[f"{name}_mask"]] = dirt
        foul[name].requires_grad_()
    foul["ago"][~foul["series_mask"].any(-1)] = dirt
    logit, amount, weights = model(**foul)
    for a, b in zip(asked(model, clean), (logit, amount, weights), strict=True):
        np.testing.assert_array_equal(a, b.detach())
        assert np.isfinite(a).all()
    (logit + amount).sum().backward()
    for name in MODALITIES[1:]:
        grad = foul[name].grad
        assert grad.isfinite().all() and not grad[~foul[f"{name}_mask"]].any()
    there = np.stack([clean[f"{n}_mask"].reshape(3, -1).any(1) for n in MODALITIES[1:]], 1)
    np.testing.assert_array_equal(weights.detach().numpy()[:, 1:] > 0, there)


def test_a_row_gets_the_same_answer_alone_and_in_company_and_after_more_padding():
    torch.manual_seed(0)
    model, many = Trend().eval(), some(6)
    alone = asked(model, {n: a[2:3] for n, a in many.items()})
    longer = dict(many)
    for name, fill in (("series", 7e8), ("series_mask", False), ("ago", 5.0)):
        block = np.full((6, 3, *many[name].shape[2:]), fill, many[name].dtype)
        longer[name] = np.concatenate([block, many[name]], 1)
    for a, b, c in zip(alone, asked(model, many), asked(model, longer), strict=True):
        np.testing.assert_allclose(a[0], b[2], atol=1e-5)
        np.testing.assert_allclose(b, c, atol=1e-5)


def test_the_level_of_a_series_hardly_matters_its_shape_does():
    torch.manual_seed(0)
    model, x = Trend().eval(), some(5)
    torch.nn.init.normal_(model.amount.weight)
    x["series"] += 1e5
    base, ten = asked(model, x)[1], asked(model, x | {"series": 10 * x["series"]})[1]
    turned = asked(model, x | {"series": x["series"] * np.linspace(0.5, 2, 7, dtype=np.float32)})[1]
    np.testing.assert_allclose(base, ten, atol=1e-3)
    assert np.abs(base - turned).min() > 1e-3


def test_a_new_network_says_that_nothing_changes():
    assert not asked(Trend(), some(4))[1].any()


def test_a_table_is_scaled_by_what_is_real_or_not_at_all():
    good, mask = np.full((7, 10), 0.1), np.ones((7, 10), bool)
    assert (scaled(Trend(), good, mask).signals.spread == 1).all()  # a constant, but for rounding
    assert scaled(Trend(), np.where(good > 0, np.nan, good), ~mask).signals.centre.isfinite().all()
    for signals, real, said in (
        (np.full((7, 10), np.nan), mask, "signals that the mask calls real must be finite, got 70 NaN"),
        (good[:, :9], mask[:, :9], r"must have shape \(rows, 10\), the mask bool, got \(7, 9\)"),
        (good, mask[:1], r"got \(7, 10\) and bool \(1, 10\)"),
        (good, mask.astype(float), r"got \(7, 10\) and float64 \(7, 10\)"),
    ):
        with pytest.raises(ValueError, match=said):
            scaled(Trend(), signals, real)


@pytest.mark.parametrize(
    ("name", "made", "said"),
    [
        ("content_mask", torch.ones(3, 2), r"content_mask must be bool of shape \(3, 2\), got torch.float32"),
        ("series_mask", torch.ones(3, 16, 1).bool(), r"series_mask must be bool of shape \(3, 16, 7\), got"),
        ("signals_mask", torch.ones(1, 10).bool(), r"signals_mask must be bool of shape \(3, 10\), got"),
        ("signals", torch.ones(3, 9), r"signals must be .* the last axis 10, got \(3, 9\)"),
        ("now", torch.ones(3, 1), "now one a row, got"),
        ("now", torch.ones(1), "equally many rows"),
        ("ago", torch.ones(3, 1), "ago one entry a token"),
    ],
)
def test_tensors_that_would_be_stretched_are_named(name, made, said):
    inputs = {n: torch.as_tensor(a) for n, a in some(3).items()} | {name: made}
    with pytest.raises(ValueError, match=said):
        Trend(layers=1)(**inputs)


def test_a_closed_modality_is_not_listened_to():
    torch.manual_seed(0)
    model, x = closed(Trend(), "content"), some(4)
    with_it, without = asked(model, x), asked(model, x | absent("content", 4, (2, 16)))
    for a, b in zip(with_it, without, strict=True):
        np.testing.assert_array_equal(a, b)
    again = Trend()
    again.load_state_dict(model.state_dict())  # it stays closed in a file
    np.testing.assert_array_equal(asked(again, x)[0], with_it[0])


def test_modalities_are_hidden_while_learning_and_never_afterwards_and_the_date_never():
    torch.manual_seed(0)
    model = Trend(hide=0.5)
    x = {n: torch.as_tensor(a) for n, a in some(400).items()}
    for name in MODALITIES[1:]:
        x[f"{name}_mask"][:] = True
    seen = (model.train()(**x)[2] > 0).float().mean(0)
    assert seen[0] == 1 and ((seen[1:] - 0.5).abs() < 4 * np.sqrt(0.25 / 400)).all()
    assert (model.eval()(**x)[2] > 0).all()


def test_plain_units_and_standardized_ones_are_the_same_table():
    torch.manual_seed(0)
    model, x = Trend(), some(50)
    plain, mask = 30 + 12 * x["signals"], x["signals_mask"]
    mask[:, 9] = False  # a column that training never saw
    centre = np.array([plain[mask[:, j], j].mean() if mask[:, j].any() else 0 for j in range(10)])
    spread = np.array([plain[mask[:, j], j].std() if mask[:, j].any() else 1 for j in range(10)])
    x["signals"] = ((plain - centre) / spread).astype(np.float32)
    by_hand = asked(model, x)
    inside = asked(scaled(model, plain, mask), x | {"signals": plain.astype(np.float32)})
    for a, b in zip(by_hand, inside, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@given(x=st.floats(-0.9, 3), ratios=st.lists(st.floats(-3, 3), min_size=1, max_size=9))
def test_a_week_exceeds_where_its_ratio_does(x, ratios):
    made = exceeds(np.array(ratios), x)
    np.testing.assert_array_equal(made[:, 0], [r > np.log1p(x) for r in ratios])
    np.testing.assert_allclose(made[:, 1], ratios, rtol=1e-6, atol=1e-9)


def test_the_loss_is_log_loss_and_absolute_error():
    logit, amount = torch.tensor([0.3, -2.0]), torch.tensor([0.1, -0.2])
    target = torch.tensor([[1.0, 0.3], [0.0, -0.3]])
    p = torch.sigmoid(logit)
    log_loss = -(torch.log(p[0]) + torch.log(1 - p[1])) / 2
    torch.testing.assert_close(both((logit, amount), target, amount=3.0), log_loss + 3 * 0.15)
    assert both((logit, amount), target, amount=0) == functional.binary_cross_entropy_with_logits(logit, target[:, 0])


def test_training_learns_and_ends_in_the_same_weights_twice():
    x = some(160)
    ratio = x["series"][:, -1].mean(1) / 450 - 1  # the newest week tells
    x["series_mask"][:] = True
    runs = []
    for _ in range(2):
        torch.manual_seed(0)
        model = Trend(layers=1, dropout=0.1)
        cut = lambda s: ({n: a[s] for n, a in x.items()}, exceeds(ratio[s]))  # noqa: E731
        tuned = train(model, cut(slice(120)), cut(slice(120, 160)), epochs=3, lr=5e-3, batch=16, loss=both)
        runs.append((tuned, model.state_dict()))
    assert runs[0][0].best_loss < 0.95 * runs[0][0].history[0].valid_loss
    assert all(torch.equal(a, runs[1][1][n]) for n, a in runs[0][1].items())


def test_the_graph_answers_as_the_network_for_any_rows_and_any_absence(tmp_path):
    torch.manual_seed(0)
    network, x = Trend(layers=1), some(5)
    torch.nn.init.normal_(network.amount.weight)
    model = Forecast(network, Calibration("platt", 1.7, -0.4)).eval()
    answers = dict(zip(("probability", "log_ratio", "weights"), predict(model, x), strict=True))
    logit = predict(network, x)[0]
    np.testing.assert_allclose(answers["probability"], 1 / (1 + np.exp(-(1.7 * logit - 0.4))), rtol=1e-5)
    signature = Signature(*(tuple(spec_of(n, a) for n, a in side.items()) for side in (x, answers)))
    engine = load(export(model, x, tmp_path / "trend", signature=signature), threads=1)
    for shape in ({}, {"content": (2, 16)}, {"series": (16, 7)}, {"signals": (10,), "series": (16, 7)}):
        asks = dict(x)
        for name, size in shape.items():
            asks |= absent(name, 5, size)
        for rows in (1, 5):
            part = {n: a[:rows] for n, a in asks.items()}
            for a, b in zip(engine.run(part).values(), predict(model, part), strict=True):
                np.testing.assert_allclose(a, b, atol=1e-5)
    with pytest.raises((ValueError, CannotDo), match="now"):
        engine.run({n: a for n, a in x.items() if n != "now"})


def test_the_inputs_are_those_of_the_network():
    import inspect

    assert list(inspect.signature(Trend.forward).parameters)[1:] == list(INPUTS)
    assert list(inspect.signature(Forecast.forward).parameters)[1:] == list(INPUTS)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: windows([1.0] * 6, 0), "7 days or more"),
        (lambda: windows([1.0] * 7 + [-1], 0), "each 0 or more"),
        (lambda: windows([1.0] * 7 + [np.inf], 0), "each 0 or more"),
        (lambda: windows(np.ones((7, 2)), 0), "a row of 7 days"),
        (lambda: absent("date", 1, (1,)), "name must be content, series or signals, got 'date'"),
        (lambda: closed(Trend(), "audio"), "name must be content, series or signals, got 'audio'"),
        (lambda: exceeds([0.0], -1), "x must be above -1, got -1"),
        (lambda: exceeds([0.0, np.nan]), "log_ratio must be finite, got 1 NaN"),
        (lambda: exceeds([0.0, -np.inf]), "log_ratio must be finite, got 0 NaN and 1 infinite"),
        (lambda: windows(["a"] * 9, 0), r"NaN where nobody counted, got <U1 \(9,\)"),
        (lambda: windows([1.0] * 7 + [-2], 0), r"got float64 \(8,\), -2 among them"),
        (lambda: absent("content", 1, (3,)), r"shape of content must be that of one row, .*, got \(3,\)"),
        (lambda: Trend(hide=1), r"hide must be inside \[0, 1\), got hide=1"),
        (lambda: Trend(width=30), "multiple of heads, got width=30"),
    ],
)
def test_what_makes_no_sense_is_named(call, said):
    with pytest.raises(ValueError, match=said):
        call()
