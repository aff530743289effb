"A card is plain data, and its sentence follows from its interval."

import json

import numpy as np
import pytest
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
