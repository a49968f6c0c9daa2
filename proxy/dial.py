"""One attempt to reach one endpoint: connect, then, where TLS is asked for, handshake and verify, under one deadline.

The protocol handed in hears ``connection_made`` only once the connection may carry the application's bytes.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from datetime import datetime
from typing import cast

from config.plan import ClusterPlan
from proxy.balance import Endpoint
from proxy.dialled import Dialled
from proxy.sockets import connect_abstract, keep_alive
from proxy.tls_stream import TlsConnector
from tls.handshake import ClientHandshake, Established, Refused, sni_of
from tls.policy import Origination
from tls.sessions import SessionCache, session_key


class _Deadline:
    """Cancels the current task at a deadline, unless the protocol was connected by then.

    ``asyncio.timeout`` could cancel in the very moment in which the connection has come about and was handed over.
    """

    def __init__(self, timeout_s: float, inner: Dialled) -> None:
        self._timeout_s = timeout_s
        self._inner = inner
        self._expired = False
        self.connector: TlsConnector | None = None
        """The handshake under way, if it has come to that: it then knows best what to say."""

    def __enter__(self) -> _Deadline:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._timer = asyncio.get_running_loop().call_later(self._timeout_s, self._expire)
        return self

    def _expire(self) -> None:
        if self._inner.connected:
            return
        self._inner.abandon()
        if self.connector is None or not self.connector.time_out(self._error()):
            self._expired = True
            self._task.cancel()

    def _error(self) -> TimeoutError:
        return TimeoutError(f"no connection within {self._timeout_s:g} s")

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, _traceback: object) -> None:
        self._timer.cancel()
        if self._expired and self._task.uncancel() <= 0 and kind is asyncio.CancelledError:
            raise self._error() from exc


class Dialer:
    """Opens upstream connections; holds the TLS sessions that may be resumed."""

    def __init__(self, wall_clock: Callable[[], datetime]) -> None:
        self._loop = asyncio.get_running_loop()
        self._wall_clock = wall_clock
        self._sessions = SessionCache()

    async def open(self, endpoint: Endpoint, plan: ClusterPlan, inner: Dialled) -> Established | None:
        """Connect ``inner``. What the handshake established, or ``None`` for plaintext.

        Raises ``OSError`` (``TimeoutError`` included) where no connection came about, and :class:`Refused` where one
        did and was not trusted.
        """
        with _Deadline(plan.connect_timeout_s, inner) as deadline:
            if plan.tls is None:
                await self._connect(endpoint, plan, inner)
                return None
            explained = endpoint.explain
            try:
                return await self._secure(endpoint, plan, plan.tls, inner, deadline)
            except Refused as refused:
                if explained or not refused.verdict.cause.is_chain_failure:
                    raise
                # Trusted until now, the endpoint was not asked what it presents. Once more, to be able to say.
                return await self._secure(endpoint, plan, plan.tls, inner, deadline)

    async def _secure(
        self, endpoint: Endpoint, plan: ClusterPlan, policy: Origination, inner: Dialled, deadline: _Deadline
    ) -> Established:
        handshake = ClientHandshake(
            policy,
            host=endpoint.host,
            is_dns=endpoint.is_dns,
            explain=endpoint.explain,
            sessions=self._sessions,
            session_key=self._session_key(endpoint, policy),
            now=self._wall_clock(),
        )
        connector = deadline.connector = TlsConnector(handshake, inner, self._wall_clock)
        try:
            await self._connect(endpoint, plan, connector)
            established = await connector.result
        except asyncio.CancelledError:
            connector.abandon()
            raise
        except Refused:
            endpoint.explain = True
            raise
        endpoint.explain = False
        return established

    def _session_key(self, endpoint: Endpoint, policy: Origination) -> str:
        """Computed once per endpoint and policy: it hashes the material."""
        if endpoint.session_policy is not policy:
            sni = sni_of(policy, endpoint.host if endpoint.is_dns else None)
            endpoint.session_key = session_key(policy, str(endpoint.address), sni)
            endpoint.session_policy = policy
        return endpoint.session_key

    async def _connect(self, endpoint: Endpoint, plan: ClusterPlan, protocol: asyncio.Protocol) -> None:
        address = endpoint.address
        if isinstance(address, str):
            if address.startswith("@"):
                await self._loop.create_unix_connection(lambda: protocol, sock=connect_abstract(address[1:]))
            else:
                await self._loop.create_unix_connection(lambda: protocol, address)
            return
        source = (str(plan.source), 0) if plan.source is not None else None
        transport, _ = await self._loop.create_connection(lambda: protocol, *address, local_addr=source)
        if not transport.is_closing():
            keep_alive(cast("socket.socket", transport.get_extra_info("socket")))
