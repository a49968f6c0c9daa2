"""Why a peer was not let in, in the words and the list of causes of ``verdict.py``.

These verdicts are for the operator alone. The peer gets an alert of OpenSSL's, or ``certificate_unknown``, or a closed
connection; the application behind the inbound never learns of it. Texts that the peer wrote (names, IDs) are quoted
with ``repr`` and clipped, for they end in logs.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from datetime import datetime

from tls.bundles import TrustBundles
from tls.cause import Cause, Phase
from tls.material import CertificateFacts, MaterialError, describe_certificate
from tls.names import MalformedNames, read_names
from tls.openssl_words import (
    CAUSES_BY_CODE,
    CERTIFICATE_ALERTS,
    CIPHER_REASONS,
    EOF_REASONS,
    EXPIRED_CODES,
    NO_CERTIFICATE_REASONS,
    NO_ISSUER_CODES,
    NOT_YET_VALID_CODES,
    PLAINTEXT_REASONS,
    SELF_SIGNED_LEAF_CODE,
    VERSION_REASONS,
    WEAK_REASONS,
    alert_name,
)
from tls.presented import Presented
from tls.spiffe import MalformedSpiffeId, SpiffeId, parse_spiffe_id
from tls.verdict import Verdict, describe_time_fault

MAX_QUOTED_CHARS = 128

BUNDLES_FIELD = "MeshTrust spec.caBundles"
TRUST_DOMAIN_FIELD = "MeshTrust spec.trustDomain"
VERSION_FIELD = "MeshTLS spec.rules[].default.tlsVersion"
CIPHERS_FIELD = "MeshTLS spec.rules[].default.tlsCiphers"
MODE_FIELD = "MeshTLS spec.rules[].default.mode"

_PEER_REISSUE = "ask the peer's operator for an X.509-SVID: one URI SAN, a SPIFFE ID with a path, and no CA"


# The leaf -----------------------------------------------------------------------------------------------------------


def unreadable_leaf(leaf: bytes) -> Verdict:
    return _about_leaf(Cause.MALFORMED, "the peer's certificate cannot be read, or one of its extensions", leaf)


def not_one_uri(uris: Sequence[str], leaf: bytes) -> Verdict:
    if not uris:
        return _about_leaf(Cause.NOT_AN_SVID, "the peer's certificate has no URI SAN, so it names no SPIFFE ID", leaf)
    return _about_leaf(
        Cause.NOT_AN_SVID,
        f"the peer's certificate has {len(uris)} URI SANs, and an SVID has exactly one",
        leaf,
        presented=tuple(map(_quote, uris[:16])),
    )


def bad_spiffe_id(uri: str, why: str, leaf: bytes) -> Verdict:
    message = f"the URI SAN of the peer's certificate, {_quote(uri)}, is not a SPIFFE ID of a workload: {why}"
    return _about_leaf(Cause.INVALID_SPIFFE_ID, message, leaf)


def wrong_kind_of_leaf(why: str, identity: SpiffeId, leaf: bytes) -> Verdict:
    return _about_leaf(Cause.NOT_AN_SVID, f"the certificate of {identity} may not identify a peer: {why}", leaf)


def _about_leaf(cause: Cause, message: str, leaf: bytes, presented: tuple[str, ...] = ()) -> Verdict:
    return Verdict(cause, message, presented=presented, chain=(describe_certificate(leaf),), advice=_PEER_REISSUE)


def unexpected_identity(identity: SpiffeId, expected: Sequence[object], leaf: bytes) -> Verdict:
    """A peer of the mesh, verified, and not the one that was dialled for."""
    return Verdict(
        Cause.SAN_MISMATCH,
        f"the peer is {identity}, and somebody else is expected at this address",
        expected=tuple(map(str, expected)),
        presented=(str(identity),),
        chain=(describe_certificate(leaf),),
        field="MeshIdentity spec.spiffeID",
        advice="the ID expected of a zone egress follows from the MeshIdentity that means it: check its labels",
    )


# The trust domain ---------------------------------------------------------------------------------------------------


def unknown_trust_domain(identity: SpiffeId, bundles: TrustBundles, presented: Sequence[bytes]) -> Verdict:
    return Verdict(
        Cause.UNKNOWN_TRUST_DOMAIN,
        f"{identity} is of trust domain {identity.trust_domain}, and no trust bundle here has CA certificates for it",
        expected=tuple(bundles.by_domain),
        presented=(str(identity),),
        chain=_facts(presented),
        field=TRUST_DOMAIN_FIELD,
        advice=f"if that domain is to be trusted, copy its MeshTrust here (trustDomain: {identity.trust_domain}), or "
        "federate with it in SPIRE where that issues our identity",
    )


def wrong_trust_domain(
    identity: SpiffeId, bundles: TrustBundles, anchor: Sequence[bytes], presented: Sequence[bytes]
) -> Verdict:
    """``anchor`` is where the path that OpenSSL found ends: at most one certificate."""
    domain = identity.trust_domain
    others = [name for der in anchor for name in bundles.vouched_by(der)]
    message = f"{identity} was not issued by a CA of its own trust domain {domain}"
    if others:
        message += f": the CA belongs to {', '.join(others)}, which has no say there"
    return Verdict(
        Cause.WRONG_TRUST_DOMAIN,
        message,
        expected=(domain,),
        presented=tuple(others),
        chain=_facts(presented),
        field=BUNDLES_FIELD,
        advice=f"if {domain} has a new CA, add its certificate to the MeshTrust of {domain}; otherwise somebody claims "
        "an identity that is not theirs",
    )


def ended(identity: SpiffeId, presented: Sequence[bytes]) -> Verdict:
    return Verdict(
        Cause.EXPIRED,
        f"the certificate of {identity} has expired",
        chain=_facts(presented),
        advice="ask the peer to renew its certificate",
    )


# The handshake ------------------------------------------------------------------------------------------------------


def no_certificate() -> Verdict:
    return Verdict(
        Cause.NO_CERTIFICATE,
        "the peer presented no certificate",
        field=MODE_FIELD,
        advice="the peer must present an X.509-SVID; only plaintext can be let in without one (mode: Permissive)",
    )


def not_tls(first_bytes: bytes) -> Verdict:
    return Verdict(
        Cause.NOT_TLS,
        "the peer speaks plaintext, and this inbound demands mTLS",
        f"the first bytes from the peer are {first_bytes[:16]!r}",
        field=MODE_FIELD,
        advice="let the peer connect through its own proxy, or allow plaintext for a while (mode: Permissive)",
    )


def closed_in_handshake(presented: Presented) -> Verdict:
    return Verdict(
        Cause.CLOSED,
        "the peer closed the connection during the TLS handshake",
        chain=_facts(presented.chain),
        advice="a peer that does not trust our certificate may do so without an alert: see its log",
    )


def unusable_material(error: MaterialError) -> Verdict:
    return Verdict(Cause.MALFORMED, error.message, field=error.which, advice=f"replace what {error.which} holds")


def classify(
    error: BaseException,
    phase: Phase,
    bundles: TrustBundles,
    presented: Presented,
    *,
    now: datetime,
    versions: str = "",
    purpose: str = "clientAuth",
) -> Verdict:
    """The verdict on a failed handshake with a client. ``versions``: those that we take, for people; ``purpose``: what
    the peer's certificate has to be good for.
    """
    chain = _facts(presented.chain)
    if isinstance(error, ssl.SSLCertVerificationError):
        return _judge_chain(error, bundles, presented.chain, chain, now, purpose)
    if isinstance(error, ssl.SSLError):
        return _judge_protocol(error, presented, chain, versions)
    where = "during the TLS handshake" if phase is Phase.HANDSHAKE else "on a connection that was established"
    if isinstance(error, TimeoutError):
        return Verdict(Cause.TIMED_OUT, "the peer did not finish the TLS handshake in time", str(error), chain=chain)
    if isinstance(error, OSError):
        return Verdict(Cause.RESET, f"the peer reset the connection {where}", error.strerror or str(error), chain=chain)
    return Verdict(Cause.MALFORMED, "the handshake failed in an unforeseen way", f"{type(error).__name__}: {error}")


def _judge_chain(
    error: ssl.SSLCertVerificationError,
    bundles: TrustBundles,
    ders: Sequence[bytes],
    chain: tuple[CertificateFacts, ...],
    now: datetime,
    purpose: str,
) -> Verdict:
    """OpenSSL found no valid path to any anchor of any domain."""
    code, detail = error.verify_code, error.verify_message
    who = claimed_identity(ders)
    whose = f"the certificate of {who}" if who is not None else "the peer's certificate"
    if code in EXPIRED_CODES or code in NOT_YET_VALID_CODES:
        cause, message, advice = describe_time_fault(code in EXPIRED_CODES, chain, now, "renew the MeshTrust's CA")
        return Verdict(cause, message, detail, chain=chain, field=BUNDLES_FIELD, advice=advice)
    if who is not None and code in (*NO_ISSUER_CODES, SELF_SIGNED_LEAF_CODE) and bundles.get(who.trust_domain) is None:
        return unknown_trust_domain(who, bundles, ders)
    if code == SELF_SIGNED_LEAF_CODE:
        cause, message = Cause.SELF_SIGNED, f"{whose} is self-signed"
        advice = "ask the peer for a certificate that the CA of its trust domain issued"
    elif code in NO_ISSUER_CODES:
        cause, message = Cause.UNTRUSTED_ISSUER, f"{whose} leads to no CA of any trusted domain"
        if chain:
            message += f"; it was issued by {chain[0].issuer or '(no name)'}"
        advice = "add that CA to the MeshTrust of its domain; if it is an intermediate of a CA that is there, the peer "
        advice += "must send it along, or the MeshTrust hold it too"
    else:
        cause = CAUSES_BY_CODE.get(code, Cause.INVALID_CHAIN)
        message = f"the chain of {whose} is not valid: {detail}"
        advice = "ask the peer's operator to correct its certificates"
        if cause is Cause.WRONG_PURPOSE:
            advice = (
                f"the extended key usage of the leaf and of every CA above it must include {purpose}, where present"
            )
    return Verdict(cause, message, detail, chain=chain, field=BUNDLES_FIELD, advice=advice)


def _judge_protocol(
    error: ssl.SSLError, presented: Presented, chain: tuple[CertificateFacts, ...], versions: str
) -> Verdict:
    reason = error.reason or ""
    detail = str(error.args[1]) if len(error.args) > 1 else str(error)
    alert = alert_name(error, presented)
    if reason in NO_CERTIFICATE_REASONS:
        return no_certificate()
    if alert in CERTIFICATE_ALERTS:
        return Verdict(
            Cause.CLIENT_CERTIFICATE_REJECTED,
            f"the peer does not accept our certificate ({alert.replace('_', ' ')})" if alert else "",
            detail,
            chain=chain,
            field="MeshIdentity spec.provider",
            advice="copy the MeshTrust of our trust domain to where the peer is (koguma trust export)",
            alert=alert,
        )
    if alert is not None and alert != "protocol_version":
        text = f"the peer ended TLS with the alert {alert.replace('_', ' ')}"
        return Verdict(Cause.ALERT, text, detail, chain=chain, advice="see the peer's log", alert=alert)
    if reason in EOF_REASONS or isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return closed_in_handshake(presented)
    if reason in PLAINTEXT_REASONS:
        return not_tls(b"")
    if reason in VERSION_REASONS or alert == "protocol_version":
        return Verdict(
            Cause.PROTOCOL_VERSION,
            "the peer supports none of the TLS versions that this inbound takes"
            + (f" ({versions})" if versions else ""),
            detail,
            chain=chain,
            field=VERSION_FIELD,
            advice=f"widen {VERSION_FIELD}, or let the peer use TLS 1.2 or later",
            alert=alert,
        )
    if reason in CIPHER_REASONS:
        return Verdict(
            Cause.NO_SHARED_CIPHER,
            "the peer and this inbound have no cipher suite, group or signature in common",
            detail,
            chain=chain,
            field=CIPHERS_FIELD,
            advice="let the peer use ECDHE with AES-GCM or ChaCha20",
        )
    if reason in WEAK_REASONS:
        return Verdict(
            Cause.WEAK_KEY_OR_SIGNATURE,
            "the peer uses too small a key or too weak a signature",
            detail,
            chain=chain,
            advice="ask the peer to use RSA of 2048 bits or more, or elliptic curves, and SHA-256",
        )
    return Verdict(
        Cause.MALFORMED,
        "the peer broke the rules of TLS",
        detail,
        chain=chain,
        advice="a port scanner, or a middlebox that rewrites TLS, looks like this",
    )


def claimed_identity(presented: Sequence[bytes]) -> SpiffeId | None:
    """What the peer would like to be, verified or not: for explanations only."""
    try:
        uris = read_names(presented[0]).uris if presented else ()
        return parse_spiffe_id(uris[0]) if len(uris) == 1 else None
    except (MalformedNames, MalformedSpiffeId):
        return None


def _facts(chain: Sequence[bytes]) -> tuple[CertificateFacts, ...]:
    return tuple(map(describe_certificate, chain))


def _quote(text: str) -> str:
    return repr(text if len(text) <= MAX_QUOTED_CHARS else f"{text[:MAX_QUOTED_CHARS]}...")
