"""What the user asked of an upstream's TLS, as one comparable value.

Design: a policy holds everything that verification depends on, so two connections may share an ``ssl``
context or a saved session exactly when their policies say so. Secrets are wrapped: they never reach a repr.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import StrEnum
from ssl import TLSVersion
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tls.bundles import TrustBundles


class Mode(StrEnum):
    """``tls.verification.mode`` of a MeshExternalService."""

    SECURED = "Secured"
    SKIP_SAN = "SkipSAN"
    SKIP_CA = "SkipCA"
    SKIP_ALL = "SkipAll"

    @property
    def checks_chain(self) -> bool:
        return self in (Mode.SECURED, Mode.SKIP_SAN)

    @property
    def checks_names(self) -> bool:
        return self in (Mode.SECURED, Mode.SKIP_CA)


class MatchType(StrEnum):
    EXACT = "Exact"
    PREFIX = "Prefix"


@dataclass(frozen=True, slots=True)
class SanMatcher:
    """One entry of ``tls.verification.subjectAltNames``, or the name that stands in for an absent list."""

    type: MatchType
    value: str

    def __str__(self) -> str:
        return self.value if self.type is MatchType.EXACT else f"{self.value}*"


@dataclass(frozen=True, slots=True)
class TrustAnchors:
    """CA certificates that may end a chain. ``source`` says where they came from, for people."""

    pem: bytes = field(repr=False)
    source: str

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.pem).hexdigest()


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """A certificate chain (leaf first) and its private key, both PEM; already checked to belong together."""

    chain_pem: bytes = field(repr=False)
    key_pem: bytes = field(repr=False)
    source: str

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.chain_pem + b"\0" + self.key_pem).hexdigest()


@dataclass(frozen=True, slots=True)
class Origination:
    """TLS towards an upstream (``spec.tls`` of a MeshExternalService), one for all endpoints of the service.

    What differs between endpoints (SNI, and the name expected where none was configured) follows from the
    endpoint's own host: see :meth:`sni_for` and :meth:`names_for`.
    """

    mode: Mode = Mode.SECURED
    server_name: str | None = None
    sans: tuple[SanMatcher, ...] = ()
    anchors: TrustAnchors | None = None
    client: ClientCertificate | None = None
    min_version: TLSVersion = TLSVersion.TLSv1_2
    max_version: TLSVersion = TLSVersion.TLSv1_3
    allow_renegotiation: bool = False
    alpn: tuple[str, ...] = ()
    bundles: TrustBundles | None = field(default=None, repr=False)
    """The peer is one of the mesh: on top of everything else its leaf must be an SVID, and the bundle of its own trust
    domain, one of these, must vouch for it. ``anchors`` are then those of all of them, which alone prove nothing.
    """

    def __post_init__(self) -> None:
        if self.mode.checks_chain and self.anchors is None:
            raise ValueError(f"mode {self.mode} verifies the chain, and no trust anchors are given")
        if self.min_version > self.max_version:
            raise ValueError("min version must be lower than max")

    def sni_for(self, dns_name: str | None) -> str | None:
        """The server name to send to an endpoint with this DNS name (``None``: an IP or a unix socket)."""
        return self.server_name or dns_name

    def names_for(self, host: str | None) -> tuple[SanMatcher, ...]:
        """What the leaf must match, any one of: the SAN list, else serverName, else the endpoint's own DNS
        name or IP. Empty where the mode checks no names. ``host`` is ``None`` for a unix socket.
        """
        if not self.mode.checks_names:
            return ()
        if self.sans:
            return self.sans
        name = self.server_name or host
        if name is None:
            raise ValueError("a unix socket has no name to expect: serverName or subjectAltNames is needed")
        return (SanMatcher(MatchType.EXACT, name),)
