"""A closed-loop HTTP load generator that costs little: a connection sends its next request when the last was answered.

Where `wrk` is installed it drives, because it costs a fifth of what Python does; elsewhere `drive` does the same. With
few cores the driver takes them from the server, so whoever compares should say which one it was (`DRIVER`).
"""

import asyncio
import itertools
import os
import re
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

DRIVER = "wrk" if shutil.which("wrk") else "tools/wire.py"
UNITS_MS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


@dataclass(frozen=True)
class Load:
    "What one run against one server saw."

    requests_s: float
    p50_ms: float
    p99_ms: float
    errors: int  # answers that were not 200


class Connection(asyncio.Protocol):
    "One keep-alive connection; it knows just enough HTTP/1.1 to find the end of an answer."

    def __init__(self, requests, until, times, errors):
        self.requests, self.until, self.times, self.errors = requests, until, times, errors
        self.buffer, self.done = b"", asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport
        self.send()

    def send(self):
        self.sent = time.perf_counter()
        self.transport.write(next(self.requests))

    def data_received(self, data):
        self.buffer += data
        head, found, body = self.buffer.partition(b"\r\n\r\n")
        if not found:
            return
        lower = head.lower()
        start = lower.index(b"content-length:") + 15
        length = int(lower[start : lower.find(b"\r\n", start) if b"\r\n" in lower[start:] else None])
        if len(body) < length:
            return
        now = time.perf_counter()
        self.times.append(now - self.sent)
        self.errors.append(b" 200 " not in head[:16])
        self.buffer = b""
        self.send() if now < self.until else self.transport.close()

    def connection_lost(self, error):
        if not self.done.done():
            self.done.set_result(error)


def many(body):
    "A list of bodies; one is used again and again."
    return [body] if isinstance(body, bytes) else list(body)


async def drive(url, body, connections, seconds):
    parts = urlsplit(url)
    lines = (f"POST {parts.path} HTTP/1.1", f"Host: {parts.netloc}", "Content-Type: application/json")
    heads = (("\r\n".join((*lines, f"Content-Length: {len(b)}", "", "")).encode(), b) for b in many(body))
    requests = itertools.cycle([head + b for head, b in heads])
    times, errors, loop = [], [], asyncio.get_running_loop()
    start = time.perf_counter()
    opened = [
        await loop.create_connection(
            lambda: Connection(requests, start + seconds, times, errors), parts.hostname, parts.port
        )
        for _ in range(connections)
    ]
    await asyncio.wait_for(asyncio.gather(*(c.done for _, c in opened)), seconds + 30)
    times, spent = sorted(times), time.perf_counter() - start
    return Load(len(times) / spent, 1e3 * times[len(times) // 2], 1e3 * times[int(0.99 * len(times))], sum(errors))


def said(text, pattern):
    "A number of wrk's report; a time in milliseconds."
    found = re.search(pattern + r"\s*([\d.]+)(us|ms|s)?", text)
    return float(found[1]) * UNITS_MS.get(found[2], 1.0) if found else 0.0


def wrk_says(url, body, connections, seconds, more=""):
    "What wrk reports; `more` is Lua."
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "post.lua"
        lines = [
            "local bodies = {" + ", ".join(f"[==[{one.decode()}]==]" for one in many(body)) + "}",
            "local requests, turn = {}, 0",
            'local said = {["Content-Type"] = "application/json"}',
            "function init(args)",
            '  for i, one in ipairs(bodies) do requests[i] = wrk.format("POST", nil, said, one) end',
            "end",
            "function request()",
            "  turn = turn % #requests + 1",
            "  return requests[turn]",
            "end",
        ]
        script.write_text("\n".join([*lines, more]))
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency", "-s", str(script), url]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def wrk(url, body, connections, seconds):
    "The same as `drive`, by wrk."
    text = wrk_says(url, body, connections, seconds)
    errors = int(said(text, r"Non-2xx or 3xx responses:"))
    return Load(said(text, r"Requests/sec:"), said(text, r"\b50%"), said(text, r"\b99%"), errors)


PRESS = """
local counts, pause, threads = {}, %g, {}
function setup(thread) table.insert(threads, thread) end
function delay() return math.floor(2 * pause * math.random()) end
function response(status) counts[status] = (counts[status] or 0) + 1; told = ""
  for k, n in pairs(counts) do told = told .. k .. "=" .. n .. " " end
end
function done() print("answers: " .. (threads[1]:get("told") or "")) end
"""


def press(url, body, connections, pause_ms, seconds):
    "Clients that pause (twice as long at most) between an answer and the next request, by wrk: answers by status."
    text = wrk_says(url, body, connections, seconds, PRESS % pause_ms)
    return {int(k): int(n) for k, n in re.findall(r"(\d+)=(\d+)", re.search("answers:.*", text)[0])}


def load(url, body, connections=32, seconds=3.0):
    "Drive one server for some seconds, with one body or with several in turn."
    if DRIVER == "wrk":
        return wrk(url, body, connections, seconds)
    return asyncio.run(drive(url, body, connections, seconds))


def family(pid):
    "A process and all its descendants."
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True).stdout
    parents, found = dict(map(int, line.split()) for line in listed.splitlines()), [pid]
    for parent in found:
        found += [child for child, its in parents.items() if its == parent]
    return found


def cpu_s(pids):
    "What processes have used of the processor so far (Linux); unlike a rate, a busy neighbour hardly changes it."
    ticks = 0
    for pid in pids:
        stat = Path(f"/proc/{pid}/stat")
        if stat.exists():
            ticks += sum(map(int, stat.read_text().rpartition(")")[2].split()[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")
