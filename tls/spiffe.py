"""SPIFFE IDs and trust domains: the grammar, and nothing that bends it.

The name in a certificate decides which bundle judges it, so two readers must never differ on it. The grammar is that
of the SPIFFE-ID standard (§2), in which every ID has exactly one spelling: a lower-case scheme, a trust domain of
lower-case letters, digits, ``.``, ``-`` and ``_``, and a path whose segments are neither empty nor ``.`` nor ``..``.
There is nothing to normalise: no port, no user, no percent encoding, no query, no upper case, no trailing slash. What
does not follow it is refused, never repaired.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_ID_BYTES = 2048
"""SPIFFE-ID §2.3: what every implementation must take, and none should produce more than."""

MAX_TRUST_DOMAIN_BYTES = 255
"""SPIFFE-ID §2.3, from the host of RFC 3986."""

SCHEME = "spiffe://"

_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]+")
_SEGMENT = re.compile(r"[A-Za-z0-9._-]+")


class MalformedSpiffeId(ValueError):
    """A text that is no SPIFFE ID, or no name of a trust domain. The message says why, and quotes none of it."""


@dataclass(frozen=True, slots=True)
class SpiffeId:
    """``path`` starts with ``/``, or is empty for the ID of the trust domain itself."""

    trust_domain: str
    path: str

    def __str__(self) -> str:
        return f"{SCHEME}{self.trust_domain}{self.path}"


def check_trust_domain(name: str) -> str:
    """``name``, if a trust domain may be called so (SPIFFE-ID §2.1). Raises :class:`MalformedSpiffeId`."""
    if not name:
        raise MalformedSpiffeId("trust domain is missing")
    if len(name.encode("utf-8", "surrogatepass")) > MAX_TRUST_DOMAIN_BYTES:
        raise MalformedSpiffeId(f"trust domain is longer than {MAX_TRUST_DOMAIN_BYTES} bytes")
    if not _TRUST_DOMAIN.fullmatch(name):
        raise MalformedSpiffeId("trust domain characters are limited to lowercase letters, numbers, dots, dashes, and "
                                "underscores")  # fmt: skip
    return name


def parse_spiffe_id(text: str) -> SpiffeId:
    """The ID that ``text`` spells. Raises :class:`MalformedSpiffeId`; its messages are go-spiffe's, as Kuma's are."""
    if not text:
        raise MalformedSpiffeId("cannot be empty")
    if len(text.encode("utf-8", "surrogatepass")) > MAX_ID_BYTES:
        raise MalformedSpiffeId(f"longer than {MAX_ID_BYTES} bytes")
    if not text.startswith(SCHEME):
        raise MalformedSpiffeId("scheme is missing or invalid")
    domain, slash, path = text.removeprefix(SCHEME).partition("/")
    check_trust_domain(domain)
    if not slash:
        return SpiffeId(domain, "")
    *above, last = path.split("/")
    if "" in above:
        raise MalformedSpiffeId("path cannot contain empty segments")
    if not last:
        raise MalformedSpiffeId("path cannot have a trailing slash")
    for segment in (*above, last):
        if segment in (".", ".."):
            raise MalformedSpiffeId("path cannot contain dot segments")
        if not _SEGMENT.fullmatch(segment):
            raise MalformedSpiffeId(
                "path segment characters are limited to letters, numbers, dots, dashes, and underscores"
            )
    return SpiffeId(domain, f"/{path}")
