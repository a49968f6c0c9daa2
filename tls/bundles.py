"""Trust bundles: the CA certificates of each trust domain, and of no other.

A bundle is a set of certificates that may end a chain: roots, and intermediates too, alone or beside their root (the
MeshTrust of Kuma's own documentation holds an intermediate alone). What is not a CA never gets in, since a partial
chain that may end anywhere would else let it vouch for itself. Several sources of one domain add up.

The value is immutable and compares by content: its digest changes exactly when somebody's trust does, and contexts,
sessions and remembered verifications hang on that digest (``svid.py``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from ssl import DER_cert_to_PEM_cert

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from tls.material import (
    CertificateFacts,
    MaterialError,
    describe_certificate,
    has_ca_constraints,
    load_block,
    pem_blocks,
    validity_warnings,
)
from tls.names import UNREADABLE, load_certificate
from tls.spiffe import check_trust_domain

MAX_ANCHORS = 256
"""CA certificates of one trust domain. A domain in the middle of a rotation has two."""

MIN_RSA_BITS = 2048
MIN_EC_BITS = 224
"""Below, OpenSSL's security level 2 refuses whatever such a key has signed."""


@dataclass(frozen=True, slots=True)
class TrustBundle:
    """The anchors of one trust domain: DER, each once. ``sources`` say where they came from, for people."""

    domain: str
    anchors: tuple[bytes, ...] = field(repr=False)
    sources: tuple[str, ...] = ()

    @property
    def certificates(self) -> Iterator[CertificateFacts]:
        return map(describe_certificate, self.anchors)

    @property
    def expires(self) -> datetime:
        """When the last of its anchors ends, and with it all trust in the domain."""
        return max(facts.not_after for facts in self.certificates if facts.not_after is not None)


@dataclass(frozen=True, slots=True)
class TrustBundles:
    """Every trust domain that is trusted, by name. Make it with :meth:`of`."""

    by_domain: Mapping[str, TrustBundle] = field(default_factory=dict)
    digest: str = ""
    """Of domains and anchors; sources do not count."""

    @classmethod
    def of(cls, bundles: Iterable[TrustBundle]) -> TrustBundles:
        """The bundles, those of one domain added up. Raises :class:`MaterialError` where one grows too large, and
        ``MalformedSpiffeId`` for a name that no trust domain can have.
        """
        anchors: dict[str, dict[bytes, None]] = {}
        sources: dict[str, dict[str, None]] = {}
        for bundle in bundles:
            domain = check_trust_domain(bundle.domain)
            anchors.setdefault(domain, {}).update(dict.fromkeys(bundle.anchors))
            sources.setdefault(domain, {}).update(dict.fromkeys(bundle.sources))
            if len(anchors[domain]) > MAX_ANCHORS:
                raise MaterialError("caBundles", f"trust domain {domain} has more than {MAX_ANCHORS} CA certificates")
        by_domain = {
            domain: TrustBundle(domain, tuple(anchors[domain]), tuple(sources[domain])) for domain in sorted(anchors)
        }
        return cls(by_domain, _digest(by_domain.values())) if by_domain else cls()

    def __hash__(self) -> int:
        return hash(self.digest)

    def __bool__(self) -> bool:
        return bool(self.by_domain)

    def get(self, domain: str) -> TrustBundle | None:
        return self.by_domain.get(domain)

    @property
    def union_pem(self) -> str:
        """Every anchor of every domain, once. Not a trust bundle: what it vouches for is still to be judged."""
        union = dict.fromkeys(anchor for bundle in self.by_domain.values() for anchor in bundle.anchors)
        return "".join(map(DER_cert_to_PEM_cert, union))

    def vouched_by(self, anchor: bytes) -> tuple[str, ...]:
        """The domains whose bundles hold this certificate, for people."""
        return tuple(domain for domain, bundle in self.by_domain.items() if anchor in bundle.anchors)


def parse_bundle(domain: str, pem: bytes, source: str) -> tuple[TrustBundle, list[str]]:
    """The bundle in a PEM text, every block of it read; and warnings.

    What cannot be meant is refused (:class:`MaterialError`): a private key, a block that is no certificate (a CRL among
    them: it would be ignored, and somebody believes it is not), one that cannot be read, a text without a single CA
    certificate. A certificate that cannot be an anchor is left out with a warning.
    """
    anchors: dict[bytes, None] = {}
    notes: list[str] = []
    names: dict[x509.Name, bytes] = {}
    count = 0
    for label, block in pem_blocks(pem, "caBundles"):
        count += 1
        if "PRIVATE KEY" in label:
            raise MaterialError("caBundles", f"PEM block {count} is a private key: only CA certificates belong here")
        if label == "CRL":
            raise MaterialError("caBundles", f"PEM block {count} is a CRL: revocation lists are not honoured here")
        if label != "CERTIFICATE":
            raise MaterialError("caBundles", f"PEM block {count} is a {label}, not a CERTIFICATE")
        certificate = load_block(block, count, "caBundles")
        der = certificate.public_bytes(Encoding.DER)
        facts = describe_certificate(der)
        if der in anchors:
            notes.append(f"{facts.subject}: PEM block {count} repeats an earlier one")
            continue
        if (fault := _why_no_anchor(certificate)) is not None:
            notes.append(f"{facts.subject}: PEM block {count} {fault}: left out")
            continue
        anchors[der] = None
        notes += _weaknesses(certificate, facts)
        if _is_ambiguous(certificate, names):
            notes.append(
                f"{facts.subject}: another CA of the bundle has the same name, and one of them has no subject key "
                "identifier to tell them apart: certificates of either may be refused"
            )
    if not anchors:
        raise MaterialError(
            "caBundles",
            "no CA certificate in it: at least one PEM block CERTIFICATE is needed" if not count else notes[-1],
        )
    return TrustBundle(domain, tuple(anchors), (source,)), notes


def validity_of(bundle: TrustBundle, now: datetime) -> list[str]:
    """What there is to say of anchors that are not valid now."""
    return [note for facts in bundle.certificates for note in validity_warnings(facts, now)]


@lru_cache(maxsize=512)
def load_anchors(bundle: TrustBundle) -> tuple[x509.Certificate, ...]:
    return tuple(map(load_certificate, bundle.anchors))


@lru_cache(maxsize=1024)
def fingerprint(der: bytes) -> bytes:
    """SHA-256 of a CA certificate: one object for each, since every peer that it vouches for is remembered with it."""
    return hashlib.sha256(der).digest()


@lru_cache(maxsize=512)
def anchor_fingerprints(bundle: TrustBundle) -> frozenset[bytes]:
    return frozenset(map(fingerprint, bundle.anchors))


def _digest(bundles: Iterable[TrustBundle]) -> str:
    digest = hashlib.sha256()
    for bundle in bundles:
        for part in (bundle.domain.encode(), *sorted(bundle.anchors), b""):
            digest.update(len(part).to_bytes(4) + part)  # lengths keep neighbours from running together
    return digest.hexdigest()


def _why_no_anchor(certificate: x509.Certificate) -> str | None:
    """A CA is what says so: without the extension OpenSSL would take an old self-signed certificate for one."""
    try:
        if not has_ca_constraints(certificate):
            return "is not a CA certificate"
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return None
    except UNREADABLE:
        return "has extensions that cannot be read"
    return None if usage.key_cert_sign else "may not sign certificates (key usage)"


def _weaknesses(certificate: x509.Certificate, facts: CertificateFacts) -> Iterator[str]:
    key = certificate.public_key()
    is_weak_rsa = isinstance(key, rsa.RSAPublicKey) and key.key_size < MIN_RSA_BITS
    is_weak_ec = isinstance(key, ec.EllipticCurvePublicKey) and key.curve.key_size < MIN_EC_BITS
    if is_weak_rsa or is_weak_ec:
        yield f"{facts.subject}: its key ({facts.key_type}) is too weak: certificates that it signed are refused"


def _is_ambiguous(certificate: x509.Certificate, names: dict[x509.Name, bytes]) -> bool:
    """OpenSSL looks an issuer up by name and key identifier, and does not try a second one."""
    try:
        identifier = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except x509.ExtensionNotFound:
        identifier = b""
    is_second = certificate.subject in names
    earlier = names.setdefault(certificate.subject, identifier)
    return is_second and not (earlier and identifier)
