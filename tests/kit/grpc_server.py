"""The program behind :class:`tests.kit.grpc_peers.GrpcServer`: a grpcio server with one method for each thing that gRPC
can do. Messages are bytes, so nothing is generated.

    python grpc_server.py --port 50051 --name a [--certificate CRT --key KEY [--client-ca CRT]]

It writes what it saw of calls that end early to standard output, one JSON object a line. SIGTERM ends it gracefully.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import json
import signal
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import grpc

SERVICE = "kit.Test"
GRACE_S = 5.0

Context = grpc.aio.ServicerContext


def say(event: str, context: Context, **more: object) -> None:
    call = dict(context.invocation_metadata() or ()).get("x-call", "")
    print(json.dumps({"event": event, "call": call, **more}), flush=True)


class Test:
    """The methods, by their names on the wire."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def empty(self, request: bytes, context: Context) -> bytes:
        return b""

    async def echo(self, request: bytes, context: Context) -> bytes:
        return request

    async def who(self, request: bytes, context: Context) -> bytes:
        """Which server this is."""
        return self.name.encode()

    async def digest(self, request: bytes, context: Context) -> bytes:
        """Length and hash of a large message."""
        return _summary([request])

    async def produce(self, request: bytes, context: Context) -> bytes:
        """A message of as many bytes as asked for."""
        return b"x" * int(request)

    async def collect(self, requests: AsyncIterator[bytes], context: Context) -> bytes:
        """Client streaming: number, length and hash of what came."""
        messages = [message async for message in requests]
        return str(len(messages)).encode() + b" " + _summary(messages)

    async def repeat(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        """Server streaming: ``COUNT BYTES``, each message opening with its number."""
        count, size = map(int, request.split())
        for number in range(count):
            yield str(number).encode().ljust(size, b".")

    async def chat(self, requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        """Bidirectional streaming: each message comes back at once."""
        async for message in requests:
            yield message

    async def fail(self, request: bytes, context: Context) -> bytes:
        """Ends with the code and the message that the request names, and a trailer."""
        code, _, message = request.decode().partition(" ")
        context.set_trailing_metadata((("x-why", "asked-for"),))
        await context.abort(grpc.StatusCode[code], message)
        raise AssertionError("abort raises")

    async def fail_late(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        """As :meth:`fail`, behind one message."""
        yield b"first"
        await self.fail(request, context)

    async def metadata(self, request: bytes, context: Context) -> bytes:
        """What was received, as JSON (``-bin`` in base64); ``x-…`` comes back as initial and as trailing metadata."""
        received = [(key, value) for key, value in context.invocation_metadata() or ()]
        own = [(key, value) for key, value in received if key.startswith("x-kit-")]
        await context.send_initial_metadata(own)
        context.set_trailing_metadata([(f"t-{key}", value) for key, value in own])
        return json.dumps([[key, _text(value)] for key, value in received]).encode()

    async def deadline(self, request: bytes, context: Context) -> bytes:
        """Seconds until the client's deadline, ``none`` without one."""
        left_s = context.time_remaining()
        return b"none" if left_s is None else f"{left_s:.3f}".encode()

    async def wait(self, request: bytes, context: Context) -> bytes:
        """Sends its initial metadata and never a message; says when it begins and how it ends."""
        await context.send_initial_metadata((("x-kit-begun", "1"),))
        await self._hang(context)
        return b""

    async def wait_after_first(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        """As :meth:`wait`, behind one message."""
        yield b"first"
        await self._hang(context)

    async def _hang(self, context: Context) -> None:
        say("waiting", context)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            say("cancelled", context)
            raise


def _text(value: str | bytes) -> str:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


def _summary(messages: Iterable[bytes]) -> bytes:
    hasher = hashlib.sha256()
    total = 0
    for message in messages:
        hasher.update(message)
        total += len(message)
    return f"{total} {hasher.hexdigest()}".encode()


def handlers(test: Test) -> grpc.GenericRpcHandler:
    """Without serialisers a message is the bytes that it is."""
    unary = grpc.unary_unary_rpc_method_handler
    down = grpc.unary_stream_rpc_method_handler
    return grpc.method_handlers_generic_handler(
        SERVICE,
        {
            "Empty": unary(test.empty),
            "Echo": unary(test.echo),
            "Who": unary(test.who),
            "Digest": unary(test.digest),
            "Produce": unary(test.produce),
            "Collect": grpc.stream_unary_rpc_method_handler(test.collect),
            "Repeat": down(test.repeat),
            "Chat": grpc.stream_stream_rpc_method_handler(test.chat),
            "Fail": unary(test.fail),
            "FailLate": down(test.fail_late),
            "Metadata": unary(test.metadata),
            "Deadline": unary(test.deadline),
            "Wait": unary(test.wait),
            "WaitAfterFirst": down(test.wait_after_first),
        },
    )


async def serve(options: argparse.Namespace) -> None:
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),
        ]
    )
    server.add_generic_rpc_handlers((handlers(Test(options.name)),))
    address = f"127.0.0.1:{options.port}"
    if options.certificate is None:
        server.add_insecure_port(address)
    else:
        client_ca = options.client_ca.read_bytes() if options.client_ca else None
        pair = (options.key.read_bytes(), options.certificate.read_bytes())
        credentials = grpc.ssl_server_credentials([pair], client_ca, require_client_auth=client_ca is not None)
        server.add_secure_port(address, credentials)
    await server.start()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await server.stop(GRACE_S)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--name", default="")
    parser.add_argument("--certificate", type=Path)
    parser.add_argument("--key", type=Path)
    parser.add_argument("--client-ca", type=Path)
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
