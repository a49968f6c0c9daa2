"""Does a certificate speak for the peer that was meant? Matching of subject alternative names (RFC 6125, RFC 9525).

Three kinds of name are read from the leaf (DNS, URI, IP) and each matcher is held against them:

======  ===========================================================  ==============================
type    against a DNS SAN                                            against a URI or an IP SAN
======  ===========================================================  ==============================
Exact   equal but for case and one trailing dot; or the certificate  URI: equal to the byte; IP: equal
        has ``*`` as its whole leftmost label, which stands for      as addresses, never as text
        exactly one label and needs two more behind it
Prefix  starts with it, both lower-cased                             the canonical text starts with it
======  ===========================================================  ==============================

What never happens: the common name is not read; a value that is an IP address is not looked for among DNS names;
a partial wildcard (``s*.example.com``) and a wildcard right below a top level (``*.com``) match no host. A
certificate that holds a malformed name is refused whole, since two readers may disagree on the rest of it.
"""

from __future__ import annotations

import ipaddress
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from cryptography import x509
from cryptography.utils import CryptographyDeprecationWarning

from tls.policy import MatchType, SanMatcher

MAX_NAMES_COMPARED_FOR_NEAREST = 256
"""The nearest miss is a courtesy of quadratic cost: it looks at this many names of the certificate."""

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST_NAME = re.compile(rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})*")
_PRINTABLE = re.compile(r"[\x21-\x7e]+")


UNREADABLE: tuple[type[Exception], ...] = (
    ValueError,
    TypeError,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""What ``cryptography`` raises for extensions that are malformed (``TypeError``: an address in name constraints)."""


class MalformedNames(ValueError):
    """The certificate cannot be read, or one of its subject alternative names is not what its type allows."""


@dataclass(frozen=True, slots=True)
class CertificateNames:
    """The subject alternative names of a leaf, by type and as written."""

    dns: tuple[str, ...] = ()
    uris: tuple[str, ...] = ()
    ips: tuple[IPv4Address | IPv6Address, ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        """Every name as text; an IP in canonical form."""
        return (*self.dns, *self.uris, *map(str, self.ips))


@dataclass(frozen=True, slots=True)
class Match:
    """The matcher that was met, and the name in the certificate that met it."""

    matcher: SanMatcher
    presented: str


def load_certificate(der: bytes) -> x509.Certificate:
    """The certificate in ``der``; ``ValueError`` when it is none. Odd but common ones (a serial number of zero, say)
    are read without the warning that ``cryptography`` has for their issuers.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)
        warnings.simplefilter("ignore", UserWarning)
        try:
            return x509.load_der_x509_certificate(der)
        except x509.InvalidVersion as error:  # no ValueError, unlike every other fault
            raise ValueError(str(error)) from error


def read_names(der: bytes) -> CertificateNames:
    """The names in a DER certificate. Raises :class:`MalformedNames`."""
    try:
        extension = load_certificate(der).extensions.get_extension_for_class(x509.SubjectAlternativeName)
        dns = tuple(extension.value.get_values_for_type(x509.DNSName))
        uris = tuple(extension.value.get_values_for_type(x509.UniformResourceIdentifier))
        ips = tuple(extension.value.get_values_for_type(x509.IPAddress))
    except x509.ExtensionNotFound:
        return CertificateNames()
    except UNREADABLE as error:
        raise MalformedNames(f"the certificate's names cannot be read: {error}") from error
    for text in (*dns, *uris):
        # A NUL or a blank inside a name is how one certificate came to mean two hosts (CVE-2009-2408).
        if not _PRINTABLE.fullmatch(text):
            raise MalformedNames(f"the certificate holds a malformed name: {text!r}")
    return CertificateNames(dns, uris, tuple(ip for ip in ips if isinstance(ip, IPv4Address | IPv6Address)))


def find_match(names: CertificateNames, matchers: Iterable[SanMatcher]) -> Match | None:
    """The first matcher that any name meets, with that name; ``None`` when no name meets any."""
    for matcher in matchers:
        presented = _find(names, matcher)
        if presented is not None:
            return Match(matcher, presented)
    return None


def nearest_miss(names: CertificateNames, matchers: Iterable[SanMatcher]) -> str | None:
    """The presented name most like an expected one, for people to compare; ``None`` when nothing is alike."""
    import difflib  # here: few verdicts are about names that nearly match

    presented = names.texts[:MAX_NAMES_COMPARED_FOR_NEAREST]
    best: tuple[float, str] | None = None
    for matcher in matchers:
        for text in difflib.get_close_matches(matcher.value, presented, n=1, cutoff=0.6):
            likeness = difflib.SequenceMatcher(None, matcher.value, text).ratio()
            if best is None or likeness > best[0]:
                best = (likeness, text)
    return None if best is None else best[1]


def _find(names: CertificateNames, matcher: SanMatcher) -> str | None:
    if not matcher.value:
        return None  # every text starts with the empty one: an empty matcher expects nothing and accepts nothing
    if matcher.type is MatchType.PREFIX:
        return _find_prefix(names, matcher.value)
    address = as_ip(matcher.value)
    if address is not None:
        return next((str(ip) for ip in names.ips if ip == address), None)
    if matcher.value in names.uris:
        return matcher.value
    host = host_name(matcher.value)
    if host is None:
        return None
    return next((name for name in names.dns if _speaks_for(name, host)), None)


def _find_prefix(names: CertificateNames, prefix: str) -> str | None:
    lowered = prefix.lower()
    for name in names.dns:
        if name.lower().startswith(lowered):
            return name
    return next((text for text in (*names.uris, *map(str, names.ips)) if text.startswith(prefix)), None)


def _speaks_for(presented: str, host: str) -> bool:
    """Whether a DNS SAN speaks for a host name that :func:`host_name` has normalised."""
    name = host_name(presented)
    if name is None:
        return False
    if name == host:
        return True
    wildcard, _, parent = name.partition(".")
    if wildcard != "*" or "." not in parent:
        return False
    label, _, host_parent = host.partition(".")
    return label != "*" and host_parent == parent


def host_name(text: str) -> str | None:
    """A DNS name in the form in which two are compared: A-labels, lower case, no trailing dot. ``None`` for what is
    no host name, among it everything that a resolver may take for an IP address (``127.1``, ``0x7f.1``).
    """
    if not text.isascii():
        try:
            text = text.encode("idna").decode("ascii")
        except UnicodeError:
            return None
    name = text.lower().removesuffix(".")
    if len(name) > 253 or not _HOST_NAME.fullmatch(name):
        return None
    last_label = name.rpartition(".")[2]
    if last_label.isdigit() or re.fullmatch(r"0x[0-9a-f]*", last_label):
        return None
    return name


def as_ip(text: str) -> IPv4Address | IPv6Address | None:
    """The IP address that ``text`` spells, if it spells one."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
