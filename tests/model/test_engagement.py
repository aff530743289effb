"Engagement: quantiles in order whatever the weights, a level that knows no future, bands that hold where they may."

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import mean_pinball_loss

from seatrial.engine.export import export
from seatrial.engine.runtime import load
from seatrial.engine.signature import Signature, TensorSpec
from seatrial.model.engagement import (
    QUANTILES,
    Cycle,
    Engagement,
    honest,
    pinball,
    recent_level,
    relative_pinball,
    widening,
)
from seatrial.stats.comparison import NotEnough
from seatrial.tune.feed import predict
from seatrial.tune.training import train

seeds = st.integers(0, 2**32 - 1)


def made(seed=0, rows=64, columns=3):
    rng = np.random.default_rng(seed)
    inputs = {"hour": rng.integers(0, 24, rows), "weekday": rng.integers(0, 7, rows)}
    inputs |= {"day_of_year": rng.integers(0, 366, rows), "level": rng.uniform(1, 500, rows)}
    inputs["table"] = rng.normal(10, 5, (rows, columns))
    return {name: array.astype(np.float32) for name, array in inputs.items()}


def network(inputs, seed=0, **kw):
    torch.manual_seed(seed)
    return Engagement(inputs["level"], inputs["table"], **kw).eval()


@given(n=st.integers(1, 200), window=st.integers(1, 50), seed=seeds)
def test_a_level_is_the_mean_of_the_window_and_nan_before_it(n, window, seed):
    rng = np.random.default_rng(seed)
    series, starts = rng.normal(size=n), rng.integers(0, n + 1, 20)
    found = recent_level(series, starts, window)
    for start, value in zip(starts, found, strict=True):
        assert np.isnan(value) if start < window else value == pytest.approx(series[start - window : start].mean())


@given(start=st.integers(5, 60), seed=seeds)
def test_a_level_does_not_know_the_future(start, seed):
    rng = np.random.default_rng(seed)
    series = rng.normal(size=60)
    other = np.where(np.arange(60) < start, series, 1e9)
    assert recent_level(series, [start], 5) == recent_level(other, [start], 5)


@pytest.mark.parametrize(
    ("series", "starts", "window", "said"),
    [
        ([1.0, 2.0], [3], 1, "between 0 and n=2"),
        ([1.0, 2.0], [-1], 1, "between 0 and n=2"),
        ([1.0, 2.0], [0.5], 1, "whole steps"),
        ([1.0, 2.0], [1], 0, "window a whole number of steps, at least 1"),
        ([1.0, np.nan], [1], 1, "series"),
        ([[1.0, 2.0], [3.0, 4.0]], [1], 1, r"series must be one row of values .* got shape \(2, 2\)"),
        ([1.0, 2.0], [1], 1.5, "window a whole number of steps, at least 1, got .*window=1.5"),
    ],
)
def test_a_level_that_cannot_be_is_refused(series, starts, window, said):
    with pytest.raises(ValueError, match=said):
        recent_level(series, starts, window)


@settings(deadline=None)
@given(period=st.floats(1, 400), waves=st.integers(1, 12), position=st.floats(0, 400))
def test_the_end_of_a_cycle_meets_its_beginning(period, waves, position):
    cycle = Cycle(period, waves).double()
    there, again = cycle(torch.tensor([position, position + period], dtype=torch.float64))
    torch.testing.assert_close(there, again, atol=1e-3, rtol=0)
    assert there.shape == (2 * waves,)


@settings(deadline=None, max_examples=40)
@given(seed=seeds, widened_by=st.floats(-3, 3), scale=st.floats(0.1, 100))
def test_quantiles_are_in_order_and_not_negative_whatever_weights_and_widening(seed, widened_by, scale):
    inputs = made(seed)
    model = network(inputs, seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(scale)
    model.widening.fill_(widened_by)
    low, middle, high = predict(model, inputs)
    assert (low >= 0).all() and (low <= middle).all() and (middle <= high).all() and np.isfinite(high).all()


def test_a_constant_column_is_silent_and_the_scale_travels_with_the_weights():
    inputs = made()
    inputs["table"][:, 1] = 7.0
    model = network(inputs)
    twin = network(made(1))
    twin.load_state_dict(model.state_dict())
    for mine, theirs in zip(predict(model, inputs), predict(twin, inputs), strict=True):
        assert np.isfinite(mine).all() and np.array_equal(mine, theirs)


@pytest.mark.parametrize(
    ("level", "table", "said"),
    [
        ([1.0, 2.0], [[1.0], [np.inf]], "table must be finite"),
        ([1.0, 2.0], [1.0, 2.0], r"table must have shape \(rows, columns\), at least 2 rows, got \(2,\)"),
        ([1.0, 2.0], [["a"], ["b"]], "table must hold numbers"),
        ([1.0], [[1.0]], "at least 2 rows"),
        ([1.0, -2.0], [[1.0], [2.0]], "level must be 2 numbers above 0"),
        ([1.0, 2.0, 3.0], [[1.0], [2.0]], "level must be 2 numbers above 0, got 3"),
        ([1.0, np.nan], [[1.0], [2.0]], "level"),
    ],
)
def test_a_network_of_unusable_rows_is_refused(level, table, said):
    with pytest.raises(ValueError, match=said):
        Engagement(level, table)


@settings(deadline=None)
@given(seed=seeds)
def test_the_pinball_loss_is_that_of_scikit_learn_for_arrays_and_tensors(seed):
    rng = np.random.default_rng(seed)
    y, said = rng.normal(size=30), rng.normal(size=(3, 30))
    reference = np.mean([mean_pinball_loss(y, s, alpha=q) for s, q in zip(said, QUANTILES, strict=True)])
    assert pinball(y, said).mean() == pytest.approx(reference)
    tensor = pinball(torch.from_numpy(y), tuple(torch.from_numpy(said)))
    np.testing.assert_allclose(tensor.numpy(), pinball(y, said))


def test_the_training_loss_counts_in_multiples_of_the_level():
    y, level = torch.rand(20) * 100, torch.rand(20) * 50 + 1
    said = tuple(torch.rand(3, 20) * 100)
    one = relative_pinball(said, torch.stack([y, level], 1))
    grown = relative_pinball(tuple(10 * s for s in said), torch.stack([10 * y, 10 * level], 1))
    torch.testing.assert_close(one, grown)


@pytest.mark.parametrize("said", [[np.zeros(3)], [np.zeros(2)] * 3, [np.zeros((3, 1))] * 3])
def test_quantiles_of_another_shape_are_refused(said):
    with pytest.raises(ValueError, match="said must be 3 columns"):
        pinball(np.zeros(3), said)


def test_the_band_covers_a_new_row_as_often_as_stated_where_rows_are_exchangeable():
    rng, inside = np.random.default_rng(0), []
    for _ in range(2000):
        scale = rng.gamma(2, size=41)
        y = scale * rng.standard_t(3, size=41)
        low, high = -0.5 * scale, 0.7 * scale  # a band that is far too narrow
        share = widening(low[:40], high[:40], y[:40], 0.2)
        more = share * (high[40] - low[40])
        inside.append(low[40] - more <= y[40] <= high[40] + more)
    se = np.sqrt(0.8 * 0.2 / 2000)
    assert 0.8 - 3 * se < np.mean(inside) < 0.8 + 1 / 41 + 3 * se


def test_a_band_that_was_too_wide_gets_narrower():
    y = np.random.default_rng(0).normal(size=500)
    assert widening(np.full(500, -10.0), np.full(500, 10.0), y) < -0.4


def test_a_band_without_width_is_refused_and_few_rows_promise_nothing():
    with pytest.raises(ValueError, match="above low"):
        widening([1.0, 2.0], [2.0, 2.0], [1.0, 1.0])
    with pytest.raises(ValueError, match="low, high and truth must be equally many, got 2, 1 and 2"):
        widening([1.0, 2.0], [2.0], [1.0, 1.0])
    with pytest.raises(ValueError, match="low, high and truth must be equally many, got 20, 20 and 1"):
        widening(np.zeros(20), np.ones(20), [0.5])  # not one truth for all
    assert isinstance(widening([0.0] * 3, [1.0] * 3, [0.5] * 3), NotEnough)


def test_a_network_is_widened_once_and_then_covers_the_rows_it_was_widened_on():
    inputs = made(rows=400)
    model = network(inputs)
    y = np.random.default_rng(1).gamma(2, inputs["level"])
    said = predict(model, inputs)
    with pytest.raises(ValueError, match="at least 4 rows"):
        honest(model, [s[:3] for s in said], y[:3])
    assert float(model.widening) == 0
    honest(model, said, y)
    low, _, high = predict(model, inputs)
    assert ((low <= y) & (y <= high)).mean() >= 0.79  # rows on the edge may round to either side
    with pytest.raises(ValueError, match="widened already"):
        honest(model, said, y)


def test_training_learns_a_day_and_two_runs_end_in_the_same_weights():
    inputs = made(rows=600)
    y = inputs["level"] * (1 + np.sin(2 * np.pi * inputs["hour"] / 24))
    targets, ends = np.column_stack([y, inputs["level"]]).astype(np.float32), []
    for _ in range(2):
        model = network(inputs, width=32, dropout=0.0)
        how = {"loss": relative_pinball, "epochs": 8, "lr": 1e-2, "patience": 8}
        tuned = train(model, (inputs, targets), (inputs, targets), **how)
        ends.append(model.state_dict())
    assert tuned.best_loss < tuned.history[0].valid_loss / 4
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_the_bundle_answers_as_the_network_does_from_raw_numbers(tmp_path):
    inputs = made()
    model = network(inputs)
    model.widening.fill_(0.3)
    specs = [TensorSpec(n, "FP32", (-1, *a.shape[1:])) for n, a in inputs.items()]
    signature = Signature(tuple(specs), tuple(TensorSpec(n, "FP32", (-1,)) for n in ("p10", "p50", "p90")))
    engine = load(export(model, inputs, tmp_path / "bundle", signature=signature, tolerance=1e-3))
    for served, own in zip(engine.run(inputs).values(), predict(model, inputs), strict=True):
        np.testing.assert_allclose(served, own, rtol=1e-4, atol=1e-3)
    with pytest.raises(ValueError, match="level must be finite"):
        engine.run(inputs | {"level": np.full(64, np.nan, np.float32)})


def test_a_column_that_hardly_rounds_is_constant():
    level, table = np.linspace(1, 2, 30), np.column_stack([np.full(30, 0.1), np.arange(30.0)])
    model = Engagement(level, table)
    assert model.spread[1] == 1 and model.spread[2] > 1


def test_a_level_below_zero_turns_no_band_around():
    inputs = made()
    answers = predict(network(inputs), inputs | {"level": -inputs["level"]})
    assert all((a == 0).all() for a in answers)


@pytest.mark.parametrize("kind", [list, lambda x: np.array(x, np.uint8), lambda x: np.array(x, np.int32)])
def test_the_pinball_loss_takes_lists_and_whole_numbers(kind):
    truth, said = kind([1, 5]), [kind([2, 3])] * 3
    np.testing.assert_allclose(pinball(truth, said), pinball(np.array([1.0, 5.0]), [np.array([2.0, 3.0])] * 3))


def test_quantiles_outside_the_unit_interval_are_refused():
    with pytest.raises(ValueError, match=r"quantiles must lie strictly between 0 and 1, got 1.5"):
        pinball([1.0], [[1.0]], quantiles=(1.5,))


@pytest.mark.parametrize(("name", "shape"), [("table", (64, 2)), ("table", (64,)), ("hour", (64, 1))])
def test_tensors_of_another_shape_are_named(name, shape):
    inputs = {n: torch.from_numpy(a) for n, a in made().items()}
    with pytest.raises(ValueError, match=r"four columns \(batch,\) and a table \(batch, 3\), got"):
        network(made())(**inputs | {name: torch.ones(shape)})


def test_the_loss_has_the_gradient_of_finite_differences():
    g = torch.Generator().manual_seed(0)
    said = tuple(torch.rand(6, generator=g, dtype=torch.float64, requires_grad=True) for _ in range(3))
    target = 0.3 + torch.rand(6, 2, generator=g, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda *s: relative_pinball(s, target), said)
