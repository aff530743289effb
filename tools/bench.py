"""Measure what the project claims, side by side: rivals take turns, medians are printed, and the machine is named.

usage: python -m tools.bench [serve] [engine] [journal]      (all of them without a name)
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import numpy as np

from tools.wire import load

JSON = {"Content-Type": "application/json"}
ROUNDS = 5  # rounds in which every rival has one turn
BODY = {"inputs": [{"name": "x", "shape": [1, 10], "datatype": "FP32", "data": [0.1 * i for i in range(10)]}]}


def machine():
    "What it was measured on."
    info = Path("/proc/cpuinfo")
    names = (
        [x.partition(":")[2].strip() for x in info.read_text().splitlines() if x.startswith("model name")]
        if info.exists()
        else []
    )
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores, Python {platform.python_version()}"


def table(title, head, rows):
    print(f"\n{title}\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(f'{c:,.2f}' if isinstance(c, float) else str(c) for c in row)} |", flush=True)


def small_mlp(path):
    "A 10-feature network, small enough that the server is what is measured."
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    weights = {"w1": (10, 32), "b1": (32,), "w2": (32, 1), "b2": (1,)}
    stored = [numpy_helper.from_array(rng.normal(size=s).astype(np.float32), n) for n, s in weights.items()]
    steps = [("Gemm", ["x", "w1", "b1"], ["h"]), ("Relu", ["h"], ["r"]), ("Gemm", ["r", "w2", "b2"], ["y"])]
    nodes = [helper.make_node(*s) for s in steps]
    faces = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", k]) for n, k in (("x", 10), ("y", 1))]
    graph = helper.make_graph(nodes, "mlp", faces[:1], faces[1:], stored)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


@contextlib.contextmanager
def running(command, port, environ):
    "A server process that answers, ended with all its children."
    log = tempfile.TemporaryFile()  # noqa: SIM115
    process = subprocess.Popen(command, env=os.environ | environ, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline, url = time.monotonic() + 60, f"http://127.0.0.1:{port}/v2/models/mlp/infer"
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(urllib.request.Request(url, json.dumps(BODY).encode(), JSON), timeout=5).read()
                break
            if process.poll() is not None or time.monotonic() > deadline:
                log.seek(0)
                raise SystemExit(f"{command} did not start: {log.read()[-800:].decode()}")
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)


def serve():
    "seatrial beside stock LitServe and FastAPI, same model, same requests; journal, routing and metrics on."
    from seatrial.app.demo import free_port

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mlp.onnx"
        small_mlp(path)
        home = {"SEATRIAL_PATHS_ARTIFACTS": f"{folder}/artifacts", "SEATRIAL_SERVE_CONTROLLER": "false"}
        cli = [sys.executable, "-m", "seatrial.app.cli"]
        subprocess.run(
            [*cli, "register", str(path), "--name", "mlp"], check=True, env=os.environ | home, stdout=subprocess.DEVNULL
        )
        ports = {name: free_port() for name in ("seatrial", "fastapi", "litserve")}
        rivals = [sys.executable, str(Path(__file__).with_name("rivals.py"))]
        commands = {"seatrial": [*cli, "serve", "--port", str(ports["seatrial"])]}
        commands |= {n: [*rivals, n, str(path), str(ports[n])] for n in ("fastapi", "litserve")}
        with contextlib.ExitStack() as stack:
            urls = {n: stack.enter_context(running(c, ports[n], home)) for n, c in commands.items()}
            results = {(n, k): [] for n in urls for k in (1, 32)}
            for _ in range(ROUNDS):
                for (name, connections), seen in results.items():
                    seen.append(load(urls[name], json.dumps(BODY).encode(), connections, seconds=2))
    rows = []
    for name in urls:
        many, one = results[name, 32], results[name, 1]
        rows.append(
            (
                name,
                statistics.median(r.requests_s for r in many),
                statistics.median(r.p99_ms for r in many),
                statistics.median(r.p50_ms for r in one),
                sum(r.errors for r in many + one),
            )
        )
    table(
        "Serving a small ONNX model, JSON infer",
        ["server", "requests/s, 32 connections", "p99 ms", "p50 ms, 1 connection", "errors"],
        rows,
    )


def engine():
    "MiniLM in full precision and in eight bits, taking turns."
    import torch

    from seatrial.base.data import rated_text
    from seatrial.engine.bundle import Signature, TensorSpec, Tokenizer
    from seatrial.engine.export import export
    from seatrial.engine.fit import fit
    from seatrial.model.quality import EncoderScorer, packaged_encoder

    torch.manual_seed(0)
    film = rated_text("film")
    texts = film["text"].to_numpy(zero_copy_only=False)[:256]
    files = {"tokenizer.json": packaged_encoder() / "tokenizer.json"}
    preparation = Tokenizer(max_tokens=48)
    tensors = preparation({"text": texts[:4]}, packaged_encoder())
    tensors.pop("truncated")
    signature = Signature((TensorSpec("text", "BYTES", (-1,)),), (TensorSpec("rating", "FP32", (-1,)),))
    with tempfile.TemporaryDirectory() as folder:
        bundle = export(
            EncoderScorer(), tensors, Path(folder) / "a", signature=signature, preparation=preparation, files=files
        )
        found = fit(bundle, {"text": texts}, film["rating"].to_numpy()[:256], Path(folder) / "b", margin=0.5)
    rows = [(r.variant, r.size_mb, *(float(r.rows_s[b]) for b in (1, 8, 64)), r.verdict) for r in found.rows]
    table(
        "MiniLM on film snippets, tokenizing included",
        ["variant", "MB", "rows/s at 1", "at 8", "at 64", "verdict"],
        rows,
    )


def journal():
    "What one answer costs the request path."
    from seatrial.base.journal import Journal, Prediction

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for durable in ("process", "power"):
            with Journal(Path(folder) / durable, durable=durable) as book:
                for batch in (1, 64):
                    times = []
                    for turn in range(50):
                        answers = [
                            Prediction(f"{batch}-{turn}-{i}", "champion", 0.0, "", "m", "1.0.0", outputs={"y": 0.5})
                            for i in range(batch)
                        ]
                        start = time.perf_counter()
                        book.append(answers)
                        times.append(1e6 * (time.perf_counter() - start) / batch)
                    rows.append((durable, batch, statistics.median(times)))
    table("Journal: microseconds a record", ["durable", "records a call", "µs a record"], rows)


def main():
    known = {"serve": serve, "engine": engine, "journal": journal}
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("what", nargs="*", help=f"any of {', '.join(known)}")
    wanted = args.parse_args().what or list(known)
    if unknown := set(wanted) - known.keys():
        args.error(f"what must be among {', '.join(known)}, got {', '.join(sorted(unknown))}")
    print(machine())
    for name in wanted:
        known[name]()


if __name__ == "__main__":
    main()
