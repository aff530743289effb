"""What a server must stand: a start, idleness, large tensors, kills, load beyond its strength, and being watched.

Each section starts servers of its own on 127.0.0.1 and yields tables (title, head, rows) that say what is asked beside
what was found. Time on the wall is what a client sees, and on a busy machine it is the neighbours' too; the processor
time of the server's processes hardly is, so both are printed where they say the same thing.
"""

import asyncio
import contextlib
import functools
import itertools
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tools.wire import DRIVER, family, load, press

ROUNDS = 5  # turns that every side has
HEAD = ["what", "asked", "found"]


def busy():
    "How busy the machine is, in words."
    return f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores" if hasattr(os, "getloadavg") else "load unknown"


# what is served


@functools.cache
def room():
    "A folder for what is made once in a run."
    made = tempfile.TemporaryDirectory()
    return made, Path(made.name)  # it lasts as long as this pair


@functools.cache
def small():
    "A bundle of a small network."
    from seatrial.engine.export import bundle_of
    from tools.bench import small_mlp

    path = room()[1] / "mlp.onnx"
    small_mlp(path)
    return bundle_of(path, None, room()[1] / "mlp")


@functools.cache
def total(shape=(300, 500)):
    "A bundle that adds up a large tensor: nearly all of its time is transport."
    import onnx
    from onnx import TensorProto, helper

    from seatrial.engine import bundle as bundles

    faces = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", ["n", *shape]), ("y", ["n"]))]
    axes = helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2])
    node = helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=0)
    graph = helper.make_graph([node], "total", faces[:1], faces[1:], [axes])
    path = room()[1] / "total.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    spec = bundles.TensorSpec
    sides = bundles.Signature((spec("x", "FP32", (-1, *shape)),), (spec("y", "FP32", (-1,)),))
    return bundles.write(room()[1] / "total", signature=sides, graph=path)


@functools.cache
def scorer():
    "The MiniLM scorer with int8 weights; its head is not trained, which costs the same time."
    import torch

    from seatrial.engine.bundle import Signature, TensorSpec, Tokenizer
    from seatrial.engine.export import export
    from seatrial.engine.quantize import quantize
    from seatrial.model.quality import EncoderScorer, packaged_encoder

    torch.manual_seed(0)
    preparation = Tokenizer(max_tokens=48)
    tensors = preparation({"text": np.array(snippets()[:4], object)}, packaged_encoder())
    tensors.pop("truncated")
    sides = Signature((TensorSpec("text", "BYTES", (-1,)),), (TensorSpec("rating", "FP32", (-1,)),))
    files = {"tokenizer.json": packaged_encoder() / "tokenizer.json"}
    folder = room()[1]
    plain = export(EncoderScorer(), tensors, folder / "full", signature=sides, preparation=preparation, files=files)
    return quantize(plain, folder / "int8")


@functools.cache
def snippets():
    "Texts as people wrote them."
    from seatrial.base.data import rated_text

    return rated_text("film")["text"].to_pylist()[:512]


def shelved(bundle, name, versions=("1.0.0",)):
    "A new folder of artifacts with a bundle on its shelf."
    from seatrial.registry.manifest import Version, digests, fingerprint, write_tables

    artifacts, rows = Path(tempfile.mkdtemp(dir=room()[1])), []
    for number in versions:
        folder = artifacts / "models" / name / number
        shutil.copytree(bundle.folder, folder)
        files = digests(folder)
        facts = bundle.signature.to_dict()
        rows.append(Version(name, number, fingerprint(files), folder, facts, {}, dict(bundle.card), 0.0, files))
    write_tables(artifacts, rows, {name: {"champion": versions[0]}})
    return artifacts


def served(artifacts, **changed):
    "A server on these artifacts with the settings that everybody has, but for the named ones."
    from seatrial.base import settings
    from seatrial.serve.server import launch

    environ = {"SEATRIAL_PATHS_ARTIFACTS": str(artifacts)}
    environ |= {f"SEATRIAL_{key.upper()}": str(value) for key, value in changed.items()}
    return launch(settings=settings.load(os.devnull, environ), port=0, log=artifacts / "log")


# what is asked of it


def ten():
    "A body for the small network."
    data = [0.1 * i for i in range(10)]
    return json.dumps({"inputs": [{"name": "x", "shape": [1, 10], "datatype": "FP32", "data": data}]}).encode()


def rated(text):
    "A body for the scorer."
    return json.dumps({"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": [text]}]}).encode()


def spelt(place, path, body, *headers):
    "A request as it travels."
    head = (f"POST {path} HTTP/1.1", f"Host: {place}", f"Content-Length: {len(body)}", *headers, "", "")
    return "\r\n".join(head).encode() + body


def exchange(wire, stream, request):
    "Send a request on an open connection: (status, body)."
    wire.sendall(request)
    status, length = int(stream.readline().split()[1]), 0
    for line in iter(stream.readline, b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            length = int(line.partition(b":")[2])
    return status, stream.read(length)


@contextlib.contextmanager
def connected(url):
    "A connection and what comes back on it."
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as wire, wire.makefile("rb") as stream:
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield wire, stream


def ask(url, path, body):
    "One request; whatever is no answer is the end."
    with connected(url) as (wire, stream):
        status, said = exchange(wire, stream, spelt(url.removeprefix("http://"), path, body))
    if status != 200:
        raise SystemExit(f"{path} answered {status}: {said[:300].decode()}")


# what it costs


def spent_s(pids):
    "Processor time of all threads of some processes, to the nanosecond (Linux)."
    total_ns = 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):  # it has just ended
                total_ns += int(task.read_text().split()[0])
    return total_ns / 1e9


def held_mb(pids, kind="Pss"):
    "Memory of some processes together; Pss counts a page that n of them share as 1/n in each."
    found = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            found += sum(int(line.split()[1]) for line in lines if line.startswith(f"{kind}:"))
    return found / 1024


def named(pid):
    "What a process calls itself."
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def role(pid):
    "What a process of a server is there for."
    with contextlib.suppress(OSError):
        said = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
        if b" trial watch" in said:
            return "controller"
        return named(pid) if named(pid).startswith("seatrial") else "main, HTTP and LitServe's helpers"
    return "ended"


def workers(pid):
    "The workers of a server."
    return [one for one in family(pid) if named(one) == "seatrial-worker"]


# sections


def start(rounds=3):
    "From `seatrial serve` to the first answer."
    from seatrial.app.demo import free_port
    from seatrial.engine.runtime import load as opened

    rows = []
    for what, bundle, name, body in (
        ("a small network", small(), "mlp", ten()),
        ("MiniLM, int8", scorer(), "scorer", rated(snippets()[0])),
    ):
        artifacts, walls, costs, loads = shelved(bundle, name), [], [], []
        for _ in range(rounds):
            port, home = free_port(), {"SEATRIAL_PATHS_ARTIFACTS": str(artifacts)}
            command = [sys.executable, "-m", "seatrial.app.cli", "serve", "--port", str(port)]
            begin, quiet = time.monotonic(), {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            process = subprocess.Popen(command, env=os.environ | home, start_new_session=True, **quiet)
            try:
                request = spelt(f"127.0.0.1:{port}", f"/v2/models/{name}/infer", body)
                while time.monotonic() < begin + 60 and process.poll() is None:
                    with contextlib.suppress(OSError, IndexError), connected(f"http://127.0.0.1:{port}") as pair:
                        if exchange(*pair, request)[0] == 200:
                            break
                    time.sleep(0.01)
                else:
                    raise SystemExit("`seatrial serve` gave no answer within a minute")
                walls.append(time.monotonic() - begin)
                costs.append(spent_s(family(process.pid)))
            finally:
                process.terminate()
                process.wait(30)
            begin = time.monotonic()
            opened(bundle).close()
            loads.append(time.monotonic() - begin)
        found = f"{statistics.median(walls):.1f} s ({min(walls):.1f} to {max(walls):.1f})"
        rows.append((f"{what}: to the first answer", "3 s", found))
        rows.append((f"{what}: processor time until then", "", f"{statistics.median(costs):.1f} s"))
        rows.append((f"{what}: one load of the model, checksums aside", "3 s", f"{statistics.median(loads):.3f} s"))
    yield f"Start, {rounds} times each; {busy()}", HEAD, rows


def idle(seconds=20):
    "What a server costs that nobody asks, with three versions of the scorer loaded; then what a live trial adds."
    from seatrial.base.journal import Journal
    from seatrial.base.record import Decision
    from seatrial.rollout.trial import Gate, Plan, plan_to_dict

    numbers = ("1.0.0", "1.1.0", "1.2.0")
    artifacts = shelved(scorer(), "scorer", numbers)
    with served(artifacts) as running:
        for number in numbers:
            for text in snippets()[:8]:
                ask(running.url, f"/v2/models/scorer/versions/{number}/infer", rated(text))
        time.sleep(5)  # the requests are on record
        rows = resting(running, seconds)
        yield f"Idle for {seconds} s, no trial; {busy()}", HEAD, rows
        plan = Plan("night", "scorer", *numbers[:2], gates=(Gate("error_rate", margin=0.02),), stages=(0.1, 1.0))
        with Journal(artifacts / "journal") as journal:  # which knows the champion, as after a registration
            crown = {"to_version": numbers[0], "evidence": {"alias": "champion"}}
            journal.decide(Decision("alias", "scorer", **crown))
            journal.decide(Decision("start", "scorer", "night", evidence=plan_to_dict(plan)))
        time.sleep(15)  # the controller is there and has imported what it needs
        rows = resting(running, seconds)
        yield f"Idle for {seconds} s, with a live trial and its controller; {busy()}", HEAD, rows


def resting(running, seconds):
    "Processor time and memory of a server that is left alone for a while, and whose they are."
    pids = family(running.process.pid)
    before, begin = {pid: spent_s([pid]) for pid in pids}, time.monotonic()
    time.sleep(seconds)
    waited = time.monotonic() - begin
    cores = (spent_s(pids) - sum(before.values())) / waited
    memory, maps = held_mb(pids), {pid: Path(f"/proc/{pid}/maps").read_text() for pid in pids}
    foreign = [f"{w} in {named(p)}" for p, text in maps.items() for w in ("torch", "mlflow") if f"/{w}/" in text]
    rows = [
        ("processor, all processes", "at most 1 % of a core", f"{100 * cores:.2f} %"),
        ("memory, all processes (PSS), 3 versions of MiniLM int8", "below 500 MB", f"{memory:.0f} MB"),
        ("torch or mlflow mapped into a process", "none", ", ".join(foreign) or "none"),
    ]
    shares = {who: [pid for pid in pids if role(pid) == who] for who in map(role, pids)}
    for who, its in shares.items():
        cells = f"{100 * (spent_s(its) - sum(before[p] for p in its)) / waited:.2f} %, {held_mb(its):.0f} MB"
        rows.append((f"of both: {who}", "", cells))
    return rows


def binary(seconds=1.5):
    "A row of 600 kB as bytes and as JSON."
    import orjson

    from seatrial.client.blocking import Client

    bundle = total()
    shape = [1, *bundle.signature.inputs[0].shape[1:]]
    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    with served(shelved(bundle, "total")) as running, Client(running.url) as client, connected(running.url) as pair:
        place, path = running.url.removeprefix("http://"), "/v2/models/total/infer"
        spec = {"name": "x", "shape": shape, "datatype": "FP32"}
        text = orjson.dumps({"inputs": [spec | {"data": x.ravel()}]}, option=orjson.OPT_SERIALIZE_NUMPY)
        raw = orjson.dumps({"inputs": [spec | {"parameters": {"binary_data_size": x.nbytes}}]})
        requests = {
            "JSON": spelt(place, path, text, "Content-Type: application/json"),
            "bytes": spelt(place, path, raw + x.tobytes(), f"Inference-Header-Content-Length: {len(raw)}"),
        }
        sides = {f"{n}, written before": lambda r=r: exchange(*pair, r)[0] == 200 for n, r in requests.items()}
        sides["JSON, own client"] = lambda: client.predict("total", {"x": x}, binary=False)
        sides["bytes, own client"] = lambda: client.predict("total", {"x": x}, binary=True)
        pids, rates, costs, title = family(running.process.pid), {n: [] for n in sides}, {n: [] for n in sides}, busy()
        for _, (name, call) in itertools.product(range(ROUNDS), sides.items()):
            if not call():
                raise SystemExit(f"{name} was refused")
            before, begin, done = spent_s(pids), time.monotonic(), 0
            while time.monotonic() < begin + seconds:
                done += bool(call())
            rates[name].append(done / (time.monotonic() - begin))
            costs[name].append(1e3 * (spent_s(pids) - before) / done)
    rate, cost = ({n: statistics.median(v) for n, v in by.items()} for by in (rates, costs))
    rows = [(n, f"{rate[n]:.0f}", f"{cost[n]:.2f}", "", "") for n in sides]
    for how in ("written before", "own client"):
        a, b = f"JSON, {how}", f"bytes, {how}"
        found = f"{rate[b] / rate[a]:.1f} × (processor: {cost[a] / cost[b]:.1f} ×)"
        rows.append((f"bytes against JSON, {how}", "", "", "5 ×", found))
    sizes = f"{x.nbytes / 1e3:,.0f} kB as bytes, {len(text) / 1e3:,.0f} kB as JSON"
    head = ["request", "requests/s, 1 connection", "server's CPU, ms a request", "asked", "found"]
    yield f"A tensor of {sizes}; {title}", head, rows


@dataclass
class Crowd:
    "Clients that ask one after the other, and when each was asked and answered."

    url: str
    path: str
    body: bytes
    done: list = field(default_factory=list)  # (sent, answered, status); status 0: no answer came
    sent: dict = field(default_factory=dict)  # client -> moment of what is under way
    over: bool = False

    async def client(self, number, patience_s):
        host, port = self.url.removeprefix("http://").split(":")
        request = spelt(f"{host}:{port}", self.path, self.body)
        while not self.over:
            reader, writer = await asyncio.open_connection(host, int(port))
            self.sent[number] = time.monotonic()
            status = "lost"
            try:
                while not self.over:
                    self.sent[number], status = time.monotonic(), "lost"
                    writer.write(request)
                    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), patience_s)
                    length = int(head.lower().partition(b"content-length:")[2].split()[0])
                    await asyncio.wait_for(reader.readexactly(length), patience_s)
                    status = int(head.split()[1])
                    self.done.append((self.sent[number], time.monotonic(), status))
            except TimeoutError:
                status = "hung"
            except (OSError, asyncio.IncompleteReadError):
                pass
            finally:
                writer.close()
                if isinstance(status, str):
                    self.done.append((self.sent[number], time.monotonic(), status))

    async def answers(self, more):
        "Wait for so many further good answers."
        begin = len(self.done)
        while sum(status == 200 for *_, status in self.done[begin:]) < more:
            await asyncio.sleep(0.005)


async def killed(pid, crowd, times, clients):
    "Kill the worker again and again; the moments."
    tasks, moments = [asyncio.create_task(crowd.client(k, 15)) for k in range(clients)], []
    for _ in range(times):
        await asyncio.wait_for(crowd.answers(100), 60)
        await asyncio.sleep(0.1)  # who is killed again at once is followed more slowly, as one that cannot start
        while not (there := workers(pid)):
            await asyncio.sleep(0.02)
        with contextlib.suppress(ProcessLookupError):
            os.kill(there[0], signal.SIGKILL)
        moments.append(time.monotonic())
    await asyncio.wait_for(crowd.answers(100), 60)
    crowd.over = True
    await asyncio.gather(*tasks)
    return moments


def kills(times=20, clients=16):
    "The worker dies under load, by SIGKILL."
    with served(shelved(small(), "mlp")) as running:
        crowd, title = Crowd(running.url, "/v2/models/mlp/infer", ten()), busy()
        moments = asyncio.run(killed(running.process.pid, crowd, times, clients))
    seen, waits = Counter(status for *_, status in crowd.done), []
    for sent, answered, status in crowd.done:
        before = [m for m in moments if m < answered]  # the wait counts from the last kill, or since it was sent
        if before and status != "hung" and sent < before[-1] + 5:
            waits.append(answered - max(sent, before[-1]))
    met = sum(any(a < m < b for a, b, _ in crowd.done) for m in moments)
    rows = [
        ("hung (no answer within 15 s)", "0", f"{seen['hung']}"),
        ("unanswered (the connection was lost)", "0", f"{seen['lost']}"),
        ("longest answer after a kill", "at most 1 s", f"{max(waits):.3f} s"),
        ("answers, by status", "", ", ".join(f"{k}: {n:,}" for k, n in seen.items())),
        ("kills that met a request inside", "", f"{met}"),
    ]
    yield f"The worker killed {times} times, {clients} connections on the small network; {title}", HEAD, rows


def offered(url, seconds, connections=64, stretches=()):
    "Single texts for the scorer."
    from seatrial.client.load import load as texts

    rows = [{"text": [text]} for text in snippets()]
    return texts(url, "scorer", stretches, rows=rows, seconds=seconds, connections=connections, timeout_s=30)


def minilm(seconds=4.0, rounds=3):
    "Single texts of many connections beside the raw engine at its best batch."
    from seatrial.engine.lengths import by_length
    from seatrial.engine.runtime import load as opened
    from seatrial.engine.session import considerate

    texts, sizes, bodies = itertools.cycle(snippets()), (1, 4, 8, 16, 32, 64), [rated(text) for text in snippets()]
    with served(shelved(scorer(), "scorer")) as running, contextlib.closing(opened(scorer())) as engine:
        ours = by_length(opened(considerate(scorer())))
        pids, title, path = family(running.process.pid), busy(), f"{running.url}/v2/models/scorer/infer"
        load(path, bodies, 64, 2.0)
        sides = {n: (engine, n) for n in sizes} | {"ours": (ours, 64)}
        rates, costs = ({n: [] for n in (*sides, "served")} for _ in range(2))
        for _ in range(rounds):
            for name, (one, size) in sides.items():
                begin, before, done = time.monotonic(), time.process_time(), 0
                while time.monotonic() < begin + seconds / len(sizes):
                    one.run({"text": np.array(list(itertools.islice(texts, size)), object)})
                    done += size
                rates[name].append(done / (time.monotonic() - begin))
                costs[name].append(1e3 * (time.process_time() - before) / done)
            before, seen = spent_s(pids), load(path, bodies, 64, seconds)
            if seen.errors:
                raise SystemExit(f"{seen.errors} texts were refused")
            rates["served"].append(seen.requests_s)
            costs["served"].append(1e3 * (spent_s(pids) - before) / (seen.requests_s * seconds))
        threads = engine.threads
    rate, cost = ({n: statistics.median(v) for n, v in by.items()} for by in (rates, costs))
    fast, cheap = max(sizes, key=rate.get), min(sizes, key=cost.get)
    rows = [(f"raw engine, batches of {n}", f"{rate[n]:.0f}", f"{cost[n]:.2f}", "", "") for n in sizes]
    aside = "raw engine as the server has it: batches of 64 cut by length, threads that rest"
    rows.append((aside, f"{rate['ours']:.0f}", f"{cost['ours']:.2f}", "", ""))
    share, least = rate["served"] / rate[fast], cost[cheap] / cost["served"]
    found = f"{100 * share:.0f} % (by processor time: {100 * least:.0f} %)"
    rows.append(
        ("served, single rows of 64 connections", f"{rate['served']:.0f}", f"{cost['served']:.2f}", "90 %", found)
    )
    head = ["MiniLM int8", "rows/s", "CPU, ms a row", "asked", "found"]
    with_threads = f"{threads} threads" if threads else "as many threads as the library likes"
    yield f"Film snippets, tokenizing included, {with_threads}, taking turns, driven by {DRIVER}; {title}", head, rows


def pressed(url, bodies, clients, rate, seconds):
    "Clients that ask at about this rate whatever they hear: answers by status (0: any other trouble)."
    if DRIVER == "wrk":  # a client waits half of its time between two requests
        return press(f"{url}/v2/models/scorer/infer", bodies, clients, 500 * clients / rate, seconds)
    from seatrial.client.traffic import Stretch

    seen = offered(url, seconds, clients, [Stretch(seconds, rate, rate)])
    good, full = sum(seen.answered.values()), sum(n for said, n in seen.errors.items() if said.startswith("429"))
    return {200: good, 429: full, 0: seen.sent - good - full}


def overload(seconds=20, queue=256):
    "Three times what the server can do, whether or not it answers."
    bodies, sides = [rated(text) for text in snippets()], []
    with served(shelved(scorer(), "scorer"), serve_queue_max_rows=queue) as running:
        pids, title, path = family(running.process.pid), busy(), f"{running.url}/v2/models/scorer/infer"
        load(path, bodies, 64, 2.0)
        time.sleep(10)  # the requests are on record, and everybody has imported what is needed
        for length in (5.0, seconds, 5.0):
            before, first = spent_s(pids), {pid: held_mb([pid], "Rss") for pid in pids}
            if len(sides) == 1:
                said = pressed(running.url, bodies, 2 * queue + 88, 3 * sides[0][0][200] / 5.0, length)
            else:
                said = {200: load(path, bodies, 64, length).requests_s * length}
            sides.append((said, spent_s(pids) - before, first, {pid: held_mb([pid], "Rss") for pid in pids}))
        names = {pid: role(pid) for pid in pids}
    (said, cpu, first, last), peaks = sides[1], (sides[0], sides[2])
    good, sent, rates = said[200], sum(said.values()), [answers[200] / 5.0 for answers, *_ in peaks]
    peak, thrift = statistics.mean(rates), statistics.mean(answers[200] / spent for answers, spent, *_ in peaks)
    grown = [f"{names[pid]} {last[pid] - first[pid]:+.1f} MB" for pid in pids if last[pid] - first[pid] > 1]
    other = {status: n for status, n in said.items() if status not in (200, 429) and n}
    memory = f"{sum(first.values()):.0f} MB before, {sum(last.values()):.0f} MB at the end"
    rows = [
        ("peak, 64 connections, before and after", "", " and ".join(f"{rate:.0f} rows/s" for rate in rates)),
        ("offered", "3 × peak", f"{sent / seconds / peak:.1f} × ({sent / seconds:.0f} rows/s)"),
        ("goodput", "at least 95 % of peak", f"{100 * good / seconds / peak:.0f} % ({good / seconds:.0f} rows/s)"),
        ("answers a second of the server's CPU, of those at peak", "", f"{100 * good / cpu / thrift:.0f} %"),
        ("refused with 429", "all others", f"{100 * said.get(429, 0) / sent:.1f} % of the requests"),
        ("other failures", "0", f"{other or 0}"),
        ("memory (RSS, all processes)", "flat", memory),
        ("of it, what grew by more than 1 MB", "", "; ".join(grown) or "nothing"),
    ]
    yield f"Overload of MiniLM int8 for {seconds:.0f} s, a queue of {queue} rows, by {DRIVER}; {title}", HEAD, rows


def tracing(seconds=2.0, rounds=ROUNDS):
    "What spans cost, in processor time of all processes."
    rows, title = [], busy()
    for what, bundle, name, body, connections in (
        ("small network", small(), "mlp", ten(), 32),
        ("MiniLM int8", scorer(), "scorer", rated(snippets()[0]), 32),
    ):
        changes = {"off": {}, "default share, 0.01": {"trace_share": 0.01}, "all": {"trace_share": 1.0}}
        with contextlib.ExitStack() as stack:
            places, costs = {}, {side: [] for side in changes}
            for side, changed in changes.items():
                artifacts = shelved(bundle, name)
                if changed:
                    changed["trace_url"] = artifacts / "spans.jsonl"
                running = stack.enter_context(served(artifacts, serve_controller="false", **changed))
                ask(running.url, f"/v2/models/{name}/infer", body)
                places[side] = running.url, family(running.process.pid)
            for turn, side in itertools.product(range(rounds + 1), places):
                (url, pids), before = places[side], spent_s(places[side][1])
                seen = load(f"{url}/v2/models/{name}/infer", body, connections, seconds)
                if seen.errors:
                    raise SystemExit(f"{what}, {side}: {seen.errors} requests failed")
                if turn:  # the first one warms up
                    costs[side].append(1e6 * (spent_s(pids) - before) / (seen.requests_s * seconds))
        for side in changes:
            more = statistics.median(a / b - 1 for a, b in zip(costs[side], costs["off"], strict=True))
            cells = ("at most 3 %", f"{100 * more:+.1f} %") if side != "off" else ("", "")
            rows.append((what, side, f"{statistics.median(costs[side]):,.0f}", *cells))
    head = ["model", "followed", "CPU µs a request", "asked", "found"]
    yield f"Tracing to a file, 32 connections, {rounds} turns each; {title}", head, rows


SECTIONS = {
    "start": start,
    "idle": idle,
    "binary": binary,
    "kills": kills,
    "minilm": minilm,
    "overload": overload,
    "tracing": tracing,
}
LONG = {"kills": {"times": 100}, "overload": {"seconds": 60}}  # as it is asked; the usual run is shorter
