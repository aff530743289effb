"A card is plain data, and its sentence follows from its interval."

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seatrial.model.card import card
from seatrial.model.slices import by_slice
from seatrial.stats.calibration import reliability
from seatrial.stats.comparison import paired
from seatrial.stats.ratio import paired_clusters

WORDS = {"task": "t", "data": "d", "split": "s", "metric": "m", "baseline": "the mean", "limits": ["none known"]}


@given(seed=st.integers(0, 2**32 - 1), shift=st.floats(-0.5, 0.5), by=st.booleans())
def test_the_sentence_follows_from_the_interval(seed, shift, by):
    rng = np.random.default_rng(seed)
    base = rng.gamma(2, size=40)
    loss, clusters = base + shift + rng.normal(0, 0.5, 40), np.arange(40) // 2
    made = card(**WORDS, losses=loss, baseline_losses=base, clusters=clusters if by else None)
    found = paired_clusters(base, loss, clusters=clusters) if by else paired(base, loss)
    assert (made["difference"]["lower"], made["difference"]["upper"]) == (found.lower, found.upper)
    word = "Beats" if found.upper < 0 else "Loses to" if found.lower > 0 else "Does not beat"
    assert made["verdict"].startswith(f"{word} the mean: ")


def test_a_card_survives_json_whatever_it_holds():
    rng = np.random.default_rng(0)
    p = rng.random(200)
    y, other = (rng.random(200) < p).astype(float), np.full(200, 0.5)
    loss, base = (p - y) ** 2, (other - y) ** 2
    facts = {"epochs": np.int64(3), "seconds": np.float32(0.5), "best": float("inf"), "names": ("a", "b")}
    made = card(
        **WORDS,
        losses=loss,
        baseline_losses=base,
        slices=by_slice(loss, {"g": rng.integers(0, 3, 200)}, baseline=base),
        calibration=reliability(p, y),
        **facts,
    )
    assert json.loads(json.dumps(made, allow_nan=False)) == made
    assert made["epochs"] == 3 and made["best"] is None and made["names"] == ["a", "b"] and made["rows"] == 200


def test_one_row_is_not_compared():
    made = card(**WORDS, losses=[1.0], baseline_losses=[2.0])
    assert made["verdict"].startswith("Not compared with the mean") and made["difference"]["needed"] == 2


@pytest.mark.parametrize("name", ["task", "data", "split", "metric", "baseline"])
@pytest.mark.parametrize("empty", ["", "  ", None, 3])
def test_empty_words_are_refused(name, empty):
    with pytest.raises(ValueError, match=f"{name} must say something, got"):
        card(**WORDS | {name: empty}, losses=[1.0, 2.0], baseline_losses=[2.0, 1.0])


def test_losses_must_pair_up():
    with pytest.raises(ValueError, match="one to one"):
        card(**WORDS, losses=[1.0, 2.0], baseline_losses=[2.0])
    with pytest.raises(ValueError, match="finite"):
        card(**WORDS, losses=[1.0, np.nan], baseline_losses=[2.0, 1.0])
    with pytest.raises(ValueError, match="losses must hold at least one held-out row, got none"):
        card(**WORDS, losses=[], baseline_losses=[])


@pytest.mark.parametrize("name", ["verdict", "difference", "loss", "baseline_loss", "rows"])
def test_nobody_writes_the_verdict_by_hand(name):
    with pytest.raises(ValueError, match=f"facts must not replace what was measured, got {name}='Beats all'"):
        card(**WORDS, losses=[1.0, 2.0], baseline_losses=[2.0, 1.0], **{name: "Beats all"})


def test_arrays_dates_and_paths_become_plain_and_what_cannot_is_named():
    pair = {"losses": [1.0, 2.0], "baseline_losses": [2.0, 1.0]}
    facts = {"weights": np.array([[1.0, np.inf]]), "day": np.datetime64("2020-01-02"), "place": Path("a", "b")}
    made = card(**WORDS, **pair, **facts, tensor=torch.arange(3), seen=np.array([True]))
    assert json.loads(json.dumps(made, allow_nan=False)) == made
    assert made["weights"] == [[1.0, None]] and made["tensor"] == [0, 1, 2] and made["seen"] == [True]
    assert (made["day"], made["place"]) == ("2020-01-02", str(Path("a", "b")))
    with pytest.raises(ValueError, match=r"split_by\['x'\] must be plain data .*, got set"):
        card(**WORDS, **pair, split_by={"x": {1, 2}})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"limits": None}, r"limits\[0\] must say something, got None"),
        ({"limits": ["x", ""]}, r"limits\[1\] must say something, got ''"),
        ({"limits": []}, "limits must say something, got ''"),
        ({"slices": {"a": 1}}, "slices must be what by_slice answers, got dict"),
        ({"calibration": 0.3}, "calibration must be what reliability answers, got float"),
    ],
)
def test_what_a_card_cannot_hold_is_named(given, said):
    with pytest.raises(ValueError, match=said):
        card(**WORDS | given, losses=[1.0, 2.0], baseline_losses=[2.0, 1.0])
