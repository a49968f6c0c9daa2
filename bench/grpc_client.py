"""``python -m bench.grpc_client PORT unary|stream SECONDS STREAMS``: a grpcio client, a closed loop on each stream.

``unary``: a call after the other. ``stream``: one call that stays, each message sent when the one before came back.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator

import grpc  # type: ignore[import-untyped]
import uvloop

from bench.grpc_server import SERVICE

MESSAGE = b"hello world " * 5
WITHIN_S = 10.0
OPTIONS = (("grpc.enable_retries", 0), ("grpc.enable_http_proxy", 0))


class Loop:
    """One stream's worth of load until ``end``."""

    def __init__(self, channel: grpc.aio.Channel, end: float) -> None:
        self.channel = channel
        self.end = end
        self.count = 0

    async def unary(self) -> None:
        call = self.channel.unary_unary(f"/{SERVICE}/Unary")
        while time.perf_counter() < self.end:
            if await call(MESSAGE, timeout=WITHIN_S) != MESSAGE:
                raise ConnectionError("another message came back")
            self.count += 1

    async def stream(self) -> None:
        returned = asyncio.Semaphore()

        async def messages() -> AsyncIterator[bytes]:
            while time.perf_counter() < self.end:
                await returned.acquire()
                yield MESSAGE

        async for message in self.channel.stream_stream(f"/{SERVICE}/Stream")(messages()):
            if message != MESSAGE:
                raise ConnectionError("another message came back")
            self.count += 1
            returned.release()


async def run(port: int, mode: str, seconds: float, streams: int) -> tuple[int, float]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS) as channel:
        await channel.unary_unary(f"/{SERVICE}/Unary")(MESSAGE, timeout=WITHIN_S)  # connect, before the clock runs
        began = time.perf_counter()
        loops = [Loop(channel, began + seconds) for _ in range(streams)]
        await asyncio.wait_for(asyncio.gather(*(getattr(loop, mode)() for loop in loops)), seconds + WITHIN_S)
        return sum(loop.count for loop in loops), time.perf_counter() - began


if __name__ == "__main__":
    count, took_s = uvloop.run(run(int(sys.argv[1]), sys.argv[2], float(sys.argv[3]), int(sys.argv[4])))
    print(json.dumps({"count": count, "seconds": took_s}))
