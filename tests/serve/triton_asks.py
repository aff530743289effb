"""NVIDIA's own client asks a server in every way that it knows; what differs from what it expected is printed as JSON.

usage: python triton_asks.py HOST:PORT      (in an environment that has tritonclient; see tests/clients.txt)
"""

import asyncio
import json
import sys

import numpy as np
import tritonclient.http as sync
import tritonclient.http.aio as aio
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

VALUES = {
    "BOOL": np.array([[True, False]]),
    **{f"{u}INT{b}": np.array([[1, 100]], f"{u}int{b}".lower()) for u in ("", "U") for b in (8, 16, 32, 64)},
    "FP16": np.array([[0.5, -2.0]], np.float16),
    "FP32": np.array([[0.1, 3.4e38]], np.float32),
    "FP64": np.array([[0.1, -1e300]]),
    "BYTES": np.array([["", "schön 漢"]], object),
}
PACKINGS = (None, "gzip", "deflate")


def questions():
    "Every datatype, both ways of travelling, every packing of either direction."
    for datatype, array in VALUES.items():
        for raw_in in (True, False):
            for raw_out in (True, False):
                if datatype == "FP16" and not raw_in:
                    continue  # the client itself refuses FP16 as JSON
                for packing in PACKINGS:
                    yield datatype, array, raw_in, raw_out, packing


def tensors(client, datatype, array, raw_in, raw_out):
    "An input and an output of either client."
    given = client.InferInput("x", list(array.shape), datatype)
    given.set_data_from_numpy(array, binary_data=raw_in)
    return [given], [client.InferRequestedOutput("y", binary_data=raw_out)]


def same(datatype, array, got):
    "Whether an answer is what was sent."
    if datatype == "BYTES":
        got = np.array([[v.decode() if isinstance(v, bytes) else v for v in row] for row in got], object)
    return got.shape == array.shape and bool((got == array).all())


def asked_by_sync(url):
    wrong, n = [], 0
    with sync.InferenceServerClient(url) as client:
        for datatype, array, raw_in, raw_out, packing in questions():
            inputs, outputs = tensors(sync, datatype, array, raw_in, raw_out)
            packings = {"request_compression_algorithm": packing, "response_compression_algorithm": packing}
            got = client.infer(f"echo-{datatype.lower()}", inputs, outputs=outputs, **packings).as_numpy("y")
            n += 1
            if not same(datatype, array, got):
                wrong.append(["sync", datatype, raw_in, raw_out, packing, str(got)])
    return wrong, n


async def asked_by_aio(url):
    wrong, n = [], 0
    async with aio.InferenceServerClient(url) as client:
        for datatype, array, raw_in, raw_out, packing in questions():
            inputs, outputs = tensors(aio, datatype, array, raw_in, raw_out)
            packings = {"request_compression_algorithm": packing, "response_compression_algorithm": packing}
            got = (await client.infer(f"echo-{datatype.lower()}", inputs, outputs=outputs, **packings)).as_numpy("y")
            n += 1
            if not same(datatype, array, got):
                wrong.append(["aio", datatype, raw_in, raw_out, packing, str(got)])
    return wrong, n


def described(url):
    "Everything else that the client can ask."
    said = {}
    with sync.InferenceServerClient(url) as client:
        name = "echo-fp32"
        said["live"], said["ready"] = client.is_server_live(), client.is_server_ready()
        said["model_ready"] = client.is_model_ready(name), client.is_model_ready(name, "1.0.0")
        said["missing_ready"] = client.is_model_ready("nobody")
        said["server"] = client.get_server_metadata()["name"]
        said["metadata"] = client.get_model_metadata(name)
        said["config"] = client.get_model_config(name)
        said["index"] = [entry["name"] for entry in client.get_model_repository_index()]
        client.load_model(name)
        array = VALUES["FP32"]
        inputs, _ = tensors(sync, "FP32", array, True, True)
        answer = client.infer(name, inputs, model_version="1.0.0", request_id="r-17", priority=1, timeout=5_000_000)
        said["id"], said["version"] = answer.get_response()["id"], answer.get_response()["model_version"]
        said["without_outputs"] = same("FP32", array, answer.as_numpy("y"))
        said["stats"] = client.get_inference_statistics(name)["model_stats"]
        said["all_stats"] = len(client.get_inference_statistics()["model_stats"])
        said["errors"] = {}
        for label, ask in {
            "no model": lambda: client.infer("nobody", inputs),
            "no version": lambda: client.infer(name, inputs, model_version="9.9.9"),
            "type": lambda: client.infer("echo-int8", inputs),
            "unload": lambda: client.unload_model("nobody"),
            "sequence": lambda: client.infer(name, inputs, sequence_id=7),
        }.items():
            try:
                ask()
                said["errors"][label] = "accepted"
            except InferenceServerException as error:
                said["errors"][label] = [error.status(), error.message()]
    assert np_to_triton_dtype(np.float32) == "FP32"
    return said


if __name__ == "__main__":
    wrong, n = asked_by_sync(sys.argv[1])
    also, m = asyncio.run(asked_by_aio(sys.argv[1]))
    print(json.dumps({"wrong": wrong + also, "asked": n + m, "described": described(sys.argv[1])}))
