"""Every failure has one cause from the closed list, in words that are right, and names what would change it."""

from __future__ import annotations

import errno
import json
import ssl

import pytest
from cryptography import x509
from cryptography.x509.oid import AuthorityInformationAccessOID

from tests.kit.ca import EXPIRED, Authority, Identity
from tests.tls.duet import HOST, V13, now, originate, read_all, server_context, shake
from tls.handshake import ClientHandshake, Refused
from tls.names import CertificateNames
from tls.policy import MatchType, Mode, Origination, SanMatcher
from tls.presented import Presented
from tls.sessions import SessionCache
from tls.verdict import (
    MAX_NAMES_SHOWN,
    Cause,
    Phase,
    Verdict,
    classify,
    malformed_names,
    name_mismatch,
    unresolved,
)

ROOT = Authority.root("Koguma Root")
SERVER = ROOT.leaf(HOST)
BASE = originate(ROOT.pem)
WITH_CLIENT = originate(ROOT.pem, client=ROOT.leaf("caller.test"))


def ssl_error(reason: str | None, kind: type[ssl.SSLError] = ssl.SSLError) -> ssl.SSLError:
    error = kind(1, f"[SSL: {reason}] in words")
    error.reason = reason  # type: ignore[assignment]
    return error


CONNECTIONS = [
    (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), Phase.CONNECT, Cause.REFUSED, "nothing listens"),
    (OSError(errno.EHOSTUNREACH, "x"), Phase.CONNECT, Cause.UNREACHABLE, "no route to the endpoint's host"),
    (OSError(errno.ENETUNREACH, "x"), Phase.CONNECT, Cause.UNREACHABLE, "network"),
    (FileNotFoundError(errno.ENOENT, "x"), Phase.CONNECT, Cause.UNREACHABLE, "socket does not exist"),
    (PermissionError(errno.EACCES, "x"), Phase.CONNECT, Cause.UNREACHABLE, "no permission"),
    (OSError("odd"), Phase.CONNECT, Cause.UNREACHABLE, "cannot be reached"),
    (TimeoutError(), Phase.CONNECT, Cause.TIMED_OUT, "did not answer in time"),
    (TimeoutError(errno.ETIMEDOUT, "x"), Phase.HANDSHAKE, Cause.TIMED_OUT, "handshake did not finish"),
    (ConnectionResetError(errno.ECONNRESET, "x"), Phase.HANDSHAKE, Cause.RESET, "during the TLS handshake"),
    (BrokenPipeError(errno.EPIPE, "x"), Phase.ESTABLISHED, Cause.RESET, "reset"),
    (ConnectionAbortedError(), Phase.ESTABLISHED, Cause.RESET, "reset"),
    (RuntimeError("odd"), Phase.CONNECT, Cause.MALFORMED, "unforeseen"),
]


@pytest.mark.parametrize(("error", "phase", "cause", "words"), CONNECTIONS, ids=range(len(CONNECTIONS)))
def test_connections(error: Exception, phase: Phase, cause: Cause, words: str) -> None:
    verdict = classify(error, phase, now=now())
    assert verdict.cause is cause
    assert words in verdict.message


PROTOCOL = [
    # reason, phase, has a client certificate, cipher agreed, asked for one, cause
    ("WRONG_VERSION_NUMBER", Phase.HANDSHAKE, False, False, False, Cause.NOT_TLS),
    ("HTTP_REQUEST", Phase.HANDSHAKE, False, False, False, Cause.NOT_TLS),
    ("UNSUPPORTED_PROTOCOL", Phase.HANDSHAKE, False, False, False, Cause.PROTOCOL_VERSION),
    ("NO_PROTOCOLS_AVAILABLE", Phase.HANDSHAKE, False, False, False, Cause.PROTOCOL_VERSION),
    ("TLSV1_ALERT_PROTOCOL_VERSION", Phase.HANDSHAKE, False, False, False, Cause.PROTOCOL_VERSION),
    ("UNSAFE_LEGACY_RENEGOTIATION_DISABLED", Phase.HANDSHAKE, False, False, False, Cause.PROTOCOL_VERSION),
    ("SSLV3_ALERT_HANDSHAKE_FAILURE", Phase.HANDSHAKE, False, False, False, Cause.NO_SHARED_CIPHER),
    ("SSLV3_ALERT_HANDSHAKE_FAILURE", Phase.HANDSHAKE, False, False, None, Cause.NO_SHARED_CIPHER),
    ("SSLV3_ALERT_HANDSHAKE_FAILURE", Phase.HANDSHAKE, False, True, True, Cause.CLIENT_CERTIFICATE_REQUIRED),
    ("SSLV3_ALERT_HANDSHAKE_FAILURE", Phase.HANDSHAKE, False, True, None, Cause.CLIENT_CERTIFICATE_REQUIRED),
    ("SSLV3_ALERT_HANDSHAKE_FAILURE", Phase.HANDSHAKE, False, True, False, Cause.ALERT),
    ("SSLV3_ALERT_HANDSHAKE_FAILURE", Phase.HANDSHAKE, True, True, True, Cause.CLIENT_CERTIFICATE_REJECTED),
    ("SSLV3_ALERT_HANDSHAKE_FAILURE", Phase.ESTABLISHED, False, True, None, Cause.ALERT),
    ("TLSV1_ALERT_INSUFFICIENT_SECURITY", Phase.HANDSHAKE, False, False, False, Cause.NO_SHARED_CIPHER),
    ("NO_CIPHERS_AVAILABLE", Phase.HANDSHAKE, False, False, False, Cause.NO_SHARED_CIPHER),
    ("TLSV13_ALERT_CERTIFICATE_REQUIRED", Phase.ESTABLISHED, False, True, None, Cause.CLIENT_CERTIFICATE_REQUIRED),
    ("TLSV13_ALERT_CERTIFICATE_REQUIRED", Phase.ESTABLISHED, True, True, None, Cause.CLIENT_CERTIFICATE_REQUIRED),
    ("SSLV3_ALERT_BAD_CERTIFICATE", Phase.ESTABLISHED, False, True, None, Cause.CLIENT_CERTIFICATE_REQUIRED),
    ("SSLV3_ALERT_BAD_CERTIFICATE", Phase.ESTABLISHED, True, True, None, Cause.CLIENT_CERTIFICATE_REJECTED),
    ("TLSV1_ALERT_UNKNOWN_CA", Phase.ESTABLISHED, True, True, None, Cause.CLIENT_CERTIFICATE_REJECTED),
    ("TLSV1_ALERT_ACCESS_DENIED", Phase.ESTABLISHED, True, True, None, Cause.CLIENT_CERTIFICATE_REJECTED),
    ("TLSV1_UNRECOGNIZED_NAME", Phase.HANDSHAKE, False, False, False, Cause.ALERT),
    ("TLSV1_ALERT_INTERNAL_ERROR", Phase.HANDSHAKE, False, False, False, Cause.ALERT),
    ("DH_KEY_TOO_SMALL", Phase.HANDSHAKE, False, False, False, Cause.WEAK_KEY_OR_SIGNATURE),
    ("UNEXPECTED_EOF_WHILE_READING", Phase.HANDSHAKE, False, False, False, Cause.CLOSED),
    ("LENGTH_MISMATCH", Phase.HANDSHAKE, False, False, False, Cause.MALFORMED),
    (None, Phase.HANDSHAKE, False, False, False, Cause.MALFORMED),
]


@pytest.mark.parametrize("row", PROTOCOL, ids=range(len(PROTOCOL)))
def test_protocol(row: tuple[str | None, Phase, bool, bool, bool | None, Cause]) -> None:
    reason, phase, has_client, agreed, asked, cause = row
    evidence = Presented(observed=asked is not None)
    evidence.certificate_requested = asked
    origination = WITH_CLIENT if has_client else BASE
    verdict = classify(ssl_error(reason), phase, origination, evidence, now=now(), cipher_agreed=agreed)
    assert verdict.cause is cause, verdict.as_text()
    assert verdict.message
    assert "in words" in verdict.detail


def test_end_of_file() -> None:
    for phase in (Phase.HANDSHAKE, Phase.ESTABLISHED):
        assert classify(ssl_error(None, ssl.SSLEOFError), phase, now=now()).cause is Cause.CLOSED


@pytest.mark.parametrize(
    ("code", "name"), [(120, "no_application_protocol"), (116, "certificate_required"), (233, "number 233")]
)
def test_an_alert_that_python_has_no_name_for(code: int, name: str) -> None:
    evidence = Presented(observed=True)
    evidence.alert = code
    assert classify(ssl_error(None), Phase.HANDSHAKE, BASE, evidence, now=now()).alert == name


def test_no_application_protocol_names_the_protocol_field() -> None:
    handshake = ClientHandshake(
        originate(ROOT.pem, alpn=("h2",)),
        host=HOST,
        is_dns=True,
        explain=True,
        sessions=SessionCache(),
        session_key="key",
        now=now(),
    )
    handshake.start()
    with pytest.raises(Refused) as refused:
        handshake.feed(bytes((21, 3, 3, 0, 2, 2, 120)))
    assert refused.value.verdict.cause is Cause.ALERT
    assert refused.value.verdict.alert == "no_application_protocol"
    assert refused.value.verdict.field == "spec.match.protocol"


@pytest.mark.parametrize(
    ("client", "cause", "alert"),
    [
        (None, Cause.CLIENT_CERTIFICATE_REQUIRED, "certificate_required"),
        (Authority.root("Another").leaf("a.test"), Cause.CLIENT_CERTIFICATE_REJECTED, "unknown_ca"),
        (ROOT.leaf("a.test", window=EXPIRED), Cause.CLIENT_CERTIFICATE_REJECTED, "certificate_expired"),
    ],
    ids=["none", "unknown", "expired"],
)
@pytest.mark.parametrize("explain", [True, False])
def test_tls13_judges_our_certificate_after_the_handshake(
    client: Identity | None, cause: Cause, alert: str, explain: bool
) -> None:
    origination = originate(ROOT.pem, client=client)
    context = server_context(SERVER, versions=(V13, V13), client_ca=ROOT.pem)
    established = shake(origination, context, explain=explain).accepted
    with pytest.raises(ssl.SSLError) as error:
        read_all(established)
    verdict = classify(error.value, Phase.ESTABLISHED, origination, now=now())
    assert (verdict.cause, verdict.alert) == (cause, alert)
    assert verdict.field == "spec.tls.verification.clientCert"


# Missing intermediate or untrusted issuer?


def _with(identity: Identity, issuer: Authority, *extensions: x509.ExtensionType) -> Identity:
    """The leaf again, issued anew with these extensions instead of its authority key identifier."""
    old = identity.certificate
    builder = x509.CertificateBuilder(
        issuer_name=old.issuer,
        subject_name=old.subject,
        public_key=old.public_key(),
        serial_number=old.serial_number,
        not_valid_before=old.not_valid_before_utc,
        not_valid_after=old.not_valid_after_utc,
    ).add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), critical=False)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    algorithm = old.signature_hash_algorithm
    return Identity(builder.sign(issuer.key, algorithm), identity.key, identity.intermediates)  # type: ignore[arg-type]


PLAIN = ROOT.intermediate("Department 7")
AIA = x509.AuthorityInformationAccess(
    [
        x509.AccessDescription(
            AuthorityInformationAccessOID.CA_ISSUERS,
            x509.UniformResourceIdentifier("http://ca.example.test/d7.crt"),
        )
    ]
)
AKI = x509.AuthorityKeyIdentifier(None, [x509.DirectoryName(ROOT.certificate.subject)], 1)
AKI_OTHER = x509.AuthorityKeyIdentifier(None, [x509.DirectoryName(Authority.root("Nobody").certificate.subject)], 1)


@pytest.mark.parametrize(
    ("extensions", "cause"),
    [
        ((), Cause.UNTRUSTED_ISSUER),
        ((AIA,), Cause.MISSING_INTERMEDIATE),
        ((AKI,), Cause.MISSING_INTERMEDIATE),
        ((AKI_OTHER,), Cause.UNTRUSTED_ISSUER),
    ],
    ids=["no sign", "AIA", "AKI", "AKI of another"],
)
def test_signs_of_a_missing_intermediate(extensions: tuple[x509.ExtensionType, ...], cause: Cause) -> None:
    identity = _with(PLAIN.leaf(HOST), PLAIN, *extensions)
    verdict = shake(BASE, server_context(identity, chain_pem=identity.pem)).refused
    assert verdict.cause is cause
    assert "Department 7" in verdict.message
    assert verdict.advice is not None
    assert "intermediate" in verdict.advice


@pytest.mark.parametrize("name", ["Acme Issuing CA 3", "Acme Intermediate", "Acme Sub CA", "Acme Subordinate CA"])
def test_an_issuer_that_calls_itself_an_intermediate(name: str) -> None:
    identity = ROOT.intermediate(name).leaf(HOST)
    verdict = shake(BASE, server_context(identity, chain_pem=identity.pem)).refused
    assert verdict.cause is Cause.MISSING_INTERMEDIATE


def test_a_presented_intermediate_of_an_unknown_root_is_untrusted() -> None:
    identity = Authority.root("Another").intermediate("Another Issuing CA").leaf(HOST)
    verdict = shake(BASE, server_context(identity)).refused
    assert verdict.cause is Cause.UNTRUSTED_ISSUER
    assert "CN=Another," in verdict.message


def test_a_broken_middle_is_not_walked_around() -> None:
    """The chain ends where names no longer lead upwards, whatever else was sent."""
    identity = Authority.root("Another").leaf(HOST)
    context = server_context(identity, chain_pem=identity.pem + PLAIN.pem)
    verdict = shake(BASE, context).refused
    assert verdict.cause is Cause.UNTRUSTED_ISSUER
    assert "CN=Another," in verdict.message


# Names


def test_many_names_are_cut_in_the_message_only() -> None:
    names = CertificateNames(dns=tuple(f"host-{number}.test" for number in range(100)))
    verdict = name_mismatch(names, [SanMatcher(MatchType.EXACT, "a.test")], (), BASE)
    assert len(verdict.presented) == 100
    assert verdict.message.endswith(f"and {100 - MAX_NAMES_SHOWN} more")


@pytest.mark.parametrize(
    ("origination", "field"),
    [
        (BASE, "spec.endpoints[].address"),
        (originate(ROOT.pem, server_name="a.test"), "spec.tls.verification.serverName"),
        (
            originate(ROOT.pem, sans=(SanMatcher(MatchType.PREFIX, "a"), SanMatcher(MatchType.EXACT, "b"))),
            "spec.tls.verification.subjectAltNames",
        ),
    ],
    ids=["address", "serverName", "subjectAltNames"],
)
def test_the_field_that_set_the_expectation(origination: Origination, field: str) -> None:
    verdict = shake(origination, server_context(ROOT.leaf("right.test"))).refused
    assert verdict.field == field
    assert verdict.advice is not None
    if origination.sans:
        assert verdict.expected == ("a*", "b")
        assert 'add to spec.tls.verification.subjectAltNames: {type: Exact, value: "right.test"}' in verdict.advice
    else:
        assert verdict.advice.endswith("set spec.tls.verification.serverName: right.test")


@pytest.mark.parametrize("name", ["*.wild.test", "10.0.0.1", "spiffe://a/b"])
def test_what_cannot_be_a_server_name_is_advised_as_a_san(name: str) -> None:
    verdict = shake(BASE, server_context(ROOT.leaf(name))).refused
    assert verdict.advice is not None
    assert f'subjectAltNames: {{type: Exact, value: "{name}"}}' in verdict.advice


def test_following_the_advice_works() -> None:
    context = server_context(ROOT.leaf("*.wild.test"))
    advised = originate(ROOT.pem, sans=(SanMatcher(MatchType.EXACT, "*.wild.test"),))
    shake(advised, context).accepted  # noqa: B018


def test_an_address_held_as_a_dns_name_is_explained() -> None:
    identity = ROOT.leaf(x509.DNSName("192.0.2.7"))
    verdict = shake(BASE, server_context(identity), host="192.0.2.7", is_dns=False).refused
    assert "as a DNS name, not as an IP address" in verdict.message


# The value


def test_text_and_json() -> None:
    verdict = shake(BASE, server_context(ROOT.leaf("svc.exanple.test"))).refused
    text = verdict.as_text()
    for part in (
        "san_mismatch: ",
        "expected:  svc.example.test",
        "nearest:   svc.exanple.test",
        "chain[0]:",
        "advice:",
    ):
        assert part in text
    fields = json.loads(json.dumps(verdict.as_dict()))
    assert fields["cause"] == "san_mismatch"
    assert fields["chain"][0]["subjectAltNames"] == ["DNS:svc.exanple.test"]
    assert set(fields) == {
        "cause", "message", "detail", "expected", "presented", "nearest", "chain", "field", "advice", "alert",
    }  # fmt: skip


def test_text_of_everything() -> None:
    text = malformed_names("a reason", [b"garbage"]).as_text()
    assert "(unreadable certificate)" in text
    assert "validity unknown" in text
    text = Verdict(Cause.ALERT, "m", detail="d", field="f", alert="a").as_text()
    assert text.splitlines() == ["alert: m", "  alert:     a", "  detail:    d", "  field:     f"]


def test_unresolved() -> None:
    assert unresolved("nowhere.test", "NXDOMAIN").cause is Cause.DNS


def test_which_counter_a_failure_moves() -> None:
    assert Cause.SAN_MISMATCH.is_name_failure
    assert Cause.NO_SAN.is_name_failure
    assert Cause.EXPIRED.is_chain_failure
    assert not any(cause.is_name_failure and cause.is_chain_failure for cause in Cause)
    assert not Cause.REFUSED.is_chain_failure


def test_chain_failure_without_evidence() -> None:
    verdict = shake(originate(Authority.root().pem), server_context(SERVER), explain=False).refused
    assert (verdict.cause, verdict.chain) == (Cause.UNTRUSTED_ISSUER, ())


def test_clock_behind() -> None:
    """Where no presented certificate explains it by our own clock, the verdict still stands."""
    error = ssl.SSLCertVerificationError(1, "words")
    error.verify_code, error.verify_message = 9, "certificate is not yet valid"
    verdict = classify(error, Phase.HANDSHAKE, BASE, now=now())
    assert (verdict.cause, verdict.message) == (
        Cause.NOT_YET_VALID,
        "the peer's certificate is not valid yet",
    )


def test_modes_are_all_told_apart() -> None:
    assert {(mode.checks_chain, mode.checks_names) for mode in Mode} == {
        (True, True), (True, False), (False, True), (False, False),
    }  # fmt: skip
