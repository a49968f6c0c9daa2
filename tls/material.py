"""PEM to checked material: trust anchors, client certificates, and what a certificate says about itself.

Everything here is parsed once, on the control path, with ``cryptography``; what comes out is normalised PEM that
OpenSSL will read without surprises. A fault raises :class:`MaterialError` with a message of its own; what is merely
worrying (expired, not a CA) comes back as a warning. No message ever quotes key material.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID

from tls.names import UNREADABLE, load_certificate
from tls.policy import ClientCertificate, TrustAnchors

MAX_PEM_BYTES = 4 * 1024 * 1024
"""A system bundle has about 250 KB; more than this is a mistake."""

SYSTEM_CA_VARIABLE = "KUMA_DATAPLANE_RUNTIME_DYNAMIC_SYSTEM_CA_PATH"
SYSTEM_CA_PATHS = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
"""Where kuma-dp looks for the system's CA file, in its order; the first that exists is taken."""

T = TypeVar("T")
D = TypeVar("D")
E = TypeVar("E", bound=x509.ExtensionType)

_BEGIN = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,64})-----")


class MaterialError(ValueError):
    """Material that cannot be used. ``which`` is the field at fault: ``caCert``, ``caBundles``, ``clientCert`` or
    ``clientKey``.
    """

    def __init__(self, which: str, message: str) -> None:
        super().__init__(message)
        self.which = which
        self.message = message


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """What a certificate says about itself, for people and for ``/certs``. ``sans`` are typed (``DNS:``, ``URI:``,
    ``IP:``); times are UTC; ``serial`` and ``sha256`` (of the DER) are hexadecimal. What cannot be read is empty or
    ``None``: facts are for explaining, the verdict comes from elsewhere.
    """

    sha256: str
    subject: str = ""
    issuer: str = ""
    sans: tuple[str, ...] = ()
    not_before: datetime | None = None
    not_after: datetime | None = None
    serial: str = ""
    is_ca: bool = False
    key_type: str = ""
    issuer_urls: tuple[str, ...] = field(default=(), repr=False)
    """Where the issuer's certificate may be fetched (AIA caIssuers). We never fetch."""
    issuer_of_issuer: str = field(default="", repr=False)
    """The name above the issuer, where the authority key identifier tells it."""

    @property
    def is_self_issued(self) -> bool:
        return bool(self.subject) and self.subject == self.issuer

    def as_dict(self) -> dict[str, object]:
        return {
            "subject": self.subject,
            "issuer": self.issuer,
            "subjectAltNames": list(self.sans),
            "notBefore": _iso(self.not_before),
            "notAfter": _iso(self.not_after),
            "serial": self.serial,
            "sha256": self.sha256,
            "isCa": self.is_ca,
            "keyType": self.key_type,
        }


@lru_cache(maxsize=1024)
def describe_certificate(der: bytes) -> CertificateFacts:
    """The facts of a DER certificate. Never raises: a peer may present anything, and we still have to say what."""
    sha256 = hashlib.sha256(der).hexdigest()
    try:
        certificate = load_certificate(der)
        subject, issuer = certificate.subject.rfc4514_string(), certificate.issuer.rfc4514_string()
        not_before, not_after = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    except ValueError:
        return CertificateFacts(sha256, subject="(unreadable certificate)")
    extensions = _extensions(certificate)
    return CertificateFacts(
        sha256=sha256,
        subject=subject,
        issuer=issuer,
        sans=_typed_sans(extensions),
        not_before=not_before,
        not_after=not_after,
        serial=f"{_quietly(_serial, certificate):x}",
        is_ca=_is_ca(extensions),
        key_type=_key_type(certificate),
        issuer_urls=_issuer_urls(extensions),
        issuer_of_issuer=_issuer_of_issuer(extensions),
    )


def parse_anchors(pem: bytes, source: str, now: datetime) -> tuple[TrustAnchors, list[str]]:
    """The trust anchors in a PEM bundle, each checked, duplicates dropped; and warnings.

    Raises :class:`MaterialError`.
    """
    certificates: dict[bytes, x509.Certificate] = {}
    for number, (label, block) in enumerate(pem_blocks(pem, "caCert"), start=1):
        if "PRIVATE KEY" in label:
            raise MaterialError("caCert", f"PEM block {number} is a private key: only CA certificates belong here")
        if label != "CERTIFICATE":
            raise MaterialError("caCert", f"PEM block {number} is a {label}, not a CERTIFICATE")
        certificate = load_block(block, number, "caCert")
        certificates[certificate.public_bytes(Encoding.DER)] = certificate
    if not certificates:
        raise MaterialError("caCert", "no certificate in it: at least one PEM block CERTIFICATE is needed")
    return _anchors(certificates, source), [w for der in certificates for w in _anchor_warnings(der, now)]


def find_system_anchors(environ: Mapping[str, str], exists: Callable[[str], bool] = os.path.exists) -> str | None:
    """The path of the system's CA file as kuma-dp finds it. The environment variable wins, unchecked: a wrong path
    must fail when it is loaded, not fall back to something else that is trusted.
    """
    return environ.get(SYSTEM_CA_VARIABLE) or next((path for path in SYSTEM_CA_PATHS if exists(path)), None)


def load_system_anchors(path: str | Path, now: datetime) -> tuple[TrustAnchors, list[str]]:
    """The anchors in the system's CA file. A block that cannot be used there is passed over with a warning, since the
    user does not own the file; a file without one usable certificate raises :class:`MaterialError`.
    """
    try:
        with open(path, "rb") as file:
            pem = file.read(MAX_PEM_BYTES + 1)
    except OSError as error:
        raise MaterialError("caCert", f"the system CA file {path} cannot be read: {error.strerror}") from error
    certificates: dict[bytes, x509.Certificate] = {}
    notes: list[str] = []
    for number, (label, block) in enumerate(pem_blocks(pem, "caCert"), start=1):
        if label != "CERTIFICATE":
            notes.append(f"PEM block {number} of {path} is a {label}: passed over")
            continue
        try:
            certificate = load_block(block, number, "caCert")
        except MaterialError as error:
            notes.append(f"{path}: {error.message}: passed over")
            continue
        if certificate.not_valid_after_utc < now:
            continue  # system bundles carry them for years, and they can vouch for nobody
        certificates[certificate.public_bytes(Encoding.DER)] = certificate
    if not certificates:
        raise MaterialError("caCert", f"no usable certificate in the system CA file {path}")
    return _anchors(certificates, f"system ({path})"), notes


def parse_client(chain_pem: bytes, key_pem: bytes, source: str, now: datetime) -> tuple[ClientCertificate, list[str]]:
    """A client certificate (leaf first) and its key, proven to belong together; and warnings. Both may come from one
    combined file: what is not asked for is skipped. Raises :class:`MaterialError`.
    """
    chain = [
        load_block(block, number, "clientCert")
        for number, (label, block) in enumerate(pem_blocks(chain_pem, "clientCert"), start=1)
        if label == "CERTIFICATE"
    ]
    if not chain:
        raise MaterialError("clientCert", "no certificate in it: at least one PEM block CERTIFICATE is needed")
    key = load_private_key(key_pem, "clientKey")
    owner = next((index for index, cert in enumerate(chain) if _public(cert) == _public(key)), None)
    if owner is None:
        raise MaterialError("clientKey", "the private key does not belong to the certificate in clientCert")
    if owner > 0:
        raise MaterialError(
            "clientCert", f"the private key belongs to certificate {owner + 1}: the leaf must come first"
        )
    client = ClientCertificate(
        chain_pem=b"".join(certificate.public_bytes(Encoding.PEM) for certificate in chain),
        key_pem=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        source=source,
    )
    return client, _client_warnings(chain, now)


@lru_cache(maxsize=256)
def anchor_subjects(pem: bytes) -> frozenset[str]:
    """The subjects of normalised anchors: which issuers would have been known."""
    return frozenset(
        describe_certificate(certificate.public_bytes(Encoding.DER)).subject
        for certificate in _quietly(x509.load_pem_x509_certificates, pem)
    )


PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def pem_blocks(pem: bytes, which: str) -> Iterator[tuple[str, bytes]]:
    """The PEM blocks, each as (label, text with its borders). What stands between blocks is comment (RFC 7468 §2)."""
    if len(pem) > MAX_PEM_BYTES:
        raise MaterialError(which, f"more than {MAX_PEM_BYTES} bytes of PEM")
    position = 0
    while (begin := _BEGIN.search(pem, position)) is not None:
        end_mark = b"-----END " + begin[1] + b"-----"
        end = pem.find(end_mark, begin.end())
        if end < 0:
            raise MaterialError(which, f"a PEM block {begin[1].decode()} begins and never ends")
        position = end + len(end_mark)
        yield begin[1].decode().removeprefix("X509 "), pem[begin.start() : position]


def load_block(block: bytes, number: int, which: str) -> x509.Certificate:
    """The certificate in a block, its key readable. Raises :class:`MaterialError`."""
    try:
        certificate = _quietly(x509.load_pem_x509_certificate, block)
        certificate.public_key()
        return certificate
    except (ValueError, UnsupportedAlgorithm) as error:
        raise MaterialError(which, f"PEM block {number} is not a readable certificate") from error


def _quietly(load: Callable[[D], T], data: D) -> T:
    """Odd but common certificates (a serial number of zero, say) are read without ``cryptography``'s warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load(data)


def _serial(certificate: x509.Certificate) -> int:
    return certificate.serial_number


def load_private_key(pem: bytes, which: str) -> PrivateKey:
    """The one private key in a PEM text. Raises :class:`MaterialError`."""
    keys = [(label, block) for label, block in pem_blocks(pem, which) if label.endswith("PRIVATE KEY")]
    if not keys:
        raise MaterialError(which, "no private key in it: a PEM block PRIVATE KEY is needed")
    if len(keys) > 1:
        raise MaterialError(which, f"{len(keys)} private keys in it: exactly one is needed")
    label, block = keys[0]
    # PKCS#8 says it in the label, the traditional form in a header (RFC 1421 §4.6.1.1).
    if label == "ENCRYPTED PRIVATE KEY" or b"Proc-Type: 4,ENCRYPTED" in block:
        raise MaterialError(which, "the private key is encrypted: give it without a passphrase")
    try:
        key = load_pem_private_key(block, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # The cause is left out on purpose: nothing that has read a key gets near a traceback.
        raise MaterialError(which, "the private key cannot be read") from None
    if not isinstance(key, PrivateKey):
        raise MaterialError(which, "the private key is not RSA, EC or Ed25519")
    return key


def _public(holder: x509.Certificate | PrivateKey) -> bytes:
    return holder.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _anchors(certificates: Mapping[bytes, x509.Certificate], source: str) -> TrustAnchors:
    pem = b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates.values())
    return TrustAnchors(pem=pem, source=source)


def _anchor_warnings(der: bytes, now: datetime) -> Iterator[str]:
    facts = describe_certificate(der)
    if not facts.is_ca:
        yield f"{facts.subject}: not a CA certificate: it can vouch for itself only"
    yield from validity_warnings(facts, now)


def _client_warnings(chain: list[x509.Certificate], now: datetime) -> list[str]:
    notes: list[str] = []
    for certificate in chain:
        notes += validity_warnings(describe_certificate(certificate.public_bytes(Encoding.DER)), now)
    for below, above in itertools.pairwise(chain):
        if below.issuer != above.subject:
            notes.append(
                f"{above.subject.rfc4514_string()}: follows a certificate that it did not issue: "
                "TLS 1.2 servers may refuse the chain"
            )
    usage = _value(_extensions(chain[0]), x509.ExtendedKeyUsage)
    if usage and not {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE} & set(usage):
        notes.append(f"{chain[0].subject.rfc4514_string()}: its extended key usage is not client authentication")
    return notes


def validity_warnings(facts: CertificateFacts, now: datetime) -> Iterator[str]:
    """What there is to say of a certificate that is not valid now."""
    if facts.not_after is not None and facts.not_after < now:
        yield f"{facts.subject}: expired on {_iso(facts.not_after)}"
    if facts.not_before is not None and facts.not_before > now:
        yield f"{facts.subject}: not valid before {_iso(facts.not_before)}"


def _extensions(certificate: x509.Certificate) -> x509.Extensions | None:
    """The extensions, or ``None`` when one of them is malformed."""
    try:
        return certificate.extensions
    except UNREADABLE:
        return None


def _value(extensions: x509.Extensions | None, kind: type[E]) -> E | None:
    if extensions is None:
        return None
    try:
        return extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _typed_sans(extensions: x509.Extensions | None) -> tuple[str, ...]:
    names = _value(extensions, x509.SubjectAlternativeName)
    if names is None:
        return ()
    return (
        *(f"DNS:{name}" for name in names.get_values_for_type(x509.DNSName)),
        *(f"URI:{name}" for name in names.get_values_for_type(x509.UniformResourceIdentifier)),
        *(f"IP:{address}" for address in names.get_values_for_type(x509.IPAddress)),
    )


def has_ca_constraints(certificate: x509.Certificate) -> bool:
    """Whether basic constraints say that it is a CA. Raises what reading the extensions raises."""
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _is_ca(extensions: x509.Extensions | None) -> bool:
    constraints = _value(extensions, x509.BasicConstraints)
    return constraints is not None and constraints.ca


def _key_type(certificate: x509.Certificate) -> str:
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return ""
    match key:
        case rsa.RSAPublicKey():
            return f"RSA {key.key_size}"
        case ec.EllipticCurvePublicKey():
            return f"EC {key.curve.name}"
        case ed25519.Ed25519PublicKey():
            return "Ed25519"
        case _:
            return type(key).__name__.removesuffix("PublicKey").lstrip("_")


def _issuer_urls(extensions: x509.Extensions | None) -> tuple[str, ...]:
    access = _value(extensions, x509.AuthorityInformationAccess)
    return tuple(
        entry.access_location.value
        for entry in access or ()
        if entry.access_method == AuthorityInformationAccessOID.CA_ISSUERS
        and isinstance(entry.access_location, x509.UniformResourceIdentifier)
    )


def _issuer_of_issuer(extensions: x509.Extensions | None) -> str:
    identifier = _value(extensions, x509.AuthorityKeyIdentifier)
    for name in (identifier and identifier.authority_cert_issuer) or ():
        if isinstance(name, x509.DirectoryName):
            return name.value.rfc4514_string()
    return ""


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
