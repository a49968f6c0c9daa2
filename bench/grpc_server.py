"""``python -m bench.grpc_server PLAIN_PORT TLS_PORT CERTIFICATE KEY``: a grpcio server that returns what it is sent.

Messages are bytes, so nothing is generated: what is measured is HTTP/2 and gRPC's framing, not Protocol Buffers.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import grpc  # type: ignore[import-untyped]
import uvloop

SERVICE = "bench.Echo"


async def unary(request: bytes, context: object) -> bytes:
    return request


async def stream(requests: AsyncIterator[bytes], context: object) -> AsyncIterator[bytes]:
    async for message in requests:
        yield message


async def serve(plain_port: int, tls_port: int, certificate: Path, key: Path) -> None:
    server = grpc.aio.server()
    methods = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Stream": grpc.stream_stream_rpc_method_handler(stream),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    server.add_insecure_port(f"127.0.0.1:{plain_port}")
    pair = (key.read_bytes(), certificate.read_bytes())
    server.add_secure_port(f"127.0.0.1:{tls_port}", grpc.ssl_server_credentials([pair]))
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4])))
