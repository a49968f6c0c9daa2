"""What the numbers and words of OpenSSL and TLS mean: verification errors, alerts, the reasons of an ``SSLError``.

Both directions read them: ``verdict.py`` when we judge a server, ``inbound_verdict.py`` when we judge a client.
"""

from __future__ import annotations

import re
import ssl

from tls.cause import Cause
from tls.presented import Presented

NOT_YET_VALID_CODES = frozenset({9, 13})
EXPIRED_CODES = frozenset({10, 14})
SELF_SIGNED_LEAF_CODE = 18
NO_ISSUER_CODES = frozenset({2, 19, 20, 21, 27})
CAUSES_BY_CODE = {
    26: Cause.WRONG_PURPOSE,
    47: Cause.NAME_CONSTRAINT,
    48: Cause.NAME_CONSTRAINT,
    49: Cause.NAME_CONSTRAINT,
    50: Cause.NAME_CONSTRAINT,
    51: Cause.NAME_CONSTRAINT,
    52: Cause.NAME_CONSTRAINT,
    53: Cause.NAME_CONSTRAINT,
    66: Cause.WEAK_KEY_OR_SIGNATURE,
    67: Cause.WEAK_KEY_OR_SIGNATURE,
    68: Cause.WEAK_KEY_OR_SIGNATURE,
}
"""``X509_V_ERR_*`` of OpenSSL 3 (x509_vfy.h); what is not listed is an invalid chain."""

ALERTS = {
    10: "unexpected_message",
    20: "bad_record_mac",
    22: "record_overflow",
    40: "handshake_failure",
    41: "no_certificate",
    42: "bad_certificate",
    43: "unsupported_certificate",
    44: "certificate_revoked",
    45: "certificate_expired",
    46: "certificate_unknown",
    47: "illegal_parameter",
    48: "unknown_ca",
    49: "access_denied",
    50: "decode_error",
    51: "decrypt_error",
    70: "protocol_version",
    71: "insufficient_security",
    80: "internal_error",
    86: "inappropriate_fallback",
    90: "user_canceled",
    100: "no_renegotiation",
    109: "missing_extension",
    110: "unsupported_extension",
    112: "unrecognized_name",
    113: "bad_certificate_status_response",
    115: "unknown_psk_identity",
    116: "certificate_required",
    120: "no_application_protocol",
}
"""TLS alert registry (RFC 8446 §6, RFC 5246 §7.2, RFC 6066, RFC 7301)."""

CERTIFICATE_ALERTS = frozenset(
    {
        "no_certificate",
        "bad_certificate",
        "unsupported_certificate",
        "certificate_revoked",
        "certificate_expired",
        "certificate_unknown",
        "unknown_ca",
        "access_denied",
    }
)

_ALERT_IN_REASON = re.compile(r"(?:SSLV3|TLSV1|TLSV13)_(?:ALERT_)?([A-Z_]+)")

VERSION_REASONS = frozenset(
    {
        "UNSUPPORTED_PROTOCOL",
        "NO_PROTOCOLS_AVAILABLE",
        "VERSION_TOO_LOW",
        "VERSION_TOO_HIGH",
        "WRONG_SSL_VERSION",
        "UNSAFE_LEGACY_RENEGOTIATION_DISABLED",
    }
)
CIPHER_REASONS = frozenset({"NO_CIPHERS_AVAILABLE", "NO_SHARED_CIPHER", "WRONG_CIPHER_RETURNED"})
WEAK_REASONS = frozenset({"DH_KEY_TOO_SMALL", "EE_KEY_TOO_SMALL", "CA_KEY_TOO_SMALL", "CA_MD_TOO_WEAK"})
PLAINTEXT_REASONS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "HTTPS_PROXY_REQUEST"})
NO_CERTIFICATE_REASONS = frozenset({"PEER_DID_NOT_RETURN_A_CERTIFICATE"})
EOF_REASONS = frozenset({"UNEXPECTED_EOF_WHILE_READING"})


def alert_name(error: ssl.SSLError, presented: Presented) -> str | None:
    """The alert that the peer sent, if that is what ended it."""
    found = _ALERT_IN_REASON.fullmatch(error.reason or "")
    if found is not None and found[1].lower() in ALERTS.values():
        return found[1].lower()
    if error.reason is None and presented.alert is not None:
        return ALERTS.get(presented.alert, f"number {presented.alert}")  # one that this Python has no name for
    return None
