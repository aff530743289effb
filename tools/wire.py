"A closed-loop HTTP load generator that costs little: a connection sends its next request when the last was answered."

import asyncio
import time
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Load:
    "What one run against one server saw."

    requests_s: float
    p50_ms: float
    p99_ms: float
    errors: int  # answers that were not 200


class Connection(asyncio.Protocol):
    "One keep-alive connection; it knows just enough HTTP/1.1 to find the end of an answer."

    def __init__(self, request, until, times, errors):
        self.request, self.until, self.times, self.errors = request, until, times, errors
        self.buffer, self.done = b"", asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport
        self.send()

    def send(self):
        self.sent = time.perf_counter()
        self.transport.write(self.request)

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


async def drive(url, body, connections, seconds):
    parts = urlsplit(url)
    lines = (f"POST {parts.path} HTTP/1.1", f"Host: {parts.netloc}", "Content-Type: application/json")
    head = "\r\n".join((*lines, f"Content-Length: {len(body)}", "", ""))
    times, errors, loop = [], [], asyncio.get_running_loop()
    start = time.perf_counter()
    opened = [
        await loop.create_connection(
            lambda: Connection(head.encode() + body, start + seconds, times, errors), parts.hostname, parts.port
        )
        for _ in range(connections)
    ]
    await asyncio.wait_for(asyncio.gather(*(c.done for _, c in opened)), seconds + 30)
    times, spent = sorted(times), time.perf_counter() - start
    return Load(len(times) / spent, 1e3 * times[len(times) // 2], 1e3 * times[int(0.99 * len(times))], sum(errors))


def load(url, body, connections=32, seconds=3.0):
    "Drive one server for some seconds."
    return asyncio.run(drive(url, body, connections, seconds))
