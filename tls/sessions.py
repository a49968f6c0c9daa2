"""Saved TLS sessions: who may resume, what, and for how long.

A resumed handshake skips the certificate. So a session is only ever offered under the terms that it was made under:
the key is a digest of everything that verification depends on (:func:`session_key`), plus the endpoint and the server
name. Change any of it (a rotated CA, another mode, one more SAN) and the old sessions are simply never found. And a
session dies with the leaf that it stands for, so an expired peer cannot live on by resuming.

One session is kept per key and offered again and again until it expires. RFC 8446 §C.4 advises a new ticket for each
connection so that an observer cannot link them; the connections of a proxy to its service are linked by their addresses
anyway. The reason to reuse is the price of a new one: reading ``SSLObject.session`` costs half a handshake, and
CPython (seen in 3.11) never frees one of the copies that it makes, about 6 KB. So sessions are fetched rarely
(``MIN_FETCH_INTERVAL_S`` per key) and at most ``MAX_FETCHES`` times in the life of a process; after that, handshakes
are full ones.
"""

from __future__ import annotations

import hashlib
import ssl
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime, timedelta

from tls.policy import Origination

MAX_KEYS = 4096
"""A session is about 3 KB with its peer certificate."""

MAX_FETCHES = 4096
"""Bounds what CPython loses with each fetch to about 24 MB."""

MIN_FETCH_INTERVAL_S = 300.0
RETRY_FETCH_S = 10.0
"""After a fetch that found no ticket: it had not come yet."""


def session_key(origination: Origination, address: str, sni: str | None) -> str:
    """The key for one endpoint. ``address`` tells endpoints apart (``ip:port`` or a path). Compute it once: it hashes
    the material.
    """
    parts = (
        origination.mode,
        repr(origination.sans),
        origination.server_name or "",
        origination.anchors.digest if origination.anchors is not None else "",
        origination.client.digest if origination.client is not None else "",
        f"{int(origination.min_version)}-{int(origination.max_version)}",
        str(origination.allow_renegotiation),
        repr(origination.alpn),
        origination.bundles.digest if origination.bundles is not None else "",
        address,
        sni or "",
    )
    digest = hashlib.sha256()
    for part in parts:
        encoded = part.encode("utf-8", "surrogateescape")
        digest.update(len(encoded).to_bytes(8) + encoded)  # lengths keep neighbours from running together
    return digest.hexdigest()


@dataclass(slots=True)
class _Entry:
    """What is known under one key. ``session`` is ``None`` when there is none to offer, now."""

    next_fetch: datetime
    session: ssl.SSLSession | None = None
    context: ssl.SSLContext | None = None
    expires: datetime | None = None


class SessionCache:
    """The sessions of one process. Not thread-safe: it belongs to the event loop that uses it."""

    __slots__ = ("_by_key", "_fetches_left", "_max_keys")

    def __init__(self, max_keys: int = MAX_KEYS, max_fetches: int = MAX_FETCHES) -> None:
        self._by_key: OrderedDict[str, _Entry] = OrderedDict()
        self._max_keys = max_keys
        self._fetches_left = max_fetches

    def __len__(self) -> int:
        return sum(entry.session is not None for entry in self._by_key.values())

    def take(self, key: str, context: ssl.SSLContext, now: datetime) -> ssl.SSLSession | None:
        """The session to offer, or ``None``."""
        entry = self._by_key.get(key)
        if entry is None or entry.session is None or entry.expires is None:
            return None
        # OpenSSL binds a session to its context; ours may have been rebuilt since.
        if entry.expires <= now or entry.context is not context:
            entry.session = entry.context = None
            return None
        self._by_key.move_to_end(key)
        return entry.session

    def wants(self, key: str, now: datetime) -> bool:
        """Whether a session should be fetched under this key. Ask before fetching one: see the head of this file."""
        if self._fetches_left <= 0:
            return False
        entry = self._by_key.get(key)
        if entry is None:
            return True
        has_session = entry.session is not None and entry.expires is not None and entry.expires > now
        return not has_session and entry.next_fetch <= now

    def fetched(
        self, key: str, session: ssl.SSLSession | None, context: ssl.SSLContext, not_after: datetime, now: datetime
    ) -> None:
        """Account for a fetch, and keep what it brought until the leaf's ``not_after`` or its own timeout, whichever is
        first. ``session`` is ``None`` where there was none that can be resumed.
        """
        self._fetches_left -= 1
        wait_s = RETRY_FETCH_S if session is None else MIN_FETCH_INTERVAL_S
        entry = self._by_key[key] = _Entry(now + timedelta(seconds=wait_s))
        self._by_key.move_to_end(key)
        if len(self._by_key) > self._max_keys:
            self._by_key.popitem(last=False)
        if session is not None and not_after > now:
            entry.session, entry.context = session, context
            entry.expires = min(not_after, now + timedelta(seconds=session.timeout))

    def forget(self, key: str) -> None:
        """Drop the session of a key: a handshake under it failed, or the peer would not resume it."""
        entry = self._by_key.get(key)
        if entry is not None:
            entry.session = entry.context = None
