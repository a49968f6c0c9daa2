"""Is this peer who its certificate says it is? X.509-SVIDs, each judged by the bundle of its own trust domain.

The security argument. A peer is accepted when all of this holds:

1. It owns the leaf's key: OpenSSL finished a full handshake with it, or resumed a session that such a handshake made.
2. The leaf is a leaf, and names exactly one identity: :func:`read_svid`, by the X.509-SVID standard. The identity's
   trust domain chooses the bundle; nothing else that the peer says or sends does.
3. A valid path leads from the leaf to an anchor *of that bundle*. OpenSSL can only be told one set of anchors before it
   sees a certificate, so it gets the union of all bundles, and its word that *some* path is valid is not enough. What
   counts is the path that it found (``SSL_get0_verified_chain``): signatures, validity, CA flags, path lengths, name
   constraints and purposes along it are checked. If a certificate above the leaf is an anchor of the bundle, the
   piece of the path up to there is a valid path by itself, since cutting certificates off its top takes only
   constraints away.
4. OpenSSL reports one path, and it may end in another domain's anchor although the right bundle also has one: an
   intermediate that B trusts below a root that A trusts, or a root that was cross-signed. Then the certificates that
   the peer presented are verified once more, against that bundle alone, by ``cryptography``'s verifier. So two
   verifiers agree on whatever is accepted this way, and the second knows no other domain's certificates. It is the
   stricter: it refuses Ed25519 signatures and name constraints on URIs, which in this rare place costs a connection,
   not security.

What depends on nothing but the leaf, the bundles and the time is remembered (:class:`SvidJudge`): leaf, identity, and
until when every certificate of the path is valid. A resumed handshake sends no certificates. It is accepted if its
leaf is remembered and the path is still valid; and because a judge, like the context whose keys encrypt its session
tickets, belongs to one state of the bundles, a session made under other bundles is not resumed in the first place. A
leaf that was refused is never remembered, so resuming it does not help it. If the leaf has been forgotten, its path
is sought again from the leaf alone, and failing that the peer is refused.

What this does not do: revocation (SPIFFE's answer is short lives), and telling equally named CAs without key
identifiers apart (``bundles.py`` warns of those).
"""

from __future__ import annotations

import _ssl
import hashlib
import ssl
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID

from tls import inbound_verdict as verdict
from tls.bundles import TrustBundle, TrustBundles, anchor_fingerprints, fingerprint, load_anchors
from tls.names import UNREADABLE, load_certificate
from tls.spiffe import MalformedSpiffeId, SpiffeId, parse_spiffe_id
from tls.verdict import Refused

MAX_REMEMBERED = 16384
"""Leaves whose verification is remembered: about 0.5 KB each."""

MAX_PATH_DEPTH = 8
"""Intermediates between leaf and anchor that the second verifier follows."""


@dataclass(frozen=True, slots=True)
class Purpose:
    """What a certificate must be good for: its bit of the extended key usage, and the name of that."""

    oid: x509.ObjectIdentifier
    name: str


CLIENT = Purpose(ExtendedKeyUsageOID.CLIENT_AUTH, "clientAuth")
"""Of a peer that dials in."""
SERVER = Purpose(ExtendedKeyUsageOID.SERVER_AUTH, "serverAuth")
"""Of a peer that is dialled."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A verified peer. ``leaf_sha256`` is hexadecimal, of the DER; the verification holds ``until`` that moment, when
    the first certificate of the path ends. ``vouchers`` are the SHA-256 of the certificates above the leaf: the peer is
    trusted while one of them is an anchor of its domain.
    """

    id: SpiffeId
    leaf_sha256: str
    until: datetime
    vouchers: tuple[bytes, ...] = field(default=(), repr=False)


class SvidJudge:
    """Judges peers by one state of the bundles. Not thread-safe: it belongs to the event loop that uses it."""

    __slots__ = ("_max_remembered", "_purpose", "_remembered", "bundles")

    def __init__(self, bundles: TrustBundles, max_remembered: int = MAX_REMEMBERED, purpose: Purpose = CLIENT) -> None:
        self.bundles = bundles
        self._purpose = purpose
        self._remembered: OrderedDict[bytes, Peer] = OrderedDict()
        self._max_remembered = max_remembered

    def judge(self, leaf: bytes, path: Sequence[bytes], presented: Sequence[bytes], now: datetime) -> Peer:
        """Judge the peer of a full handshake. ``path`` is what OpenSSL verified, ``presented`` what the peer sent;
        both DER, leaf first. Raises :class:`~tls.verdict.Refused`.
        """
        digest = hashlib.sha256(leaf).digest()
        known = self._recall(digest, now)
        return known if known is not None else self._remember(digest, self._verify(leaf, path, presented, now))

    def judge_resumed(self, leaf: bytes, now: datetime) -> Peer:
        """Judge the peer of a resumed session. Raises :class:`~tls.verdict.Refused`."""
        digest = hashlib.sha256(leaf).digest()
        known = self._recall(digest, now)
        return known if known is not None else self._remember(digest, self._verify(leaf, (leaf,), (leaf,), now))

    def _recall(self, digest: bytes, now: datetime) -> Peer | None:
        known = self._remembered.get(digest)
        if known is None or known.until < now:
            return None
        self._remembered.move_to_end(digest)
        return known

    def _remember(self, digest: bytes, peer: Peer) -> Peer:
        self._remembered[digest] = peer
        if len(self._remembered) > self._max_remembered:
            self._remembered.popitem(last=False)
        return peer

    def _verify(self, leaf: bytes, path: Sequence[bytes], presented: Sequence[bytes], now: datetime) -> Peer:
        certificate, identity = read_svid(leaf, self._purpose)
        bundle = self.bundles.get(identity.trust_domain)
        if bundle is None:
            raise Refused(verdict.unknown_trust_domain(identity, self.bundles, presented))
        if certificate.not_valid_after_utc < now:  # OpenSSL has asked the clock, but not for a resumed session
            raise Refused(verdict.ended(identity, presented))
        proven = _piece_up_to(bundle, path) or verify_against(bundle, certificate, presented[1:], now, self._purpose)
        if proven is None:
            raise Refused(verdict.wrong_trust_domain(identity, self.bundles, path[-1:], presented))
        until = min(one.not_valid_after_utc for one in proven)
        above = dict.fromkeys((*path[1:], *(one.public_bytes(Encoding.DER) for one in proven[1:])))
        return Peer(identity, certificate_sha256(leaf), until, tuple(map(fingerprint, above)))


def recheck(peer: Peer, bundles: TrustBundles) -> None:
    """Judge a peer that was accepted by other bundles, without its certificates: by the path that was verified then. A
    piece of it up to an anchor of today is valid by itself (the third step above). A peer that only another path could
    save is refused: it may come again. Raises :class:`~tls.verdict.Refused`.
    """
    bundle = bundles.get(peer.id.trust_domain)
    if bundle is None:
        raise Refused(verdict.unknown_trust_domain(peer.id, bundles, ()))
    if anchor_fingerprints(bundle).isdisjoint(peer.vouchers):
        raise Refused(verdict.wrong_trust_domain(peer.id, bundles, (), ()))


def certificate_sha256(der: bytes) -> str:
    return hashlib.sha256(der).hexdigest()


def read_svid(der: bytes, purpose: Purpose = CLIENT) -> tuple[x509.Certificate, SpiffeId]:
    """The identity that a leaf claims, if the leaf may claim one (X509-SVID §2 to §5.2). Raises
    :class:`~tls.verdict.Refused`.
    """
    try:
        certificate = load_certificate(der)
        extensions = certificate.extensions
        names = _extension(extensions, x509.SubjectAlternativeName)
        uris = [] if names is None else names.get_values_for_type(x509.UniformResourceIdentifier)
        constraints = _extension(extensions, x509.BasicConstraints)
        usage = _extension(extensions, x509.KeyUsage)
        purposes = _extension(extensions, x509.ExtendedKeyUsage)
    except UNREADABLE as error:
        raise Refused(verdict.unreadable_leaf(der)) from error
    if len(uris) != 1:  # §2: validators MUST reject more than one, since two may speak for two
        raise Refused(verdict.not_one_uri(uris, der))
    try:
        identity = parse_spiffe_id(uris[0])
    except MalformedSpiffeId as error:
        raise Refused(verdict.bad_spiffe_id(uris[0], str(error), der)) from error
    if not identity.path:  # §5.2: the ID of a trust domain identifies no workload
        raise Refused(verdict.bad_spiffe_id(uris[0], "a leaf's ID must have a path", der))
    if constraints is not None and constraints.ca:  # §5.2; an absent extension is the same as false (RFC 5280 §4.2.1.9)
        raise Refused(verdict.wrong_kind_of_leaf("it is a CA certificate", identity, der))
    if usage is not None and (usage.key_cert_sign or usage.crl_sign):  # §5.2
        raise Refused(verdict.wrong_kind_of_leaf("it may sign certificates or revocation lists", identity, der))
    if usage is not None and not usage.digital_signature:  # §4.3; a missing extension restricts nothing
        raise Refused(verdict.wrong_kind_of_leaf("its key usage lacks digitalSignature", identity, der))
    if purposes is not None and purpose.oid not in purposes:  # §4.4
        raise Refused(verdict.wrong_kind_of_leaf(f"its extended key usage lacks {purpose.name}", identity, der))
    return certificate, identity


def _extension(extensions: x509.Extensions, kind: type[Any]) -> Any:
    try:
        return extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _piece_up_to(bundle: TrustBundle, path: Sequence[bytes]) -> list[x509.Certificate] | None:
    """The part of a verified path from the leaf to the first anchor of the bundle; ``None`` if it meets none."""
    for index, der in enumerate(path[1:], start=1):
        if der in bundle.anchors:
            return list(map(load_certificate, path[: index + 1]))
    return None


def verify_against(
    bundle: TrustBundle,
    leaf: x509.Certificate,
    intermediates: Iterable[bytes],
    now: datetime,
    purpose: Purpose = CLIENT,
) -> list[x509.Certificate] | None:
    """A valid path from the leaf through ``intermediates`` to an anchor of the bundle, and of nothing else."""
    known: list[x509.Certificate] = []
    for der in intermediates:
        try:
            known.append(load_certificate(der))
        except ValueError:
            continue  # unreadable: then no path leads through it
    verifier = (
        verification.PolicyBuilder()
        .store(verification.Store(list(load_anchors(bundle))))
        .time(now)
        .max_chain_depth(MAX_PATH_DEPTH)
        .extension_policies(ca_policy=_ca_rules(purpose), ee_policy=verification.ExtensionPolicy.permit_all())
        .build_client_verifier()
    )
    try:
        return list(verifier.verify(leaf, known).chain)
    except verification.VerificationError:
        return None


def _may_sign(_: verification.Policy, __: x509.Certificate, usage: x509.KeyUsage | None) -> None:
    if usage is not None and not usage.key_cert_sign:
        raise ValueError("a CA that may not sign certificates")


@lru_cache(maxsize=2)
def _ca_rules(purpose: Purpose) -> verification.ExtensionPolicy:
    """On top of what the verifier always checks (CA flag, path length, validity, names, name constraints, algorithms).
    The leaf has been through :func:`read_svid`; the verifier's being one of clients means only that it expects no DNS
    name.
    """

    def may_vouch(_: verification.Policy, __: x509.Certificate, purposes: x509.ExtendedKeyUsage | None) -> None:
        if purposes is not None and purpose.oid not in purposes:
            raise ValueError(f"a CA that may not vouch for {purpose.name}")

    return (
        verification.ExtensionPolicy.permit_all()
        .require_present(x509.BasicConstraints, verification.Criticality.AGNOSTIC, None)
        .may_be_present(x509.KeyUsage, verification.Criticality.AGNOSTIC, _may_sign)
        .may_be_present(x509.ExtendedKeyUsage, verification.Criticality.AGNOSTIC, may_vouch)
    )


def verified_path(sslobj: ssl.SSLObject) -> tuple[bytes, ...]:
    """The path that OpenSSL verified: DER, leaf first, the anchor last; empty for a resumed session. Public since
    Python 3.13, and below that name in C since 3.10.
    """
    return _ders(sslobj._sslobj.get_verified_chain())  # type: ignore[attr-defined]


def presented_chain(sslobj: ssl.SSLObject) -> tuple[bytes, ...]:
    """What the peer sent: DER, leaf first; empty for a resumed session."""
    return _ders(sslobj._sslobj.get_unverified_chain())  # type: ignore[attr-defined]


def _ders(certificates: Any) -> tuple[bytes, ...]:
    return tuple(certificate.public_bytes(_ssl.ENCODING_DER) for certificate in certificates or ())
