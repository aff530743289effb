"What a server owes to those who wait while versions come, go, hang and differ, seen from inside one process."

import asyncio
import contextlib
import json
import queue
import resource
import socket
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from seatrial.base.journal import Journal
from seatrial.base.record import Decision, Outcome
from seatrial.base.settings import CannotDo
from seatrial.engine import bundle as bundles
from seatrial.registry.manifest import Shelf
from seatrial.rollout.trial import Gate, Plan, plan_to_dict
from seatrial.serve.answers import unloading
from seatrial.serve.arrival import absent, came_back, forgotten, lost
from seatrial.serve.batching import draw
from seatrial.serve.call import Call
from seatrial.serve.computation import answered
from seatrial.serve.contract import found
from seatrial.serve.intake import taker
from seatrial.serve.lane import keep
from seatrial.serve.office import closed, holding, opened, prepare
from seatrial.serve.passage import begin, predicted
from seatrial.serve.pool import Pool, Terms, pin, unload
from seatrial.serve.protocol import Address, Refused
from seatrial.serve.reception import health
from seatrial.serve.routing import Router, refresh
from seatrial.serve.worker import Loop, serve_visitors
from tests.serve.harbour import settings_for, shelve, tensor


def packed(folder, graph, shape):
    "A bundle with a graph that makes y, a number for each row, of x."
    folder.parent.mkdir(parents=True, exist_ok=True)
    file, spec = folder.parent / f"{folder.name}.onnx", bundles.TensorSpec
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), file)
    signature = bundles.Signature((spec("x", "FP32", shape),), (spec("y", "FP32", (-1,)),))
    return bundles.write(folder, signature=signature, graph=file)


def ragged(folder, factor):
    "A bundle that sums rows of any length, and multiplies them by a factor."
    value, constant = helper.make_tensor_value_info, helper.make_tensor
    x, y = value("x", TensorProto.FLOAT, ["n", "k"]), value("y", TensorProto.FLOAT, ["n"])
    given = [constant("axes", TensorProto.INT64, [1], [1]), constant("c", TensorProto.FLOAT, [], [factor])]
    nodes = [
        helper.make_node("ReduceSum", ["x", "axes"], ["s"], keepdims=0),
        helper.make_node("Mul", ["s", "c"], ["y"]),
    ]
    return packed(folder, helper.make_graph(nodes, "ragged", [x], [y], given), (-1, -1))


@contextlib.contextmanager
def quiet_office(settings, path):
    "An office whose lane is connected to nobody."
    office = opened(settings, str(path), came_back, lost, absent=absent)
    try:
        yield office
    finally:
        closed(office)


def test_copies_for_a_shadow_that_is_not_loaded_yet_are_stacked_only_with_their_like(tmp_path):
    shelve(tmp_path, {"sum": {"1.0.0": 1.0, "1.1.0": 2.0}}, ragged)
    its = settings_for(tmp_path)
    plan = Plan("night", "sum", "1.0.0", "1.1.0", gates=(Gate("error_rate", margin=0.02),), kind="shadow", stages=(1,))
    with Journal.open(its) as journal:
        journal.decide(Decision("start", "sum", "night", evidence=plan_to_dict(plan)))

    async def copied(office):
        "Requests of three lengths arrive while only the champion is there; what is drawn for the shadow."
        signature = office.shelf.version("sum", "1.0.0").signature
        office.held["sum", "1.0.0"] = holding(office, ("sum", "1.0.0"), taker(signature))
        for length in (1, 2, 3, 2, 1):
            begin(office, Address("infer", "sum"), tensor([[1.0] * length]), lambda said: None)
        batches, found = [], {False: 0, True: 0}
        for worker in range(10):
            batches += draw(office.lane.scheduler, 0.0, worker)
        for batch in batches:
            assert len({job.inputs.form.tensors for job in batch.jobs}) == 1, "jobs of several forms in one batch"
            found[batch.flow.shadow] += len(batch.jobs)
        return found

    with quiet_office(its, tmp_path / "nobody.sock") as office:
        assert asyncio.run(copied(office)) == {False: 5, True: 5}


def heavy(folder, factor, million=2.5):
    "A bundle that multiplies by a factor, with a table of some million numbers of which it uses one row."
    value, constant, n = helper.make_tensor_value_info, helper.make_tensor, int(million * 500_000)
    zeros = np.zeros((2, n), np.float32).tobytes()
    given = [constant("c", TensorProto.FLOAT, [2, n], zeros, raw=True), constant("i", TensorProto.INT64, [1], [0])]
    given += [constant("w", TensorProto.FLOAT, [2], [factor, factor])]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["s"]),
        helper.make_node("Gather", ["c", "i"], ["t"], axis=1),
        helper.make_node("ReduceSum", ["t"], ["z"], keepdims=0),
        helper.make_node("Add", ["s", "z"], ["y"]),
    ]
    x, y = value("x", TensorProto.FLOAT, ["n", 2]), value("y", TensorProto.FLOAT, ["n"])
    return packed(folder, helper.make_graph(nodes, "heavy", [x], [y], given), (-1, 2))


@pytest.fixture
def hold(tmp_path):
    "Three versions of 10 MB each: the folder."
    shelve(tmp_path, {"sum": {"1.0.0": 1.0, "1.1.0": 2.0, "1.2.0": 3.0}}, heavy)
    return tmp_path


def test_a_version_is_booked_with_the_memory_that_it_keeps_not_with_what_its_loader_used_and_freed(hold):
    pool, booked, files = Pool(hold), [], (hold / "models/sum/1.0.0/model.onnx").stat().st_size
    for number in ("1.0.0", "1.1.0", "1.2.0", "1.0.0", "1.1.0"):
        pool.engine("sum", number)
        booked.append(pool.ledger.sizes["sum", number])
        unload(pool, ("sum", number))
    assert max(booked) < 2.5 * files  # the file, its parse and the engine's copy of it together are three times as much


def test_two_versions_that_exclude_each_other_and_are_wanted_at_once_are_both_served(hold):
    heard, pinned = queue.Queue(), ("sum", "1.0.0")
    pool = Pool(hold, Terms(limit=65 << 20, rest_s=60), told=lambda what, key: heard.put((what, key[1])))
    pin(pool, "a front", [pinned])
    pool.engine(*pinned)
    pool.engine("sum", "1.1.0")  # nobody has used it yet
    for each in (pinned, ("sum", "1.1.0")):  # far more than a load is weighed wrongly by, where much else is going on
        pool.measured[each] = pool.ledger.sizes[each] = 30 << 20
    with ThreadPoolExecutor(1) as threads:
        second = threads.submit(pool.engine, "sum", "1.2.0")
        while heard.get(timeout=20) != ("waiting", "1.2.0"):
            pass
        assert not second.done() and ("sum", "1.1.0") in pool.engines
        assert pool.engine("sum", "1.1.0").run({"x": [[1.0, 1.0]]})["y"].tolist() == [4]
        assert second.result(20).run({"x": [[1.0, 1.0]]})["y"].tolist() == [6]
    assert ("sum", "1.1.0") not in pool.engines and pinned in pool.engines
    told = [("evicted", "1.1.0"), ("loading", "1.2.0"), ("loaded", "1.2.0")]
    assert [heard.get(timeout=20) for _ in told] == told


def test_who_waits_for_another_load_is_told_when_that_one_fails_and_is_refused_only_for_what_must_stay(hold):
    heard = queue.Queue()
    pool = Pool(hold, Terms(limit=15 << 20, rest_s=0), told=lambda what, key: heard.put((what, key[1])))
    other, flight = ("sum", "1.1.0"), Future()
    pool.loading[other], pool.ledger.sizes[other] = flight, 10 << 20  # as if it were being loaded by somebody else
    with ThreadPoolExecutor(1) as threads:
        waits = threads.submit(pool.engine, "sum", "1.2.0")
        while heard.get(timeout=20) != ("waiting", "1.2.0"):
            pass
        with pool.lock:
            del pool.loading[other], pool.ledger.sizes[other]
        flight.set_exception(CannotDo("it fails"))
        assert waits.result(20).run({"x": [[1.0, 1.0]]})["y"].tolist() == [6]
    pin(pool, "a front", [("sum", "1.2.0")])
    with pytest.raises(CannotDo, match=r"must stay: sum 1\.2\.0"):
        pool.engine("sum", "1.0.0")


@pytest.fixture
def quay(tmp_path):
    "A worker in a thread, with a model of two versions: its pool, and how to open an office on it."
    shelve(tmp_path, {"sum": {"1.0.0": [1.0, 1.0], "1.1.0": [1.0, -1.0]}})
    path, door = str(tmp_path / "lane.sock"), socket.socket(socket.AF_UNIX)
    door.bind(path)
    door.listen()
    loop = Loop(door, Pool(tmp_path), 64)
    thread = threading.Thread(target=serve_visitors, args=(loop,))
    thread.start()

    @contextlib.asynccontextmanager
    async def staffed(**overrides):
        with quiet_office(settings_for(tmp_path, **overrides), path) as office:
            keeping = asyncio.create_task(keep(office.lane, partial(prepare, office, True)))
            await asyncio.sleep(0)
            while not office.held:
                await asyncio.sleep(0.01)
            try:
                yield office
            finally:
                keeping.cancel()

    yield loop.pool, staffed
    loop.leave()
    thread.join(20)
    assert not thread.is_alive()
    for file in (door, loop.bell, loop.ring, loop.watch):
        file.close()


SUM = Address("infer", "sum")


def test_who_waits_for_an_evicted_version_is_answered_in_time_however_long_it_loads(quay):
    (pool, staffed), free, heard = quay, threading.Event(), []

    def told(what, key):
        heard.append(what)
        assert what != "loading" or free.wait(20)

    async def story():
        async with staffed(SEATRIAL_SERVE_TIMEOUT_S="1") as office:
            assert json.loads(await predicted(office, SUM, tensor([[1, 2]])))["outputs"][0]["data"] == [3]
            assert unload(pool, ("sum", "1.0.0"))
            pool.told = told
            with pytest.raises(Refused, match=r"no answer within 1 seconds: sum 1\.0\.0 is being loaded") as refusal:
                await predicted(office, SUM, tensor([[1, 2]], id="late"))
            assert refusal.value.status == 504 and heard == ["loading"]
            answers = []
            gone = begin(office, SUM, tensor([[3, 4]], id="gone"), answers.append)
            patient = asyncio.ensure_future(predicted(office, SUM, tensor([[5, 6]], id="patient")))
            while len(office.fetching) < 2:
                await asyncio.sleep(0.01)
            forgotten(office, gone.ticket)
            free.set()
            assert json.loads(await patient)["outputs"][0]["data"] == [11]
            while office.fetching:
                await asyncio.sleep(0.01)
            assert answers == []
            ended = {row["request_id"]: row["status"] for row in office.journal.read("predictions").to_pylist()}
            assert ended.pop("late") == "timeout" and ended.pop("patient") == "ok" and [*ended.values()] == ["ok"]

    asyncio.run(story())


def test_what_a_load_finds_wrong_is_told_without_the_path_of_the_artifacts(quay, tmp_path):
    pool, staffed = quay

    async def story():
        async with staffed() as office:
            await predicted(office, SUM, tensor([[1, 2]]))
            assert unload(pool, ("sum", "1.0.0"))
            (tmp_path / "models/sum/1.0.0/model.onnx").unlink()
            with pytest.raises(Refused, match=r"model\.onnx is missing") as refusal:
                await predicted(office, SUM, tensor([[1, 2]]))
            assert refusal.value.status == 503 and str(tmp_path) not in refusal.value.sentence

    asyncio.run(story())


def test_a_server_that_can_serve_none_of_its_models_is_not_ready_and_finds_out_when_it_can_again(quay, tmp_path):
    graph = tmp_path / "models/sum/1.0.0/model.onnx"
    sound = graph.read_bytes()
    graph.write_bytes(sound[:-1] + b"!")

    async def story():
        async with quay[1]() as office:
            status, said = health(office)
            assert status == 503 and "sum 1.0.0 is champion and cannot be served" in said["reasons"][0]
            graph.write_bytes(sound)
            office.held["sum", "1.0.0"].until_s = 0.0  # five seconds later
            while health(office)[0] != 200:  # nobody asks for a prediction
                await asyncio.sleep(0.01)
            assert health(office)[1]["reasons"] == []

    asyncio.run(story())


@pytest.mark.parametrize(("policy", "status"), [("shed", 503), ("block", 503), ("drop", 200)])
def test_health_says_when_nothing_can_be_recorded_and_when_it_can_again(quay, policy, status):
    async def story():
        async with quay[1](SEATRIAL_JOURNAL_WHEN_FULL=policy) as office:
            limits = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
            try:
                said = health(office)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            assert said[0] == status
            assert said[1]["reasons"] == ["the journal cannot be written (File too large): free the disk"]
            assert health(office)[0] == 200 and health(office)[1]["reasons"] == []

    asyncio.run(story())


def test_a_full_disk_leaves_no_file_behind_for_each_answer_that_it_refuses(tmp_path):
    with Journal(tmp_path) as journal:
        limits, kept = resource.getrlimit(resource.RLIMIT_FSIZE), []
        for size in (0, 40, 0):  # not a byte; half a line; not a byte
            kept.append(Outcome(f"r{len(kept)}", "rating", 1.0, 5.0))
            journal.append(kept[-1:])
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
            try:
                for _ in range(50):
                    with pytest.raises(CannotDo, match="nothing of this batch was recorded"):
                        journal.append([Outcome("never", "rating", 1.0, 5.0)])
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert len([*journal.spool.folder.iterdir()]) == len(kept) == journal.drain()
        assert journal.read("outcomes")["request_id"].to_pylist() == [one.request_id for one in kept]


def rigid(folder, rows):
    "A bundle that sums, of a graph that takes batches of exactly so many rows."
    value = helper.make_tensor_value_info
    x, y = value("x", TensorProto.FLOAT, [rows, 2]), value("y", TensorProto.FLOAT, [rows])
    given = [helper.make_tensor("w", TensorProto.FLOAT, [2], [1.0, 1.0])]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "rigid", [x], [y], given)
    return packed(folder, graph, (-1, 2))


def test_an_engine_for_one_batch_size_answers_any_number_of_rows_and_a_bad_row_spoils_no_other(tmp_path):
    shelve(tmp_path, {"sum": {"1.0.0": 4}}, rigid)
    engine = Pool(tmp_path, Terms(warm=(4,), whole=True)).engine("sum", "1.0.0")
    rows = np.arange(22, dtype=np.float32).reshape(11, 2)
    for n in range(1, 12):  # more than the largest size: a request that was not padded to it
        header, arrays = answered(engine, [n], {"x": rows[:n]}, 64)
        assert not header["failures"] and arrays["o:y"].tolist() == rows[:n].sum(axis=1).tolist()
    rows[1, 0] = np.nan
    header, arrays = answered(engine, [1, 1, 1], {"x": rows[:4]}, 64)  # the fourth is padding
    assert {job: status for job, (status, _) in header["failures"].items()} == {"1": 400}
    assert arrays["o:y"].tolist() == [1, 9]


def test_who_was_used_last_stays_longest(hold):
    pool = Pool(hold, Terms(rest_s=0))
    for number in ("1.0.0", "1.1.0", "1.0.0"):
        pool.engine("sum", number)
    pool.ledger.limit = pool.ledger.total
    pool.engine("sum", "1.2.0")
    assert ("sum", "1.0.0") in pool.engines and ("sum", "1.1.0") not in pool.engines


def test_a_load_that_fails_leaves_its_room_to_the_next(hold):
    pool, graph = Pool(hold, Terms(limit=25 << 20, rest_s=0)), hold / "models/sum/1.1.0/model.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"!")
    for _ in range(3):
        with pytest.raises(CannotDo, match=r"model\.onnx is not what was registered"):
            pool.engine("sum", "1.1.0")
    unfit = hold / "models/sum/1.2.0"
    pool.terms = replace(pool.terms, warm=(0,))  # it loads, and fails when it is warmed up
    with pytest.raises(Exception, match="row"):
        pool.engine("sum", unfit.name)
    pool.terms = replace(pool.terms, warm=(1,))
    assert not pool.ledger.sizes and not pool.loading and not pool.engines
    assert pool.engine("sum", "1.0.0").run({"x": [[1.0, 1.0]]})["y"].tolist() == [2]


def test_a_table_that_no_parser_survives_is_told_and_the_next_sound_one_is_followed(tmp_path, caplog):
    shelve(tmp_path, {"sum": {"1.0.0": [1.0, 1.0], "1.1.0": [1.0, -1.0]}})
    aliases = tmp_path / "registry/aliases.json"
    sound = aliases.read_text().replace(" ", "")
    with Journal.open(settings_for(tmp_path)) as journal:
        router = Router(Shelf(tmp_path), journal)
        assert refresh(router) and router.route("sum", "u").version == "1.0.0"
        aliases.write_text("[" * 100_000)
        for _ in range(3):
            assert not refresh(router) and "RecursionError" in router.trouble
        assert router.route("sum", "u").version == "1.0.0" and len(caplog.records) == 1
        aliases.write_text(sound.replace('"champion":"1.0.0"', '"champion":"1.1.0"'))
        assert refresh(router) and router.trouble == "" and router.route("sum", "u").version == "1.1.0"


def test_two_operators_who_unload_a_model_at_once_are_both_heard(quay):
    route, places = found("POST", "/v2/repository/models/sum/unload")

    async def story():
        async with quay[1]() as office:
            calls = [Call(route, places, {}, "127.0.0.1", body=b"{}", whole=True) for _ in range(3)]
            said = await asyncio.gather(*[unloading(office, call) for call in calls])
            assert [one.status for one in said] == [200] * 3 and not quay[0].engines
            assert json.loads(await predicted(office, SUM, tensor([[1, 2]])))["outputs"][0]["data"] == [3]

    asyncio.run(story())
