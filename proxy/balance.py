"""Which endpoint next? Pure decisions: no I/O; time is an argument, and nothing is left to chance. What is chosen in
other ways than in turn is in ``strategies``.

Each priority keeps its endpoints in order of last use. A pick takes the least recently used one that may be
used and moves it to the end: plain round robin while all is well, and one that was skipped is next as soon as
it can be. The lowest-numbered priority that has a usable endpoint wins.

    available --n failures in a row--> ejected --time is up, picked--> on trial --success--> available
                                          ^                               |
                                          +-------- failure: longer ------+

A trial is lent to one caller: meanwhile the endpoint counts as ejected, for ``TRIAL_S`` at most, should the
caller never report. Failures are those to connect, and where the rules say so, responses that are errors.
Panic: if nothing is available, the untried endpoint whose ejection ends first is picked anyway, so that a
service with one endpoint is always tried, and no count of healthy endpoints has to be kept.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from config.plan import EjectionPlan
from tls.material import CertificateFacts
from tls.policy import Origination
from tls.verdict import Verdict

SocketAddress = tuple[str, int] | str
"""(IP text, port), or the path of a unix socket (``@`` first: abstract namespace)."""

EndpointKey = tuple[SocketAddress, str | None, int]

DEFAULT_RULES = EjectionPlan()
TRIAL_S = 5.0


@dataclass(slots=True, eq=False)
class Endpoint:
    """One socket address of a service, with what is known of it. Compared by identity; ``key`` says whether
    two stand for the same thing. ``host`` is the DNS name that it came from, or the IP's text; ``None`` for
    unix.

    The counters belong to whoever connects; ``ejected_until``, ``ejections``, ``on_trial`` and what is counted in a
    row to the balancer; the rest to the dialer.
    """

    address: SocketAddress
    host: str | None
    is_dns: bool
    priority: int = 0
    key: EndpointKey = field(init=False)
    authority: bytes | None = field(init=False)
    """What Host becomes towards this endpoint: its DNS name, without a port; ``None`` keeps the client's."""

    consecutive_failures: int = 0
    """To connect."""
    consecutive_server_errors: int = 0
    consecutive_gateway_errors: int = 0
    ejected_until: float = -math.inf
    ejections: int = 0
    """Since the last success."""
    on_trial: bool = False

    cx_total: int = 0
    cx_active: int = 0
    cx_connect_fail: int = 0
    rq_total: int = 0
    rq_active: int = 0
    explain: bool = True
    """The next TLS handshake captures the peer's chain for a verdict."""
    last_verdict: Verdict | None = None
    """Why the last attempt failed; ``None`` once one succeeded."""
    peer: CertificateFacts | None = None
    """The leaf that was verified last."""
    idle: list[Any] = field(default_factory=list, repr=False)
    """Pooled connections that wait for a request, the one used last at the end."""
    max_streams: int | None = None
    """How many HTTP/2 streams it allows on a connection, as it said last."""
    session_key: str = ""
    session_policy: Origination | None = None
    """Under what TLS sessions are kept, and the policy that it was computed from."""

    def __post_init__(self) -> None:
        self.key = (self.address, self.host, self.priority)
        self.authority = self.host.encode("ascii") if self.is_dns and self.host is not None else None

    @property
    def where(self) -> str:
        """``ip:port`` (IPv6 in brackets), or ``unix://path``."""
        if isinstance(self.address, str):
            return f"unix://{self.address}"
        ip, port = self.address
        return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"

    def __str__(self) -> str:
        """For logs: where it is, and the name that led there."""
        return f"{self.where} ({self.host})" if self.is_dns else self.where


class Balancer:
    """The endpoints of one service, each in its turn. Not for use from several threads. ``is_sticky``: requests
    with the same key go to the same endpoint. ``judges_responses``: :meth:`answered` is to be told of each.
    """

    is_sticky = False

    def __init__(self, endpoints: Iterable[Endpoint] = (), rules: EjectionPlan = DEFAULT_RULES) -> None:
        self.follow(rules)
        self._endpoints: dict[EndpointKey, Endpoint] = {}
        self._levels: tuple[deque[Endpoint], ...] = ()
        self.update(endpoints)

    def follow(self, rules: EjectionPlan) -> None:
        """From now on. Endpoints that are ejected sit it out."""
        self._rules = rules
        self.judges_responses = bool(rules.server_errors or rules.gateway_errors)

    def update(self, endpoints: Iterable[Endpoint]) -> None:
        """Replace the set. An endpoint whose key is known already keeps its object, its state and its turn;
        new ones come after those. A key given twice counts once.
        """
        kept: dict[EndpointKey, Endpoint] = {}
        for endpoint in endpoints:
            kept.setdefault(endpoint.key, self._endpoints.get(endpoint.key, endpoint))
        by_priority: dict[int, deque[Endpoint]] = {priority: deque() for priority in sorted({key[2] for key in kept})}
        for level in self._levels:
            for endpoint in level:
                if endpoint.key in kept:
                    by_priority[endpoint.priority].append(endpoint)
        for endpoint in kept.values():
            if endpoint.key not in self._endpoints:
                by_priority[endpoint.priority].append(endpoint)
        self._endpoints = kept
        self._levels = tuple(by_priority.values())

    @property
    def is_building(self) -> bool:
        """Whether an update has left work for :meth:`build`."""
        return False

    def build(self) -> bool:
        """Do a slice of what an update has left to do, about a millisecond; whether there is more."""
        return False

    def pick(self, now: float, tried: Collection[Endpoint] = (), key: int | None = None) -> Endpoint | None:
        """The endpoint to use next, never one of ``tried``; ``None`` if every endpoint was tried. Each pick
        should be followed by :meth:`succeeded`, :meth:`failed` or :meth:`answered`. ``key``: a hash of what the request
        has, for those that are sticky.
        """
        for level in self._levels:
            endpoint = level[0]
            if endpoint.ejected_until > now or endpoint in tried:
                for endpoint in level:
                    if endpoint.ejected_until <= now and endpoint not in tried:
                        break
                else:
                    continue
                level.remove(endpoint)
                level.append(endpoint)
            else:
                level.rotate(-1)
            if endpoint.ejections:
                self._lend(endpoint, now)
            return endpoint
        return self._panic(tried)

    def _lend(self, endpoint: Endpoint, now: float) -> None:
        """One that comes back is on trial."""
        if endpoint.ejections:
            endpoint.on_trial = True
            endpoint.ejected_until = now + TRIAL_S

    def pick_other(self, now: float, avoided: Collection[Endpoint], key: int | None = None) -> Endpoint | None:
        """As :meth:`pick`, one of ``avoided`` only where no other is available."""
        for endpoint in self._endpoints.values():
            if endpoint.ejected_until <= now and endpoint not in avoided:
                return self.pick(now, avoided, key)
        return self.pick(now, (), key)

    def _panic(self, tried: Collection[Endpoint]) -> Endpoint | None:
        untried = (endpoint for level in self._levels for endpoint in level if endpoint not in tried)
        endpoint = min(untried, key=lambda endpoint: endpoint.ejected_until, default=None)
        if endpoint is not None:
            level = next(level for level in self._levels if level[0].priority == endpoint.priority)
            level.remove(endpoint)
            level.append(endpoint)
        return endpoint

    def succeeded(self, endpoint: Endpoint, now: float) -> None:
        """A connection was established and, where there is TLS, verified: all is forgiven but responses."""
        if endpoint.consecutive_failures:
            endpoint.consecutive_failures = 0
            if not endpoint.consecutive_server_errors:
                self._forgive(endpoint)

    def failed(self, endpoint: Endpoint, now: float) -> bool:
        """A connection or its TLS handshake failed. True if the endpoint is ejected because of that.

        Failures of connections that were already under way when the endpoint was ejected count, but do not
        prolong the ejection: a burst is one reason, not many.
        """
        endpoint.consecutive_failures += 1
        limit = self._rules.failures
        return 0 < limit <= endpoint.consecutive_failures and self._eject(endpoint, now)

    def answered(self, endpoint: Endpoint, status: int, now: float) -> bool:
        """A request ended with ``status``; 500 where there was no response, 504 where there was none in time. As
        :meth:`failed`.
        """
        if status < 500:
            endpoint.consecutive_server_errors = endpoint.consecutive_gateway_errors = 0
            if endpoint.ejections:
                self._forgive(endpoint)
            return False
        rules = self._rules
        endpoint.consecutive_server_errors += 1
        endpoint.consecutive_gateway_errors = endpoint.consecutive_gateway_errors + 1 if 502 <= status <= 504 else 0
        is_outlier = (
            0 < rules.server_errors <= endpoint.consecutive_server_errors
            or 0 < rules.gateway_errors <= endpoint.consecutive_gateway_errors
        )
        return is_outlier and self._eject(endpoint, now)

    def _forgive(self, endpoint: Endpoint) -> None:
        endpoint.consecutive_failures = 0
        endpoint.ejections = 0
        endpoint.ejected_until = -math.inf
        endpoint.on_trial = False

    def _eject(self, endpoint: Endpoint, now: float) -> bool:
        if endpoint.ejected_until > now and not endpoint.on_trial:
            return False
        rules = self._rules
        if rules.max_percent < 100:
            others = sum(other.ejected_until > now for other in self._endpoints.values() if other is not endpoint)
            if others and (others + 1) * 100 > rules.max_percent * len(self._endpoints):
                return False
        duration_s = min(rules.longest_s, rules.first_s * 2.0 ** min(endpoint.ejections, 16))
        endpoint.ejected_until = now + duration_s
        endpoint.ejections += 1
        endpoint.on_trial = False
        return True

    def healthy_count(self, now: float) -> int:
        """Endpoints that are not ejected; one whose time is up counts."""
        return sum(endpoint.ejected_until <= now for endpoint in self._endpoints.values())

    def __iter__(self) -> Iterator[Endpoint]:
        """In the order of the last update."""
        return iter(self._endpoints.values())

    def __contains__(self, endpoint: Endpoint) -> bool:
        return self._endpoints.get(endpoint.key) is endpoint

    def __len__(self) -> int:
        return len(self._endpoints)
