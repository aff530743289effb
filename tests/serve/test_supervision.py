import json
import os
import signal
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from seatrial.base.settings import CannotDo
from seatrial.engine import bundle as bundles
from seatrial.engine.call import has_gpu
from seatrial.registry.manifest import Version, digests, fingerprint, write_tables
from seatrial.serve.server import is_ready, launch
from tests.serve.harbour import Crowd, family, is_alive, linear, settings_for, shelve, tensor, until, workers_of


def endless(folder):
    "A bundle that would count to a million billions before it answers: whoever warms it up hangs."
    value = helper.make_tensor_value_info
    constant = [
        helper.make_tensor("w", TensorProto.FLOAT, [2], [1.0, 1.0]),
        helper.make_tensor("trips", TensorProto.INT64, [], [10**15]),
        helper.make_tensor("always", TensorProto.BOOL, [], [True]),
    ]
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["d"]), helper.make_node("Neg", ["v"], ["u"])],
        "body",
        [value("i", TensorProto.INT64, []), value("c", TensorProto.BOOL, []), value("v", TensorProto.FLOAT, ["n"])],
        [value("d", TensorProto.BOOL, []), value("u", TensorProto.FLOAT, ["n"])],
    )
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["s"]),
        helper.make_node("Loop", ["trips", "always", "s"], ["y"], body=body),
    ]
    x, y = value("x", TensorProto.FLOAT, ["n", 2]), value("y", TensorProto.FLOAT, ["n"])
    graph, file = helper.make_graph(nodes, "endless", [x], [y], constant), folder.parent / f"{folder.name}.onnx"
    folder.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), file)
    spec = bundles.TensorSpec
    signature = bundles.Signature((spec("x", "FP32", (-1, 2)),), (spec("y", "FP32", (-1,)),))
    return bundles.write(folder, signature=signature, graph=file)


def asked(url, version=""):
    "Status and text of one request."
    path = f"/v2/models/sum{f'/versions/{version}' if version else ''}/infer"
    try:
        with urllib.request.urlopen(urllib.request.Request(url + path, tensor([[1.0, 2.0]])), timeout=20) as answer:
            return answer.status, json.loads(answer.read())["outputs"][0]["data"]
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code, json.loads(refusal.read())["error"]


@pytest.fixture(scope="module")
def risky(tmp_path_factory):
    "A server with one worker and three versions, two of which hang while they load."
    home = tmp_path_factory.mktemp("risky")
    rows = []
    for number, make in (("1.0.0", lambda to: linear(to, [1.0, 1.0])), ("1.1.0", endless), ("1.2.0", endless)):
        folder = home / "models/sum" / number
        signature, files = make(folder).signature.to_dict(), digests(folder)
        rows.append(Version("sum", number, fingerprint(files), folder, signature, {}, {}, 0.0, files))
    write_tables(home, rows, {"sum": {"champion": "1.0.0"}})
    its = settings_for(home, SEATRIAL_SERVE_LOAD_TIMEOUT_S="2")
    with launch(settings=its, port=0, log=home / "log") as running:
        until(lambda: asked(running.url)[0] == 200)
        yield running


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    "A server with two workers."
    home = tmp_path_factory.mktemp("pair")
    shelve(home, {"sum": {"1.0.0": [1.0, 1.0]}})
    its = settings_for(home, SEATRIAL_SERVE_WORKERS="2")
    with launch(settings=its, port=0, log=home / "log") as running:
        until(lambda: len(workers_of(running)) == 2)
        until(lambda: asked(running.url)[0] == 200)
        yield running
        everybody = family(running.process.pid)
    until(lambda: not any(is_alive(pid) for pid in everybody))  # SIGTERM leaves no orphan, however many there were


def threads_in(pid):
    "How many threads a process has; 0: it is gone."
    try:
        return len(os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return 0


def test_a_version_over_which_workers_crash_is_refused_and_the_others_are_served(risky):
    url = risky.url

    def crash(threads):
        "Have the version loaded, and let the worker crash meanwhile."
        until(lambda: asked(url)[0] == 200)
        worker = workers_of(risky)[0]
        before, loading = threads_in(worker), threads.submit(asked, url, "1.2.0")
        until(lambda: threads_in(worker) > before or loading.done())
        if not loading.done():
            os.kill(worker, signal.SIGSEGV)
        return loading.result()

    with ThreadPoolExecutor(1) as threads:
        said = [crash(threads) for _ in range(3)]
        while "is refused" not in said[-1][1] and len(said) < 8:
            said.append(crash(threads))
    assert {status for status, _ in said} == {503}
    assert "sum 1.2.0 is refused for" in said[-1][1] and "ended by SIGSEGV" in said[-1][1]
    assert asked(url) == (200, [3])


def test_a_version_that_hangs_while_it_loads_is_found_out_and_holds_nobody_up(risky):
    url = risky.url
    until(lambda: asked(url)[0] == 200)
    worker = workers_of(risky)[0]
    with ThreadPoolExecutor(1) as threads:
        loading = threads.submit(asked, url, "1.1.0")
        served = 0
        while not loading.done():
            served += asked(url) == (200, [3])
    assert served > 20 and loading.result()[0] in (503, 504)
    until(lambda: workers_of(risky) not in ([], [worker]))
    until(lambda: "serve.load_timeout_s=2" in asked(url, "1.1.0")[1])
    assert asked(url) == (200, [3])


def test_a_death_under_load_costs_nobody_an_answer(pair):
    assert len(workers_of(pair)) == len(workers_of(pair, "seatrial-keeper")) == 2
    with Crowd(pair.url) as crowd:
        for _ in range(6):
            crowd.wait_for(40)
            worker = workers_of(pair)[0]
            os.kill(worker, signal.SIGKILL)
            until(lambda worker=worker: len(set(workers_of(pair)) - {worker}) == 2)
        crowd.wait_for(40)
    assert set(crowd.seen()) == {200} and not crowd.hung


def test_two_deaths_at_once_hang_nobody_and_refuse_at_most_who_was_inside_both(pair):
    with Crowd(pair.url) as crowd:
        crowd.wait_for(40)
        for worker in workers_of(pair):
            os.kill(worker, signal.SIGKILL)
        crowd.wait_for(80)
    seen = crowd.seen()
    assert not crowd.hung and set(seen) <= {200, 503} and seen[503] <= len(crowd.threads)  # one request a client


def test_a_dead_keeper_takes_its_worker_along_and_both_come_back(pair):
    keepers, workers = workers_of(pair, "seatrial-keeper"), workers_of(pair)
    os.kill(keepers[0], signal.SIGKILL)
    until(lambda: sum(is_alive(worker) for worker in workers) == 1)
    assert is_ready(pair.url)  # the other worker is there
    until(lambda: len(workers_of(pair)) == len(workers_of(pair, "seatrial-keeper")) == 2)
    until(lambda: asked(pair.url) == (200, [3]))


@pytest.mark.skipif(has_gpu(), reason="this machine has a GPU")
def test_a_server_for_a_gpu_that_is_not_there_says_so_and_does_not_start(tmp_path):
    shelve(tmp_path, {"sum": {"1.0.0": [1.0, 1.0]}})
    with pytest.raises(CannotDo, match=r"serve\.device=cuda needs an NVIDIA GPU"):
        launch(settings=settings_for(tmp_path, SEATRIAL_SERVE_DEVICE="cuda"), port=0, log=tmp_path / "log")


@pytest.mark.gpu
@pytest.mark.skipif(not has_gpu(), reason="this machine has no NVIDIA GPU")
def test_a_server_with_a_gpu_answers_from_it(tmp_path):
    shelve(tmp_path, {"sum": {"1.0.0": [1.0, 1.0]}})
    its = settings_for(tmp_path, SEATRIAL_SERVE_DEVICE="cuda", SEATRIAL_SERVE_LOAD_TIMEOUT_S="120")
    with launch(settings=its, port=0, log=tmp_path / "log") as running:
        until(lambda: asked(running.url) == (200, [3]), 120)
        maps = Path(f"/proc/{workers_of(running)[0]}/maps").read_text()
        assert "libcuda" in maps and "libtorch" not in maps
