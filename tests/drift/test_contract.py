"What every streaming detector promises: one face, no harm from bad input, bounded memory, alarms that survive saving."

import importlib
import json
import math
import pkgutil
from dataclasses import fields

import numpy as np
import pytest

import seatrial.drift
from seatrial.drift.chart import CUSUM, EWMA, PageHinkley
from seatrial.drift.edetector import EDetector
from seatrial.drift.stream import Detector, kinds, states
from seatrial.drift.window import ADWIN, DDM, EDDM, KSWIN

for module in pkgutil.iter_modules(seatrial.drift.__path__):
    importlib.import_module(f"seatrial.drift.{module.name}")


def noise(rng, n, moved):
    return rng.standard_normal(n) + 20 * moved


def errors(rng, n, moved):
    return (rng.random(n) < (0.9 if moved else 0.1)).astype(float)


def shares(rng, n, moved):
    return rng.beta(2, 8, n) if not moved else rng.beta(8, 2, n)


# name → (how it is made, its stream in control or moved far)
EXAMPLES = {
    "cusum": (lambda: CUSUM(mean=0, sd=1, run_length=5000), noise),
    "cusum, one side": (lambda: CUSUM(mean=0, sd=1, run_length=5000, side="up", shift=2), noise),
    "cusum, mean learnt": (lambda: CUSUM(mean=None, sd=1.0), noise),
    "cusum, all learnt": (lambda: CUSUM(mean=None, sd=None), noise),
    "ewma": (lambda: EWMA(mean=0, sd=1), noise),
    "ewma, all learnt": (lambda: EWMA(mean=None, sd=None, weight=0.3), noise),
    "page-hinkley": (PageHinkley, noise),
    "page-hinkley, sd known": (lambda: PageHinkley(sd=1.0, side="both"), noise),
    "adwin": (ADWIN, shares),
    "adwin, every value": (lambda: ADWIN(every=1, delta=0.3), shares),
    "ddm": (DDM, errors),
    "eddm": (EDDM, errors),
    "kswin": (KSWIN, noise),
    "e-detector": (lambda: EDetector(mean=0.2), shares),
    "e-detector, cusum": (lambda: EDetector(mean=0.2, form="cusum", tolerance=0.05, side="up"), shares),
}
every = pytest.mark.parametrize("name", EXAMPLES)


def stream(name, seed=0, quiet=400, moved=200):
    "Values in control, then far from it, then in control again."
    rng, draw = np.random.default_rng(seed), EXAMPLES[name][1]
    return np.concatenate([draw(rng, quiet, False), draw(rng, moved, True), draw(rng, quiet, False)]).tolist()


def track(detector, values):
    return [(detector.update(x).alarm, detector.evidence) for x in values]


def test_no_detector_escapes_this_contract():
    ours = {kind for kind, cls in kinds().items() if cls.__module__.startswith("seatrial.drift")}
    assert ours == {name.split(",")[0] for name in EXAMPLES}


@every
def test_update_returns_the_detector_and_alarms_where_the_evidence_is_full(name):
    detector = EXAMPLES[name][0]()
    for x in stream(name):
        assert detector.update(x) is detector
        assert isinstance(detector.alarm, bool) and detector.alarm == (detector.evidence >= 1)
        assert isinstance(detector.evidence, float) and 0 <= detector.evidence < math.inf


@every
@pytest.mark.parametrize("at", [0, 1, 3, 137, 405, 520, 650])
def test_saved_and_restored_in_the_middle_the_alarms_are_the_same(name, at):
    whole, first, values = EXAMPLES[name][0](), EXAMPLES[name][0](), stream(name, seed=at)
    expected = track(whole, values)
    begun = track(first, values[:at])
    again = Detector.from_dict(json.loads(json.dumps(first.to_dict(), allow_nan=False)))
    assert again == first and type(again) is type(first)
    assert begun + track(again, values[at:]) == expected
    assert again.to_dict() == whole.to_dict()


@every
@pytest.mark.parametrize(
    "bad", [math.nan, math.inf, -math.inf, 1e200, "0", None, [0.0], 0j, np.zeros((99, 2)), 10**400]
)
@pytest.mark.parametrize("after", [0, 50])
def test_bad_input_is_refused_in_one_sentence_and_changes_nothing(name, bad, after):
    detector = EXAMPLES[name][0]()
    track(detector, stream(name)[:after])
    before = detector.to_dict()
    with pytest.raises(ValueError, match=r"^x must be ") as told:
        detector.update(bad)
    assert "\n" not in str(told.value) and detector.to_dict() == before


@every
def test_bad_input_right_after_an_alarm_does_not_clear_it(name):
    detector = EXAMPLES[name][0]()
    assert any(detector.update(x).alarm for x in stream(name))
    before = detector.to_dict()
    with pytest.raises(ValueError, match="x must be"):
        detector.update(math.nan)
    assert detector.alarm and detector.to_dict() == before


@every
def test_the_smallest_values_of_numpy_are_numbers_too(name):
    detector, twin = EXAMPLES[name][0](), EXAMPLES[name][0]()
    for x in (0, 1, 0, 1, 1):
        detector.update(np.float32(x))
        twin.update(float(x))
    assert detector == twin
    json.dumps(detector.to_dict())


@every
def test_a_constant_stream_is_no_change(name):
    make, draw = EXAMPLES[name]
    constant = {noise: 0.0, errors: 0.0, shares: 0.2}[draw]
    assert not any(alarm for alarm, _ in track(make(), [constant] * 990))  # run lengths are 1000 or more


@every
def test_a_reset_forgets_all_that_was_seen_and_nothing_that_was_told(name):
    detector = EXAMPLES[name][0]()
    track(detector, stream(name)[:450])
    assert detector.n > 0
    assert detector.reset() is detector and detector.to_dict() == EXAMPLES[name][0]().to_dict()


@every
def test_a_huge_shift_is_found_soon(name):
    make, draw = EXAMPLES[name]
    for seed in range(10):
        rng, detector = np.random.default_rng(seed), make()
        track(detector, draw(rng, 300, False).tolist())
        assert any(alarm for alarm, _ in track(detector, draw(rng, 120, True).tolist()))


@pytest.mark.parametrize(
    "name", [n for n in EXAMPLES if "learnt" in n or n.startswith(("adwin", "kswin", "page-hinkley,"))]
)
def test_what_learns_its_state_sees_the_way_back_as_a_change(name):
    values = stream(name, quiet=300, moved=300)
    alarms = [t for t, (alarm, _) in enumerate(track(EXAMPLES[name][0](), values)) if alarm]
    assert any(300 <= t < 450 for t in alarms) and any(600 <= t < 900 for t in alarms)


@every
def test_the_state_does_not_grow_with_the_stream(name):
    make, draw = EXAMPLES[name]
    rng, detector = np.random.default_rng(3), make()
    sizes = []
    for _ in range(2):
        track(detector, draw(rng, 2000 if not sizes else 14_000, False).tolist())
        sizes.append(len(flat(detector.to_dict())))
    assert sizes[1] <= sizes[0] + (60 if "adwin" in name else 0)


def flat(value):
    "All the plain values inside a saved state."
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return [value] if inner is None else [v for part in inner for v in flat(part)]


@every
def test_two_detectors_share_no_state_and_no_chance(name):
    one, two = EXAMPLES[name][0](), EXAMPLES[name][0]()
    values = stream(name)
    expected = track(one, values)
    assert track(two, values) == expected
    saved = two.to_dict()
    kept = json.dumps(saved)
    track(Detector.from_dict(saved), values[:100])
    track(two, values[:100])
    assert json.dumps(saved) == kept


@every
def test_a_damaged_file_is_refused(name):
    detector = EXAMPLES[name][0]()
    track(detector, stream(name)[:50])
    saved = detector.to_dict()
    with pytest.raises(ValueError, match="kind must be one of"):
        Detector.from_dict(saved | {"kind": "oracle"})
    with pytest.raises(ValueError, match="must hold its own fields"):
        Detector.from_dict({k: v for k, v in saved.items() if k != "n"})
    with pytest.raises(ValueError, match="must hold its own fields"):
        Detector.from_dict(saved | {"extra": 1})
    for field in states(type(detector)):
        for bad in ("many", math.nan, None, [["many"]]):
            with pytest.raises(ValueError, match=f"{field} of a saved .* must be finite numbers"):
                Detector.from_dict(saved | {field: bad})


@every
def test_the_saved_form_names_every_field_and_its_kind(name):
    detector = EXAMPLES[name][0]()
    assert set(detector.to_dict()) == {"kind"} | {f.name for f in fields(detector)}
    assert detector.to_dict()["kind"] == name.split(",")[0]
    other, saved = EWMA if isinstance(detector, CUSUM) else CUSUM, detector.to_dict()
    with pytest.raises(ValueError, match="kind must be one of"):
        other.from_dict(saved)


@pytest.mark.parametrize("bad", [{"n": -7}, {"run_length": "a"}, {"mean": "a"}, {"shares": [1.0]}])
def test_a_saved_detector_that_no_detector_saved_is_refused(bad):
    for make, _ in EXAMPLES.values():
        saved = make().to_dict()
        if set(bad) <= set(saved) and saved["kind"] != ("page-hinkley" if "mean" in bad else ""):
            with pytest.raises(ValueError, match=next(iter(bad))):
                Detector.from_dict(saved | bad)
