"""The same ONNX model behind other servers, for comparison only.

usage: python tools/rivals.py litserve|fastapi MODEL.onnx PORT
"""

import sys

import litserve as ls
import numpy as np
import onnxruntime as ort


def session(path):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def rows(body):
    "The first tensor of an Open Inference request."
    tensor = body["inputs"][0]
    return np.asarray(tensor["data"], np.float32).reshape(tensor["shape"])


def reply(y):
    return {"outputs": [{"name": "y", "datatype": "FP32", "shape": list(y.shape), "data": y.ravel().tolist()}]}


def fastapi_app(path):
    from fastapi import FastAPI, Request

    app, model = FastAPI(), session(path)

    @app.post("/v2/models/mlp/infer")
    async def infer(request: Request):
        return reply(model.run(None, {"x": rows(await request.json())})[0])

    return app


class Stock(ls.LitAPI):
    "LitServe as its documentation shows it; its workers are spawned, so the class stands where they can import it."

    def setup(self, device):
        self.model = session(sys.argv[2])

    def decode_request(self, request):
        return rows(request)

    def predict(self, x):
        return self.model.run(None, {"x": x})[0]

    def encode_response(self, output):
        return reply(output)


if __name__ == "__main__":
    kind, path, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
    if kind == "fastapi":
        import uvicorn

        uvicorn.run(fastapi_app(path), port=port, log_level="warning", access_log=False)
    else:
        ls.LitServer(Stock(api_path="/v2/models/mlp/infer"), accelerator="cpu").run(
            port=port, log_level="warning", generate_client_file=False
        )
