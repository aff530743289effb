"Calibrated networks: the map in the graph is the map that was fitted, and never leaves its probabilities."

import inspect
import pickle
from copy import deepcopy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from seatrial.engine.bundle import Signature, TensorSpec
from seatrial.engine.export import export
from seatrial.engine.runtime import load
from seatrial.model.calibrated import Calibrated, Curve
from seatrial.model.quality import BagScorer
from seatrial.stats.calibration import Calibration, isotonic, platt

knots = st.lists(st.tuples(st.integers(-40, 40), st.floats(0, 1)), min_size=1, max_size=12, unique_by=lambda k: k[0])
scores = st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=30)


def fitted(fit, seed=0, n=400):
    rng = np.random.default_rng(seed)
    s = rng.normal(0, 2, n)
    return fit(s, rng.random(n) < 1 / (1 + np.exp(-2 * s)))


def staircase(pairs):
    x, p = sorted(k[0] / 4 for k in pairs), sorted(k[1] for k in pairs)
    return Calibration("isotonic", scores=tuple(x), probabilities=tuple(p))


@settings(deadline=None)
@given(pairs=knots, asked=scores)
def test_staircase_is_numpys_and_stays_within_its_probabilities(pairs, asked):
    c, s = staircase(pairs), np.array(asked, np.float32)
    said = Curve(c)(torch.from_numpy(s)).numpy()
    np.testing.assert_allclose(said, c(s), atol=1e-6)
    assert said.min() >= np.float32(c.probabilities[0]) and said.max() <= np.float32(c.probabilities[-1]) + 1e-7


@settings(deadline=None)
@given(pairs=knots, asked=scores)
def test_a_higher_score_never_gets_a_lower_probability(pairs, asked):
    said = Curve(staircase(pairs))(torch.tensor(sorted(asked))).numpy()
    assert (np.diff(said) >= 0).all()


@settings(deadline=None)
@given(slope=st.floats(-20, 20), intercept=st.floats(-20, 20), asked=scores)
def test_platt_is_numpys(slope, intercept, asked):
    c, s = Calibration("platt", slope, intercept), np.array(asked, np.float32)
    np.testing.assert_allclose(Curve(c)(torch.from_numpy(s)).numpy(), c(s), atol=1e-6)


@pytest.mark.parametrize("fit", [platt, isotonic])
def test_survives_pickling_copying_and_loading(fit):
    model = Calibrated(nn.Sequential(nn.Linear(3, 1), nn.Flatten(0)), fitted(fit)).eval()
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = model(x)
        assert torch.equal(pickle.loads(pickle.dumps(model))(x), expected)
        other = deepcopy(model)
        other.network[0].weight.zero_()
        assert torch.equal(model(x), expected)  # the copy has a network of its own
        other.load_state_dict(model.state_dict())
        assert torch.equal(other(x), expected)


def test_no_training_step_touches_the_map():
    model = Calibrated(nn.Linear(3, 2), [fitted(platt), fitted(isotonic)])
    assert {name for name, _ in model.named_parameters()} == {"network.weight", "network.bias"}
    before = [b.clone() for b in model.buffers()]
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.randn(8, 3)).sum().backward()
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, model.buffers(), strict=True))


def test_takes_what_the_network_takes_by_name():
    model = Calibrated(BagScorer(50, 4), fitted(platt))
    assert list(inspect.signature(model.forward).parameters) == ["ids"]
    ids = torch.tensor([[3, 4, 0]])
    assert torch.equal(model(ids), model(ids=ids))


@pytest.mark.parametrize("several", [False, True])
def test_exported_graph_answers_numpys_probabilities(several, tmp_path):
    torch.manual_seed(0)
    network = nn.Linear(4, 2)
    maps = [fitted(platt), fitted(isotonic)] if several else fitted(isotonic)
    x = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32) * 3
    signature = Signature((TensorSpec("input", "FP32", (-1, 4)),), (TensorSpec("p", "FP32", (-1, 2)),))
    facts = {"signature": signature, "tolerance": 1e-5, "batches": (1, 7)}
    bundle = export(Calibrated(network, maps), {"input": x}, tmp_path / "b", **facts)
    with torch.inference_mode():
        s = network(torch.from_numpy(x)).numpy()
    expected = np.stack([c(s[:, i]) for i, c in enumerate(maps)], 1) if several else maps(s)
    np.testing.assert_allclose(load(bundle).run({"input": x})["p"], expected, atol=1e-5)


def test_map_that_came_back_from_json_is_the_same():
    c, s = fitted(isotonic), torch.linspace(-5, 5, 50)
    assert torch.equal(Curve(Calibration.from_dict(c.to_dict()))(s), Curve(c)(s))


@pytest.mark.parametrize(
    ("scores", "probabilities"),
    [((), ()), ((1.0, 2.0), (0.1,)), ((2.0, 1.0), (0.1, 0.2)), ((1.0, 1.0), (0.1, 0.2)), ((1.0, 2.0), (0.3, 0.2))],
)
def test_table_that_is_no_calibration_is_refused(scores, probabilities):
    with pytest.raises(ValueError, match="scores that rise and probabilities that never fall"):
        Curve(Calibration("isotonic", scores=scores, probabilities=probabilities))


def test_refusals_say_what_came():
    with pytest.raises(ValueError, match="finite numbers, got nan as its slope"):
        Curve(Calibration("platt", float("nan"), 0.0))
    with pytest.raises(ValueError, match="got dict"):
        Curve({"kind": "platt"})
    with pytest.raises(ValueError, match="one map for each column of the scores, got none"):
        Calibrated(nn.Linear(2, 2), [])
    with pytest.raises(ValueError, match="one float tensor of scores, got tuple"):
        Calibrated(nn.LSTM(2, 2), fitted(platt))(torch.zeros(1, 1, 2))


@pytest.mark.parametrize("knot", [0.0, -3.0, 1e17])
def test_a_staircase_of_one_step_is_level(knot):
    curve = Curve(Calibration("isotonic", scores=(knot,), probabilities=(0.3,)))
    asked = torch.tensor([-1e30, knot, knot + 0.5, 1e30], dtype=torch.float64)
    assert curve(asked).tolist() == [0.3] * 4
