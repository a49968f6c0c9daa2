"""The closed list of causes: why an endpoint was not reached, or a peer not let in."""

from __future__ import annotations

from enum import StrEnum


class Phase(StrEnum):
    """How far the attempt had come."""

    CONNECT = "connect"
    HANDSHAKE = "handshake"
    ESTABLISHED = "established"
    """The handshake was done on our side. A TLS 1.3 server judges our certificate only now."""


class Cause(StrEnum):
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    TIMED_OUT = "timed_out"
    DNS = "dns"
    CLOSED = "closed"
    RESET = "reset"
    NOT_TLS = "not_tls"
    PROTOCOL_VERSION = "protocol_version"
    NO_SHARED_CIPHER = "no_shared_cipher"
    ALERT = "alert"
    CLIENT_CERTIFICATE_REQUIRED = "client_certificate_required"
    CLIENT_CERTIFICATE_REJECTED = "client_certificate_rejected"
    UNTRUSTED_ISSUER = "untrusted_issuer"
    SELF_SIGNED = "self_signed"
    MISSING_INTERMEDIATE = "missing_intermediate"
    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"
    ISSUER_EXPIRED = "issuer_expired"
    NAME_CONSTRAINT = "name_constraint"
    WEAK_KEY_OR_SIGNATURE = "weak_key_or_signature"
    WRONG_PURPOSE = "wrong_purpose"
    INVALID_CHAIN = "invalid_chain"
    SAN_MISMATCH = "san_mismatch"
    NO_SAN = "no_san"
    NO_CERTIFICATE = "no_certificate"
    NOT_AN_SVID = "not_an_svid"
    INVALID_SPIFFE_ID = "invalid_spiffe_id"
    UNKNOWN_TRUST_DOMAIN = "unknown_trust_domain"
    WRONG_TRUST_DOMAIN = "wrong_trust_domain"
    MALFORMED = "malformed"

    @property
    def is_name_failure(self) -> bool:
        """Counted as ``ssl.fail_verify_san``."""
        return self in (Cause.SAN_MISMATCH, Cause.NO_SAN)

    @property
    def is_chain_failure(self) -> bool:
        """Counted as ``ssl.fail_verify_error``."""
        return self in _CHAIN_FAILURES


_CHAIN_FAILURES = frozenset(
    {
        Cause.UNTRUSTED_ISSUER,
        Cause.SELF_SIGNED,
        Cause.MISSING_INTERMEDIATE,
        Cause.EXPIRED,
        Cause.NOT_YET_VALID,
        Cause.ISSUER_EXPIRED,
        Cause.NAME_CONSTRAINT,
        Cause.WEAK_KEY_OR_SIGNATURE,
        Cause.WRONG_PURPOSE,
        Cause.INVALID_CHAIN,
        Cause.NOT_AN_SVID,
        Cause.INVALID_SPIFFE_ID,
        Cause.UNKNOWN_TRUST_DOMAIN,
        Cause.WRONG_TRUST_DOMAIN,
    }
)
