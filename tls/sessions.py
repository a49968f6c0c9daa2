"""Saved TLS sessions: who may resume, what, and for how long.

A resumed handshake skips the certificate. So a session is only ever offered under the terms that it was made under:
the key is a digest of everything that verification depends on (:func:`session_key`), plus the endpoint and the server
name. Change any of it (a rotated CA, another mode, one more SAN) and the old sessions are simply never found.

Three more bounds: a session dies with the leaf that it stands for, so an expired peer cannot live on by resuming; a
TLS 1.3 ticket is offered once (RFC 8446 §C.4); and both the sessions of one key and all keys together are limited,
the least recently used going first.

Fetching a session from an SSL object, and offering one, each copy it by way of its DER with the peer's certificate:
measured with OpenSSL 3.0, about as much as verifying a short chain. So a session is fetched only where the cache has
room for it, and one of TLS 1.2, which may be offered again and again, only after a full handshake.
"""

from __future__ import annotations

import hashlib
import ssl
from collections import OrderedDict, deque
from dataclasses import dataclass
from datetime import datetime, timedelta

from tls.policy import Origination

MAX_SESSIONS_PER_KEY = 4
MAX_KEYS = 4096
"""A session is about 3 KB with its peer certificate."""


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
        address,
        sni or "",
    )
    digest = hashlib.sha256()
    for part in parts:
        encoded = part.encode("utf-8", "surrogateescape")
        digest.update(len(encoded).to_bytes(8) + encoded)  # lengths keep neighbours from running together
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class _Saved:
    session: ssl.SSLSession
    context: ssl.SSLContext
    single_use: bool
    expires: datetime


class SessionCache:
    """The sessions of one process. Not thread-safe: it belongs to the event loop that uses it."""

    __slots__ = ("_by_key", "_max_keys")

    def __init__(self, max_keys: int = MAX_KEYS) -> None:
        self._by_key: OrderedDict[str, deque[_Saved]] = OrderedDict()
        self._max_keys = max_keys

    def __len__(self) -> int:
        return sum(map(len, self._by_key.values()))

    def take(self, key: str, context: ssl.SSLContext, now: datetime) -> ssl.SSLSession | None:
        """The newest session to offer, or ``None``. One of TLS 1.3 is handed out once."""
        saved = self._by_key.get(key)
        if saved is None:
            return None
        while saved:
            newest = saved[-1]
            # OpenSSL binds a session to its context; ours may have been rebuilt since.
            if newest.expires <= now or newest.context is not context:
                saved.pop()
                continue
            if newest.single_use:
                saved.pop()
            if saved:
                self._by_key.move_to_end(key)
            else:
                del self._by_key[key]
            return newest.session
        del self._by_key[key]
        return None

    def has_room(self, key: str, *, single_use: bool, now: datetime) -> bool:
        """Whether one more session would be of use. Ask before fetching one: see the head of this file."""
        saved = self._by_key.get(key)
        if saved is None:
            return True
        while saved and saved[0].expires <= now:
            saved.popleft()
        return len(saved) < (MAX_SESSIONS_PER_KEY if single_use else 1)

    def put(
        self,
        key: str,
        session: ssl.SSLSession,
        context: ssl.SSLContext,
        *,
        single_use: bool,
        not_after: datetime,
        now: datetime,
    ) -> None:
        """Keep a session until the leaf's ``not_after`` or its own timeout, whichever is first."""
        expires = min(not_after, now + timedelta(seconds=session.timeout))
        if expires <= now:
            return
        saved = self._by_key.get(key)
        if saved is None:
            saved = self._by_key[key] = deque(maxlen=MAX_SESSIONS_PER_KEY)
        saved.append(_Saved(session, context, single_use, expires))
        self._by_key.move_to_end(key)
        if len(self._by_key) > self._max_keys:
            self._by_key.popitem(last=False)

    def forget(self, key: str) -> None:
        """Drop the sessions of a key, after a handshake under it failed."""
        self._by_key.pop(key, None)
