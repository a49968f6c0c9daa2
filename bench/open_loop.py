"""``python -m bench.open_loop PORT PATH RATE SECONDS``: HTTP/1.1 requests at a fixed rate, and how long each took.

Open loop: request *i* is due at ``began + i / RATE``, and its latency counts from then, not from when it could be sent.
A proxy that pauses is thus charged for every request that came due in the pause; a closed loop would have waited with
it, and noted one slow request ("coordinated omission"). A request that is due while all connections are busy waits here
for one, and that wait counts as well: it is the proxy's.

What must not count is the generator's own slowness. It is one thread and no event loop, sleeps to the microsecond (a
``select`` on the epoll: ``epoll_wait`` itself knows milliseconds only), and reports how late it was for requests that
found a connection free (``behind_s``, the 99th percentile). Where that is not small against the latency, the latency is
the generator's, and the report says so.
"""

from __future__ import annotations

import json
import re
import select
import socket
import sys
import time
from collections import deque
from contextlib import ExitStack

from bench.results import percentile

CONNECTIONS = 64
WARM_UP = 0.1
"""Of the time, before anything counts: connections are opened, pools are filled, code is warm."""
PATIENCE_S = 5.0
"""For answers after the last request was sent."""
READ_BYTES = 64 * 1024
SLACK = "/proc/self/timerslack_ns"
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


class Connection:
    """``due`` is that of the request under way."""

    __slots__ = ("due", "left", "received", "sock")

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=5)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.setblocking(False)
        self.due = 0.0
        self.received = b""
        self.left = -1
        """Bytes of the body yet to come; -1 within the head."""

    def receive(self) -> bool:
        """Whether the answer is complete. Raises ``ConnectionError`` for any answer but 200 with a length."""
        data = self.sock.recv(READ_BYTES)
        if not data:
            raise ConnectionError("the connection ended within an answer")
        if self.left < 0:
            self.received += data
            head, end, body = self.received.partition(b"\r\n\r\n")
            if not end:
                return False
            length = LENGTH.search(head + b"\r\n")
            if length is None or not head.startswith(b"HTTP/1.1 200 "):
                raise ConnectionError(f"not an answer: {head[:200]!r}")
            self.received = b""
            self.left = int(length[1]) - len(body)
        else:
            self.left -= len(data)
        if self.left:
            return False
        self.left = -1
        return True


def run(port: int, path: str, rate: float, seconds: float, connections: int = CONNECTIONS) -> dict[str, float]:
    """Latencies in seconds, of the requests that came due behind the warm-up; ``rate``: what was answered of them."""
    with ExitStack() as stack:
        free: deque[Connection] = deque()
        for _ in range(connections):
            connection = Connection(port)
            stack.enter_context(connection.sock)
            free.append(connection)
        return _load(free, stack.enter_context(select.epoll()), path, rate, seconds)


def _load(free: deque[Connection], epoll: select.epoll, path: str, rate: float, seconds: float) -> dict[str, float]:
    request = f"GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode()
    by_fd = {connection.sock.fileno(): connection for connection in free}
    for fd in by_fd:
        epoll.register(fd, select.EPOLLIN)
    total = max(1, int(rate * seconds))
    clock = time.perf_counter
    began = clock() + 0.01
    counts_from = began + seconds * WARM_UP
    latencies: list[float] = []
    behind: list[float] = []
    sent = answered = 0
    watch = [epoll.fileno()]
    now = free_since = clock()
    while answered < total:
        due = began + sent / rate
        while sent < total and due <= now and free:
            connection = free.popleft()
            connection.due = due
            if connection.sock.send(request) != len(request):
                raise ConnectionError("a request did not fit the socket's buffer")
            if due >= counts_from:
                behind.append(now - max(due, free_since))
            sent += 1
            due = began + sent / rate
            now = clock()
        wait = max(0.0, due - now) if sent < total and free else PATIENCE_S
        if not select.select(watch, [], [], wait)[0]:
            now = clock()
            if wait == PATIENCE_S:
                raise ConnectionError(f"no answer for {PATIENCE_S:g} s: {sent} sent, {answered} answered")
            continue
        for fd, _ in epoll.poll(0):
            connection = by_fd[fd]
            if connection.receive():
                now = clock()
                answered += 1
                if not free:
                    free_since = now
                free.append(connection)
                if connection.due >= counts_from:
                    latencies.append(now - connection.due)
        now = clock()
    ended = now
    latencies.sort()
    behind.sort()
    return {
        "rate": len(latencies) / (ended - counts_from),
        "p50_s": percentile(latencies, 0.5),
        "p99_s": percentile(latencies, 0.99),
        "p999_s": percentile(latencies, 0.999),
        "behind_s": percentile(behind, 0.99) if behind else 0.0,
    }


def be_punctual() -> None:
    """Wake from a sleep when it is over; by default the kernel may add 50 µs."""
    with open(SLACK, "w") as slack:
        slack.write("1")


if __name__ == "__main__":
    be_punctual()
    print(json.dumps(run(int(sys.argv[1]), sys.argv[2], float(sys.argv[3]), float(sys.argv[4]))))
