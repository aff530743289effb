"Versions that hang while they run: nobody waits for ever, others are served, and who hangs again and again is refused."

import json
import urllib.request

import onnx
from onnx import TensorProto, helper

from seatrial.engine import bundle as bundles
from seatrial.serve.server import launch
from tests.serve.harbour import Speaker, settings_for, shelve, tensor, until, workers_of


def counting(folder, weights):
    "A bundle that counts to its largest input before it answers with a weighted sum: for a large one, it hangs."
    value = helper.make_tensor_value_info
    constants = [
        helper.make_tensor("w", TensorProto.FLOAT, [len(weights)], weights),
        helper.make_tensor("always", TensorProto.BOOL, [], [True]),
    ]
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["d"]), helper.make_node("Identity", ["v"], ["u"])],
        "body",
        [value("i", TensorProto.INT64, []), value("c", TensorProto.BOOL, []), value("v", TensorProto.FLOAT, ["n"])],
        [value("d", TensorProto.BOOL, []), value("u", TensorProto.FLOAT, ["n"])],
    )
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["s"]),
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Cast", ["most"], ["trips"], to=TensorProto.INT64),
        helper.make_node("Loop", ["trips", "always", "s"], ["y"], body=body),
    ]
    x, y = value("x", TensorProto.FLOAT, ["n", len(weights)]), value("y", TensorProto.FLOAT, ["n"])
    graph, file = helper.make_graph(nodes, "counting", [x], [y], constants), folder.parent / f"{folder.name}.onnx"
    folder.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), file)
    spec = bundles.TensorSpec
    signature = bundles.Signature((spec("x", "FP32", (-1, len(weights))),), (spec("y", "FP32", (-1,)),))
    return bundles.write(folder, signature=signature, graph=file)


HANGS = tensor([[1e15, 0.0]])


def asked(url, body, model="sum"):
    "Status and body of one request."
    with Speaker(url) as speaker:
        status, _, said = speaker.say(body, f"/v2/models/{model}/infer")
        return status, json.loads(said)


def reasons(url):
    "What the server says about itself."
    with urllib.request.urlopen(f"{url}/health", timeout=20) as answer:
        return json.loads(answer.read())["reasons"]


def test_a_version_that_hangs_again_and_again_is_refused_and_health_says_why(tmp_path):
    shelve(tmp_path, {"sum": {"1.0.0": [1.0, 1.0]}, "other": {"1.0.0": [2.0, 2.0]}}, counting)
    its = settings_for(tmp_path, SEATRIAL_SERVE_TIMEOUT_S="1")
    with launch(settings=its, port=0, log=tmp_path / "log") as running:
        url = running.url
        for _ in range(3):
            until(lambda: asked(url, tensor([[1.0, 2.0]]))[1].get("outputs"))
            (worker,) = workers_of(running)
            status, said = asked(url, HANGS)
            assert status == 504 and "1 seconds" in said["error"]
            until(lambda gone=worker: gone not in workers_of(running))
        until(lambda: asked(url, tensor([[1.0, 2.0]]))[0] == 503)
        status, said = asked(url, tensor([[1.0, 2.0]]))
        assert "sum 1.0.0 is refused for 20 s: 3 workers died" in said["error"]
        assert "it said nothing for 2 s and was killed" in said["error"]
        until(lambda: asked(url, tensor([[1.0, 2.0]]), "other")[1].get("outputs"))
        assert any("sum 1.0.0 is refused for" in each for each in reasons(url))
