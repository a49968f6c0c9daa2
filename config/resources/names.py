"""What Kuma takes for an IP address, a host name, a resource name or base64."""

from __future__ import annotations

import re
from base64 import b64decode
from ipaddress import IPv4Address, IPv6Address, ip_address

MAX_SUBDOMAIN_CHARS = 253
_SUBDOMAIN_TEXT = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start "
    "and end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
MAX_LABEL_CHARS = 63

_OCTET = r"(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = re.compile(rf"{_OCTET}\.{_OCTET}\.{_OCTET}\.{_OCTET}")
_IPV6_CHARS = re.compile(r"[0-9a-fA-F:.]*:[0-9a-fA-F:.]*")
_DNS_NAME = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9_-]{0,62}(?:\.[a-zA-Z0-9_][a-zA-Z0-9_-]{0,62})*[._]?")
_DNS_1035 = re.compile(r"[a-z](?:[-a-z0-9]*[a-z0-9])?")
_DNS_1123 = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*")

DNS_1035_TEXT = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic "
    "character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for "
    "validation is '[a-z]([-a-z0-9]*[a-z0-9])?')"
)

DNS_1123_TEXT = (
    "invalid characters. A lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or "
    "'.', and must start and end with an alphanumeric character"
)


def parse_ip(text: str) -> IPv4Address | IPv6Address | None:
    """As Go's ``net.ParseIP``: no zone, no leading zeros."""
    octets = _IPV4.fullmatch(text)
    if octets is not None:
        first, second, third, fourth = octets.groups()
        return IPv4Address(int(first) << 24 | int(second) << 16 | int(third) << 8 | int(fourth))
    if not _IPV6_CHARS.fullmatch(text):
        return None
    try:
        return ip_address(text)
    except ValueError:
        return None


def is_ip(text: str) -> bool:
    """Whether :func:`parse_ip` knows it."""
    return _IPV4.fullmatch(text) is not None or parse_ip(text) is not None


def is_dns_name(text: str) -> bool:
    """As govalidator's ``IsDNSName``: underscores, upper case and one trailing dot pass, wildcards do not."""
    return len(text.replace(".", "")) <= 255 and bool(_DNS_NAME.fullmatch(text)) and not is_ip(text)


def is_dns_1035_label(text: str) -> bool:
    """RFC 1035 §2.3.1, the length aside."""
    return bool(_DNS_1035.fullmatch(text))


def is_dns_1123_subdomain(text: str) -> bool:
    """RFC 1123 §2.1, the length aside."""
    return bool(_DNS_1123.fullmatch(text))


def hostname_faults(text: str) -> str:
    """What Kubernetes' ``IsDNS1123Subdomain`` has against a name, and RFC 1035 §2.3.4 (a label's length, which it does
    not look at); empty for a name that may be served.
    """
    faults = []
    if len(text) > MAX_SUBDOMAIN_CHARS:
        faults.append(f"must be no more than {MAX_SUBDOMAIN_CHARS} characters")
    if not is_dns_1123_subdomain(text):
        faults.append(_SUBDOMAIN_TEXT)
    elif any(len(label) > MAX_LABEL_CHARS for label in text.split(".")):
        faults.append(f"a label must be no more than {MAX_LABEL_CHARS} characters")
    return ", ".join(faults)


def is_unspecified(text: str) -> bool:
    return is_ip(text) and ip_address(text).is_unspecified


def decode_base64(text: str) -> bytes | None:
    """Standard base64 with padding (RFC 4648 §4); line breaks are allowed, as in Go. ``None`` if it is
    anything else.
    """
    try:
        return b64decode(text.replace("\n", "").replace("\r", ""), validate=True)
    except ValueError:
        return None
