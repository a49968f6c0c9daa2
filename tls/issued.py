"""Identities that somebody else has issued: a certificate with its key, from files or from an agent.

What is presented must be what peers will take: a leaf by the X.509-SVID standard that may act as a server, with its own
key, not yet expired. Anything else is refused here, where the operator can be told why, and not by every peer.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tls.bundles import TrustBundle
from tls.identity import Svid
from tls.material import MaterialError, parse_client
from tls.svid import SERVER, read_svid, verify_against
from tls.verdict import Refused


@dataclass(frozen=True, slots=True)
class Delivery:
    """What a source of identities has delivered last, and what has gone wrong since. ``notes`` are warnings."""

    svids: tuple[Svid, ...] = ()
    bundles: tuple[TrustBundle, ...] = ()
    fault: str | None = None
    notes: tuple[str, ...] = ()


def read_issued(chain_pem: bytes, key_pem: bytes, source: str, now: datetime) -> tuple[Svid, list[str]]:
    """The identity in a certificate chain (leaf first) and its key, and warnings. It lasts as long as every certificate
    of the chain does, and is never renewed by us: whoever issued it sends another. Raises :class:`MaterialError`
    (``certificate`` or ``key``).
    """
    try:
        pair, notes = parse_client(chain_pem, key_pem, source, now)
    except MaterialError as error:
        which = "key" if error.which == "clientKey" else "certificate"
        raise MaterialError(which, error.message.replace(" in clientCert", "")) from error
    chain = x509.load_pem_x509_certificates(pair.chain_pem)
    try:
        _, identity = read_svid(chain[0].public_bytes(Encoding.DER), SERVER)
    except Refused as refused:
        message = refused.verdict.message.replace("the peer's certificate", "the certificate")
        raise MaterialError("certificate", message) from refused
    ends = min(certificate.not_valid_after_utc for certificate in chain)
    if ends <= now:
        raise MaterialError("certificate", f"{identity} has expired on {ends:%Y-%m-%d %H:%M:%S} UTC")
    return Svid(identity, pair, not_after=ends, renew_at=ends), notes


def is_vouched_by(bundle: TrustBundle, svid: Svid, now: datetime) -> bool:
    """Whether a peer that has this bundle alone would accept the identity."""
    leaf, *above = x509.load_pem_x509_certificates(svid.pair.chain_pem)
    return verify_against(bundle, leaf, (one.public_bytes(Encoding.DER) for one in above), now, SERVER) is not None
