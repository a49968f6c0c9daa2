"""``ssl`` contexts for the server side, each with the judge of its peers.

A context demands a client certificate and hands OpenSSL every anchor of every trust domain: necessary, and not enough
(``svid.py`` says why, and what follows). Settings that are equal share one context. Any change of bundles or identity
makes another, with other keys for its session tickets, so that no session outlives the state of the world that it was
made in; a judge is shared by all contexts of one state of the bundles.

Handshakes run on the *observing* context, whose connections remember what the peer presented even where OpenSSL refuses
it (``presented.py``): a client that dials in cannot be asked to try again for the log's sake. When the handshake is
done, its connection moves to the quiet twin. ``num_tickets`` is one: each costs, and one client resumes with one.
"""

from __future__ import annotations

import ssl
import warnings
from dataclasses import dataclass
from functools import lru_cache

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tls.acceptance import Acceptance
from tls.bundles import TrustBundles
from tls.context import LEGACY_CIPHERS, NO_CERTIFICATE_COMPRESSION
from tls.key_pair import load_key_pair
from tls.material import MaterialError
from tls.names import read_names
from tls.presented import can_observe, observe
from tls.svid import SvidJudge

AUTHENTICATED_CIPHERS = "@SECLEVEL=2:ECDHE+AESGCM:ECDHE+CHACHA20"
"""For TLS 1.2, Kuma's own six: forward secrecy and authenticated encryption. Peers of a mesh are not old, and suites in
CBC mode have been open to timing (Lucky 13)."""

MAX_SERVER_CONTEXTS = 256
"""Distinct settings whose contexts are kept: inbounds differ in little, a zone egress has up to three for each mesh,
and a rotation doubles them for a while.
"""

MAX_JUDGES = 64
"""States of the bundles whose judges are kept: one for each mesh, and those before."""


@dataclass(frozen=True, slots=True, eq=False)
class ServerContext:
    """What a handshake of one acceptance needs."""

    handshake: ssl.SSLContext
    quiet: ssl.SSLContext
    judge: SvidJudge
    local_id: str
    """The SPIFFE ID that is presented; empty where the certificate has none."""


class _Settings:
    """An acceptance, compared by nothing but what a context depends on."""

    __slots__ = ("_key", "acceptance")

    def __init__(self, acceptance: Acceptance) -> None:
        self.acceptance = acceptance
        self._key = (
            acceptance.identity.chain_pem,
            acceptance.identity.key_pem,
            acceptance.bundles.digest,
            int(acceptance.min_version),
            int(acceptance.max_version),
            acceptance.ciphers,
            acceptance.alpn,
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Settings) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


def server_context(acceptance: Acceptance) -> ServerContext:
    """Raises :class:`MaterialError` when OpenSSL will not have the material, or when there is nothing to judge by."""
    return _server_context(_Settings(acceptance))


@lru_cache(maxsize=MAX_SERVER_CONTEXTS)
def _server_context(settings: _Settings) -> ServerContext:
    quiet = _build(settings.acceptance)
    handshake = quiet
    if can_observe():
        handshake = _build(settings.acceptance)
        observe(handshake)
    judge = _judge(settings.acceptance.bundles)
    return ServerContext(handshake, quiet, judge, _uri_of(settings.acceptance.identity.chain_pem))


@lru_cache(maxsize=MAX_JUDGES)
def _judge(bundles: TrustBundles) -> SvidJudge:
    return SvidJudge(bundles)


def _uri_of(chain_pem: bytes) -> str:
    leaf = x509.load_pem_x509_certificates(chain_pem)[0]
    uris = read_names(leaf.public_bytes(Encoding.DER)).uris
    return uris[0] if uris else ""


def _build(acceptance: Acceptance) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags = ssl.VerifyFlags.VERIFY_X509_TRUSTED_FIRST | ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    context.options |= ssl.OP_NO_COMPRESSION | NO_CERTIFICATE_COMPRESSION  # CRIME
    context.options |= ssl.OP_NO_RENEGOTIATION  # a peer stays who it was
    context.num_tickets = 1
    context.set_ciphers(_ciphers(acceptance))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # TLS 1.0 and 1.1: the user was warned by `validate`
        context.minimum_version = acceptance.min_version
        context.maximum_version = acceptance.max_version
    if acceptance.alpn:
        context.set_alpn_protocols(list(acceptance.alpn))
    if not acceptance.bundles:
        raise MaterialError("caBundles", "no trust domain is trusted: every peer would be refused")
    try:
        context.load_verify_locations(cadata=acceptance.bundles.union_pem)
    except (ssl.SSLError, ValueError) as error:
        raise MaterialError("caBundles", "OpenSSL refuses the CA certificates of the trust bundles") from error
    load_key_pair(context, acceptance.identity, "identity", "the certificate")
    return context


def _ciphers(acceptance: Acceptance) -> str:
    if acceptance.ciphers:
        return ":".join(("@SECLEVEL=2", *acceptance.ciphers))
    return LEGACY_CIPHERS if acceptance.min_version < ssl.TLSVersion.TLSv1_2 else AUTHENTICATED_CIPHERS
