"Whoever speaks gRPC is served as everybody else, and whoever does not pays nothing for it."

import asyncio
import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seatrial.base.journal import Journal
from seatrial.base.record import Decision
from seatrial.base.settings import CannotDo
from seatrial.engine.bundle import DATATYPES
from seatrial.rollout.split import assign
from seatrial.rollout.trial import Gate, Plan, plan_to_dict
from seatrial.serve.annex import Annex, opened
from seatrial.serve.front import Front, staffed
from seatrial.serve.keys import RIGHTS, add
from seatrial.serve.messages import classes, read
from seatrial.serve.reception import health
from seatrial.serve.rpc import METHODS, SERVICE, address_of
from seatrial.serve.server import environment, launch, ordered
from tests.serve.harbour import (
    echo,
    family,
    is_alive,
    listener_of,
    peak_mb,
    settings_for,
    shelve,
    spelt,
    until,
    worker_of,
)

grpc = pytest.importorskip("grpc", reason="grpcio is not installed: pip install seatrial[grpc]")
ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv-clients" / "bin" / "python"
PROBE = "/grpc.health.v1.Health/Check"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def at_two_doors(artifacts, **overrides):
    "Settings of a server that speaks gRPC too."
    return settings_for(artifacts, SEATRIAL_SERVE_GRPC_PORT=str(free_port()), **overrides)


@contextlib.contextmanager
def line(port, *options):
    "A connection of its own to a server."
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1), *options]
    with grpc.insecure_channel(f"127.0.0.1:{port}", options) as channel:
        yield channel


def call(channel, method, message=None, timeout=20, **fields):
    "One call; its answer is a message."
    body = (message or classes()[f"{method}Request"](**fields)).SerializeToString()
    said = channel.unary_unary(f"/{SERVICE}/{method}")(body, timeout=timeout)
    return read(f"{method}Response", said)


def question(rows, model="sum", id="", **parameters):
    "A ModelInferRequest."
    array = np.float32(rows)
    message = classes()["ModelInferRequest"](model_name=model, id=id)
    message.inputs.add(name="x", datatype="FP32", shape=array.shape)
    message.raw_input_contents.append(array.tobytes())
    for name, value in parameters.items():
        setattr(message.parameters[name], "int64_param" if isinstance(value, int) else "string_param", value)
    return message


def values(answer):
    return np.frombuffer(answer.raw_output_contents[0], "<f4").tolist()


def ended(ask):
    "How a call ends: the name of its status, and the sentence."
    try:
        ask()
    except grpc.RpcError as error:
        return error.code().name, error.details()
    return "OK", ""


@pytest.fixture(scope="module")
def echoes(tmp_path_factory):
    "A server at two doors with a model of each datatype that answers what it is asked."
    home = tmp_path_factory.mktemp("echoes")
    shelve(home / "artifacts", {f"echo-{name.lower()}": {"1.0.0": name} for name in DATATYPES}, echo)
    its = at_two_doors(home / "artifacts")
    with launch(settings=its, port=0, log=home / "log") as running:
        yield running, its


@pytest.fixture(scope="module")
def triton(echoes):
    "Everything that tritonclient was told."
    assert PYTHON.exists(), "tritonclient has an environment of its own: make .venv-clients/ready"
    script = Path(__file__).with_name("triton_calls.py")
    url = f"127.0.0.1:{echoes[1].serve.grpc_port}"
    done = subprocess.run([PYTHON, script, url], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def harbour(tmp_path_factory):
    "A server at two doors with two versions of a sum: (running, settings, connection)."
    home = tmp_path_factory.mktemp("harbour")
    shelve(home / "artifacts", {"sum": {"1.0.0": [1.0, 1.0], "1.1.0": [1.0, -1.0]}})
    its = at_two_doors(home / "artifacts", SEATRIAL_SERVE_BODY_MAX_MB="1", SEATRIAL_GUARD_ACCESS_LOG="true")
    with launch(settings=its, port=0, log=home / "log") as running, line(its.serve.grpc_port) as channel:
        yield running, its, channel


# What NVIDIA's client finds


def test_triton_gets_every_datatype_back_in_every_packing_and_in_lists(triton):
    assert triton["wrong"] == []


def test_triton_finds_health_metadata_configuration_and_index(triton):
    said = triton["described"]
    assert said["live"] and said["ready"] and said["model_ready"] == [True, True] and not said["missing_ready"]
    assert said["server"]["name"] == "seatrial" and "statistics" in said["server"]["extensions"]
    assert said["metadata"]["inputs"] == [{"name": "x", "datatype": "FP32", "shape": ["-1", "2"]}]
    assert said["config"]["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": ["2"]}]
    assert said["config"]["instance_group"][0]["kind"] == "KIND_CPU" and "echo-fp32" in said["index"]


def test_triton_gets_its_id_its_version_and_who_answered(triton):
    said = triton["described"]
    assert (said["id"], said["version"], said["without_outputs"], said["after_unload"]) == ("r-17", "1.0.0", True, True)
    assert said["parameters"]["variant"] == "string_param" and said["parameters"]["propensity"] == "double_param"


def test_triton_finds_what_was_counted(triton):
    (stats,) = triton["described"]["stats"]
    assert int(stats["inference_count"]) == int(stats["inference_stats"]["success"]["count"]) >= 10
    assert int(stats["execution_count"]) == sum(int(b["compute_infer"]["count"]) for b in stats["batch_stats"]) > 0
    assert triton["described"]["all_stats"] == 13


def test_triton_gets_refusals_as_statuses_with_our_sentences(triton):
    errors = triton["described"]["errors"]
    assert {label: error[0] for label, error in errors.items()} == {
        "no model": "StatusCode.NOT_FOUND",
        "no version": "StatusCode.NOT_FOUND",
        "type": "StatusCode.INVALID_ARGUMENT",
        "unload": "StatusCode.NOT_FOUND",
        "sequence": "StatusCode.INVALID_ARGUMENT",
        "load with a file": "StatusCode.INVALID_ARGUMENT",
        "shared memory": "StatusCode.UNIMPLEMENTED",
    }
    assert "must have datatype INT8, got FP32" in errors["type"][1] and "sequence_id" in errors["sequence"][1]


def test_triton_streams_in_order_and_goes_on_after_a_mistake(triton):
    mine, other = triton["streams"]
    assert other == [f"a-{k}" for k in range(50)] and triton["later"]
    assert [said for k, said in enumerate(mine) if k != 7] == [f"s-{k}" for k in range(50) if k != 7]
    assert mine[7] == "input x must have shape [-1, 2], got [1, 3]"


def test_every_field_has_the_number_and_type_of_the_published_protocol(triton):
    published = triton["published"]
    for name, kind in classes().items():
        if name in ("All", "ModelVersionPolicy"):
            continue
        ours = {field.name: [field.number, field.type, field.is_repeated] for field in kind.DESCRIPTOR.fields}
        assert ours.items() <= published[name].items(), name
    enum = classes()["ModelInput"].DESCRIPTOR.fields_by_name["data_type"].enum_type
    assert {value.name: value.number for value in enum.values}.items() <= published["DataType"].items()


# The same server


def test_both_doors_lead_to_the_same_answer_and_the_same_record(harbour):
    running, its, channel = harbour
    said = call(channel, "ModelInfer", question([[1, 2], [3, 4]], id="g-1", unit="ann", segment="north"))
    entry = {"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [1, 2, 3, 4]}
    body = json.dumps({"id": "h-1", "inputs": [entry], "parameters": {"unit": "ann", "segment": "north"}}).encode()
    with urllib.request.urlopen(f"{running.url}/v2/models/sum/infer", body) as answer:
        other = json.load(answer)
    assert values(said) == other["outputs"][0]["data"] == [3, 7]
    told = {name: getattr(field, field.WhichOneof("choice")) for name, field in said.parameters.items()}
    assert told | {"request_id": "h-1"} == other["parameters"]
    with contextlib.closing(Journal.open(its)) as journal:
        one, two = (journal.read("predictions", request_id=id).to_pylist()[0] for id in ("g-1", "h-1"))
    for name in ("unit", "segment", "variant", "version", "inputs_sha", "outputs", "features", "status"):
        assert one[name] == two[name], name
    metrics = urllib.request.urlopen(f"{running.url}/metrics").read().decode()
    assert 'seatrial_requests_total{model="sum",variant="champion",version="1.0.0"}' in metrics


def test_a_trial_gives_a_unit_the_same_variant_at_both_doors(harbour):
    running, its, channel = harbour
    plan = Plan("spring", "sum", "1.0.0", "1.1.0", gates=(Gate("error_rate", margin=0.02),), kind="ab", stages=(0.5,))
    units = [f"u-{k}" for k in range(20)]
    shares = {"champion": 0.5, "challenger": 0.5}
    wanted = [assign(unit, plan.salt, shares) for unit in units]

    def heard(unit):
        said = call(channel, "ModelInfer", question([[3, 1]], unit=unit)).parameters
        return said["variant"].string_param, said["propensity"].double_param, said["trial"].string_param

    def heard_by_http(unit):
        entry = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [3, 1]}
        body = json.dumps({"inputs": [entry], "parameters": {"unit": unit}}).encode()
        with urllib.request.urlopen(f"{running.url}/v2/models/sum/infer", body) as answer:
            said = json.load(answer)["parameters"]
        return said["variant"], said["propensity"], said["trial"]

    with contextlib.closing(Journal.open(its)) as journal:
        journal.decide(Decision("start", "sum", "spring", evidence=plan_to_dict(plan)))
        until(lambda: [heard(unit)[0] for unit in units] == wanted)
        assert [*map(heard, units)] == [*map(heard_by_http, units)] == [(one, 0.5, "spring") for one in wanted]
        journal.decide(Decision("abort", "sum", "spring"))
    until(lambda: {heard(unit)[0] for unit in units} == {"champion"})


def test_a_probe_hears_what_health_says(harbour):
    _, _, channel = harbour
    check = channel.unary_unary(PROBE)
    assert check(b"") == check(b"\x0a" + bytes([len(SERVICE)]) + SERVICE.encode()) == b"\x08\x01"
    assert ended(lambda: check(b"\x0a\x04else"))[0] == "NOT_FOUND"


def test_the_access_log_has_a_line_for_each_call(harbour):
    _, its, channel = harbour
    call(channel, "ModelInfer", question([[1, 2]], id="logged"))
    ended(lambda: call(channel, "ModelInfer", question([[1, 2]], model="nobody-logged")))

    def lines():
        files = (its.paths.artifacts / "logs").glob("*")
        return [json.loads(line) for file in files for line in file.read_text().splitlines()]

    until(lambda: any(entry.get("model") == "nobody-logged" for entry in lines()))
    good, bad = ([e for e in lines() if e["method"] == "GRPC" and e["status"] == status] for status in (200, 404))
    assert good[-1]["path"] == f"/{SERVICE}/ModelInfer"
    assert [good[-1][name] for name in ("id", "model", "version", "variant")] == ["logged", "sum", "1.0.0", "champion"]
    assert "no model named" in bad[-1]["error"]


def test_a_call_that_its_client_traces_leaves_its_spans_answered_or_refused(tmp_path):
    shelve(tmp_path / "artifacts", {"sum": {"1.0.0": [1.0, 1.0]}})
    spans, traces = tmp_path / "spans.jsonl", [f"{k:032x}" for k in (10, 11)]
    its = at_two_doors(tmp_path / "artifacts", SEATRIAL_TRACE_URL=str(spans), SEATRIAL_TRACE_SHARE="0")
    with launch(settings=its, port=0, log=tmp_path / "log"), line(its.serve.grpc_port) as channel:
        infer = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        for trace, rows in zip(traces, ([[1, 2]], [[1, 2, 3]]), strict=True):
            how = {"metadata": [("traceparent", f"00-{trace}-00000000000000aa-01")], "timeout": 20}
            ended(lambda how=how, rows=rows: infer(question(rows).SerializeToString(), **how))
    assert all(trace in spans.read_text() for trace in traces)


def test_a_priority_that_is_none_and_a_timeout_in_the_past_are_refused(harbour):
    _, _, channel = harbour
    status, sentence = ended(lambda: call(channel, "ModelInfer", question([[1, 2]], priority=-1)))
    assert status == "INVALID_ARGUMENT" and "priority must be" in sentence
    assert ended(lambda: call(channel, "ModelInfer", question([[1, 2]], timeout="soon")))[0] == "INVALID_ARGUMENT"
    assert values(call(channel, "ModelInfer", question([[1, 2]], priority=1, timeout=5_000_000))) == [3]


# Keys and limits


@pytest.fixture(scope="module")
def fort(tmp_path_factory):
    "A server at two doors with a key of each role, and a rate: (settings, keys, connection)."
    home = tmp_path_factory.mktemp("fort")
    shelve(home / "artifacts", {"sum": {"1.0.0": [1.0, 1.0]}})
    its = at_two_doors(
        home / "artifacts", SEATRIAL_GUARD_RATE_PER_S="0.001", SEATRIAL_GUARD_RATE_BURST=str(3 * len(METHODS))
    )
    path = its.paths.artifacts / "keys.json"
    keys = {role: add(path, role, role) for role in ("predict", "observe", "operate", "admin")}
    keys |= {"fast": add(path, "fast", "predict"), "stream": add(path, "stream", "predict")}
    with launch(settings=its, port=0, log=home / "log"), line(its.serve.grpc_port) as channel:
        yield its, keys, channel


@pytest.mark.parametrize("role", ["nobody", "predict", "observe", "operate", "admin"])
def test_every_method_asks_for_the_right_that_the_contract_says(fort, role):
    _, keys, channel = fort
    metadata = [] if role == "nobody" else [("authorization", f"Bearer {keys[role]}")]
    for method, route in METHODS.items():
        if method == "ModelStreamInfer":
            continue
        ask = channel.unary_unary(f"/{SERVICE}/{method}")
        status, _ = ended(lambda ask=ask: ask(b"", metadata=metadata, timeout=20))
        may = not route.right or route.right in RIGHTS.get(role, ())
        refused = "UNAUTHENTICATED" if role == "nobody" else "PERMISSION_DENIED"
        assert (status != refused) == may, (method, status)


def test_a_stream_without_a_key_is_ended_and_with_one_it_is_answered(fort):
    _, keys, channel = fort
    ask = channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")
    bodies = [question([[k, 1]]).SerializeToString() for k in range(3)]
    assert ended(lambda: list(ask(iter(bodies))))[0] == "UNAUTHENTICATED"
    said = list(ask(iter(bodies), metadata=[("x-api-key", keys["stream"])]))
    assert [values(read("ModelStreamInferResponse", one).infer_response) for one in said] == [[1], [2], [3]]


def test_who_calls_too_often_is_told_when_to_come_back(fort):
    _, keys, channel = fort
    infer, body = channel.unary_unary(f"/{SERVICE}/ModelInfer"), question([[1, 2]]).SerializeToString()
    how = {"metadata": [("authorization", f"Bearer {keys['fast']}")], "timeout": 20}
    _, first = infer.with_call(body, **how)
    assert "ratelimit" in {name for name, _ in first.trailing_metadata()}
    for _ in range(3 * len(METHODS) - 1):
        infer(body, **how)
    with pytest.raises(grpc.RpcError) as refusal:
        infer(body, **how)
    assert refusal.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    told = dict(refusal.value.trailing_metadata())
    assert int(told["retry-after"]) >= 1 and told["ratelimit"].startswith('"default";r=0;t=')


# What goes wrong


def test_a_call_whose_deadline_passed_is_not_computed(tmp_path):
    shelve(tmp_path / "artifacts", {"sum": {"1.0.0": [1.0, 1.0]}})
    its = at_two_doors(tmp_path / "artifacts")
    with launch(settings=its, port=0, log=tmp_path / "log") as running, line(its.serve.grpc_port) as channel:
        call(channel, "ModelInfer", question([[1, 2]]))
        worker = worker_of(running)
        os.kill(worker, signal.SIGSTOP)
        with ThreadPoolExecutor(2) as crowd:  # the first is inside the worker, the second waits
            asked = [question([[k, 2]], id=f"late-{k}") for k in range(2)]
            ends = list(crowd.map(lambda one: ended(lambda: call(channel, "ModelInfer", one, timeout=0.3)), asked))
        os.kill(worker, signal.SIGCONT)
        assert {status for status, _ in ends} == {"DEADLINE_EXCEEDED"}
        assert values(call(channel, "ModelInfer", question([[1, 2]]))) == [3]
        with contextlib.closing(Journal.open(its)) as journal:
            rows = journal.read("predictions").to_pylist()
        assert not [row for row in rows if row["request_id"].startswith("late") and row["status"] == "ok"]


def test_a_killed_worker_costs_no_caller_an_answer(harbour):
    running, _, channel = harbour
    over, seen = threading.Event(), []

    def ask(client):
        while not over.is_set():
            seen.append(ended(lambda: call(channel, "ModelInfer", question([[client, 2]]))))

    threads = [threading.Thread(target=ask, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for n in (100, 200, 300):
        until(lambda n=n: len(seen) > n)
        os.kill(worker_of(running), signal.SIGKILL)
    until(lambda: len(seen) > 400)
    over.set()
    for thread in threads:
        thread.join()
    assert {status for status, _ in seen} <= {"OK", "UNAVAILABLE"}
    assert sum(status == "OK" for status, _ in seen) > 0.9 * len(seen)


def test_a_server_that_is_stopped_answers_the_calls_that_it_accepted(tmp_path):
    shelve(tmp_path / "artifacts", {"sum": {"1.0.0": [1.0, 1.0]}})
    its = at_two_doors(tmp_path / "artifacts")
    running = launch(settings=its, port=0, log=tmp_path / "log")
    everybody, worker = family(running.process.pid), worker_of(running)
    with line(its.serve.grpc_port) as channel:
        call(channel, "ModelInfer", question([[1, 2]]))
        os.kill(worker, signal.SIGSTOP)
        infer, endless = channel.unary_unary(f"/{SERVICE}/ModelInfer"), queue.Queue()
        endless.put(question([[7, 7]]).SerializeToString())
        asked = [infer.future(question([[k, 2]], id=f"s-{k}").SerializeToString(), timeout=30) for k in range(20)]
        stream = channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")(iter(endless.get, None), timeout=30)

        def waiting():
            metrics = urllib.request.urlopen(f"{running.url}/metrics").read().decode().splitlines()
            known = {line.split()[0]: float(line.split()[1]) for line in metrics if not line.startswith("#")}
            return known["seatrial_queue_rows"] + known["seatrial_in_flight"]

        until(lambda: waiting() == 21)
        running.process.send_signal(signal.SIGTERM)
        until(lambda: ended(lambda: call(channel, "ServerLive", timeout=1))[0] != "OK")
        os.kill(worker, signal.SIGCONT)
        said = [values(read("ModelInferResponse", one.result())) for one in asked]
        assert values(read("ModelStreamInferResponse", next(stream)).infer_response) == [14]
        assert ended(lambda: next(stream)) == ("UNAVAILABLE", "the server is stopping; ask again on a new stream")
        endless.put(None)
    assert said == [[k + 2] for k in range(20)]
    assert running.process.wait(40) == 0
    running.stop()
    until(lambda: not any(is_alive(pid) for pid in everybody))
    assert "Traceback" not in running.log.read_text()


def test_calls_that_are_given_up_are_forgotten(harbour):
    running, _, channel = harbour
    call(channel, "ModelInfer", question([[1, 2]]))
    worker = worker_of(running)
    os.kill(worker, signal.SIGSTOP)
    infer = channel.unary_unary(f"/{SERVICE}/ModelInfer")
    asked = [infer.future(question([[k, 2]]).SerializeToString(), timeout=20) for k in range(30)]

    def rows():
        metrics = urllib.request.urlopen(f"{running.url}/metrics").read().decode().splitlines()
        return next(float(line.split()[1]) for line in metrics if line.startswith("seatrial_queue_rows"))

    until(lambda: rows() > 0)
    for one in asked:
        one.cancel()
    until(lambda: rows() == 0)
    os.kill(worker, signal.SIGCONT)
    assert values(call(channel, "ModelInfer", question([[1, 2]]))) == [3]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(method=st.sampled_from(sorted(set(METHODS) - {"ModelStreamInfer"})), data=st.data())
def test_no_message_brings_a_server_down(harbour, method, data):
    running, _, channel = harbour
    good = question([[1, 2]], id="fuzz", unit="u", priority=1).SerializeToString()
    body = data.draw(st.one_of(st.binary(max_size=300), cut_and_changed(good)))
    status, _ = ended(lambda: channel.unary_unary(f"/{SERVICE}/{method}")(body, timeout=20))
    assert status in ("OK", "INVALID_ARGUMENT", "NOT_FOUND")
    assert "Traceback" not in running.log.read_text()


@st.composite
def cut_and_changed(draw, whole):
    "A message with some bytes changed, and perhaps without its end."
    body = bytearray(whole[: draw(st.integers(len(whole) // 2, len(whole)))])
    for place in draw(st.lists(st.integers(0, len(body) - 1), max_size=4)):
        body[place] = draw(st.integers(0, 255))
    return bytes(body)


def test_what_is_not_grpc_at_all_is_sent_away(harbour):
    running, its, channel = harbour
    for noise in (b"\x00" * 4096, spelt(b"{}"), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 1000):
        with socket.create_connection(("127.0.0.1", its.serve.grpc_port), timeout=20) as raw:
            raw.sendall(noise)
            with contextlib.suppress(ConnectionResetError):
                while raw.recv(65536):
                    pass
    assert values(call(channel, "ModelInfer", question([[1, 2]]))) == [3]
    assert "Traceback" not in running.log.read_text()


def test_bombs_are_refused_and_cost_little_memory(harbour):
    running, its, channel = harbour
    api = listener_of(running)
    call(channel, "ModelInfer", question([[1, 2]]))
    before, bomb = peak_mb([api]), bytes(64 * 2**20)
    with grpc.insecure_channel(
        f"127.0.0.1:{its.serve.grpc_port}", [("grpc.max_send_message_length", -1)], grpc.Compression.Gzip
    ) as packing:
        for _ in range(5):
            ask = packing.unary_unary(f"/{SERVICE}/ModelInfer")
            assert ended(lambda ask=ask: ask(bomb, timeout=60))[0] == "RESOURCE_EXHAUSTED"
    assert peak_mb([api]) - before < 60
    assert values(call(channel, "ModelInfer", question([[1, 2]]))) == [3]


def test_a_stream_that_is_not_read_waits(harbour):
    _, _, channel = harbour
    sent = []

    def bodies():
        for k in range(5000):
            sent.append(k)
            yield question(np.full((200, 2), k)).SerializeToString()

    ask = channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")(bodies(), timeout=60)
    next(ask)
    first = len(sent)
    assert values(call(channel, "ModelInfer", question([[1, 2]]))) == [3]  # nobody else waits for it
    ask.cancel()
    assert first < 5000 and values(call(channel, "ModelInfer", question([[1, 2]]))) == [3]


# Several processes


def test_several_http_processes_share_the_port_and_count_together(tmp_path):
    shelve(tmp_path / "artifacts", {"sum": {"1.0.0": [1.0, 1.0]}})
    its = at_two_doors(tmp_path / "artifacts", SEATRIAL_SERVE_API_PROCESSES="2", SEATRIAL_SERVE_WORKERS="2")
    with launch(settings=its, port=0, log=tmp_path / "log") as running:
        for k in range(16):  # each connection is dealt to one of them
            with line(its.serve.grpc_port) as channel:
                for n in range(5):
                    assert values(call(channel, "ModelInfer", question([[k, n]]))) == [k + n]
        metrics = urllib.request.urlopen(f"{running.url}/metrics").read().decode()
        (said,) = [line for line in metrics.splitlines() if line.startswith("seatrial_requests_total{")]
        assert float(said.split()[1]) == 80


def test_a_door_that_has_fallen_shut_makes_the_server_not_ready(tmp_path):
    its = at_two_doors(tmp_path / "artifacts")
    shelve(tmp_path / "artifacts", {"sum": {"1.0.0": [1.0, 1.0]}})

    async def story():
        front = Front(None, its, str(tmp_path / "lane.sock"))
        async with staffed(front) as office:
            annex = Annex(None, its, front.desk, "127.0.0.1")
            await opened(annex, None)
            before = health(office)[1]["reasons"]
            await annex.server.stop(0)
            await annex.over
            return before, health(office)

    before, (status, said) = asyncio.run(story())
    sentence = f"gRPC is not spoken on port {its.serve.grpc_port}"
    assert sentence not in before and sentence in said["reasons"] and status == 503


# What it costs while it is shut, and before it can be opened


def mapped(pid):
    return "cygrpc" in Path(f"/proc/{pid}/maps").read_text()


def test_a_server_that_does_not_speak_it_has_not_loaded_it(sea, harbour):
    assert not any(mapped(pid) for pid in family(sea[0].process.pid))
    assert sum(mapped(pid) for pid in family(harbour[0].process.pid)) == 1  # the HTTP process alone


def test_a_port_that_cannot_be_had_is_said_before_anything_starts(harbour, tmp_path):
    shelve(tmp_path / "artifacts", {"sum": {"1.0.0": [1.0, 1.0]}})
    taken = harbour[1].serve.grpc_port
    its = settings_for(tmp_path / "artifacts", SEATRIAL_SERVE_GRPC_PORT=str(taken))
    with pytest.raises(CannotDo, match=rf"port {taken} on 127.0.0.1 cannot be listened on .*serve.grpc_port"):
        launch(settings=its, port=0)


def test_a_port_that_is_taken_while_the_server_starts_ends_the_start(tmp_path):
    shelve(tmp_path / "artifacts", {"sum": {"1.0.0": [1.0, 1.0]}})
    its = at_two_doors(tmp_path / "artifacts")
    command, _ = ordered(its, None, None, 0, None, False)
    with socket.create_server(("127.0.0.1", its.serve.grpc_port)):
        shared = {"env": os.environ | environment(its), "capture_output": True, "text": True, "timeout": 60}
        done = subprocess.run(command, **shared)
    assert done.returncode == 3 and f"port {its.serve.grpc_port} on 127.0.0.1 cannot be listened on" in done.stderr


def test_without_the_library_one_sentence_says_what_to_install():
    script = """
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "grpc" else found(name, *rest)
from seatrial.serve.annex import checked_annex
assert checked_annex(0, "127.0.0.1", 8000) == 0
checked_annex(8001, "127.0.0.1", 8000)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert "needs grpcio, which is not installed: pip install seatrial[grpc]" in done.stderr


def test_the_annex_imports_next_to_nothing():
    script = "import sys, seatrial.serve.annex; print([m for m in ('grpc', 'google', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_a_clients_address_is_read_off_whatever_grpc_calls_it():
    assert address_of("ipv4:10.0.0.7:5") == "10.0.0.7" and address_of("ipv6:%5B2001:db8::1%5D:5") == "2001:db8::1"
    assert address_of("unix:/x") == address_of("") == ""
