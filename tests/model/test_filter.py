"Content filter: promises that hold together, decisions that follow the score, and what may not become a threshold."

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from seatrial.engine.bundle import HashedNgrams, Signature, TensorSpec
from seatrial.engine.export import export
from seatrial.engine.runtime import load
from seatrial.model.filter import RULES, ContentFilter, Moderator, caught, ruled, thresholds
from seatrial.stats.calibration import Calibration, platt
from seatrial.stats.comparison import NotEnough
from seatrial.stats.conformal import Threshold, threshold_for
from seatrial.stats.proportion import wilson


@pytest.fixture
def model():
    made = ContentFilter(("spam", "link"), 60)
    with torch.no_grad():
        made.table.weight[1:] = torch.randn(59, 2, generator=torch.Generator().manual_seed(0))
        made.bias[:] = torch.tensor([-1.0, 0.5])
    return made.eval()


def promised(value):
    return Threshold(value, 0.01, 0.05, 1000, 4)


def moderator(model):
    return Moderator(model, [Calibration("platt", 1.5, 0.1), Calibration("platt", 0.7, -1.0)], [promised(0.3)] * 2)


@pytest.mark.parametrize(
    ("text", "link", "phone"),
    [
        ("look at HTTPS://x.y now", True, False),
        ("www.example", True, False),
        ("mail me at a.b@shop.co.uk", True, False),
        ("come.on", False, False),
        ("call 09061701461", False, True),
        ("call 0906 170-1461", False, True),
        ("pay 123456789", False, False),
        ("", False, False),
    ],
)
def test_rules_say_what_they_say(text, link, phone):
    said = ruled([text])
    assert set(said) == set(RULES)
    assert (said["link"].tolist(), said["phone"].tolist()) == ([link], [phone])


@settings(deadline=None, max_examples=50)
@given(row=st.lists(st.integers(1, 59), min_size=1, max_size=20), extra=st.integers(0, 10), seed=st.integers(0, 9))
def test_score_ignores_order_and_padding(row, extra, seed):
    made = ContentFilter(("a",), 60)
    nn.init.normal_(made.table.weight[1:], generator=torch.Generator().manual_seed(1))
    shuffled = np.random.default_rng(seed).permutation(row).tolist() + [0] * extra
    torch.testing.assert_close(made(torch.tensor([row])), made(torch.tensor([shuffled])), rtol=1e-5, atol=1e-5)


def test_score_is_the_sum_of_weights_over_the_root_of_their_number(model):
    row = [3, 9, 9, 40]
    expected = model.bias + model.table.weight[row].sum(0) / len(row) ** 0.5
    torch.testing.assert_close(model(torch.tensor([[*row, 0, 0]]))[0], expected)


def test_empty_text_gets_the_bias_and_padding_learns_nothing(model):
    assert torch.equal(model(torch.zeros(1, 3, dtype=torch.int64))[0], model.bias)
    model(torch.tensor([[5, 0, 0]])).sum().backward()
    assert not model.table.weight.grad[0].any() and model.table.weight.grad[5].any()


def test_one_policys_labels_never_train_another(model):
    model(torch.tensor([[5, 7]]))[:, 0].sum().backward()
    assert not model.table.weight.grad[:, 1].any() and model.bias.grad[1] == 0


def test_promises_hold_together_as_often_as_stated():
    rng, truth, broken, n, runs = np.random.default_rng(0), np.zeros((700, 3), bool), 0, 700, 400
    for _ in range(runs):
        t = thresholds(rng.normal(size=(n, 3)), truth, share=0.02, alpha=0.1)
        broken += any(1 - 0.5 * (1 + torch.erf(torch.tensor(each.value / 2**0.5))).item() > 0.02 for each in t)
    assert broken / runs < 0.1 + 3 * (0.1 * 0.9 / runs) ** 0.5


def test_thresholds_rest_on_allowed_texts_alone():
    rng = np.random.default_rng(1)
    s, y = rng.normal(size=(2000, 2)), rng.random((2000, 2)) < 0.3
    moved = np.where(y, s + 100, s)
    assert thresholds(s, y) == thresholds(moved, y)
    assert thresholds(s, y)[1] == threshold_for(s[~y[:, 1], 1], 0.01, 0.025)


def test_caught_counts_and_wilson():
    scores, y = np.array([3.0, 1.0, 2.0, 2.0, 0.0]), np.array([1, 1, 0, 0, 0], bool)
    found = caught("spam", scores, y, 1.5)
    assert (found.recall[0], found.false_rate[0], found.forbidden, found.allowed) == (0.5, 2 / 3, 2, 3)
    assert found.recall[1:] == pytest.approx(wilson(1, 2, 0.05))
    assert caught("spam", scores, y, 2.0).false_rate[0] == 0  # equal is not greater


def test_graph_answers_the_modules_probabilities_and_decisions(model, tmp_path):
    whole, grams = moderator(model), HashedNgrams("text", buckets=60, orders=(1,), width=30)
    assert whole.outputs == ("spam", "spam_stopped", "link", "link_stopped")
    texts = np.array([f"word{i} other{i % 7} third{i % 3}" for i in range(40)] + [""], dtype=object)
    specs = [TensorSpec(n, "BOOL" if n.endswith("_stopped") else "FP32", (-1,)) for n in whole.outputs]
    client = Signature((TensorSpec("text", "BYTES", (-1,)),), tuple(specs))
    ids = grams({"text": texts}, None)["ids"]
    facts = {"signature": client, "preparation": grams, "batches": (1, 7), "tolerance": 1e-5}
    said = load(export(whole, {"ids": ids}, tmp_path / "b", **facts)).run({"text": texts})
    with torch.inference_mode():
        scores = model(torch.from_numpy(ids)).numpy()
    for j, (policy, c) in enumerate(
        zip(model.policies, (Calibration("platt", 1.5, 0.1), Calibration("platt", 0.7, -1.0)), strict=True)
    ):
        np.testing.assert_allclose(said[policy], c(scores[:, j]), atol=1e-5)
        assert said[f"{policy}_stopped"].tolist() == (scores[:, j] > np.float32(0.3)).tolist()
    assert json.loads((tmp_path / "b" / "bundle.json").read_text())["signature"]["outputs"][1]["datatype"] == "BOOL"


def test_score_equal_to_the_threshold_is_let_through(model):
    ids = torch.tensor([[4, 8]])
    limits = [promised(float(s)) for s in model(ids).detach()[0]]
    answers = Moderator(model, [Calibration("platt")] * 2, limits)(ids)
    assert [bool(a) for a in answers[1::2]] == [False, False]


def test_what_cannot_be_promised_never_becomes_a_threshold(model):
    rng = np.random.default_rng(2)
    few = thresholds(rng.normal(size=(100, 2)), np.zeros((100, 2), bool))
    assert all(isinstance(t, NotEnough) for t in few)
    maps = [platt([0, 1, 0, 1], [0, 0, 1, 1])] * 2
    with pytest.raises(ValueError, match=r"thresholds of 'spam' must be promised, got 100 allowed texts where \d+ are"):
        Moderator(model, maps, few)
    with pytest.raises(ValueError, match=r"finite Threshold, got 0\.5"):
        Moderator(model, maps, [0.5, 0.5])
    with pytest.raises(ValueError, match="must be 2, one a policy, got 2 and 1"):
        Moderator(model, maps, few[:1])


@pytest.mark.parametrize("policies", ["spam", (), ("a", "a"), None, (1, 2), ("a", ""), (["a"],), ("a", "a_stopped")])
def test_policies_are_different_names(policies):
    with pytest.raises(ValueError, match="different names, at least one"):
        ContentFilter(policies)


def test_bad_tables_are_refused():
    with pytest.raises(ValueError, match=r"of one shape, got \(3, 2\) and \(3, 1\)"):
        thresholds(np.zeros((3, 2)), np.zeros((3, 1)))
    with pytest.raises(ValueError, match="true or false, got 2"):
        thresholds(np.zeros((2, 1)), np.array([[2], [0]]))
    with pytest.raises(ValueError, match="hold both kinds, got 0 forbidden texts of 2"):
        caught("spam", [1.0, 2.0], [False, False], 0.0)
    with pytest.raises(ValueError, match="scores must be finite, got 1 NaN"):  # not "let through"
        caught("spam", [np.nan, 2.0], [True, False], 0.0)
    with pytest.raises(ValueError, match="scores must be finite, got 1 NaN"):
        thresholds([[1.0], [np.nan]], [[False], [True]])
    with pytest.raises(ValueError, match=r"outcomes must be 0 or 1, got 0\.5 in row 1"):
        caught("spam", [1.0, 2.0], [0, 0.5], 0.0)
    for limit in (float("nan"), promised(0.3), None):
        with pytest.raises(ValueError, match="threshold must be a finite number, got threshold="):
            caught("spam", [1.0, 2.0], [0, 1], limit)
    with pytest.raises(ValueError, match="texts must be a list of texts, got one text 'www"):
        ruled("www.example.org")
    with pytest.raises(ValueError, match="texts must hold text, got None in row 1"):
        ruled(["a", None])
    with pytest.raises(ValueError, match="buckets must be a whole number, at least 2, got 1"):
        ContentFilter(buckets=1)
