"""Contexts state every setting, are shared exactly where their settings agree, and keep keys off the disk."""

from __future__ import annotations

import os
import ssl
import stat
import tempfile
from dataclasses import replace

import pytest

from tests.kit.ca import Authority
from tests.tls.duet import HOST, V10, V12, V13, originate, server_context, shake
from tls import context as module
from tls.context import MAX_OBSERVING, MAX_QUIET, NO_CERTIFICATE_COMPRESSION, quiet_context
from tls.material import MaterialError
from tls.policy import ClientCertificate, MatchType, Mode, Origination, SanMatcher, TrustAnchors

ROOT = Authority.root("Koguma Root")
CALLER = ROOT.leaf("caller.test")
BASE = originate(ROOT.pem)


def test_every_setting() -> None:
    context = quiet_context(BASE)
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert not context.check_hostname
    assert not context.hostname_checks_common_name
    assert context.verify_flags & ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    assert context.options & ssl.OP_NO_COMPRESSION
    assert context.options & NO_CERTIFICATE_COMPRESSION == NO_CERTIFICATE_COMPRESSION
    assert context.options & ssl.OP_NO_RENEGOTIATION
    assert (context.minimum_version, context.maximum_version) == (V12, V13)
    assert not any("SHA1" in cipher["name"] or "NULL" in cipher["name"] for cipher in context.get_ciphers())
    assert len(context.get_ca_certs()) == 1


@pytest.mark.parametrize("mode", list(Mode))
def test_the_chain_is_checked_where_the_mode_says_so(mode: Mode) -> None:
    context = quiet_context(originate(ROOT.pem, mode=mode))
    assert (context.verify_mode is ssl.CERT_REQUIRED) == mode.checks_chain
    assert len(context.get_ca_certs()) == int(mode.checks_chain)


def test_no_more_contexts_are_kept_than_the_limits() -> None:
    """Settings change with each rotation, and a context may have 0.8 MB."""
    assert module._quiet.cache_parameters()["maxsize"] == MAX_QUIET
    assert module._observing.cache_parameters()["maxsize"] == MAX_OBSERVING


def test_renegotiation_is_allowed_only_when_asked_for() -> None:
    context = quiet_context(originate(ROOT.pem, allow_renegotiation=True))
    assert not context.options & ssl.OP_NO_RENEGOTIATION


SAME = [
    replace(BASE, server_name="other.test"),
    replace(BASE, sans=(SanMatcher(MatchType.EXACT, "other.test"),)),
    replace(BASE, mode=Mode.SKIP_SAN),
    replace(BASE, anchors=TrustAnchors(ROOT.pem.encode(), "elsewhere")),
]
DIFFERENT = [
    replace(BASE, mode=Mode.SKIP_CA),
    replace(BASE, anchors=TrustAnchors(Authority.root().pem.encode(), "caCert")),
    originate(ROOT.pem, client=CALLER),
    replace(BASE, min_version=V13),
    replace(BASE, max_version=V12),
    replace(BASE, allow_renegotiation=True),
    replace(BASE, alpn=("h2",)),
]


@pytest.mark.parametrize("other", SAME, ids=range(len(SAME)))
def test_contexts_are_shared(other: Origination) -> None:
    assert quiet_context(other) is quiet_context(BASE)


@pytest.mark.parametrize("other", DIFFERENT, ids=range(len(DIFFERENT)))
def test_contexts_are_kept_apart(other: Origination) -> None:
    assert quiet_context(other) is not quiet_context(BASE)


def test_settings_equal_nothing_else() -> None:
    assert module._Settings(BASE) != "settings"


def _no_file_may_be_made(*_: object, **__: object) -> tuple[int, str]:
    raise AssertionError("a key went to the disk")


def test_the_key_never_touches_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "mkstemp", _no_file_may_be_made)
    quiet_context(originate(ROOT.pem, client=ROOT.leaf("memory.test")))


@pytest.mark.parametrize("lacking", ["memfd", "proc"])
def test_fallback_file_is_ours_alone_and_gone_at_once(lacking: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if lacking == "memfd":
        monkeypatch.delattr(os, "memfd_create")
    else:
        monkeypatch.setattr(os.path, "exists", lambda path: False)
    seen: list[tuple[str, int]] = []
    load = ssl.SSLContext.load_cert_chain

    def spying(self: ssl.SSLContext, path: str, password: str | None = None) -> None:
        seen.append((path, stat.S_IMODE(os.stat(path).st_mode)))
        load(self, path, password=password)

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", spying)
    caller = ROOT.leaf("file.test")
    context = server_context(ROOT.leaf(HOST), client_ca=ROOT.pem)
    seen.clear()
    shake(originate(ROOT.pem, client=caller), context, explain=False).accepted  # noqa: B018
    ((path, mode),) = seen
    assert mode == 0o600
    assert not os.access(path, os.F_OK)


@pytest.mark.parametrize("pem", [b"", b"\xff", b"not PEM"])
def test_anchors_that_openssl_refuses(pem: bytes) -> None:
    with pytest.raises(MaterialError) as error:
        quiet_context(replace(BASE, anchors=TrustAnchors(pem, "Secret/ca")))
    assert error.value.which == "caCert"
    assert "Secret/ca" in error.value.message


def test_client_material_that_openssl_refuses() -> None:
    other = ROOT.leaf("other.test")
    client = ClientCertificate(CALLER.pem.encode(), other.key_pem.encode(), "Secret/client")
    with pytest.raises(MaterialError, match="KEY_VALUES_MISMATCH") as error:
        quiet_context(replace(BASE, client=client))
    assert error.value.which == "clientCert"
    assert "PRIVATE" not in str(error.value)


def test_weak_client_key_is_refused_unless_the_settings_are_weak() -> None:
    caller = ROOT.leaf("caller.test", key_type="rsa1024")
    with pytest.raises(MaterialError, match="EE_KEY_TOO_SMALL"):
        quiet_context(originate(ROOT.pem, client=caller))
    quiet_context(originate(ROOT.pem, client=caller, versions=(V10, V13)))
