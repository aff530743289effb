"What the tests of serving share: bundles on a shelf, and a look at processes."

import contextlib
import itertools
import json
import os
import re
import socket
import struct
import subprocess
import threading
import time
from collections import Counter
from dataclasses import dataclass
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
    "The process id of a server's worker, once there is one."
    deadline = time.monotonic() + 20
    while not (found := workers_of(running)):
        assert time.monotonic() < deadline, "no worker came"
        time.sleep(0.01)
    return found[0]


def workers_of(running, name="seatrial-worker"):
    "The process ids of all its workers, or of their keepers."
    found = []
    for pid in family(running.process.pid):
        with contextlib.suppress(OSError):  # it has just ended
            found += [pid] * (Path(f"/proc/{pid}/comm").read_text().strip() == name and is_alive(pid))
    return found


def until(true, patience_s=20.0):
    "Wait for something to become true, with an end."
    deadline = time.monotonic() + patience_s
    while not true():
        assert time.monotonic() < deadline, "it never became true"
        time.sleep(0.02)


def tensor(x, **more):
    "The body of an infer request for a linear model."
    given = {"name": "x", "shape": [len(x), len(x[0])], "datatype": "FP32", "data": x}
    return json.dumps({"inputs": [given], **more}).encode()


def spelt(content=b"", path="/v2/models/sum/infer", method="POST", headers=(), version="1.1"):
    "A request as it travels; headers are lines or pairs of bytes."
    lines = [line.encode() if isinstance(line, str) else b": ".join(line) for line in headers]
    head = [f"{method} {path} HTTP/{version}".encode("latin-1"), b"Host: x", *lines]
    return b"\r\n".join([*head, b"Content-Length: %d" % len(content), b"", b""]) + content


def answers_in(stream):
    "All responses in what a server sent: [(status, headers, body)]; what follows a HEAD has no body."
    found = []
    while stream:
        head, end, stream = stream.partition(b"\r\n\r\n")
        assert end and head.startswith(b"HTTP/1.1 "), head[:200]
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        size = int(headers.get("content-length", 0))
        size = 0 if stream.startswith(b"HTTP/1.1 ") else size
        found.append((int(first.split()[1]), headers, stream[:size]))
        stream = stream[size:]
    return found


class Speaker:
    "One raw connection to a server; who asks again after the server has closed it asks on a new one."

    def __init__(self, url, patience_s=20.0):
        self.url, self.patience_s, self.over = url, patience_s, False
        host, port = url.removeprefix("http://").split(":")
        self.socket = socket.create_connection((host, int(port)), timeout=patience_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.stream = self.socket.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self, abruptly=False):
        "Hang up; abruptly: with a reset."
        if abruptly:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.stream.close()
        self.socket.close()

    def say(self, content=b"", path="/v2/models/sum/infer", method="POST", headers=(), version="1.1"):
        "Ask, and return the answer."
        if self.over:
            self.close()
            self.__init__(self.url, self.patience_s)
        self.socket.sendall(spelt(content, path, method, headers, version))
        return self.answer(method == "HEAD")

    def answer(self, head=False):
        "The next response: (status, headers, body); None at the end of the stream."
        first = self.stream.readline()
        if not first:
            return None
        lines = [line.decode("latin-1").rstrip("\r\n").partition(": ") for line in iter(self.stream.readline, b"\r\n")]
        status, headers = int(first.split()[1]), {name.lower(): value for name, _, value in lines}
        if status < 200:
            return self.answer(head)
        self.over = headers.get("connection") == "close"
        return status, headers, b"" if head else self.stream.read(int(headers.get("content-length", 0)))

    def rest(self):
        "Everything until the server closes."
        with contextlib.suppress(ConnectionResetError):
            return self.stream.read()
        return b""


@dataclass(slots=True)
class Asked:
    "What became of one request of a crowd."

    id: str
    sent_s: float  # on the monotonic clock
    answered_s: float = 0.0  # 0: never
    status: int = 0
    said: bytes = b""

    @property
    def value(self):
        return json.loads(self.said)["outputs"][0]["data"][0]


class Crowd:
    "Clients that ask one after the other until told to stop; a lost connection is opened again."

    def __init__(self, url, clients=8, model="sum", patience_s=20.0):
        self.url, self.path, self.patience_s = url, f"/v2/models/{model}/infer", patience_s
        self.asked, self.over, self.hung = [], threading.Event(), []
        self.threads = [threading.Thread(target=self.ask, args=(k,)) for k in range(clients)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        for thread in self.threads:
            thread.join()

    def ask(self, client):
        numbers = itertools.count()
        while not self.over.is_set():
            with contextlib.suppress(ConnectionError), Speaker(self.url, self.patience_s) as speaker:
                while not self.over.is_set() and self.exchange(speaker, f"{client}-{next(numbers)}"):
                    pass
            self.over.wait(0.01)

    def exchange(self, speaker, id):
        asked = Asked(id, time.monotonic())
        self.asked.append(asked)
        try:
            answer = speaker.say(tensor([[float(id.partition("-")[2]), 1.0]], id=id), self.path)
        except TimeoutError:
            self.hung.append(asked)
            return False
        if answer is None:
            return False
        asked.answered_s, asked.status, asked.said = time.monotonic(), answer[0], answer[2]
        return answer[1].get("connection") != "close"

    def seen(self):
        "How many of each status; 0: the connection was lost."
        return Counter(one.status for one in list(self.asked))

    def wait_for(self, more):
        "Wait until so many more are answered well."
        begin = self.seen()[200]
        until(lambda: self.seen()[200] >= begin + more)


def peak_mb(pids):
    "The most memory that processes ever held, each for itself, summed."
    found = [Path(f"/proc/{pid}/status").read_text() for pid in pids]
    return sum(int(re.search(r"VmHWM:\s+(\d+)", text)[1]) for text in found) / 1024


def listener_of(running):
    "The process id of a server's HTTP process."
    port = int(running.url.rpartition(":")[2])
    inodes = {
        line.split()[9]
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
        if line.split()[3] == "0A" and int(line.split()[1].partition(":")[2], 16) == port
    }
    wanted = {f"socket:[{inode}]" for inode in inodes}

    def holds(pid):
        links = [os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir() if entry.is_symlink()]
        return wanted & {*links}

    return [pid for pid in family(running.process.pid) if holds(pid)][-1]
