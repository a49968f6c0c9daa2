"""What the user asked of an inbound's TLS, as one comparable value: who we are there, and whom we let in."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from ssl import TLSVersion

from tls.bundles import TrustBundles
from tls.policy import ClientCertificate


class InboundMode(StrEnum):
    """``mode`` of a MeshTLS."""

    STRICT = "Strict"
    PERMISSIVE = "Permissive"
    """Plaintext passes, and TLS that is not the mesh's passes through to the application, both unverified."""


@dataclass(frozen=True, slots=True)
class Acceptance:
    """TLS on an inbound. ``identity`` is what we present, ``bundles`` judge what the peer presents.

    ``ciphers`` are OpenSSL's names of TLS 1.2 suites, empty for our own choice (TLS 1.3 has a list of its own).
    ``alpn`` is what the application behind the inbound speaks: selected if the peer offers it, and never demanded,
    since peers in a Kuma mesh offer ``kuma`` and expect no answer.
    """

    identity: ClientCertificate = field(repr=False)
    bundles: TrustBundles = field(repr=False)
    mode: InboundMode = InboundMode.STRICT
    min_version: TLSVersion = TLSVersion.TLSv1_2
    max_version: TLSVersion = TLSVersion.TLSv1_3
    ciphers: tuple[str, ...] = ()
    alpn: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.min_version > self.max_version:
            raise ValueError("min version must be lower than max")
