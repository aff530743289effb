import json
import random
import sys
import threading
import zlib
from datetime import datetime
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from seatrial.base.settings import CannotDo
from seatrial.serve.spans import Outbox, Span, line, readable
from seatrial.serve.trace import LOW, Tracer, batch, begun, exporter, followed, gap, parent, request

HEX = st.text("0123456789abcdefABCDEFg", max_size=34)


def theirs(header):
    found = get_current_span(TraceContextTextMapPropagator().extract({"traceparent": header})).get_span_context()
    return (found.trace_id, found.span_id, bool(found.trace_flags & 1)) if found.is_valid else None


@given(st.integers(0, 2**128 - 1), st.integers(0, 2**64 - 1), st.integers(0, 255))
def test_a_header_is_read_as_opentelemetry_reads_it(trace, span, flags):
    header = f"00-{trace:032x}-{span:016x}-{flags:02x}"
    assert parent(header.encode()) == theirs(header)


@given(st.text(max_size=60) | st.lists(HEX, min_size=3, max_size=5).map("-".join))
def test_a_broken_header_says_nothing_and_raises_nothing(header):
    assert parent(header.encode()) in (None, theirs(header))


@given(st.floats(0, 1))
def test_the_clients_flag_wins_over_the_share(share):
    header = f"00-{7:032x}-{9:016x}-0"
    assert followed((header + "0").encode(), share) is None
    follow = followed((header + "1").encode(), share)
    assert (follow.trace, follow.parent) == (7, 9) and follow.span not in (0, 9)


def test_nobody_is_followed_at_zero_and_everybody_at_one():
    assert not any(followed(b"", 0.0) for _ in range(1000)) and all(followed(b"", 1.0) for _ in range(1000))


def test_spans_are_nested_in_time_and_linked_both_ways():
    memory = InMemorySpanExporter()
    tracer = Tracer(memory, 1.0, clock=lambda: 1e9, steady=lambda: 50.0)
    follow = followed(b"", 1.0)
    served = batch(tracer, [follow], ("m", "1"), 3, (10.0, 11.0), 0.5)
    request(tracer, follow, (9.0, 10.0, 12.0), {"a": 1}, served)
    tracer.close()
    spans = {span.name: span for span in memory.get_finished_spans()}
    assert spans["infer"].start_time == round((1e9 - 50 + 9) * 1e9) <= spans["queue"].start_time
    assert spans["queue"].end_time <= spans["batch"].start_time <= spans["engine"].start_time
    assert spans["engine"].end_time == spans["batch"].end_time <= spans["infer"].end_time
    assert spans["batch"].links[0].context.span_id == follow.span
    assert (spans["infer"].links[0].context.trace_id, spans["infer"].links[0].context.span_id) == served
    assert spans["engine"].parent.span_id == served[1] and spans["queue"].parent.span_id == follow.span


def test_a_refused_request_has_a_reason_and_no_batch():
    memory = InMemorySpanExporter()
    tracer = Tracer(memory, 1.0)
    request(tracer, followed(b"", 1.0), (1.0, 0.0, 1.1), {}, trouble="the queue is full")
    tracer.close()
    (span,) = memory.get_finished_spans()
    assert not span.status.is_ok and span.status.description == "the queue is full" and not span.links


def test_spans_in_a_file_are_lines_of_json(tmp_path):
    path = tmp_path / "traces" / "spans.jsonl"
    out = exporter(str(path))
    tracer = Tracer(out, 1.0)
    for i in range(3):
        request(tracer, followed(b"", 1.0), (1.0, 0.0, 1.1), {"seatrial.id": f"r{i}"})
    tracer.close()
    assert out.out.closed
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["attributes"]["seatrial.id"] for line in lines] == ["r0", "r1", "r2"]


def test_a_collector_needs_its_exporter_and_a_path_a_folder(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(CannotDo, match=r"pip install 'seatrial\[trace\]'"):
        exporter("http://127.0.0.1:4318")
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotDo, match="spans cannot be written"):
        exporter(str(tmp_path / "file" / "spans.jsonl"))


def test_a_collector_gets_the_spans_over_http():
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    got = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            got.append(
                (self.path, zlib.decompress(body, 47) if self.headers.get("content-encoding") == "gzip" else body)
            )
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        tracer = Tracer(exporter(f"http://127.0.0.1:{server.server_port}/"), 1.0, service="sea")
        follow = followed(b"", 1.0)
        request(tracer, follow, (1.0, 1.5, 2.0), {"seatrial.model": "quality"})
        tracer.close()
        server.shutdown()
    ((path, body),) = got
    (resource,) = ExportTraceServiceRequest.FromString(body).resource_spans
    assert path == "/v1/traces" and resource.resource.attributes[-1].value.string_value == "sea"
    assert {span.name for span in resource.scope_spans[0].spans} == {"infer", "queue"}
    assert resource.scope_spans[0].spans[0].trace_id == follow.trace.to_bytes(16, "big")


@given(st.floats(0.001, 1))
def test_a_trace_that_begins_here_is_one_that_the_share_follows(share):
    for _ in range(20):
        follow = begun(share)
        assert (follow.trace & LOW) < share * 2**64 and follow.trace >> 64 and follow.span and not follow.parent


@given(st.sampled_from([0.01, 0.1, 0.5, 0.9]), st.integers(0, 2**32))
@settings(max_examples=20, deadline=None)
def test_counting_down_follows_the_share_that_a_coin_for_each_request_would(share, seed):
    random.seed(seed)
    n, tracer = 40_000, Tracer(InMemorySpanExporter(), share)
    turns = np.flatnonzero([tracer.follow() is not None for _ in range(n)])
    tracer.close()
    assert abs(len(turns) - n * share) < 6 * (n * share * (1 - share)) ** 0.5
    again = np.count_nonzero(np.diff(turns) == 1)  # no memory: the one behind a followed one is followed as often
    assert abs(again - n * share**2) < 6 * (n * share**2) ** 0.5 + 1


def test_a_share_of_nothing_or_of_all_needs_no_luck():
    none, everybody = Tracer(InMemorySpanExporter(), 0.0), Tracer(InMemorySpanExporter(), 1.0)
    assert not any(none.follow() for _ in range(1000)) and all(everybody.follow() for _ in range(1000))
    assert gap(1e-18) > 1e9
    none.close()
    everybody.close()


def test_the_clients_word_does_not_use_up_anybody_elses_turn():
    tracer = Tracer(InMemorySpanExporter(), 0.5)
    before, header = tracer.left, f"00-{7:032x}-{9:016x}-0"
    assert tracer.follow((header + "1").encode()).trace == 7 and tracer.follow((header + "0").encode()) is None
    assert tracer.left == before
    tracer.close()


SPANS = st.builds(
    Span,
    st.sampled_from(["infer", "queue"]),
    st.integers(1, 2**128 - 1),
    st.integers(1, 2**64 - 1),
    st.integers(0, 2**64 - 1),
    st.floats(1, 4e9),
    st.floats(1, 4e9),
    st.dictionaries(st.text(min_size=1, max_size=5), st.integers(0, 9) | st.text(max_size=5), max_size=3),
    st.lists(st.tuples(st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1)), max_size=2),
    st.text(max_size=5),
)


@given(SPANS)
def test_our_lines_say_what_opentelemetrys_say(span):
    ours, theirs = (json.loads(text) for text in (line(span, "sea"), readable(span, Resource({})).to_json()))
    ours["resource"] = theirs["resource"]
    for said in (ours, theirs):  # half a microsecond may be rounded either way
        said["times"] = [datetime.fromisoformat(said.pop(key)).timestamp() for key in ("start_time", "end_time")]
    assert np.allclose(ours.pop("times"), theirs.pop("times"), rtol=0, atol=2e-6) and ours == theirs


def test_a_sink_that_fails_loses_spans_and_lives_on(caplog):
    class Failing:
        at_once, calls = 64, 0

        def write(self, spans, service):
            self.calls += 1
            if self.calls == 1:
                raise OSError("no space left on device")
            self.spans = spans

        def close(self):
            pass

    sink, span = Failing(), Span("infer", 1, 2, 0, 1.0, 2.0)
    box = Outbox(sink, pause_s=0.0)
    box.put([span])
    while sink.calls < 1:
        pass
    box.put([span])
    box.close()
    assert sink.spans == [span] and "spans could not be sent" in caplog.text
