"What a server owes to those who wait while versions come, go, hang and differ, seen from inside one process."

import asyncio
import contextlib

import onnx
from onnx import TensorProto, helper

from seatrial.base.journal import Journal
from seatrial.base.record import Decision
from seatrial.engine import bundle as bundles
from seatrial.rollout.trial import Gate, Plan, plan_to_dict
from seatrial.serve.arrival import absent, came_back, lost
from seatrial.serve.batching import draw
from seatrial.serve.intake import taker
from seatrial.serve.office import closed, holding, opened
from seatrial.serve.passage import begin
from seatrial.serve.protocol import Address
from tests.serve.harbour import settings_for, shelve, tensor


def ragged(folder, factor):
    "A bundle that sums rows of any length, and multiplies them by a factor."
    value, constant = helper.make_tensor_value_info, helper.make_tensor
    x, y = value("x", TensorProto.FLOAT, ["n", "k"]), value("y", TensorProto.FLOAT, ["n"])
    given = [constant("axes", TensorProto.INT64, [1], [1]), constant("c", TensorProto.FLOAT, [], [factor])]
    nodes = [
        helper.make_node("ReduceSum", ["x", "axes"], ["s"], keepdims=0),
        helper.make_node("Mul", ["s", "c"], ["y"]),
    ]
    folder.parent.mkdir(parents=True, exist_ok=True)
    graph, file = helper.make_graph(nodes, "ragged", [x], [y], given), folder.parent / f"{folder.name}.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), file)
    spec = bundles.TensorSpec
    signature = bundles.Signature((spec("x", "FP32", (-1, -1)),), (spec("y", "FP32", (-1,)),))
    return bundles.write(folder, signature=signature, graph=file)


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
