"""The chain as presented survives a failed handshake; whatever the bytes, parsing them never raises."""

from __future__ import annotations

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kit.ca import Authority
from tests.tls.duet import HOST, V12, V13, originate, read_all, server_context, shake
from tls import presented as module
from tls.context import observing_context, quiet_context
from tls.policy import Mode
from tls.presented import MAX_CHAIN, Presented, parse_certificate_message
from tls.verdict import Cause

ROOT = Authority.root("Koguma Root")
SERVER = ROOT.intermediate("Koguma Issuing CA").leaf(HOST)


def message(entries: list[bytes], *, is_tls13: bool) -> bytes:
    tail = b"\0\0" if is_tls13 else b""
    listed = b"".join(len(entry).to_bytes(3) + entry + tail for entry in entries)
    body = (b"\0" if is_tls13 else b"") + len(listed).to_bytes(3) + listed
    return b"\x0b" + len(body).to_bytes(3) + body


@pytest.mark.parametrize("is_tls13", [False, True])
def test_parsing(is_tls13: bool) -> None:
    entries = [b"leaf", b"intermediate"]
    assert parse_certificate_message(message(entries, is_tls13=is_tls13), is_tls13=is_tls13) == tuple(entries)
    assert parse_certificate_message(message([], is_tls13=is_tls13), is_tls13=is_tls13) == ()
    many = [b"x"] * (MAX_CHAIN + 5)
    assert len(parse_certificate_message(message(many, is_tls13=is_tls13), is_tls13=is_tls13)) == MAX_CHAIN


@pytest.mark.parametrize("is_tls13", [False, True])
def test_truncated_at_every_byte(is_tls13: bool) -> None:
    whole = message([b"leaf", b"intermediate"], is_tls13=is_tls13)
    for end in range(len(whole)):
        found = parse_certificate_message(whole[:end], is_tls13=is_tls13)
        assert found in ((), (b"leaf",), (b"leaf", b"intermediate"))


def test_empty_entry_ends_the_list() -> None:
    assert parse_certificate_message(message([b"", b"x"], is_tls13=False), is_tls13=False) == ()


@given(st.integers(0, 65535), st.integers(0, 300), st.integers(0, 300), st.binary(max_size=200))
def test_any_message_is_taken_in(version: int, content_type: int, message_type: int, data: bytes) -> None:
    Presented(observed=True).note(version, content_type, message_type, data)


@given(st.binary(max_size=300), st.booleans())
def test_any_certificate_message_is_parsed(data: bytes, is_tls13: bool) -> None:
    assert len(parse_certificate_message(b"\x0b" + data, is_tls13=is_tls13)) <= MAX_CHAIN


@pytest.mark.parametrize("version", [V12, V13], ids=["1.2", "1.3"])
@pytest.mark.parametrize("wants_client", [False, True])
def test_evidence_of_a_failure(version: ssl.TLSVersion, wants_client: bool) -> None:
    context = server_context(SERVER, versions=(version, version), client_ca=ROOT.pem if wants_client else None)
    verdict = shake(originate(Authority.root("Another").pem), context).refused
    assert verdict.cause is Cause.UNTRUSTED_ISSUER
    assert [facts.subject for facts in verdict.chain] == ["CN=leaf", "CN=Koguma Issuing CA"]


@pytest.mark.parametrize("version", [V12, V13], ids=["1.2", "1.3"])
def test_evidence_of_a_success_and_quiet_afterwards(version: ssl.TLSVersion, monkeypatch: pytest.MonkeyPatch) -> None:
    noted: list[int] = []
    original = Presented.note

    def counting(self: Presented, *arguments: object) -> None:
        noted.append(1)
        original(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Presented, "note", counting)
    origination = originate(ROOT.pem)
    duet = shake(origination, server_context(SERVER, versions=(version, version)))
    established = duet.accepted
    assert established.chain[0] == SERVER.der
    assert len(established.chain) == 2
    assert established.sslobj.context is quiet_context(origination)
    in_handshake = len(noted)
    assert in_handshake > 0
    established.incoming.write(duet.server.send(b"x" * 100_000))
    assert read_all(established) == b"x" * 100_000
    assert len(noted) == in_handshake


def test_quiet_handshake_observes_nothing() -> None:
    assert shake(originate(ROOT.pem), server_context(SERVER), explain=False).accepted.chain == ()


def test_without_the_hook_everything_works_but_the_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_HOOK", None)
    origination = originate(ROOT.pem, alpn=("without-the-hook",), allow_renegotiation=True)
    established = shake(origination, server_context(SERVER)).accepted
    assert established.chain == ()
    # Renegotiation that could not be verified afterwards stays off.
    assert not established.renegotiation_allowed
    assert established.sslobj.context.options & ssl.OP_NO_RENEGOTIATION
    refused = shake(originate(Authority.root("Another").pem), server_context(SERVER)).refused
    assert (refused.cause, refused.chain) == (Cause.UNTRUSTED_ISSUER, ())
    mismatch = shake(originate(ROOT.pem, server_name="no.test"), server_context(SERVER)).refused
    assert [facts.subject for facts in mismatch.chain] == ["CN=leaf"]


def test_the_alert_is_noted() -> None:
    evidence = Presented(observed=True)
    evidence.note(0x0303, 21, 116, b"\x02\x74")
    assert evidence.alert == 116
    assert evidence.certificate_requested is False
    evidence.note(0x0303, 22, 13, b"\x0d\0\0\0")
    assert evidence.certificate_requested is True


def test_observing_skips_verification_of_nothing() -> None:
    """The twin differs in nothing but its ears."""
    for mode in Mode:
        origination = originate(ROOT.pem, mode=mode)
        quiet, observing = quiet_context(origination), observing_context(origination)
        assert quiet is not observing
        for name in ("verify_mode", "verify_flags", "options", "check_hostname", "minimum_version"):
            assert getattr(quiet, name) == getattr(observing, name)
        assert len(quiet.get_ca_certs()) == len(observing.get_ca_certs())
