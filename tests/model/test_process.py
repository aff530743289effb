"Yield: holes that say nothing, members that train alone, and no answer from the future."

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from seatrial.engine.export import export
from seatrial.engine.runtime import load
from seatrial.engine.signature import Signature, TensorSpec
from seatrial.model.process import Committee, each_alone, robust, rolling_origin
from seatrial.tune.feed import predict
from seatrial.tune.training import train


def made(seed=0, runs=40, columns=5, missing=0.2):
    rng = np.random.default_rng(seed)
    table = rng.normal(100, 10, (runs, columns))
    truth = 40 + table[:, 0] / 10 - table[:, 1] / 20 + rng.normal(0, 0.1, runs)
    table[rng.random(table.shape) < missing] = np.nan
    return table, truth


def holes(table, filling=0.0):
    known = np.isfinite(table)
    return {"values": np.where(known, table, filling).astype(np.float32), "known": known.astype(np.float32)}


def committee(table, truth, seed=0, **kw):
    torch.manual_seed(seed)
    return Committee(table, truth, **kw).eval()


@given(n=st.integers(2, 200), first=st.integers(1, 199), every=st.integers(1, 50))
def test_every_run_from_the_first_on_is_answered_once_and_only_from_its_past(n, first, every):
    if first >= n:
        with pytest.raises(ValueError, match="first must be between 1"):
            list(rolling_origin(n, first, every))
        return
    answered = []
    for past, ahead in rolling_origin(n, first, every):
        assert past.start == 0 and past.stop == ahead.start and 1 <= ahead.stop - ahead.start <= every
        answered += range(ahead.start, ahead.stop)
    assert answered == list(range(first, n))


def test_an_origin_that_never_moves_is_refused():
    with pytest.raises(ValueError, match="every at least 1, got 5 and 0"):
        list(rolling_origin(10, 5, 0))


@given(hnp.arrays(float, (12, 3), elements=st.floats(-1e6, 1e6) | st.just(np.nan)))
def test_the_scale_is_finite_whatever_was_measured(table):
    middle, scale = robust(table)
    assert np.isfinite(middle).all() and np.isfinite(scale).all() and (scale >= 0).all()


@given(seed=st.integers(0, 2**32 - 1), factor=st.floats(0.01, 100), offset=st.floats(-100, 100))
def test_the_scale_follows_the_unit_of_a_column(seed, factor, offset):
    table = np.random.default_rng(seed).normal(size=(30, 1))
    (middle, scale), (moved, rescaled) = robust(table), robust(factor * table + offset)
    np.testing.assert_allclose(moved, factor * middle + offset, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(rescaled, scale / factor, rtol=1e-6)


def test_a_column_without_spread_and_one_never_measured_have_no_say():
    table, truth = made()
    table[:, 2], table[:, 3] = 7.0, np.nan
    model, sent = committee(table, truth), holes(table)
    other = sent["values"].copy()
    other[:, 2], other[:, 3] = 1e6, -1e6
    both = {"values": other, "known": np.ones_like(sent["known"])}
    same = {"values": np.where(sent["known"] > 0, sent["values"], model.middle.numpy()), "known": both["known"]}
    both["values"][:, [0, 1, 4]] = same["values"][:, [0, 1, 4]]
    assert np.array_equal(predict(model, same)[0], predict(model, both)[0])


@pytest.mark.parametrize("table", [[1.0, 2.0], [[1.0]], [[np.inf], [1.0]], np.ones((3, 0))])
def test_a_table_that_is_none_is_refused(table):
    with pytest.raises(ValueError, match="table must be"):
        robust(table)


@settings(deadline=None, max_examples=30)
@given(filling=st.floats(width=32), seed=st.integers(0, 2**32 - 1))
def test_what_lies_under_a_hole_has_no_influence_not_even_nan_or_infinity(filling, seed):
    table, truth = made(seed)
    model = committee(table, truth, seed)
    for plain, filled in zip(predict(model, holes(table)), predict(model, holes(table, filling)), strict=True):
        assert np.isfinite(plain).all() and np.array_equal(plain, filled)


def test_no_gradient_comes_through_a_hole():
    table, truth = made()
    sent = {name: torch.from_numpy(a) for name, a in holes(table).items()}
    sent["values"].requires_grad_(True)
    committee(table, truth)(**sent)[0].sum().backward()
    grad = sent["values"].grad
    assert (grad[sent["known"] == 0] == 0).all() and (grad != 0).any()


def test_a_measurement_far_out_counts_as_three_spreads():
    table, truth = made(missing=0)
    model = committee(table, truth)
    far, farther = table.copy(), table.copy()
    far[:, 0], farther[:, 0] = 1e4, 1e9
    assert np.array_equal(predict(model, holes(far))[0], predict(model, holes(farther))[0])


def test_a_member_trains_as_if_alone():
    table, truth = made()
    sent, y = holes(table), truth.astype(np.float32)
    few, many = committee(table, truth, members=1, dropout=0.0), committee(table, truth, members=5, dropout=0.0)
    with torch.no_grad():
        for mine, theirs in zip(few.parameters(), many.parameters(), strict=True):
            mine.copy_(theirs[2:3])
    how = {"loss": each_alone, "epochs": 20, "patience": 20, "lr": 0.01, "batch": 40, "clip": 1e9}
    for model in (few, many):
        train(model, (sent, y), (sent, y), **how)
    np.testing.assert_allclose(predict(few, sent)[1][:, 0], predict(many, sent)[1][:, 2], rtol=1e-4)


def test_the_answer_is_the_mean_of_the_members_and_training_brings_it_near():
    table, truth = made(missing=0)
    model, sent, y = committee(table, truth), holes(table), truth.astype(np.float32)
    before = np.abs(predict(model, sent)[0] - truth).mean()
    train(model, (sent, y), (sent, y), loss=each_alone, epochs=100, patience=100, lr=0.02, batch=40, clip=1e9)
    mean, each = predict(model, sent)
    assert each.shape == (40, 16) and np.abs(mean - truth).mean() < before / 2
    np.testing.assert_allclose(mean, each.mean(1), rtol=1e-5)


@pytest.mark.parametrize(
    ("truth", "members", "said"),
    [
        (np.full(40, 3.0), 16, "yields that vary"),
        (np.arange(39.0), 16, "40 yields that vary"),
        (np.arange(40.0), 0, "members and width must be whole numbers, at least 1, got 0 and 8"),
        (np.arange(40.0), 2.5, "whole numbers, at least 1, got 2.5 and 8"),
        (np.zeros(0), 16, "40 yields that vary, got none"),
        (np.full(40, np.nan), 16, "truth"),
    ],
)
def test_a_committee_without_anything_to_learn_is_refused(truth, members, said):
    with pytest.raises(ValueError, match=said):
        Committee(made()[0], truth, members=members)


def test_the_bundle_keeps_the_promise_about_holes(tmp_path):
    table, truth = made()
    model, sent = committee(table, truth), holes(table)
    specs = [TensorSpec(name, "FP32", (-1, 5)) for name in sent]
    outputs = (TensorSpec("yield", "FP32", (-1,)), TensorSpec("members", "FP32", (-1, 16)))
    signature = Signature(tuple(specs), outputs)
    engine = load(export(model, sent, tmp_path / "bundle", signature=signature, tolerance=1e-3))
    answers, filled = engine.run(sent), engine.run(holes(table, -9999))
    np.testing.assert_allclose(answers["yield"], predict(model, sent)[0], rtol=1e-5)
    assert np.array_equal(answers["yield"], filled["yield"]) and np.array_equal(answers["members"], filled["members"])
    with pytest.raises(ValueError, match="values must be finite"):
        engine.run(sent | {"values": np.full((40, 5), np.nan, np.float32)})


def test_one_column_of_targets_too_many_is_not_every_pair_of_runs():
    table, truth = made()
    answers = committee(table, truth)(**{n: torch.from_numpy(a) for n, a in holes(table).items()})
    with pytest.raises(ValueError, match=r"targets must have shape \(rows,\), one yield a run, got \(40, 1\)"):
        each_alone(answers, torch.ones(40, 1))


@pytest.mark.parametrize(("values", "known"), [((4, 5), (4, 1)), ((4, 4), (4, 4)), ((5,), (5,))])
def test_tensors_that_would_be_stretched_are_named(values, known):
    with pytest.raises(ValueError, match=r"values and known must have shape \(batch, 5\), got"):
        committee(*made())(torch.ones(values), torch.ones(known))


def test_gradients_are_those_of_finite_differences():
    model = committee(*made(), members=2, width=3).double()
    values = 100 + torch.randn(3, 5, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    known = torch.tensor([[1, 1, 0, 1, 1]] * 3).double()
    assert torch.autograd.gradcheck(lambda v: model(v, known), (values,))
