"""What of a request decides about its endpoint: the hash policies of a service, as Envoy evaluates them.

Each policy that finds something gives a hash (XXH64 of the bytes as they are); they are combined in their order, and a
terminal one ends the search once there is a hash. A cookie that is missing and has a ``ttl`` is made, the same for all
requests of a client's connection, and goes out with the response.
(``source/common/http/hash_policy.cc``)
"""

from __future__ import annotations

from collections.abc import Sequence

from config.plan import HashPolicyPlan, HashSource
from proxy.wire import RequestHead, ResponseHead
from proxy.xxh64 import xxh64

PeerName = tuple[str, int] | tuple[str, int, int, int] | None
"""Of a client's socket: (IP text, port, ...)."""

_MASK = 0xFFFFFFFFFFFFFFFF


def key_of(
    policies: Sequence[HashPolicyPlan], head: RequestHead, peer: PeerName
) -> tuple[int | None, tuple[bytes, ...]]:
    """(the hash, if a policy found anything; the values of ``set-cookie`` for the response)."""
    key: int | None = None
    cookies: list[bytes] = []
    for policy in policies:
        found: bytes | None = None
        match policy.source:
            case HashSource.HEADER:
                found = _header(head, policy.name.lower().encode())
            case HashSource.COOKIE:
                found = _cookie(head, policy.name.encode())
                if found is None and policy.cookie_ttl_s is not None:
                    found = b"%016x" % xxh64(repr(peer).encode())
                    cookies.append(_new_cookie(policy, found, policy.cookie_ttl_s))
            case HashSource.CONNECTION:
                found = peer[0].encode() if peer else None
            case HashSource.QUERY_PARAMETER:
                found = _parameter(head, policy.name.encode())
            case HashSource.FILTER_STATE:
                pass  # nothing here sets one
        if found is not None:
            # Turned first, so that a policy given twice does not undo itself.
            key = xxh64(found) if key is None else (key << 1 | key >> 63) & _MASK ^ xxh64(found)
        if policy.terminal and key is not None:
            break
    return key, tuple(cookies)


def with_cookies(head: ResponseHead, cookies: Sequence[bytes]) -> ResponseHead:
    """Heads are shared: a copy, with ``set-cookie`` for each."""
    fields = [*head.fields, *((b"set-cookie", cookie) for cookie in cookies)]
    return ResponseHead(
        head.status, fields, head.body, head.declared, head.version, head.keep_alive, head.upgrade, head.leniency
    )


def _header(head: RequestHead, name: bytes) -> bytes | None:
    match name:
        case b"host" | b":authority":
            return head.authority
        case b":path":
            return head.path
        case b":method":
            return head.method
    values = sorted(value for field, value in head.fields if field == name)
    return b"".join(values) if values else None


def _cookie(head: RequestHead, name: bytes) -> bytes | None:
    for field, value in head.fields:
        if field == b"cookie":
            for pair in value.split(b";"):
                key, _, found = pair.strip().partition(b"=")
                if key == name and found:
                    is_quoted = len(found) > 1 and found.startswith(b'"') and found.endswith(b'"')
                    return found[1:-1] if is_quoted else found
    return None


def _new_cookie(policy: HashPolicyPlan, value: bytes, ttl_s: float) -> bytes:
    """RFC 6265 §4.1; with a ``ttl`` of 0 it lasts as long as the client's session."""
    parts = [b'%s="%s"' % (policy.name.encode(), value)]
    if ttl_s:
        parts.append(b"Max-Age=%d" % ttl_s)
    if policy.cookie_path:
        parts.append(b"Path=" + policy.cookie_path.encode())
    return b"; ".join([*parts, b"HttpOnly"])


def _parameter(head: RequestHead, name: bytes) -> bytes | None:
    _, _, query = head.path.partition(b"?")
    for pair in query.split(b"&"):
        key, _, value = pair.partition(b"=")
        if key == name and query:
            return value
    return None
