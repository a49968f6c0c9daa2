"""MeshExternalService: a destination outside the mesh, as a service inside it.

Kuma 2.14 and 3; unix endpoints as Kuma documents them (its code dropped them in 2.9). Messages are Kuma's
(``pkg/core/resources/apis/meshexternalservice/api/v1alpha1/validator.go``); warnings are ours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Any, ClassVar

from pydantic import Field

from config.document import Path
from config.plan import Protocol
from config.resources.datasource import DataSource, SourceField
from config.resources.meta import Resource
from config.resources.names import DNS_1035_TEXT, is_dns_1035_label, is_dns_name, is_ip
from config.resources.shape import (
    PORT_SCHEMA,
    REQUIRED,
    Listed,
    Node,
    Omittable,
    Violation,
    choice,
    is_port,
    one_of,
    warning,
)
from tls.policy import MatchType, Mode, SanMatcher

MAX_NAME_CHARS = 63
MAX_PRIORITY = 128
UNIX_SCHEME = "unix://"
MAX_UNIX_PATH_BYTES = 107
"""``sun_path`` is 108 bytes on Linux, and the last one ends the path."""

_BAD_UNIX_PATH = "address has to be a valid IP or hostname or a unix path (unix:///path or unix://@name)"
_BAD_PORT = "port must be a valid (1-65535)"


class MatchKind(StrEnum):
    HOSTNAME_GENERATOR = "HostnameGenerator"


class TlsVersion(StrEnum):
    """``TLSAuto`` is 1.2 to 1.3. The members are in ascending order."""

    AUTO = "TLSAuto"
    TLS10 = "TLS10"
    TLS11 = "TLS11"
    TLS12 = "TLS12"
    TLS13 = "TLS13"


_ORDER = list(TlsVersion)
OUTDATED = (TlsVersion.TLS10, TlsVersion.TLS11)


class Match(Node):
    type: Annotated[
        MatchKind,
        choice(
            MatchKind,
            "unrecognized type '{}' - only 'HostnameGenerator' is supported",
            MatchKind.HOSTNAME_GENERATOR,
        ),
    ] = Field(MatchKind.HOSTNAME_GENERATOR, description="How the service is found.")
    port: int = Field(description="The port on the service's virtual IP.", json_schema_extra=PORT_SCHEMA)
    protocol: Annotated[
        Protocol,
        choice(
            Protocol,
            one_of("protocol", (Protocol.TCP, Protocol.GRPC, Protocol.HTTP, Protocol.HTTP2)),
            Protocol.TCP,
        ),
    ] = Field(Protocol.TCP, description="What is spoken on both sides of the proxy.")


class Extension(Node):
    type: str = Field(description="Which extension owns endpoints and TLS of the service.")
    config: Any = Field(None, description="The extension's own configuration.")


class Endpoint(Node):
    address: str = Field(
        min_length=1,
        description="An IP, a DNS name, or unix:///path/to/socket (unix://@name: abstract).",
    )
    port: Omittable[int] = Field(
        None, description="Required, except for a unix socket, which has none.", json_schema_extra=PORT_SCHEMA
    )
    priority: int = Field(0, ge=0, le=MAX_PRIORITY, description="Failover level; 0 is used first.")

    @property
    def unix_path(self) -> str | None:
        """The path of a unix socket (``@name`` if abstract), or ``None`` for another endpoint."""
        return self.address.removeprefix(UNIX_SCHEME) if self.address.startswith(UNIX_SCHEME) else None


class Version(Node):
    min: Annotated[TlsVersion, choice(TlsVersion, one_of("min", TlsVersion), TlsVersion.AUTO)] = Field(
        TlsVersion.AUTO, description="The lowest TLS version; TLSAuto is 1.2."
    )
    max: Annotated[TlsVersion, choice(TlsVersion, one_of("max", TlsVersion), TlsVersion.AUTO)] = Field(
        TlsVersion.AUTO, description="The highest TLS version; TLSAuto is 1.3."
    )


class SubjectAltName(Node):
    type: Annotated[
        MatchType,
        choice(MatchType, one_of("type", (MatchType.PREFIX, MatchType.EXACT)), MatchType.EXACT),
    ] = Field(MatchType.EXACT, description="Whether value is a whole name or the start of one.")
    value: str = Field(min_length=1, description="What a DNS, URI or IP name in the certificate must match.")


class Verification(Node):
    mode: Annotated[
        Mode,
        choice(Mode, one_of("mode", (Mode.SKIP_SAN, Mode.SKIP_CA, Mode.SKIP_ALL, Mode.SECURED)), Mode.SECURED),
    ] = Field(Mode.SECURED, description="What is verified of the server's certificate.")
    server_name: Omittable[str] = Field(None, description="SNI, and the name to expect where subjectAltNames is empty.")
    subject_alt_names: Listed[SubjectAltName] = Field((), description="Names to expect, any one of them.")
    ca_cert: Omittable[SourceField] = Field(None, description="Trusted CAs; the system's where it is absent.")
    client_cert: Omittable[SourceField] = Field(None, description="The client's certificate chain, leaf first.")
    client_key: Omittable[SourceField] = Field(None, description="The private key of clientCert.")


class Tls(Node):
    """TLS towards the endpoints. What is nested in YAML can be read flat: ``tls.mode``, ``tls.sans``."""

    enabled: bool = Field(False, description="Without it traffic is plaintext, and the other fields mean nothing.")
    version: Version = Field(Version(), description="TLS versions to offer.")
    allow_renegotiation: bool = Field(False, description="Let the server renegotiate (TLS 1.2 and before).")
    verification: Verification = Field(Verification(), description="How the server is verified.")

    @property
    def version_min(self) -> TlsVersion:
        return self.version.min

    @property
    def version_max(self) -> TlsVersion:
        return self.version.max

    @property
    def mode(self) -> Mode:
        return self.verification.mode

    @property
    def server_name(self) -> str | None:
        return self.verification.server_name

    @property
    def sans(self) -> tuple[SanMatcher, ...]:
        return tuple(SanMatcher(san.type, san.value) for san in self.verification.subject_alt_names)

    @property
    def ca_cert(self) -> DataSource | None:
        return self.verification.ca_cert

    @property
    def client_cert(self) -> DataSource | None:
        return self.verification.client_cert

    @property
    def client_key(self) -> DataSource | None:
        return self.verification.client_key


class MeshExternalService(Resource):
    """A destination outside the mesh, as a service inside it."""

    kind: ClassVar[str] = "MeshExternalService"
    short: ClassVar[str] = "extsvc"
    has_spec: ClassVar[bool] = True

    match: Match = Field(description="What the mesh side sees.")
    extension: Omittable[Extension] = Field(None, description="Hands endpoints and TLS to an extension.")
    endpoints: Listed[Endpoint] = Field((), description="The real destinations.")
    tls: Omittable[Tls] = Field(None, description="TLS towards the endpoints.")

    def rules(self) -> Iterator[Violation]:
        if not is_port(self.match.port):
            yield Violation(("match", "port"), _BAD_PORT)
        if self.extension is not None:
            if not self.extension.type:
                yield Violation(("extension", "type"), "must not be empty")
            return
        yield from self._endpoint_rules()
        if self.tls is not None:
            yield from _tls_rules(self.tls, has_unix=any(e.unix_path is not None for e in self.endpoints))

    def name_rules(self) -> Iterator[Violation]:
        name = self.meta.display_name
        label_text = [] if is_dns_1035_label(name) else [DNS_1035_TEXT]
        if len(name) > MAX_NAME_CHARS:
            text = ", ".join([f"must be no more than {MAX_NAME_CHARS} characters", *label_text])
            yield Violation((), text)
        elif label_text:
            yield warning(
                (),
                f"Invalid MeshExternalService resource name: '{name}'. It does not conform to the DNS format "
                f"(RFC 1035). This is deprecated. Errors: {DNS_1035_TEXT}",
            )

    def _endpoint_rules(self) -> Iterator[Violation]:
        for index, endpoint in enumerate(self.endpoints):
            yield from _endpoint_rules(endpoint, ("endpoints", index))
        if not self.endpoints:
            yield warning(("endpoints",), "no endpoints: every connection will be refused")
        seen: Counter[tuple[str, int | None]] = Counter()
        for index, endpoint in enumerate(self.endpoints):
            key = (endpoint.address, endpoint.port)
            if seen[key] == 1:
                yield warning(("endpoints", index), "the same endpoint is listed more than once")
            seen[key] += 1


def _endpoint_rules(endpoint: Endpoint, path: Path) -> Iterator[Violation]:
    unix_path = endpoint.unix_path
    if unix_path is not None:
        if not unix_path.startswith(("/", "@")) or len(unix_path) == 1 or "\0" in unix_path:
            yield Violation(
                (*path, "address"),
                _BAD_UNIX_PATH,
            )
        elif len(unix_path.encode()) > MAX_UNIX_PATH_BYTES:
            yield Violation((*path, "address"), f"a unix path must not be longer than {MAX_UNIX_PATH_BYTES} bytes")
        if endpoint.port is not None:
            yield Violation((*path, "port"), "must not be defined when endpoint is a unix path")
        return
    if not is_ip(endpoint.address) and not is_dns_name(endpoint.address):
        yield Violation((*path, "address"), "address has to be a valid IP or hostname")
    if endpoint.port is None:
        yield Violation((*path, "port"), REQUIRED)
    elif not is_port(endpoint.port):
        yield Violation((*path, "port"), _BAD_PORT)


def version_rules(version: Version) -> Iterator[Violation]:
    """Paths start at the ``version``."""
    low, high = version.min, version.max
    if TlsVersion.AUTO not in (low, high) and _ORDER.index(low) > _ORDER.index(high):
        yield Violation(("min",), "min version must be lower than max")


def _tls_rules(tls: Tls, *, has_unix: bool) -> Iterator[Violation]:
    yield from (violation.under(("tls", "version")) for violation in version_rules(tls.version))
    at: Path = ("tls", "verification")
    if tls.server_name is not None and not is_dns_name(tls.server_name):
        yield Violation((*at, "serverName"), "must be a valid DNS name")
    if tls.client_cert is not None and tls.client_key is None:
        yield Violation((*at, "clientKey"), "must be defined when clientCert is defined")
    if tls.client_key is not None and tls.client_cert is None:
        yield Violation((*at, "clientCert"), "must be defined when clientKey is defined")
    if not tls.enabled:
        if tls.model_fields_set - {"enabled"}:
            yield warning(("tls",), "enabled is false: traffic is plaintext, and the other fields of tls are ignored")
        return
    if has_unix and tls.mode.checks_names and tls.server_name is None and not tls.sans:
        yield Violation(
            (*at, "serverName"),
            "must be defined for a unix socket endpoint, or give subjectAltNames: there is no name to verify",
        )
    yield from _tls_warnings(tls)


_UNVERIFIED = {
    Mode.SKIP_SAN: "SkipSAN: the names in the server's certificate are not verified",
    Mode.SKIP_CA: "SkipCA: who issued the server's certificate is not verified",
    Mode.SKIP_ALL: "SkipAll: the server's certificate is not verified",
}


def _tls_warnings(tls: Tls) -> Iterator[Violation]:
    if tls.mode in _UNVERIFIED:
        yield warning(("tls", "verification", "mode"), _UNVERIFIED[tls.mode])
    for field, version in (("min", tls.version_min), ("max", tls.version_max)):
        if version in OUTDATED:
            yield warning(("tls", "version", field), f"{version.value} is outdated and not secure (RFC 8996)")
    if tls.allow_renegotiation:
        yield warning(("tls", "allowRenegotiation"), "renegotiation is not recommended, and TLS 1.3 does not have it")
    for index, san in enumerate(tls.sans):
        value = san.value
        if san.type is MatchType.PREFIX and value.startswith("spiffe://") and not value.endswith("/"):
            yield warning(
                ("tls", "verification", "subjectAltNames", index, "value"),
                f"a prefix that does not end in / also matches longer names, such as {value}-other",
            )
