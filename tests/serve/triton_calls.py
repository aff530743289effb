"""NVIDIA's own client calls a server over gRPC in every way that it knows; what differs from what it expected is JSON.

usage: python triton_calls.py HOST:PORT      (in an environment that has tritonclient[grpc]; see tests/clients.txt)
"""

import asyncio
import json
import queue
import sys
import threading

import grpc
import numpy as np
import tritonclient.grpc as sync
import tritonclient.grpc.aio as aio
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

VALUES = {
    "BOOL": np.array([[True, False]]),
    **{f"{u}INT{b}": np.array([[1, 100]], f"{u}int{b}".lower()) for u in ("", "U") for b in (8, 16, 32, 64)},
    "FP16": np.array([[0.5, -2.0]], np.float16),
    "FP32": np.array([[0.1, 3.4e38]], np.float32),
    "FP64": np.array([[0.1, -1e300]]),
    "BYTES": np.array([["", "schön 漢"]], object),
}
LISTS = {"BOOL": "bool", "BYTES": "bytes", "FP32": "fp32", "FP64": "fp64", "INT64": "int64", "UINT64": "uint64"}
LISTS |= {f"INT{bits}": "int" for bits in (8, 16, 32)} | {f"UINT{bits}": "uint" for bits in (8, 16, 32)}
PACKINGS = (None, "gzip", "deflate")


def questions():
    "Every datatype in every packing."
    return [(datatype, array, packing) for datatype, array in VALUES.items() for packing in PACKINGS]


def tensors(client, datatype, array):
    "An input and an output of either client."
    given = client.InferInput("x", list(array.shape), datatype)
    given.set_data_from_numpy(array)
    return [given], [client.InferRequestedOutput("y")]


def same(datatype, array, got):
    "Whether an answer is what was sent."
    if datatype == "BYTES":
        got = np.array([[v.decode() if isinstance(v, bytes) else v for v in row] for row in got], object)
    return got.shape == array.shape and bool((got == array).all())


def called_by_sync(url):
    wrong = []
    with sync.InferenceServerClient(url) as client:
        for datatype, array, packing in questions():
            inputs, outputs = tensors(sync, datatype, array)
            got = client.infer(f"echo-{datatype.lower()}", inputs, outputs=outputs, compression_algorithm=packing)
            if not same(datatype, array, got.as_numpy("y")):
                wrong.append(["sync", datatype, packing, str(got.as_numpy("y"))])
    return wrong


async def called_by_aio(url):
    wrong = []
    async with aio.InferenceServerClient(url) as client:
        for datatype, array, packing in questions():
            inputs, outputs = tensors(aio, datatype, array)
            got = await client.infer(f"echo-{datatype.lower()}", inputs, outputs=outputs, compression_algorithm=packing)
            if not same(datatype, array, got.as_numpy("y")):
                wrong.append(["aio", datatype, packing, str(got.as_numpy("y"))])
    return wrong


def typed(url):
    "The same values spelt in lists, by the published stubs themselves."
    wrong = []
    with grpc.insecure_channel(url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for datatype, name in LISTS.items():
            array = VALUES[datatype]
            values = [v.encode() for v in array.ravel()] if datatype == "BYTES" else array.ravel().tolist()
            request = service_pb2.ModelInferRequest(model_name=f"echo-{datatype.lower()}")
            entry = request.inputs.add(name="x", datatype=datatype, shape=array.shape)
            getattr(entry.contents, f"{name}_contents").extend(values)
            (output,) = (answer := stub.ModelInfer(request)).outputs
            got = list(getattr(output.contents, f"{name}_contents"))
            if got != values or answer.raw_output_contents or output.datatype != datatype:
                wrong.append([datatype, str(got)])
    return wrong


def streamed(url):
    "Fifty requests on one stream, one of them wrong: ids or sentences in the order of arrival."
    heard = queue.Queue()
    with sync.InferenceServerClient(url) as client:
        client.start_stream(lambda result, error: heard.put((result, error)))
        for k in range(50):
            inputs, _ = tensors(sync, "FP32", np.float32([[k, 1] if k != 7 else [k, 1, 1]]))
            client.async_stream_infer("echo-fp32", inputs, request_id=f"s-{k}")
        said = [heard.get(timeout=20) for _ in range(50)]
        client.stop_stream()
    return [error.message() if error else result.get_response().id for result, error in said]


async def streamed_by_aio(url):
    "The same by the other client."

    async def asked():
        for k in range(50):
            inputs, _ = tensors(aio, "FP32", np.float32([[k, 1]]))
            yield {"model_name": "echo-fp32", "inputs": inputs, "request_id": f"a-{k}"}

    async with aio.InferenceServerClient(url) as client:
        return [result.get_response().id async for result, _ in client.stream_infer(asked())]


def later(url):
    "A call with a callback, as those make it who do not wait."
    heard, value = threading.Event(), []
    with sync.InferenceServerClient(url) as client:
        inputs, _ = tensors(sync, "FP32", VALUES["FP32"])
        client.async_infer("echo-fp32", inputs, lambda result, error: (value.append((result, error)), heard.set()))
        assert heard.wait(20)
    (result, error) = value[0]
    return error is None and same("FP32", VALUES["FP32"], result.as_numpy("y"))


def described(url):
    "Everything else that the client can ask."
    said, name, array = {}, "echo-fp32", VALUES["FP32"]
    with sync.InferenceServerClient(url) as client:
        said["live"], said["ready"] = client.is_server_live(), client.is_server_ready()
        said["model_ready"] = client.is_model_ready(name), client.is_model_ready(name, "1.0.0")
        said["missing_ready"] = client.is_model_ready("nobody")
        said["server"] = client.get_server_metadata(as_json=True)
        said["metadata"] = client.get_model_metadata(name, as_json=True)
        said["config"] = client.get_model_config(name, as_json=True)["config"]
        said["index"] = [entry["name"] for entry in client.get_model_repository_index(as_json=True)["models"]]
        client.load_model(name)
        inputs, _ = tensors(sync, "FP32", array)
        answer = client.infer(
            name,
            inputs,
            model_version="1.0.0",
            request_id="r-17",
            priority=1,
            timeout=5_000_000,
            client_timeout=20,
            parameters={"unit": "ann", "segment": "north"},
        )
        response = answer.get_response()
        said["id"], said["version"] = response.id, response.model_version
        said["parameters"] = {key: value.WhichOneof("parameter_choice") for key, value in response.parameters.items()}
        said["without_outputs"] = same("FP32", array, answer.as_numpy("y"))
        client.unload_model(name)
        said["after_unload"] = same("FP32", array, client.infer(name, inputs).as_numpy("y"))
        said["stats"] = client.get_inference_statistics(name, as_json=True)["model_stats"]
        said["all_stats"] = len(client.get_inference_statistics(as_json=True)["model_stats"])
        said["errors"] = {}
        for label, ask in {
            "no model": lambda: client.infer("nobody", inputs),
            "no version": lambda: client.infer(name, inputs, model_version="9.9.9"),
            "type": lambda: client.infer("echo-int8", inputs),
            "unload": lambda: client.unload_model("nobody"),
            "sequence": lambda: client.infer(name, inputs, sequence_id=7),
            "load with a file": lambda: client.load_model(name, config="{}"),
            "shared memory": lambda: client.get_system_shared_memory_status(),
        }.items():
            try:
                ask()
                said["errors"][label] = "accepted"
            except InferenceServerException as error:
                said["errors"][label] = [error.status(), error.message()]
    return said


def published():
    "The numbers, types and labels of all fields of the published protocol: message to field to these."
    found = {}

    def note(message):
        found[message.name] = {f.name: [f.number, f.type, f.is_repeated] for f in message.fields}
        for inner in message.nested_types:
            note(inner)

    for file in (service_pb2, model_config_pb2):
        for message in file.DESCRIPTOR.message_types_by_name.values():
            note(message)
    enum = model_config_pb2.DESCRIPTOR.enum_types_by_name["DataType"]
    return found | {"DataType": {value.name: value.number for value in enum.values}}


if __name__ == "__main__":
    url = sys.argv[1]
    told = {
        "wrong": called_by_sync(url) + asyncio.run(called_by_aio(url)) + typed(url),
        "streams": [streamed(url), asyncio.run(streamed_by_aio(url))],
        "later": later(url),
        "described": described(url),
        "published": published(),
    }
    print(json.dumps(told))
