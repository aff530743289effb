import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seatrial.base.journal import Journal
from seatrial.base.record import Decision
from seatrial.base.settings import CannotDo
from seatrial.client.blocking import Client
from seatrial.client.replay import replay
from seatrial.client.traffic import Visit
from seatrial.rollout.trial import Gate, Plan, plan_to_dict
from seatrial.serve.protocol import Refused
from seatrial.serve.server import environment, is_ready, launch, ordered, serve
from tests.serve.harbour import family, is_alive, settings_for, shelve, until, worker_of


@pytest.fixture
def kept():
    "Keeps clients and journals until the test is over, then closes them."
    with contextlib.ExitStack() as stack:
        yield lambda thing: stack.enter_context(contextlib.closing(thing))


GATE = (Gate("error_rate", margin=0.02),)


def raw(url, path, content=None, method=None, headers=()):
    "One exchange: (status, text, headers)."
    asked = urllib.request.Request(url + path, content, dict(headers), method=method)
    try:
        with urllib.request.urlopen(asked, timeout=20) as answer:
            return answer.status, answer.read().decode(), answer.headers
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code, refusal.read().decode(), refusal.headers


def body(x, **more):
    tensor = {"name": "x", "shape": [len(x), len(x[0])], "datatype": "FP32", "data": x}
    return json.dumps({"inputs": [tensor], **more}).encode()


def test_requests_of_several_models_and_versions_get_their_own_answers(sea, kept):
    client = kept(Client(sea[0].url))
    assert client.predict("sum", {"x": [1, 2]}).outputs["y"].tolist() == [3]
    assert client.predict("sum", {"x": [[1, 2]] * 70}, version="1.1.0").outputs["y"].tolist() == [-1] * 70
    assert client.predict("triple", {"x": [5]}).outputs["y"].tolist() == [15]


@pytest.mark.parametrize(
    ("method", "path", "content", "status"),
    [
        ("POST", "/v2/models/nothing/infer", body([[1, 2]]), 404),
        ("POST", "/v2/models/sum/versions/9.9.9/infer", body([[1, 2]]), 404),
        ("POST", "/v2/models/..%2f..%2fetc/infer", body([[1, 2]]), 404),
        ("POST", "/v2/models/sum/infer", b"{", 400),
        ("POST", "/v2/models/sum/infer", body([[1, 2, 3]]), 400),
        ("POST", "/v2/models/sum/infer", body([[1, 2]], outputs=[{"name": "z"}]), 400),
        ("GET", "/v2/models/sum/infer", None, 405),
        ("POST", "/v1/outcomes", b"[]", 400),
        ("POST", "/v1/outcomes", b" " * (16 * 2**20 + 1), 413),
        ("GET", "/v2/models/sum/unknown", None, 404),
    ],
)
def test_a_mistake_is_told_in_one_sentence_with_the_right_status(sea, method, path, content, status):
    code, said, _ = raw(sea[0].url, path, content, method)
    assert code == status and list(json.loads(said)) == ["error"] and len(said) < 600


@pytest.mark.parametrize(("encoding", "status"), [("br", 415), ("gzip", 400)])
def test_bodies_that_cannot_be_unpacked_are_refused(sea, encoding, status):
    code, said, _ = raw(sea[0].url, "/v2/models/sum/infer", b"x", headers={"Content-Encoding": encoding}.items())
    assert code == status and list(json.loads(said)) == ["error"]


def test_an_outcome_sent_twice_counts_once(sea, kept):
    running, its = sea
    client = kept(Client(running.url))
    answer = client.predict("sum", {"x": [1, 2]}, unit="u", segment="s")
    for _ in range(2):
        client.outcome(answer.id, "total", 3.5)
    rows = kept(Journal.open(its)).scored("total", request_id=answer.id).to_pylist()
    assert [(row["outcome"], row["unit"], row["segment"], row["version"]) for row in rows] == [(3.5, "u", "s", "1.0.0")]


def test_a_request_sent_twice_with_one_id_is_one_prediction(sea, kept):
    running, its = sea
    for _ in range(2):
        assert kept(Client(running.url)).predict("sum", {"x": [1, 2]}, id="twice").id == "twice"
    assert kept(Journal.open(its)).read("predictions", request_id="twice").num_rows == 1


def test_no_process_has_mapped_torch_or_mlflow(sea):
    pids = family(sea[0].process.pid)
    assert len(pids) >= 4
    for pid in pids:
        maps = Path(f"/proc/{pid}/maps").read_text()
        assert "libtorch" not in maps and "mlflow" not in maps


def test_metadata_health_and_metrics_say_what_is_there(sea, kept):
    url = sea[0].url
    said = json.loads(raw(url, "/v2/models/sum")[1])
    assert said["versions"] == ["1.0.0", "1.1.0"] and said["inputs"] == [
        {"name": "x", "datatype": "FP32", "shape": [-1, 2]}
    ]
    assert json.loads(raw(url, "/v2")[1])["name"] == "seatrial" and raw(url, "/health")[0] == 200
    assert json.loads(raw(url, "/v2/models/sum/versions/1.1.0/ready")[1])["ready"]
    kept(Client(url)).predict("triple", {"x": [1]})
    assert 'seatrial_requests_total{model="triple",variant="champion",version="1.0.0"}' in raw(url, "/metrics")[1]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
INFER = st.fixed_dictionaries(
    {"inputs": st.lists(st.fixed_dictionaries({
        "name": st.just("x") | JSON, "datatype": st.sampled_from(["FP32", "BYTES"]) | JSON,
        "shape": st.just([1, 2]) | JSON, "data": st.lists(st.floats(allow_nan=False), max_size=3) | JSON,
    }), max_size=2) | JSON},
    optional={"id": JSON, "parameters": JSON, "outputs": JSON},
)  # fmt: skip


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["/v2/models/sum/infer", "/v1/outcomes", "/v2/models/sum/versions/1.1.0/infer"]), INFER | JSON)
def test_no_json_makes_the_server_fail(sea, path, document):
    code, said, _ = raw(sea[0].url, path, json.dumps(document).encode())
    assert code in (200, 400) and json.loads(said)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=80))
def test_no_bytes_make_the_server_fail(sea, content):
    assert raw(sea[0].url, "/v2/models/sum/infer", content)[0] == 400


def test_a_client_that_sends_half_a_request_and_leaves_disturbs_nobody(sea, kept):
    host, port = sea[0].url.removeprefix("http://").split(":")
    for _ in range(5):
        with socket.create_connection((host, int(port))) as half:
            half.sendall(b"POST /v2/models/sum/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n{")
    assert kept(Client(sea[0].url)).predict("sum", {"x": [1, 2]}).outputs["y"].tolist() == [3]


def test_a_live_shadow_gets_copies_and_answers_nobody(sea, kept):
    running, its = sea
    journal = kept(Journal.open(its))
    plan = Plan("night", "sum", "1.0.0", "1.1.0", gates=GATE, kind="shadow", stages=(1.0,))
    journal.decide(Decision("start", "sum", "night", evidence=plan_to_dict(plan)))
    client = kept(Client(running.url))
    until(lambda: client.predict("sum", {"x": [1, 2]}).trial == "night")
    seen = [client.predict("sum", {"x": [1, 2]}, unit=f"u{i}") for i in range(20)]
    assert {(a.variant, a.version) for a in seen} == {("champion", "1.0.0")}

    def copies():
        return {p["request_id"] for p in journal.read("predictions", trial="night", variant="shadow").to_pylist()}

    until(lambda: {a.id for a in seen} <= copies())
    journal.decide(Decision("abort", "sum", "night", evidence={"stage": 0}))
    until(lambda: client.predict("sum", {"x": [1, 2]}).trial == "")


def test_a_corrupt_version_is_refused_and_its_trial_is_answered_by_the_champion(tmp_path, kept):
    artifacts = tmp_path / "artifacts"
    shelve(artifacts, {"sum": {"1.0.0": [1.0, 1.0], "1.1.0": [1.0, -1.0]}})
    its = settings_for(artifacts)
    graph = artifacts / "models/sum/1.1.0/model.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"!")
    plan = Plan("bad", "sum", "1.0.0", "1.1.0", gates=GATE, kind="ab", stages=(0.5,))
    kept(Journal.open(its)).decide(Decision("start", "sum", "bad", evidence=plan_to_dict(plan)))
    with launch(settings=its, port=0, log=tmp_path / "log") as running:
        client = kept(Client(running.url, retries=0))
        with pytest.raises(Refused, match=r"model\.onnx is not what was registered") as refusal:
            client.predict("sum", {"x": [1, 2]}, version="1.1.0")
        assert refusal.value.status == 503
        seen = [client.predict("sum", {"x": [1, 2]}, unit=f"u{i}") for i in range(40)]
        assert {a.version for a in seen} == {"1.0.0"} and {a.trial for a in seen} == {"bad", ""}
        rows = kept(Journal.open(its)).read("predictions", trial="bad", variant="challenger").to_pylist()
        assert len(rows) == sum(a.trial == "" for a in seen) and {row["status"] for row in rows} == {"error"}


def test_a_killed_worker_hangs_nobody_and_comes_back(tmp_path, kept):
    shelve(tmp_path, {"sum": {"1.0.0": [1.0, 1.0]}})
    with launch(settings=settings_for(tmp_path), port=0, log=tmp_path / "log") as running:
        victim = worker_of(running)
        threading.Timer(0.3, os.kill, (victim, signal.SIGKILL)).start()
        visits = [Visit({"x": [k, 1.0]}, f"u{k}") for k in range(150)]
        seen = replay(running.url, "sum", visits, rate=150, concurrency=16)
        assert sum(seen.answered.values()) + sum(seen.errors.values()) == 150
        assert all(what.startswith("503") for what in seen.errors)
        until(lambda: is_ready(running.url))
        assert worker_of(running) != victim
        assert kept(Client(running.url)).predict("sum", {"x": [1, 2]}).outputs["y"].tolist() == [3]


def test_nobody_survives_a_killed_main_process(tmp_path):
    shelve(tmp_path, {"sum": {"1.0.0": [1.0, 1.0]}})
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    running = launch(settings=settings_for(tmp_path), port=0, controller=command, log=tmp_path / "log")
    everybody = family(running.process.pid)
    assert len(everybody) >= 6  # main, manager, tracker, worker, API, controller
    running.process.kill()
    running.stop()
    until(lambda: not any(is_alive(pid) for pid in everybody))


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)], ids=["SIGTERM", "Ctrl-C"])
def test_a_signal_to_the_whole_group_leaves_nobody_and_its_own_exit_status(tmp_path, kept, number, status):
    shelve(tmp_path, {"sum": {"1.0.0": [1.0, 1.0]}})
    running = launch(settings=settings_for(tmp_path), port=0, log=tmp_path / "log")
    everybody = family(running.process.pid)
    client = kept(Client(running.url))
    for _ in range(3):
        client.predict("sum", {"x": [1, 2]})
    os.killpg(running.process.pid, number)
    assert running.process.wait(40) == status
    running.stop()
    until(lambda: not any(is_alive(pid) for pid in everybody))
    assert kept(Journal.open(settings_for(tmp_path))).read("predictions").num_rows == 3


def test_what_cannot_be_served_is_refused_before_anything_starts(tmp_path):
    with pytest.raises(CannotDo, match="no model is registered"):
        serve(settings=settings_for(tmp_path), port=0)
    shelve(tmp_path, {"sum": {"1.0.0": [1.0, 1.0]}})
    with pytest.raises(CannotDo, match="no model named 'other' is registered"):
        serve("other", settings=settings_for(tmp_path), port=0)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(CannotDo, match=f"port {port} on 127.0.0.1 cannot be listened on"):
            serve(settings=settings_for(tmp_path), port=port)
    with pytest.raises(ValueError, match=r"got 'example\.com'"):
        serve(settings=settings_for(tmp_path), port=0, host="example.com")


def test_a_request_larger_than_the_queue_is_refused_for_good(tmp_path):
    shelve(tmp_path, {"sum": {"1.0.0": [1.0, 1.0]}})
    its = settings_for(tmp_path, SEATRIAL_SERVE_QUEUE_MAX_ROWS="10")
    with launch(settings=its, port=0, log=tmp_path / "log") as running:
        code, said, headers = raw(running.url, "/v2/models/sum/infer", body([[1, 2]] * 11))
        assert code == 413 and "serve.queue_max_rows=10" in said and "Retry-After" not in headers
        assert raw(running.url, "/v2/models/sum/infer", body([[1, 2]] * 10))[0] == 200


def test_a_server_ends_with_the_process_that_launched_it(tmp_path):
    shelve(tmp_path, {"sum": {"1.0.0": [1.0, 1.0]}})
    code = (
        "import os, sys, time; sys.path.insert(0, sys.argv[2]); from pathlib import Path;"
        "from tests.serve.harbour import settings_for; from seatrial.serve.server import launch;"
        "s = launch(settings=settings_for(Path(sys.argv[1])), port=0, log=Path(sys.argv[1]) / 'log');"
        "print(s.process.pid, flush=True); time.sleep(600)"
    )
    root = str(Path(__file__).parents[2])
    launcher = subprocess.Popen([sys.executable, "-c", code, str(tmp_path), root], stdout=subprocess.PIPE, text=True)
    pid = int(launcher.stdout.readline())
    everybody = family(pid)
    assert is_alive(pid) and len(everybody) >= 5
    launcher.kill()
    launcher.wait()
    launcher.stdout.close()
    until(lambda: not any(is_alive(p) for p in everybody))


def test_an_answer_that_is_not_a_number_is_a_failure_of_the_model(sea, kept):
    running, its = sea
    code, said, _ = raw(running.url, "/v2/models/triple/infer", body([[3e38]], id="infinite"))
    assert code == 503 and "output y must be finite" in json.loads(said)["error"]
    rows = kept(Journal.open(its)).read("predictions", request_id="infinite").to_pylist()
    assert [(row["status"], row["outputs"]) for row in rows] == [("error", "{}")]


def tried(artifacts, kept, weights):
    "An A/B trial of a sound champion and a challenger with these weights, and 30 answers."
    shelve(artifacts, {"sum": {"1.0.0": [1.0, 1.0], "1.1.0": weights}})
    its = settings_for(artifacts)
    plan = Plan("bad", "sum", "1.0.0", "1.1.0", gates=GATE, kind="ab", stages=(0.5,))
    journal = kept(Journal.open(its))
    journal.decide(Decision("start", "sum", "bad", evidence=plan_to_dict(plan)))
    with launch(settings=its, port=0, log=artifacts / "log") as running:
        client = kept(Client(running.url, retries=0))
        seen = [client.predict("sum", {"x": [1, 2]}, unit=f"u{i}") for i in range(30)]
        wrong = raw(running.url, "/v2/models/sum/infer", body([[1, 2, 3, 4]]))[0]
        return seen, wrong, journal.read("predictions", trial="bad", variant="challenger").to_pylist()


@pytest.mark.parametrize("weights", [[float("nan"), 1.0], [1.0, 1.0, 1.0]], ids=["NaN", "another signature"])
def test_a_challenger_that_cannot_answer_costs_its_trial_an_error_and_its_clients_nothing(tmp_path, kept, weights):
    seen, wrong, rows = tried(tmp_path, kept, weights)
    assert {(a.version, a.outputs["y"].tolist()[0]) for a in seen} == {("1.0.0", 3.0)} and wrong == 400
    assert {row["status"] for row in rows} == {"error"}
    assert len(rows) == sum(a.trial == "" for a in seen) > 0


def test_a_hung_worker_is_replaced(tmp_path, kept):
    shelve(tmp_path, {"sum": {"1.0.0": [1.0, 1.0]}})
    its = settings_for(tmp_path, SEATRIAL_SERVE_TIMEOUT_S="0.5")
    with launch(settings=its, port=0, log=tmp_path / "log") as running:
        until(lambda: raw(running.url, "/v2/models/sum/infer", body([[1, 2]]))[0] == 200)  # the version is loaded
        victim = worker_of(running)
        os.kill(victim, signal.SIGSTOP)
        assert raw(running.url, "/v2/models/sum/infer", body([[1, 2]]))[0] == 504
        until(lambda: not is_ready(running.url))
        until(lambda: is_ready(running.url))
        until(lambda: not is_alive(victim))
        until(lambda: raw(running.url, "/v2/models/sum/infer", body([[1, 2]]))[0] == 200)
        assert kept(Client(running.url)).predict("sum", {"x": [1, 2]}).outputs["y"].tolist() == [3]


def test_of_two_servers_that_start_at_one_moment_on_one_port_one_serves_and_one_says_why_not(tmp_path):
    shelve(tmp_path, {"sum": {"1.0.0": [1.0, 1.0]}})
    its = settings_for(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command, url = ordered(its, None, None, port, None, False)
    shared = {"env": os.environ | environment(its), "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    pair = [subprocess.Popen(command, **shared) for _ in range(2)]
    until(lambda: any(one.poll() is not None for one in pair), 60)
    loser, winner = sorted(pair, key=lambda one: one.poll() is None)
    until(lambda: is_ready(url))
    winner.terminate()
    said = [one.communicate()[1] for one in (loser, winner)]
    assert (loser.returncode, winner.returncode) == (3, 0), said
    assert f"port {port} on 127.0.0.1 cannot be listened on" in said[0].splitlines()[-1]


def test_a_client_that_leaves_is_forgotten_and_its_answer_is_not_recorded_twice(sea, kept):
    running, its = sea
    host, port = running.url.removeprefix("http://").split(":")
    content = body([[1, 2]], id="gone")
    head = f"POST /v2/models/sum/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n".encode()
    for _ in range(3):
        with socket.create_connection((host, int(port))) as brief:
            brief.sendall(head + content)
    assert kept(Client(running.url)).predict("sum", {"x": [1, 2]}).outputs["y"].tolist() == [3]
    assert kept(Journal.open(its)).read("predictions", request_id="gone").num_rows <= 1
