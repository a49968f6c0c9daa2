"""grpcio on both ends: a server in a process of its own, and a client that says in one line what it wants.

    with GrpcServer(tmp_path / "a") as server, Caller(koguma.port("app")) as caller:
        assert caller.unary("Echo", b"hello") == b"hello"
        server.restart()

The methods are those of :mod:`tests.kit.grpc_server`.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc

from tests.kit import poll
from tests.kit.apps import App
from tests.kit.ca import Identity

SERVER_PROGRAM = Path(__file__).with_name("grpc_server.py")
SERVICE = "kit.Test"
CALL_S = 15.0

Metadata = Sequence[tuple[str, str | bytes]]


class GrpcServer(App):
    """A grpcio server: plain, TLS with an identity, mTLS with a client CA as well."""

    def __init__(
        self,
        directory: Path,
        *,
        name: str = "",
        identity: Identity | None = None,
        client_ca_pem: str | None = None,
    ) -> None:
        super().__init__(directory)
        self.name = name
        self.identity = identity
        self.client_ca_pem = client_ca_pem

    def command(self) -> list[str]:
        words = [sys.executable, "-P", str(SERVER_PROGRAM), "--port", str(self.port), "--name", self.name]
        if self.identity is not None:
            certificate, key = self._write_identity(self.identity)
            words += ["--certificate", str(certificate), "--key", str(key)]
        if self.client_ca_pem is not None:
            client_ca = self.directory / "client-ca.crt"
            client_ca.write_text(self.client_ca_pem)
            words += ["--client-ca", str(client_ca)]
        return words

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Ends it, with grace (SIGTERM) or without (SIGKILL); its port stays its own."""
        assert self._program is not None
        self._program.send(how)
        self._program.wait()
        self._program.close()

    def restart(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Ends it, and starts another on the same port."""
        self.stop(how)
        self.__enter__()

    def events(self, event: str, call: str = "") -> int:
        """How often it said so, of the calls with this ``x-call``."""
        assert self._program is not None
        said = [json.loads(line) for line in list(self._program.stdout)]
        return sum((one["event"], one["call"]) == (event, call) for one in said)

    def wait_for(self, event: str, call: str = "", count: int = 1) -> None:
        poll.until(lambda: self.events(event, call) >= count, f"the server to say {event!r} of {call!r}")


class Caller:
    """One channel, hence one connection: no retries, no proxy from the environment, nothing shared with others."""

    def __init__(self, port: int, **options: int | str) -> None:
        settings: dict[str, int | str] = {
            "grpc.enable_retries": 0,
            "grpc.enable_http_proxy": 0,
            "grpc.use_local_subchannel_pool": 1,
            "grpc.max_receive_message_length": -1,
            "grpc.max_send_message_length": -1,
            "grpc.initial_reconnect_backoff_ms": 100,
            "grpc.min_reconnect_backoff_ms": 100,
            "grpc.max_reconnect_backoff_ms": 200,
            **options,
        }
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=list(settings.items()))

    def unary(self, method: str, message: bytes = b"", **more: Any) -> bytes:
        """The answer; a status other than OK raises ``grpc.RpcError``."""
        return bytes(self.channel.unary_unary(_path(method))(message, **_options(more)))

    def start(self, method: str, message: bytes = b"", **more: Any) -> Any:
        """A unary call that goes on: a ``grpc.Future``."""
        return self.channel.unary_unary(_path(method)).future(message, **_options(more))

    def upload(self, method: str, messages: Iterable[bytes], **more: Any) -> bytes:
        return bytes(self.channel.stream_unary(_path(method))(iter(messages), **_options(more)))

    def download(self, method: str, message: bytes = b"", **more: Any) -> Any:
        """An iterator of messages that is the call as well."""
        return self.channel.unary_stream(_path(method))(message, **_options(more))

    def chat(self, messages: Iterable[bytes], **more: Any) -> Any:
        """As :meth:`download`, with a stream of messages on the way up."""
        return self.channel.stream_stream(_path("Chat"))(iter(messages), **_options(more))

    def refusal(self, method: str = "Empty", message: bytes = b"", **more: Any) -> tuple[grpc.StatusCode, str]:
        """Status and message of a unary call that must fail."""
        call = self.start(method, message, **more)
        error = call.exception()
        assert error is not None, f"{method} succeeded with {call.result()[:100]!r}"
        return call.code(), call.details()

    def __enter__(self) -> Caller:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.channel.close()


def _path(method: str) -> str:
    return method if method.startswith("/") else f"/{SERVICE}/{method}"


def _options(more: dict[str, Any]) -> dict[str, Any]:
    return {"timeout": CALL_S, **more}
