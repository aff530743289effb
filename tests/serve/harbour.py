"What the tests of serving share: bundles on a shelf, and a look at processes."

import contextlib
import os
import subprocess
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from seatrial.base.settings import load
from seatrial.engine import bundle as bundles
from seatrial.registry.manifest import Version, digests, fingerprint, write_tables


def linear(folder, weights):
    "A bundle that computes a weighted sum of its inputs."
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", len(weights)])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])
    w = helper.make_tensor("w", TensorProto.FLOAT, [len(weights)], weights)
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "linear", [x], [y], [w])
    folder.parent.mkdir(parents=True, exist_ok=True)
    file = folder.parent / f"{folder.name}.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), file)
    spec = bundles.TensorSpec
    signature = bundles.Signature((spec("x", "FP32", (-1, len(weights))),), (spec("y", "FP32", (-1,)),))
    return bundles.write(folder, signature=signature, graph=file)


def echo(folder, datatype):
    "A bundle that answers what it is asked: x as y, of one datatype."
    kind = (
        TensorProto.STRING
        if datatype == "BYTES"
        else helper.np_dtype_to_tensor_dtype(np.dtype(bundles.DATATYPES[datatype]))
    )
    x, y = (helper.make_tensor_value_info(name, kind, ["n", 2]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "echo", [x], [y])
    folder.parent.mkdir(parents=True, exist_ok=True)
    file = folder.parent / f"{folder.name}.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), file)
    sides = ((bundles.TensorSpec(name, datatype, (-1, 2)),) for name in "xy")
    return bundles.write(folder, signature=bundles.Signature(*sides), graph=file)


def shelve(artifacts, models, make=linear):
    "Bundles on a shelf: name -> version -> what `make` makes it of; the first version is champion."
    rows, aliases = [], {}
    for name, versions in models.items():
        for number, given in versions.items():
            folder = artifacts / "models" / name / number
            signature, files = make(folder, given).signature.to_dict(), digests(folder)
            rows.append(Version(name, number, fingerprint(files), folder, signature, {}, {}, 0.0, files))
        aliases[name] = {"champion": next(iter(versions))}
    write_tables(artifacts, rows, aliases)


def settings_for(artifacts, **overrides):
    "Settings of a test server."
    environ = {"SEATRIAL_PATHS_ARTIFACTS": str(artifacts), "SEATRIAL_SERVE_CONTROLLER": "false"}
    environ |= {"SEATRIAL_ENGINE_THREADS": "1", "SEATRIAL_SERVE_POLL_INTERVAL_S": "0.1"}
    return load(os.devnull, environ | overrides)


def family(pid):
    "A process and all its descendants."
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True).stdout
    parents = dict(map(int, line.split()) for line in listed.splitlines())
    found = [pid]
    for parent in found:
        found += [child for child, its in parents.items() if its == parent]
    return found


def is_alive(pid):
    "Whether a process runs (a zombie does not)."
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def worker_of(running):
    "The process id of a server's worker."
    commands = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in family(running.process.pid)}
    return next(pid for pid, words in commands.items() if b"spawn_main" in words)


def until(true, patience_s=20.0):
    "Wait for something to become true, with an end."
    deadline = time.monotonic() + patience_s
    while not true():
        assert time.monotonic() < deadline, "it never became true"
        time.sleep(0.02)
