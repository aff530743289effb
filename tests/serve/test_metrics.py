import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from seatrial.serve.exposition import COUNTERS, GAUGES, text
from seatrial.serve.metrics import Buckets, Tally, answered, counted, merged, refused, state

LABELS = st.tuples(st.sampled_from("ab"), st.sampled_from("12"), st.sampled_from(["champion", "shadow"]))
BATCH = st.tuples(
    LABELS, st.lists(st.floats(0, 20), min_size=1, max_size=5), st.integers(1, 64), st.floats(0, 20), st.integers(0, 9)
)


def tally_of(batches):
    tally = Tally()
    for labels, latencies, rows, engine_s, padding in batches:
        answered(tally, labels, latencies, rows, latencies, engine_s, padding)
        counted(tally, "cache_hits", *labels[:2])
        refused(tally, 504, labels)
    return tally


def samples(page):
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


@settings(max_examples=25)
@given(st.lists(BATCH, max_size=6), st.integers(0, 6))
def test_what_two_processes_tell_together_is_what_one_would_have_told(batches, cut):
    parts = [json.loads(json.dumps(state(tally_of(part)))) for part in (batches[:cut], batches[cut:])]
    apart, whole = samples(text(parts)), samples(text([state(tally_of(batches))]))
    assert apart.keys() == whole.keys()
    for key, value in whole.items():
        assert apart[key] == (pytest.approx(value) if key[0].endswith("_sum") else value)


@settings(max_examples=25)
@given(st.lists(BATCH, min_size=1, max_size=6))
def test_histograms_count_every_request_once_in_rising_buckets(batches):
    found = samples(text([state(tally_of(batches))]))
    total = sum(value for key, value in found.items() if key[0] == "seatrial_requests_total")
    assert total == sum(len(latencies) for _, latencies, *_ in batches)
    assert total == sum(value for key, value in found.items() if key[0] == "seatrial_queue_seconds_count")


def test_every_declared_gauge_is_told_with_its_labels_and_put_together():
    now = {name: {("x",) * len(gauge.labels): 2.0} if gauge.labels else 2.0 for name, gauge in GAUGES.items()}
    states = [state(Tally(lambda: now)), state(Tally(lambda: now))]
    found = {key[0]: value for key, value in samples(text(states)).items()}
    assert {f"seatrial_{name}" for name in GAUGES} <= set(found)
    assert all(found[f"seatrial_{name}"] == (4 if gauge.together is sum else 2) for name, gauge in GAUGES.items())


def test_counters_without_labels_are_told_before_they_ever_count():
    found = {key[0] for key in samples(text([state(Tally())]))}
    assert {f"seatrial_{name}_total" for name, counter in COUNTERS.items() if not counter.labels} <= found


def test_the_server_tells_more_than_twenty_series():
    assert len(COUNTERS) + len(GAUGES) + 8 > 30


def test_a_price_is_told_only_where_it_was_stated():
    tally = tally_of([(("a", "1", "champion"), [0.1], 10, 2.0, 0)])
    assert not any("cost" in key[0] for key in samples(text([state(tally)])))
    (cost,) = [value for key, value in samples(text([state(tally)], 1.8)).items() if "cost" in key[0]]
    assert cost == pytest.approx(1.8 / 3600 * 1000 * 2.0 / 10)


@pytest.mark.parametrize("value", ['quo"te', "back\\slash", "line\nend", "ünï"])
def test_labels_that_a_client_chose_stay_labels(value):
    tally = Tally()
    counted(tally, "rate_limited", value)
    assert samples(text([state(tally)]))["seatrial_rate_limited_total", ("caller", value)] == 1


def test_edges_must_rise():
    with pytest.raises(ValueError, match="edges must rise"):
        Buckets([1, 1])


def test_nothing_counted_is_nothing_merged():
    assert merged([]).series == {} and text([])
