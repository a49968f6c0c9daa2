"""Certificate authorities in memory: any chain, sound or faulty, as PEM.

    root = Authority.root("root")
    issuing = root.intermediate("issuing")
    server = issuing.leaf("api.example.test", "127.0.0.1", "spiffe://example.test/api")
    server.chain_pem    # leaf, then the intermediates, without the root
    root.pem            # what goes into caCert

A fault is an argument: ``window=EXPIRED``, ``is_ca=False``, ``usages=[...]``. Nothing is checked on the way,
for the certificates that must be refused are the point.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

KeyType = Literal["ec", "ec384", "rsa", "rsa1024", "ed25519"]
PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey

SERVER = ExtendedKeyUsageOID.SERVER_AUTH
CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH


@dataclass(frozen=True, slots=True)
class Window:
    """A validity window, relative to now."""

    starts: timedelta
    ends: timedelta


VALID = Window(timedelta(hours=-1), timedelta(days=30))
EXPIRED = Window(timedelta(days=-30), timedelta(hours=-1))
NOT_YET = Window(timedelta(hours=1), timedelta(days=30))


def new_key(key_type: KeyType = "ec") -> PrivateKey:
    """A private key. EC and Ed25519 keys are fresh each time; RSA keys are slow to make, so there is one per
    size.
    """
    match key_type:
        case "ec":
            return ec.generate_private_key(ec.SECP256R1())
        case "ec384":
            return ec.generate_private_key(ec.SECP384R1())
        case "ed25519":
            return ed25519.Ed25519PrivateKey.generate()
        case "rsa":
            return _rsa_key(2048)
        case "rsa1024":
            return _rsa_key(1024)


@functools.cache
def _rsa_key(bits: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def san(text: str) -> x509.GeneralName:
    """``spiffe://…`` and other URIs, IP addresses, and DNS names for the rest."""
    if "://" in text:
        return x509.UniformResourceIdentifier(text)
    try:
        return x509.IPAddress(ip_address(text))
    except ValueError:
        return x509.DNSName(text)


@dataclass(frozen=True, slots=True)
class Identity:
    """A leaf certificate with its key and the intermediates above it."""

    certificate: x509.Certificate
    key: PrivateKey = field(repr=False)
    intermediates: tuple[x509.Certificate, ...]

    @property
    def pem(self) -> str:
        """The leaf alone."""
        return _pem(self.certificate)

    @property
    def chain_pem(self) -> str:
        """The leaf, then the intermediates, nearest first; the root is left out."""
        return "".join(_pem(one) for one in (self.certificate, *self.intermediates))

    @property
    def key_pem(self) -> str:
        return key_pem(self.key)

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.der).hexdigest()


@dataclass(frozen=True, slots=True)
class Authority:
    """A CA certificate with its key; ``intermediates`` is its own chain below the root, itself first."""

    certificate: x509.Certificate
    key: PrivateKey = field(repr=False)
    intermediates: tuple[x509.Certificate, ...] = ()

    @property
    def pem(self) -> str:
        return _pem(self.certificate)

    @classmethod
    def root(
        cls,
        name: str = "Test Root",
        *,
        window: Window = VALID,
        key_type: KeyType = "ec",
        is_ca: bool = True,
        path_length: int | None = None,
        constraints: x509.NameConstraints | None = None,
    ) -> Authority:
        key = new_key(key_type)
        subject = _name(name)
        builder = _builder(subject, subject, key, window)
        builder = _as_authority(builder, is_ca, path_length, constraints)
        return cls(_sign(builder, key, key), key)

    def intermediate(
        self,
        name: str = "Test Intermediate",
        *,
        window: Window = VALID,
        key_type: KeyType = "ec",
        is_ca: bool = True,
        path_length: int | None = None,
        constraints: x509.NameConstraints | None = None,
    ) -> Authority:
        key = new_key(key_type)
        builder = _builder(_name(name), self.certificate.subject, key, window)
        builder = _as_authority(builder, is_ca, path_length, constraints)
        certificate = _sign(builder, key, self.key)
        return Authority(certificate, key, (certificate, *self.intermediates))

    def cross_sign(self, other: Authority, *, window: Window = VALID) -> Authority:
        """``other``'s name and key under a certificate that this authority issues."""
        builder = _builder(other.certificate.subject, self.certificate.subject, other.key, window)
        certificate = _sign(_as_authority(builder, True, None, None), other.key, self.key)
        return Authority(certificate, other.key, (certificate, *self.intermediates))

    def leaf(
        self,
        *sans: str | x509.GeneralName,
        common_name: str = "leaf",
        window: Window = VALID,
        key_type: KeyType = "ec",
        usages: Sequence[ObjectIdentifier] | None = (SERVER, CLIENT),
        key_usage: x509.KeyUsage | None = None,
        is_ca: bool = False,
    ) -> Identity:
        """A leaf with these subject alternative names (none at all: no such extension).

        ``usages=None`` leaves the extended key usage out; ``key_usage=None`` leaves the key usage out.
        """
        key = new_key(key_type)
        builder = _builder(_name(common_name), self.certificate.subject, key, window)
        builder = builder.add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        names = [san(one) if isinstance(one, str) else one for one in sans]
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        if usages is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        if key_usage is not None:
            builder = builder.add_extension(key_usage, critical=True)
        return Identity(_sign(builder, key, self.key), key, self.intermediates)


def self_signed(*sans: str, common_name: str = "self-signed", window: Window = VALID) -> Identity:
    """A leaf that vouches for itself."""
    key = new_key()
    subject = _name(common_name)
    builder = _builder(subject, subject, key, window)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(x509.SubjectAlternativeName([san(one) for one in sans]), critical=False)
    return Identity(_sign(builder, key, key), key, ())


def only_dns(*permitted: str) -> x509.NameConstraints:
    """Name constraints that permit these DNS names and what is below them."""
    return x509.NameConstraints(permitted_subtrees=[x509.DNSName(name) for name in permitted], excluded_subtrees=None)


def key_pem(key: PrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(subject: x509.Name, issuer: x509.Name, key: PrivateKey, window: Window) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + window.starts)
        .not_valid_after(now + window.ends)
    )


def _as_authority(
    builder: x509.CertificateBuilder,
    is_ca: bool,
    path_length: int | None,
    constraints: x509.NameConstraints | None,
) -> x509.CertificateBuilder:
    builder = builder.add_extension(
        x509.BasicConstraints(ca=is_ca, path_length=path_length if is_ca else None), critical=True
    )
    builder = builder.add_extension(
        x509.KeyUsage(
            digital_signature=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=is_ca,
            crl_sign=is_ca,
            encipher_only=False,
            decipher_only=False,
        ),
        critical=True,
    )
    if constraints is not None:
        builder = builder.add_extension(constraints, critical=True)
    return builder


def _sign(builder: x509.CertificateBuilder, key: PrivateKey, issuer_key: PrivateKey) -> x509.Certificate:
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False
    )
    algorithm = None if isinstance(issuer_key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(issuer_key, algorithm)
