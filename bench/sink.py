"""``python -m bench.sink PORT PATH SECONDS``: reads large bodies and drops them, as fast as they come.

In large pieces and without a look at them, so that the proxy is the limit and not the reader.
"""

from __future__ import annotations

import json
import re
import socket
import sys
import time

READ_BYTES = 1024 * 1024
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


def run(port: int, path: str, seconds: float) -> tuple[int, float]:
    """Bytes of bodies, and seconds from the first request. The last body is not read to its end."""
    buffer = memoryview(bytearray(READ_BYTES))
    request = f"GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode()
    total = 0
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        began = time.perf_counter()
        end = began + seconds
        now = began
        while now < end:
            sock.sendall(request)
            left = _head(sock)
            while left > 0 and now < end:
                count = sock.recv_into(buffer, min(left, READ_BYTES))
                if not count:
                    raise ConnectionError("the connection ended within a body")
                left -= count
                total += count
                now = time.perf_counter()
        return total, now - began


def _head(sock: socket.socket) -> int:
    """Reads a head, and returns the length of its body; what came of the body with it is not counted."""
    head = b""
    while b"\r\n\r\n" not in head:
        more = sock.recv(4096)
        if not more:
            raise ConnectionError("the connection ended within a head")
        head += more
    length = LENGTH.search(head)
    if length is None or not head.startswith(b"HTTP/1.1 200 "):
        raise ConnectionError(f"not the body that was asked for: {head[:200]!r}")
    return int(length[1]) - len(head.partition(b"\r\n\r\n")[2])


if __name__ == "__main__":
    count, took_s = run(int(sys.argv[1]), sys.argv[2], float(sys.argv[3]))
    print(json.dumps({"bytes": count, "seconds": took_s}))
