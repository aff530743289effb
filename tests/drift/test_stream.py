"The face of a detector, and the measured time between alarms."

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from seatrial.drift.stream import Delivered, Detector, delivered, state, within
from seatrial.stats.comparison import NotEnough


@dataclass(slots=True)
class Rare(Detector):
    "Alarms on each value above a limit."

    kind: ClassVar[str] = "test-rare"
    limit: float = 0.99
    seen: float = state(0.0)

    def step(self, x):
        self.seen = x
        return 1.0 if x > self.limit else 0.0


@pytest.mark.parametrize("p", [0.5, 0.05, 0.004])
def test_the_measured_run_length_of_independent_alarms_is_one_over_their_chance(p):
    rng = np.random.default_rng(0)
    found = delivered(Rare(limit=1 - p), rng.random, alarms=1500)
    assert abs(found.mean - 1 / p) < 4 * found.se and found.alarms >= 1500
    assert found.se == pytest.approx(found.mean / np.sqrt(found.alarms), rel=0.15)


def test_run_lengths_longer_than_a_block_of_values_are_measured_without_bias():
    rng = np.random.default_rng(1)
    found = delivered(Rare(limit=1 - 1 / 20_000), rng.random, alarms=10**6, most=1_500_000)
    assert abs(found.mean - 20_000) < 4 * found.se


def test_measuring_leaves_the_detector_as_it_was_and_starts_it_afresh():
    rng, detector = np.random.default_rng(2), Rare()
    detector.update(0.5)
    before = detector.to_dict()
    assert isinstance(delivered(detector, rng.random, alarms=20), Delivered)
    assert detector.to_dict() == before


def test_too_few_alarms_are_no_run_length():
    rng = np.random.default_rng(3)
    found = delivered(Rare(limit=2), rng.random, most=5000)
    assert found == NotEnough(10, 0, "only 0 alarms in 5,000 values")


@pytest.mark.parametrize("bad", [np.nan, 2.0, "1", None, [1]])
def test_within_names_argument_rule_and_value(bad):
    with pytest.raises(ValueError, match=r"^delta must be one number inside \[0, 1\], got delta="):
        within(bad, 0, 1, "delta")
