"""A threaded TCP proxy that does to a connection what networks do: delay, trickle, swallow, cut, reset.

    with FaultProxy(peer.port, faults=Faults(reset_after_bytes=100)) as bad: ...   # dial bad.port

:class:`Faults` may be changed while connections run. Counts are of bytes on the way back (target to client).
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from tests.kit.streams import CHUNK_BYTES, Stream

JOIN_S = 10.0
DRIP_BYTES = 16


@dataclass(slots=True)
class Faults:
    latency_s: float = 0.0
    """Added to each chunk, each way."""
    drip_bytes_per_s: int | None = None
    """On the way back: in drops of 16 bytes at this rate."""
    reset_after_bytes: int | None = None
    """RST to the client after so many bytes back."""
    end_after_bytes: int | None = None
    """FIN to the client after so many bytes back; its own direction stays open."""
    blackhole: bool = False
    """Connections are accepted and their bytes taken, and nothing is passed on, either way."""


@dataclass(slots=True)
class _Pair:
    client: socket.socket
    target: socket.socket
    cut: bool = False

    def close(self, *, with_reset: bool) -> None:
        for sock in (self.client, self.target):
            if with_reset and sock.fileno() >= 0:
                Stream(sock).reset()
            sock.close()


class FaultProxy:
    """Between a client and ``127.0.0.1:target_port``."""

    def __init__(self, target_port: int, *, faults: Faults | None = None) -> None:
        self.faults = faults or Faults()
        self._target_port = target_port
        self._pairs: list[_Pair] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._acceptor = threading.Thread(target=self._accept, name="fault proxy accepts", daemon=True)
        self._acceptor.start()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    @property
    def endpoint(self) -> dict[str, Any]:
        return {"address": "127.0.0.1", "port": self.port}

    def cut(self) -> None:
        """RST to both sides of every connection that exists; new ones are served."""
        pairs, self._pairs = self._pairs, []
        threads, self._threads = self._threads, []
        for pair in pairs:
            pair.cut = True
            for sock in (pair.client, pair.target):
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RD)  # wakes our pump and puts nothing on the wire
        for thread in threads:
            thread.join(JOIN_S)
        for pair in pairs:
            pair.close(with_reset=True)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join(JOIN_S)
        self._listener.close()
        for pair in self._pairs:
            Stream(pair.client).interrupt()
            Stream(pair.target).interrupt()
        for thread in self._threads:
            thread.join(JOIN_S)
        for pair in self._pairs:
            pair.close(with_reset=False)
        assert not any(thread.is_alive() for thread in self._threads), "a fault proxy's thread did not end"

    def __enter__(self) -> FaultProxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                target = socket.create_connection(("127.0.0.1", self._target_port), timeout=JOIN_S)
            except OSError:
                Stream(client).reset()
                continue
            target.settimeout(None)
            pair = _Pair(client, target)
            self._pairs.append(pair)
            for pump in (self._forth, self._back):
                thread = threading.Thread(target=pump, args=(pair,), name="fault pump", daemon=True)
                self._threads.append(thread)
                thread.start()

    def _forth(self, pair: _Pair) -> None:
        with contextlib.suppress(OSError):  # the other pump has reset it, or a side has gone
            while data := pair.client.recv(CHUNK_BYTES):
                if not self.faults.blackhole:
                    time.sleep(self.faults.latency_s)
                    pair.target.sendall(data)
            if not pair.cut:
                pair.target.shutdown(socket.SHUT_WR)

    def _back(self, pair: _Pair) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := pair.target.recv(CHUNK_BYTES):
                if self.faults.blackhole:
                    continue
                time.sleep(self.faults.latency_s)
                limit = self.faults.reset_after_bytes or self.faults.end_after_bytes
                if limit is not None and passed + len(data) >= limit:
                    self._send_back(pair.client, data[: limit - passed])
                    if self.faults.reset_after_bytes is not None:
                        self._reset(pair)
                    else:
                        pair.client.shutdown(socket.SHUT_WR)
                    return
                self._send_back(pair.client, data)
                passed += len(data)
            if not pair.cut:
                pair.client.shutdown(socket.SHUT_WR)

    def _reset(self, pair: _Pair) -> None:
        """RST needs the last reference gone, and the other pump blocks on this very socket: wake it first."""
        pair.cut = True
        for sock in (pair.client, pair.target):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RD)
        pair.close(with_reset=True)

    def _send_back(self, client: socket.socket, data: bytes) -> None:
        rate = self.faults.drip_bytes_per_s
        if rate is None:
            client.sendall(data)
            return
        for start in range(0, len(data), DRIP_BYTES):
            drop = data[start : start + DRIP_BYTES]
            client.sendall(drop)
            time.sleep(len(drop) / rate)
