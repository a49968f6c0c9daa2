"""The agent that issues identities: SPIRE's, or whoever else serves the SPIFFE Workload API on this machine.

    plan wants one -> apply(True) -> a thread: connect, listen to the stream of updates -> publish
                   -> delivered(), read by the next plan, which `changed` asks for

The package ``spiffe`` (extra ``koguma[spire]``) speaks to the agent, in threads of its own: gRPC never gets near the
event loop, and is not even imported where no MeshIdentity has provider Spire. All that crosses between threads is a
finished, immutable value.

Each message of the stream is complete (Workload API §4.3): what it does not hold any more is withdrawn, and so is all
when the agent says PermissionDenied (§5.2.1). One that cannot be used is discarded as a whole (§4.5), and the last good
one stays: so does it when the agent is gone. The thread comes back to it, later each time; how long a certificate may
be used says its end, and the plan that is made then.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from threading import Event, Thread
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from proxy.clock import wall_clock
from tls.bundles import TrustBundle, parse_bundle
from tls.issued import Delivery, read_issued
from tls.material import MaterialError
from tls.spiffe import MalformedSpiffeId, check_trust_domain

if TYPE_CHECKING:
    from spiffe import WorkloadApiClient
    from spiffe.workloadapi.x509_context import X509Context

log = logging.getLogger("koguma.spire")

SOCKET_VARIABLES = ("KUMA_DATAPLANE_RUNTIME_SPIRE_SOCKET_PATH", "SPIFFE_ENDPOINT_SOCKET")
"""Kuma's, a path; and that of the standard (SPIFFE Workload Endpoint §4), an address such as ``unix:///run/agent``."""

FIRST_RETRY_S = 0.5
MAX_RETRY_S = 30.0

_STATUS = re.compile(r"StatusCode\.([A-Z_]+)")


def agent_address(environ: Mapping[str, str]) -> str | None:
    """Where the agent listens; ``None``: nobody has said it."""
    value = next((environ[name] for name in SOCKET_VARIABLES if environ.get(name)), None)
    return f"unix:{value}" if value is not None and value.startswith("/") else value


class SpireAgent:
    """Lives in the event loop that it was made in. Implements :class:`config.issuers.Agent`."""

    def __init__(
        self, address: str | None, changed: Callable[[], object], now: Callable[[], datetime] = wall_clock
    ) -> None:
        """``changed`` is called in our event loop when there is something new to plan with."""
        self._address = address
        self._changed = changed
        self._now = now
        self._loop = asyncio.get_running_loop()
        self._is_wanted = False
        self._watch: _Watch | None = None
        self._delivery = Delivery()
        self._answered = asyncio.Event()
        self.version = 0
        """Grows with each change of what is delivered."""

    def delivered(self) -> Delivery:
        return self._delivery

    def apply(self, is_wanted: bool) -> None:
        """Listen to the agent from now on, or no longer."""
        if is_wanted == self._is_wanted:
            return
        self._is_wanted = is_wanted
        if not is_wanted:
            self.close()
            self._delivery = Delivery()
            self._answered.clear()
        elif self._address is None:
            self._set(Delivery(fault=f"nobody has said where the agent listens: set {' or '.join(SOCKET_VARIABLES)}"))
        else:
            self._watch = _Watch(self._address, self._tell, self._now)

    async def answer(self, within_s: float) -> None:
        """Return when there is a first answer, good or bad, or the time is over, which begins when the package is
        loaded.
        """
        with contextlib.suppress(ImportError):  # the thread that needs it says so
            await asyncio.to_thread(load_client)
        try:
            async with asyncio.timeout(within_s):
                await self._answered.wait()
        except TimeoutError:
            self._set(Delivery(fault=f"the agent at {self._address} has not answered within {within_s:g} s"))

    def close(self) -> None:
        if self._watch is not None:
            self._watch.end()
            self._watch = None

    def _tell(self, watch: _Watch, news: News) -> None:
        """Called in a thread."""
        with contextlib.suppress(RuntimeError):  # the loop has been closed meanwhile
            self._loop.call_soon_threadsafe(self._take, watch, news)

    def _take(self, watch: _Watch, news: News) -> None:
        if watch is not self._watch:
            return
        delivery = news if isinstance(news, Delivery) else news.after(self._delivery)
        if delivery == self._delivery:
            return
        if delivery.fault is None:
            issued = ", ".join(f"{svid.id} until {svid.not_after:%Y-%m-%d %H:%M:%S} UTC" for svid in delivery.svids)
            log.info("the agent has issued %s", issued, extra={"event": "identity_delivered"})
        self._set(delivery)

    def _set(self, delivery: Delivery) -> None:
        self._delivery = delivery
        self.version += 1
        self._answered.set()
        self._changed()


@dataclass(frozen=True, slots=True)
class Fault:
    """Why nothing comes now. ``withdraws``: nor may what has come be used any longer."""

    text: str
    withdraws: bool = False

    def after(self, before: Delivery) -> Delivery:
        return Delivery(fault=self.text) if self.withdraws else replace(before, fault=self.text)


News = Delivery | Fault


class _Watch:
    """The thread that stays with the agent, until it is told to :meth:`end`; nobody waits for it."""

    def __init__(self, address: str, tell: Callable[[_Watch, News], None], now: Callable[[], datetime]) -> None:
        self._address = address
        self._tell = tell
        self._now = now
        self._over = Event()
        self._stream_over = Event()
        self._is_useful = False
        Thread(target=self._run, name="spire agent", daemon=True).start()

    def end(self) -> None:
        self._over.set()
        self._stream_over.set()

    def _run(self) -> None:
        wait_s = FIRST_RETRY_S
        while not self._over.is_set():
            self._is_useful = False
            try:
                fault = self._listen()
            except ImportError:
                fault = Fault("the agent cannot be asked without the package spiffe: pip install 'koguma[spire]'")
            except Exception as exc:
                fault = self._fault(str(exc) or type(exc).__name__)
            self._tell(self, fault)
            if self._is_useful:
                wait_s = FIRST_RETRY_S
            self._over.wait(wait_s)
            wait_s = min(wait_s * 2, MAX_RETRY_S)

    def _listen(self) -> Fault:
        """Until the stream ends, which is for a reason. Raises whatever ``spiffe`` does."""
        client_type = load_client()
        reasons: list[str] = []

        def end(error: Exception) -> None:
            reasons.append(str(error))
            self._stream_over.set()

        self._stream_over.clear()
        client = client_type(self._address)
        try:
            stream = client.stream_x509_contexts(self._take, end, retry_connect=False)
            if not self._over.is_set():
                self._stream_over.wait()
            stream.cancel()
        finally:
            client.close()
        return self._fault(reasons[0] if reasons else "is not listened to any more")

    def _take(self, context: X509Context) -> None:
        """Called in a thread of ``spiffe``'s, with each message that it could read."""
        try:
            delivery = read_context(context, f"the agent at {self._address}", self._now())
        except MaterialError as error:
            self._tell(self, Fault(f"the agent at {self._address} sends what cannot be used: {error.message}"))
        else:
            self._is_useful = True
            self._tell(self, delivery)

    def _fault(self, reason: str) -> Fault:
        """``reason`` is the word of ``spiffe``, which has gRPC's status only as text."""
        reason = reason.removeprefix("Invalid WorkloadApiClient configuration: ").rstrip(".")
        status = _STATUS.search(reason)
        subject = f"the agent at {self._address}"
        match status[1] if status is not None else "":
            case "":
                return Fault(f"{subject}: {reason}")
            case "UNAVAILABLE":
                return Fault(f"{subject} does not answer")
            case "PERMISSION_DENIED":
                text = "issues nothing to this process: it needs a registration entry"
                return Fault(f"{subject} {text}", withdraws=True)
            case other:
                return Fault(f"{subject} does not serve us: gRPC status {other}")


def load_client() -> type[WorkloadApiClient]:
    """An optional package, and a heavy one. Raises ``ImportError``."""
    # What gRPC has to say we say ourselves, in our log; and we fork for a worker's program alone, which has no gRPC.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    from spiffe import WorkloadApiClient

    return WorkloadApiClient


def read_context(context: X509Context, source: str, now: datetime) -> Delivery:
    """What a message of the agent says. A federated bundle that is of no use is left out with a note: it is somebody
    else's, and must not stop our own renewal. Raises :class:`MaterialError`.
    """
    svids = []
    for one in context.x509_svids:
        chain = b"".join(certificate.public_bytes(Encoding.PEM) for certificate in one.cert_chain)
        key = one.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        svids.append(read_issued(chain, key, source, now)[0])
    own = {svid.id.trust_domain for svid in svids}
    bundles: list[TrustBundle] = []
    notes: list[str] = []
    for bundle in context.x509_bundle_set.bundles:
        domain = bundle.trust_domain.name
        pem = b"".join(certificate.public_bytes(Encoding.PEM) for certificate in bundle.x509_authorities)
        try:
            parsed, warnings = parse_bundle(check_trust_domain(domain), pem, source)
        except (MaterialError, MalformedSpiffeId) as error:
            why = error.message if isinstance(error, MaterialError) else str(error)
            if domain in own:
                raise MaterialError("bundle", f"the bundle of {domain}: {why}") from error
            notes.append(f"the bundle of {domain} is left out: {why}")
        else:
            bundles.append(parsed)
            notes += (f"the bundle of {domain}: {warning}" for warning in warnings)
    return Delivery(tuple(svids), tuple(sorted(bundles, key=lambda one: one.domain)), None, tuple(sorted(notes)))
