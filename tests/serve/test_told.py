"What happens to versions and copies behind a client's back is told by /metrics, exactly, and survives the worker."

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import numpy as np
import onnx
from onnx import TensorProto, helper

from seatrial.base.journal import Journal
from seatrial.base.record import Decision
from seatrial.engine import bundle as bundles
from seatrial.rollout.trial import Gate, Plan, plan_to_dict
from seatrial.serve.server import launch
from tests.serve.harbour import Speaker, settings_for, shelve, tensor, until, worker_of, workers_of
from tests.serve.test_retries import asked, sample


def heavy(folder, seed):
    "A bundle of eight megabytes that answers with two numbers a row."
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])
    rng, sizes = np.random.default_rng(seed), {"a": (2, 1000), "b": (1000, 2000), "c": (2000, 2)}
    weights = {name: rng.normal(size=size).astype(np.float32) for name, size in sizes.items()}
    held = [helper.make_tensor(n, TensorProto.FLOAT, w.shape, w.tobytes(), raw=True) for n, w in weights.items()]
    steps = (["x", "a", "p"], ["p", "b", "q"], ["q", "c", "y"])
    nodes = [helper.make_node("MatMul", [left, right], [out]) for left, right, out in steps]
    folder.parent.mkdir(parents=True, exist_ok=True)
    file = folder.parent / f"{folder.name}.onnx"
    graph = helper.make_graph(nodes, "heavy", [x], [y], held)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), file)
    sides = ((bundles.TensorSpec(name, "FP32", (-1, 2)),) for name in "xy")
    return bundles.write(folder, signature=bundles.Signature(*sides), graph=file)


def test_versions_that_had_to_leave_are_counted_and_stay_counted_when_their_worker_dies(tmp_path):
    shelve(tmp_path, {"heavy": {f"1.{i}.0": i for i in range(8)}}, heavy)
    its = settings_for(tmp_path, SEATRIAL_SERVE_MEMORY_MB="60")
    with launch(settings=its, port=0, log=tmp_path / "log") as running, Speaker(running.url) as speaker:
        for i in range(8):
            path = f"/v2/models/heavy/versions/1.{i}.0/infer"
            until(lambda path=path: speaker.say(tensor([[1.0, 2.0]]), path)[0] == 200)
        until(lambda: sample(running.url, "pool_evictions_total") >= 1)
        gone, worker = sample(running.url, "pool_evictions_total"), worker_of(running)
        os.kill(worker, signal.SIGKILL)
        until(lambda: workers_of(running) not in ([], [worker]))
        assert sample(running.url, "pool_evictions_total") >= gone and sample(running.url, "worker_deaths") == 1


def test_copies_for_a_shadow_that_make_room_for_requests_are_counted_and_no_request_is_refused(tmp_path):
    shelve(tmp_path, {"sum": {"1.0.0": [1.0, 1.0], "1.1.0": [1.0, -1.0]}})
    its = settings_for(tmp_path, SEATRIAL_SERVE_QUEUE_MAX_ROWS="6")
    with launch(settings=its, port=0, log=tmp_path / "log") as running, closing(Journal.open(its)) as journal:
        url, gates = running.url, (Gate("error_rate", margin=0.1),)
        plan = Plan("dusk", "sum", "1.0.0", "1.1.0", gates=gates, kind="shadow", stages=(1.0,), units_min=2)
        until(lambda: asked(url, tensor([[1.0, 2.0]]))[0] == 200)
        journal.decide(Decision("start", "sum", "dusk", evidence=plan_to_dict(plan)))
        until(lambda: asked(url, tensor([[1.0, 2.0]]))[1]["parameters"]["trial"] == "dusk")
        until(lambda: journal.read("predictions", trial="dusk").num_rows > 1)  # the shadow answers copies
        worker = worker_of(running)
        os.kill(worker, signal.SIGSTOP)
        with ThreadPoolExecutor(6) as threads:
            asking = [threads.submit(asked, url, tensor([[float(i), 1.0]])) for i in range(6)]
            until(lambda: sample(url, "shadows_dropped_total") >= 1)
            os.kill(worker, signal.SIGCONT)
            assert [one.result()[0] for one in asking] == [200] * 6
