"""Why an attempt to reach an endpoint failed: one cause from a closed list, in words, with what would change it.

A verdict is made from the exception, from the phase it came in, and from what the peer presented. Verdicts are for the
operator (log, ``/resources``, ``diagnose``); the application behind the proxy never sees one.

What cannot be known for sure is decided as follows, and the message names the alternative:

* *Missing intermediate or untrusted issuer?* OpenSSL says the same of both. The chain is followed upwards through what
  was presented. If it ends at the leaf itself (nothing above it was sent), its issuer is no anchor, and something says
  that this issuer is not a root, an intermediate is missing. That something is: the leaf names the issuer's own
  issuer and that is an anchor (authority key identifier), or it says where to fetch the issuer (AIA), or the
  issuer calls itself an intermediate ("Intermediate", "Issuing", "Sub CA"). Otherwise the issuer is untrusted.
* *No client certificate, or a cipher mismatch?* TLS 1.2 has one alert for both, ``handshake_failure``. If the peer
  asked for a certificate and we had none, that is why.
* *No shared cipher, or an old version?* A server of TLS 1.0 that is offered only suites of TLS 1.2 complains of the
  suites, not of the version. The verdict says cipher and names the version as the other possibility.
* *Certificate alerts from the peer* are about our certificate. With none configured, they mean that one is required.
"""

from __future__ import annotations

import errno
import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from tls.cause import Cause as Cause
from tls.cause import Phase as Phase
from tls.material import CertificateFacts, MaterialError, anchor_subjects, describe_certificate
from tls.names import CertificateNames, as_ip, nearest_miss
from tls.openssl_words import (
    CAUSES_BY_CODE,
    CERTIFICATE_ALERTS,
    CIPHER_REASONS,
    EOF_REASONS,
    EXPIRED_CODES,
    NO_ISSUER_CODES,
    NOT_YET_VALID_CODES,
    PLAINTEXT_REASONS,
    SELF_SIGNED_LEAF_CODE,
    VERSION_REASONS,
    WEAK_REASONS,
    alert_name,
)
from tls.policy import Origination, SanMatcher
from tls.presented import Presented

MAX_NAMES_SHOWN = 20
"""Names of a certificate that the message spells out; ``presented`` holds all of them."""

_VERIFICATION = "spec.tls.verification"
CA_FIELD = f"{_VERIFICATION}.caCert"
SANS_FIELD = f"{_VERIFICATION}.subjectAltNames"
SERVER_NAME_FIELD = f"{_VERIFICATION}.serverName"
CLIENT_FIELD = f"{_VERIFICATION}.clientCert"
VERSION_FIELD = "spec.tls.version"
ADDRESS_FIELD = "spec.endpoints[].address"
PORT_FIELD = "spec.endpoints[].port"
ENABLED_FIELD = "spec.tls.enabled"
RENEGOTIATION_FIELD = "spec.tls.allowRenegotiation"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One refusal, explained. ``message`` is a sentence for people, ``detail`` OpenSSL's or the system's own words,
    ``field`` the YAML field that decides, ``advice`` the one change that would alter the result.
    """

    cause: Cause
    message: str
    detail: str = ""
    expected: tuple[str, ...] = ()
    presented: tuple[str, ...] = ()
    nearest: str | None = None
    chain: tuple[CertificateFacts, ...] = ()
    field: str | None = None
    advice: str | None = None
    alert: str | None = None

    def as_text(self) -> str:
        """Several lines, for ``diagnose``."""
        lines = [f"{self.cause}: {self.message}"]
        if self.expected:
            lines.append(f"  expected:  {', '.join(self.expected)}")
        if self.presented:
            lines.append(f"  presented: {', '.join(self.presented)}")
        if self.nearest is not None:
            lines.append(f"  nearest:   {self.nearest}")
        if self.alert is not None:
            lines.append(f"  alert:     {self.alert}")
        for depth, facts in enumerate(self.chain):
            lines.append(f"  chain[{depth}]:  {facts.subject or '(no subject)'}, issued by {facts.issuer}")
            lines.append(f"             {_validity(facts)}, {facts.key_type}, sha256 {facts.sha256}")
        if self.detail:
            lines.append(f"  detail:    {self.detail}")
        if self.field is not None:
            lines.append(f"  field:     {self.field}")
        if self.advice is not None:
            lines.append(f"  advice:    {self.advice}")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "cause": str(self.cause),
            "message": self.message,
            "detail": self.detail,
            "expected": list(self.expected),
            "presented": list(self.presented),
            "nearest": self.nearest,
            "chain": [facts.as_dict() for facts in self.chain],
            "field": self.field,
            "advice": self.advice,
            "alert": self.alert,
        }


class Refused(Exception):
    """A peer was not accepted, or did not accept us. ``verdict`` says why."""

    def __init__(self, why: Verdict) -> None:
        super().__init__(f"{why.cause}: {why.message}")
        self.verdict = why


def classify(
    error: BaseException,
    phase: Phase,
    origination: Origination | None = None,
    presented: Presented | None = None,
    *,
    now: datetime,
    cipher_agreed: bool = False,
) -> Verdict:
    """The verdict on a failed attempt. ``cipher_agreed``: the peer's ServerHello had come."""
    presented = presented or Presented(observed=False)
    chain = tuple(map(describe_certificate, presented.chain))
    if isinstance(error, ssl.SSLCertVerificationError) and origination is not None:
        return _judge_chain(error, origination, chain, now)
    if isinstance(error, ssl.SSLError):
        return _judge_protocol(error, phase, origination, presented, chain, cipher_agreed)
    if isinstance(error, OSError):
        return _judge_connection(error, phase)
    return Verdict(Cause.MALFORMED, "the attempt failed in an unforeseen way", f"{type(error).__name__}: {error}")


def unresolved(name: str, reason: str) -> Verdict:
    """The endpoint's name has no address."""
    return Verdict(
        Cause.DNS,
        f"the name {name} could not be resolved",
        reason,
        field=ADDRESS_FIELD,
        advice="check the name and the DNS servers that the proxy asks (--dns-upstream, --hosts-file)",
    )


def closed_in_handshake(presented: Presented) -> Verdict:
    """The peer closed the connection before the handshake was over, without an alert."""
    return Verdict(
        Cause.CLOSED,
        "the peer closed the connection during the TLS handshake",
        chain=tuple(map(describe_certificate, presented.chain)),
        field=PORT_FIELD,
        advice="check that this port speaks TLS; some servers close like this for a server name "
        f"({SERVER_NAME_FIELD}) that they do not know, or for want of a client certificate",
    )


def not_tls(first_bytes: bytes) -> Verdict:
    """The peer's first bytes are no TLS record."""
    kind = next((kind for mark, kind in _GREETINGS if first_bytes.startswith(mark)), None)
    return Verdict(
        Cause.NOT_TLS,
        f"the peer answered in {kind}, not in TLS" if kind else "the peer does not speak TLS on this port",
        f"the first bytes from the peer are {first_bytes[:16]!r}",
        field=ENABLED_FIELD,
        advice=f"give the port on which the peer speaks TLS in {PORT_FIELD}, or set {ENABLED_FIELD}: false",
    )


def bad_server_name(name: str) -> Verdict:
    """The name cannot be put into a ClientHello."""
    return Verdict(
        Cause.MALFORMED,
        f"{name!r} cannot be sent as a server name",
        field=SERVER_NAME_FIELD,
        advice=f"set {SERVER_NAME_FIELD} to a DNS name of at most 253 characters, its labels at most 63",
    )


def unusable_material(error: MaterialError) -> Verdict:
    """Our own certificates parse, and OpenSSL refuses them (a key too small for it, say)."""
    return Verdict(
        Cause.WEAK_KEY_OR_SIGNATURE if "TOO_SMALL" in error.message or "TOO_WEAK" in error.message else Cause.MALFORMED,
        error.message,
        field=f"{_VERIFICATION}.{error.which}",
        advice=f"replace what {_VERIFICATION}.{error.which} holds",
    )


def no_certificate() -> Verdict:
    return Verdict(Cause.NO_CERTIFICATE, "the peer presented no certificate", advice="ask the peer to present one")


def malformed_names(reason: str, chain: Sequence[bytes]) -> Verdict:
    return Verdict(
        Cause.MALFORMED,
        reason,
        chain=tuple(map(describe_certificate, chain)),
        advice="ask the peer to have its certificate reissued",
    )


def name_mismatch(
    names: CertificateNames, expected: Sequence[SanMatcher], chain: Sequence[bytes], origination: Origination
) -> Verdict:
    """No subject alternative name of the leaf is an expected one."""
    facts = tuple(map(describe_certificate, chain))
    wanted = tuple(map(str, expected))
    field = _naming_field(origination)
    if not names.texts:
        return Verdict(
            Cause.NO_SAN,
            f"the certificate has no subject alternative names; expected {_one_of(wanted)}",
            expected=wanted,
            chain=facts,
            field=field,
            advice="ask the peer for a certificate with subject alternative names: the common name does not count",
        )
    message = f"the certificate is not for {_one_of(wanted)} but for {_some(names.texts)}"
    if any(as_ip(matcher.value) is not None and matcher.value in names.dns for matcher in expected):
        message += " (which it holds as a DNS name, not as an IP address)"
    nearest = nearest_miss(names, expected)
    return Verdict(
        Cause.SAN_MISMATCH,
        message,
        expected=wanted,
        presented=names.texts,
        nearest=nearest,
        chain=facts,
        field=field,
        advice=_naming_advice(names, nearest, origination),
    )


# The chain ----------------------------------------------------------------------------------------------------------

_CALLS_ITSELF_INTERMEDIATE = re.compile(r"intermediate|issuing|\bsub[- ]?(?:ordinate)?[- ]?ca\b", re.IGNORECASE)


def _judge_chain(
    error: ssl.SSLCertVerificationError,
    origination: Origination,
    chain: tuple[CertificateFacts, ...],
    now: datetime,
) -> Verdict:
    code, detail = error.verify_code, error.verify_message
    leaf = chain[0] if chain else None
    about_leaf = f"the peer's certificate ({leaf.subject or 'no subject'})" if leaf else "the peer's certificate"

    def verdict(cause: Cause, message: str, advice: str) -> Verdict:
        return Verdict(cause, message, detail, chain=chain, field=CA_FIELD, advice=advice)

    if code in EXPIRED_CODES or code in NOT_YET_VALID_CODES:
        return _judge_time(code in EXPIRED_CODES, detail, chain, now)
    if code == SELF_SIGNED_LEAF_CODE:
        return verdict(
            Cause.SELF_SIGNED,
            f"{about_leaf} is self-signed, and is not itself trusted",
            f"if it is the one you expect, put that very certificate into {CA_FIELD}",
        )
    if code in NO_ISSUER_CODES:
        return _judge_issuer(detail, origination, chain)
    cause = CAUSES_BY_CODE.get(code, Cause.INVALID_CHAIN)
    if cause is Cause.WRONG_PURPOSE:
        return verdict(
            cause,
            f"{about_leaf} is not meant for a server (extended key usage)",
            "ask the peer for a certificate whose extended key usage includes server authentication",
        )
    if cause is Cause.NAME_CONSTRAINT:
        return verdict(
            cause,
            f"a CA above {about_leaf} may not issue for its names (name constraints)",
            "ask the peer for a certificate from a CA that may issue for its names",
        )
    if cause is Cause.WEAK_KEY_OR_SIGNATURE:
        return verdict(
            cause,
            f"the chain of {about_leaf} has too small a key or too weak a signature",
            "ask the peer for a certificate with RSA of 2048 bits or more, or EC, signed with SHA-256",
        )
    return verdict(
        cause,
        f"the chain of {about_leaf} is not valid: {detail}",
        f"ask the peer to correct its chain, or put the right CA certificate into {CA_FIELD}",
    )


def _judge_time(is_expired: bool, detail: str, chain: tuple[CertificateFacts, ...], now: datetime) -> Verdict:
    cause, message, advice = describe_time_fault(is_expired, chain, now, f"renew the certificate in {CA_FIELD}")
    return Verdict(cause, message, detail, chain=chain, field=CA_FIELD, advice=advice)


def describe_time_fault(
    is_expired: bool, chain: tuple[CertificateFacts, ...], now: datetime, anchor_advice: str
) -> tuple[Cause, str, str]:
    """Cause, message and advice. OpenSSL does not say which certificate it was about: the dates do. An anchor is not
    among those presented; ``anchor_advice`` is for it.
    """
    culprit = next((index for index, facts in enumerate(chain) if _is_out_of_time(facts, is_expired, now)), None)
    facts = None if culprit is None else chain[culprit]
    is_issuer = bool(culprit) or (facts is None and bool(chain))
    what = "a CA certificate above the peer's" if is_issuer else "the peer's certificate"
    if facts is not None:
        what += f" ({facts.subject or 'no subject'})"
    if is_expired:
        when = f" on {_moment(facts.not_after)}" if facts and facts.not_after else ""
        message, cause = f"{what} expired{when}", Cause.ISSUER_EXPIRED if is_issuer else Cause.EXPIRED
    else:
        when = f" before {_moment(facts.not_before)}" if facts and facts.not_before else " yet"
        message, cause = f"{what} is not valid{when}", Cause.NOT_YET_VALID
    if is_issuer and facts is None:
        advice = anchor_advice
    elif is_expired:
        advice = "ask the peer to renew its certificate" + (" chain" if is_issuer else "")
    else:
        advice = "check this machine's clock; if it is right, ask the peer for a certificate that is valid now"
    return cause, message, advice


def _is_out_of_time(facts: CertificateFacts, is_expired: bool, now: datetime) -> bool:
    if is_expired:
        return facts.not_after is not None and facts.not_after < now
    return facts.not_before is not None and facts.not_before > now


def _judge_issuer(detail: str, origination: Origination, chain: tuple[CertificateFacts, ...]) -> Verdict:
    source = origination.anchors.source if origination.anchors is not None else "no CA"
    if not chain:
        return Verdict(
            Cause.UNTRUSTED_ISSUER,
            f"the peer's chain does not end in a trusted CA ({source})",
            detail,
            field=CA_FIELD,
            advice=f"put the CA certificate that the peer's chain ends in into {CA_FIELD}",
        )
    top = _top(chain)
    known = anchor_subjects(origination.anchors.pem) if origination.anchors is not None else frozenset()
    if top is chain[0] and not top.is_self_issued and _lacks_intermediate(top, known):
        return Verdict(
            Cause.MISSING_INTERMEDIATE,
            f"the peer sent its certificate without that of its issuer ({top.issuer}), an intermediate CA",
            detail,
            chain=chain,
            field=CA_FIELD,
            advice="ask the peer to send its full chain (leaf, then intermediates); until then, adding the "
            f"intermediate to {CA_FIELD} works as well",
        )
    if top.issuer in known:
        return Verdict(
            Cause.UNTRUSTED_ISSUER,
            f"the CA {top.issuer} of the peer's chain has the name of a trusted one ({source}) but another key",
            detail,
            chain=chain,
            field=CA_FIELD,
            advice=f"if the CA was renewed with a new key, put its new certificate into {CA_FIELD}",
        )
    return Verdict(
        Cause.UNTRUSTED_ISSUER,
        f"the peer's chain leads to {top.issuer}, which is not among the trusted CAs ({source})",
        detail,
        chain=chain,
        field=CA_FIELD,
        advice=f"if that CA is the right one, put its certificate into {CA_FIELD}; if it is an intermediate of a "
        "CA that is there, ask the peer to send it along",
    )


def _top(chain: tuple[CertificateFacts, ...]) -> CertificateFacts:
    """The highest certificate that names lead to, from the leaf through what was presented."""
    top, rest = chain[0], list(chain[1:])
    while not top.is_self_issued:
        above = next((facts for facts in rest if facts.subject == top.issuer), None)
        if above is None:
            break
        rest.remove(above)
        top = above
    return top


def _lacks_intermediate(leaf: CertificateFacts, known: frozenset[str]) -> bool:
    """Whether the unsent issuer of a lone leaf is an intermediate (see the head of this file)."""
    if leaf.issuer in known:
        return False
    return (
        leaf.issuer_of_issuer in known
        or bool(leaf.issuer_urls)
        or _CALLS_ITSELF_INTERMEDIATE.search(leaf.issuer) is not None
    )


# The protocol -------------------------------------------------------------------------------------------------------

_GREETINGS = (
    (b"HTTP/", "HTTP"),
    (b"SSH-", "SSH"),
    (b"220", "SMTP or FTP"),
    (b"+OK", "POP3"),
    (b"* OK", "IMAP"),
    (b"-ERR", "plaintext"),
    (b"<", "HTML or XML"),
)


def _judge_protocol(
    error: ssl.SSLError,
    phase: Phase,
    origination: Origination | None,
    presented: Presented,
    chain: tuple[CertificateFacts, ...],
    cipher_agreed: bool,
) -> Verdict:
    reason = error.reason or ""
    detail = str(error.args[1]) if len(error.args) > 1 else str(error)
    alert = alert_name(error, presented)
    if alert is not None:
        return _judge_alert(alert, detail, phase, origination, presented, chain, cipher_agreed)
    if reason in EOF_REASONS or isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        where = "during the TLS handshake" if phase is Phase.HANDSHAKE else "without saying so in TLS"
        return Verdict(Cause.CLOSED, f"the peer closed the connection {where}", detail, chain=chain)
    if reason in PLAINTEXT_REASONS:
        return Verdict(
            Cause.NOT_TLS,
            "the peer does not speak TLS on this port",
            detail,
            field=ENABLED_FIELD,
            advice=f"give the port on which the peer speaks TLS in {PORT_FIELD}, or set {ENABLED_FIELD}: false",
        )
    if reason in VERSION_REASONS:
        return _version_verdict(detail, origination, chain, None)
    if reason in CIPHER_REASONS:
        return _cipher_verdict(detail, chain, None)
    if reason in WEAK_REASONS:
        return Verdict(
            Cause.WEAK_KEY_OR_SIGNATURE,
            "the peer uses too small a key or too weak a signature",
            detail,
            chain=chain,
            advice="ask the peer to use RSA or DH of 2048 bits or more, or elliptic curves, and SHA-256",
        )
    return Verdict(
        Cause.MALFORMED,
        "the peer broke the rules of TLS",
        detail,
        chain=chain,
        advice="ask the peer's operator; a middlebox that rewrites TLS looks like this too",
    )


def _judge_alert(
    alert: str,
    detail: str,
    phase: Phase,
    origination: Origination | None,
    presented: Presented,
    chain: tuple[CertificateFacts, ...],
    cipher_agreed: bool,
) -> Verdict:
    has_client = origination is not None and origination.client is not None
    if alert in ("protocol_version", "inappropriate_fallback"):
        return _version_verdict(detail, origination, chain, alert)
    if alert == "insufficient_security":
        return _cipher_verdict(detail, chain, alert)
    if alert == "handshake_failure" and phase is Phase.HANDSHAKE and not cipher_agreed:
        return _cipher_verdict(detail, chain, alert)
    # Once a cipher is agreed, the only thing of ours that a server still has to judge is our certificate.
    refuses_ours = alert == "handshake_failure" and (
        presented.certificate_requested or (presented.certificate_requested is None and phase is Phase.HANDSHAKE)
    )
    if alert == "certificate_required" or ((alert in CERTIFICATE_ALERTS or refuses_ours) and not has_client):
        return Verdict(
            Cause.CLIENT_CERTIFICATE_REQUIRED,
            "the peer requires a client certificate"
            + (", and did not take the one configured" if has_client else ", and none is configured"),
            detail,
            chain=chain,
            field=CLIENT_FIELD,
            advice=f"give a certificate that the peer accepts in {CLIENT_FIELD} and {_VERIFICATION}.clientKey",
            alert=alert,
        )
    if alert in CERTIFICATE_ALERTS or refuses_ours:
        return Verdict(
            Cause.CLIENT_CERTIFICATE_REJECTED,
            f"the peer rejected our client certificate ({alert.replace('_', ' ')})",
            detail,
            chain=chain,
            field=CLIENT_FIELD,
            advice=_REJECTION_ADVICE.get(alert, f"ask the peer which certificates it accepts, see {CLIENT_FIELD}"),
            alert=alert,
        )
    field, advice = None, "ask the peer's operator: its log says more than the alert"
    if alert == "unrecognized_name":
        field, advice = SERVER_NAME_FIELD, f"set {SERVER_NAME_FIELD} to a name that the peer serves"
    elif alert == "no_application_protocol":
        field, advice = "spec.match.protocol", "the peer does not speak this protocol: check spec.match.protocol"
    elif alert == "handshake_failure" and phase is Phase.ESTABLISHED:
        field = RENEGOTIATION_FIELD
        advice = f"if the peer renegotiates (older servers ask for client certificates so), set {field}: true"
    return Verdict(
        Cause.ALERT,
        f"the peer ended TLS with the alert {alert.replace('_', ' ')}",
        detail,
        chain=chain,
        field=field,
        advice=advice,
        alert=alert,
    )


_REJECTION_ADVICE = {
    "unknown_ca": f"the peer does not know the CA of our certificate: {CLIENT_FIELD} must be issued by one it trusts, "
    "and hold the intermediates too",
    "certificate_expired": f"renew the certificate in {CLIENT_FIELD}",
    "certificate_revoked": f"replace the certificate in {CLIENT_FIELD}: it was revoked",
    "unsupported_certificate": f"{CLIENT_FIELD} needs a certificate meant for client authentication",
}


def _version_verdict(
    detail: str, origination: Origination | None, chain: tuple[CertificateFacts, ...], alert: str | None
) -> Verdict:
    offered = ""
    if origination is not None:
        offered = f"; offered {_version(origination.min_version)} to {_version(origination.max_version)}"
    return Verdict(
        Cause.PROTOCOL_VERSION,
        f"the peer supports none of the TLS versions on offer{offered}",
        detail,
        chain=chain,
        field=VERSION_FIELD,
        advice=f"widen {VERSION_FIELD}.min or {VERSION_FIELD}.max to include a version of the peer",
        alert=alert,
    )


def _cipher_verdict(detail: str, chain: tuple[CertificateFacts, ...], alert: str | None) -> Verdict:
    return Verdict(
        Cause.NO_SHARED_CIPHER,
        "the peer accepts none of the cipher suites, groups or signatures on offer; it may be one of TLS 1.0 or 1.1",
        detail,
        chain=chain,
        field=VERSION_FIELD,
        advice=f"ask the peer to allow an ECDHE suite with AES-GCM or ChaCha20; only for a peer of TLS 1.0 or 1.1, set "
        f"{VERSION_FIELD}.min: TLS10",
        alert=alert,
    )


# The connection -----------------------------------------------------------------------------------------------------

_UNREACHABLE = {
    errno.EHOSTUNREACH: "no route to the endpoint's host",
    errno.ENETUNREACH: "no route to the endpoint's network",
    errno.ENOENT: "the unix socket does not exist",
    errno.EACCES: "no permission to connect to the endpoint",
    errno.EPERM: "connecting to the endpoint is forbidden on this machine",
}


def _judge_connection(error: OSError, phase: Phase) -> Verdict:
    detail = error.strerror or str(error) or type(error).__name__
    in_handshake = phase is Phase.HANDSHAKE
    if isinstance(error, ConnectionRefusedError):
        return Verdict(
            Cause.REFUSED,
            "nothing listens at the endpoint's address and port",
            detail,
            field=PORT_FIELD,
            advice="check the address and the port, and that the peer runs",
        )
    if isinstance(error, TimeoutError):
        return Verdict(
            Cause.TIMED_OUT,
            "the TLS handshake did not finish in time" if in_handshake else "the endpoint did not answer in time",
            detail,
            field=PORT_FIELD if in_handshake else ADDRESS_FIELD,
            advice="check that this port speaks TLS" if in_handshake else "check the address, and firewalls on the way",
        )
    if isinstance(error, ConnectionResetError | BrokenPipeError | ConnectionAbortedError):
        return Verdict(
            Cause.RESET,
            "the peer reset the connection" + (" during the TLS handshake" if in_handshake else ""),
            detail,
            field=PORT_FIELD,
            advice="check that this port speaks TLS" if in_handshake else "ask the peer: its log may say why",
        )
    return Verdict(
        Cause.UNREACHABLE,
        _UNREACHABLE.get(error.errno or 0, "the endpoint cannot be reached"),
        detail,
        field=ADDRESS_FIELD,
        advice="check the address, and the routes and permissions of this machine",
    )


# Words --------------------------------------------------------------------------------------------------------------


def _naming_field(origination: Origination) -> str:
    if origination.sans:
        return SANS_FIELD
    return SERVER_NAME_FIELD if origination.server_name else ADDRESS_FIELD


def _naming_advice(names: CertificateNames, nearest: str | None, origination: Origination) -> str:
    """A name to expect instead: the nearest, else the first. A list of SANs is extended; otherwise a plain DNS name
    can be the serverName, and anything else needs the list.
    """
    name = nearest or names.texts[0]
    condition = "if this is the peer you mean, "
    if not origination.sans and name in names.dns and not name.startswith("*"):
        return f"{condition}set {SERVER_NAME_FIELD}: {name}"
    verb = "add to" if origination.sans else "set in"
    return f'{condition}{verb} {SANS_FIELD}: {{type: Exact, value: "{name}"}}'


def _one_of(texts: Sequence[str]) -> str:
    return texts[0] if len(texts) == 1 else f"any of {_some(texts)}"


def _some(texts: Sequence[str]) -> str:
    shown = ", ".join(texts[:MAX_NAMES_SHOWN])
    left = len(texts) - MAX_NAMES_SHOWN
    return f"{shown} and {left} more" if left > 0 else shown


def _version(version: ssl.TLSVersion) -> str:
    return version.name.removeprefix("TLSv").replace("_", ".")


def _validity(facts: CertificateFacts) -> str:
    if facts.not_before is None or facts.not_after is None:
        return "validity unknown"
    return f"valid {_moment(facts.not_before)} to {_moment(facts.not_after)}"


def _moment(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M UTC")
