"""``ssl`` contexts for the client side: the one place where every setting of a handshake is stated.

A context depends on: whether the chain is checked and against which anchors, the client certificate, the versions,
renegotiation and ALPN. It does not depend on names, which we verify ourselves (``names.py``), nor on the service: ten
thousand services with the same settings share one context. Sessions are kept apart from contexts (``sessions.py``), so
sharing one never lets a session cross from one service to another.

Each setting has up to two contexts: a *quiet* one, and an *observing* twin whose connections remember what the peer
presented (``presented.py``), which costs a Python call a record while it is in force. Once a handshake has succeeded,
its connection is moved to the quiet twin.

Two rules fail closed. Renegotiation needs the observing twin for as long as the connection lives, since a peer that
renegotiates may become somebody else; without the hook it stays off. And versions below 1.2 need OpenSSL's security
level 0 (their signatures are SHA-1), which also lets weak keys pass: only settings that ask for them have it.
"""

from __future__ import annotations

import ssl
import sys
import warnings
from functools import lru_cache

from tls.key_pair import load_key_pair
from tls.material import MaterialError
from tls.policy import Origination
from tls.presented import can_observe, observe

MAX_QUIET = 1024
"""Distinct settings whose contexts are kept. One with the 140 CAs of a system takes 0.8 MB and 10 to 40 ms to build."""

MAX_OBSERVING = 64
"""Twins kept. They serve first and failed connections only, or the few that may renegotiate."""

MODERN_CIPHERS = "@SECLEVEL=2:ECDH+AESGCM:ECDH+CHACHA20:ECDH+AES:DHE+AES:!aNULL:!eNULL:!aDSS:!SHA1:!AESCCM"
"""Forward secrecy, no SHA-1: what Python itself defaults to, stated so that no build of it decides otherwise."""

LEGACY_CIPHERS = "@SECLEVEL=0:ECDH+AESGCM:ECDH+CHACHA20:ECDH+AES:DHE+AES:RSA+AES:!aNULL:!eNULL:!aDSS:!PSK:!SRP"
"""With the CBC and RSA suites that TLS 1.0 and 1.1 peers have."""

NO_CERTIFICATE_COMPRESSION = 1 << 32 | 1 << 33 if sys.maxsize > 1 << 33 else 0
"""``SSL_OP_NO_TX_CERTIFICATE_COMPRESSION`` and ``..._RX_...`` of OpenSSL 3.2. Python has no names for them, and cannot
set them on 32-bit machines; before 3.2 they mean nothing. By RFC 8879, who is not verified yet says how much memory we
are to set aside for what it sends; and we could not show what it presents (``presented.py``).
"""


class _Settings:
    """An origination, compared by nothing but what a context depends on."""

    __slots__ = ("_key", "origination")

    def __init__(self, origination: Origination) -> None:
        anchors, client = origination.anchors, origination.client
        self.origination = origination
        self._key = (
            anchors.pem if origination.mode.checks_chain and anchors is not None else None,
            (client.chain_pem, client.key_pem) if client is not None else None,
            int(origination.min_version),
            int(origination.max_version),
            origination.allow_renegotiation,
            origination.alpn,
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Settings) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)  # cheap: a bytes object remembers its hash


def quiet_context(origination: Origination) -> ssl.SSLContext:
    """The context for everyday connections. Raises :class:`MaterialError` when OpenSSL will not have the material."""
    return _quiet(_Settings(origination))


def observing_context(origination: Origination) -> ssl.SSLContext:
    """Its twin that observes; the quiet one itself where this Python cannot observe. Raises :class:`MaterialError`."""
    return _observing(_Settings(origination)) if can_observe() else quiet_context(origination)


@lru_cache(maxsize=MAX_QUIET)
def _quiet(settings: _Settings) -> ssl.SSLContext:
    return _build(settings.origination)


@lru_cache(maxsize=MAX_OBSERVING)
def _observing(settings: _Settings) -> ssl.SSLContext:
    context = _build(settings.origination)
    observe(context)
    return context


def renegotiates(origination: Origination) -> bool:
    """Whether connections of this origination may renegotiate: asked for, and possible to verify afterwards."""
    return origination.allow_renegotiation and can_observe()


def _build(origination: Origination) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # names.py does it: per endpoint, with URIs and prefixes
    context.hostname_checks_common_name = False
    context.verify_flags = ssl.VerifyFlags.VERIFY_X509_TRUSTED_FIRST | ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    context.options |= ssl.OP_NO_COMPRESSION | NO_CERTIFICATE_COMPRESSION  # CRIME
    if not renegotiates(origination):
        context.options |= ssl.OP_NO_RENEGOTIATION
    is_legacy = origination.min_version < ssl.TLSVersion.TLSv1_2
    context.set_ciphers(LEGACY_CIPHERS if is_legacy else MODERN_CIPHERS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # TLS 1.0 and 1.1: the user was warned by `validate`
        context.minimum_version = origination.min_version
        context.maximum_version = origination.max_version
    if origination.alpn:
        context.set_alpn_protocols(list(origination.alpn))
    _load_anchors(context, origination)
    _load_client(context, origination)
    return context


def _load_anchors(context: ssl.SSLContext, origination: Origination) -> None:
    if not origination.mode.checks_chain:
        context.verify_mode = ssl.CERT_NONE
        return
    context.verify_mode = ssl.CERT_REQUIRED
    anchors = origination.anchors
    assert anchors is not None, "Origination promises it"
    try:
        context.load_verify_locations(cadata=anchors.pem.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise MaterialError("caCert", f"OpenSSL refuses the CA certificates of {anchors.source}") from error


def _load_client(context: ssl.SSLContext, origination: Origination) -> None:
    client = origination.client
    if client is not None:
        load_key_pair(context, client, "clientCert", "the client certificate")
