"""From a MeshExternalService and the secrets of its mesh to a cluster plan.

Each service compiles by itself: what is wrong with one is its own :class:`Unusable`, and no other service notices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from ssl import TLSVersion

from config.document import format_path
from config.extension import NOTHING, Extensions, NoExtensions, Supplied
from config.plan import ClusterPlan, DnsTarget, EndpointPlan, IpTarget, Protocol, Target, UnixTarget
from config.problems import Severity
from config.resources.datasource import DataSource
from config.resources.meshexternalservice import Endpoint, Extension, MeshExternalService, Tls, TlsVersion, Version
from config.resources.names import parse_ip
from config.resources.shape import check
from tls.context import quiet_context
from tls.material import (
    MaterialError,
    find_system_anchors,
    load_system_anchors,
    parse_anchors,
    parse_client,
)
from tls.policy import ClientCertificate, Origination, TrustAnchors

ALPN = {Protocol.HTTP: ("http/1.1",), Protocol.HTTP2: ("h2",), Protocol.GRPC: ("h2",)}
VERSIONS = {
    TlsVersion.TLS10: TLSVersion.TLSv1,
    TlsVersion.TLS11: TLSVersion.TLSv1_1,
    TlsVersion.TLS12: TLSVersion.TLSv1_2,
    TlsVersion.TLS13: TLSVersion.TLSv1_3,
}
VERIFICATION = "spec.tls.verification"


@dataclass(frozen=True, slots=True)
class Unusable(Exception):
    """A service that cannot run. ``missing`` tells that something it refers to is not in the set."""

    field: str
    message: str
    missing: bool = False


@dataclass(frozen=True, slots=True)
class Compiled:
    plan: ClusterPlan
    warnings: tuple[tuple[str, str], ...] = ()
    """(field, message)"""


SecretLookup = Callable[[str, str], bytes | None]
"""(mesh, name) -> the secret's content."""


class ServiceCompiler:
    """Compiles services against one state of the world: secrets, time, and the system's CA file, read at most once."""

    def __init__(
        self,
        secret: SecretLookup,
        now: datetime,
        environ: Mapping[str, str],
        extensions: Extensions | None = None,
    ) -> None:
        self._secret = secret
        self._now = now
        self._environ = environ
        self._extensions = extensions or NoExtensions()
        self._system: TrustAnchors | MaterialError | None = None
        self._parsed: dict[tuple[bytes, str], tuple[TrustAnchors, list[str]]] = {}
        """By PEM and origin: many services have one CA."""

    def compile(self, service: MeshExternalService, supplied: Supplied = NOTHING) -> Compiled:
        """``supplied``: what the service's extension has given. Raises :class:`Unusable`."""
        warnings: list[tuple[str, str]] = []
        if service.extension is not None:
            service = self._completed(service, service.extension, supplied, warnings)
        tls = service.tls
        return Compiled(
            ClusterPlan(
                name=service.kri(str(service.match.port)),
                mesh=service.mesh,
                service=service.name,
                protocol=service.match.protocol,
                endpoints=tuple(EndpointPlan(_target(e), e.priority) for e in service.endpoints),
                tls=self._origination(service, tls, warnings) if tls is not None and tls.enabled else None,
            ),
            tuple(warnings),
        )

    def _completed(
        self, service: MeshExternalService, extension: Extension, supplied: Supplied, warnings: list[tuple[str, str]]
    ) -> MeshExternalService:
        """The service with the endpoints and the TLS of its extension, judged as if they stood in the resource."""
        faults = self._extensions.check(extension.type, extension.config)
        if faults is None:
            raise Unusable("spec.extension.type", f'no extension "{extension.type}" is installed', missing=True)
        if faults:
            raise Unusable("spec.extension.config", "; ".join(faults))
        if supplied.fault is not None:
            kept = "what it supplied last stays in force" if supplied.supply is not None else "it has supplied nothing"
            warnings.append(("spec.extension", f"extension {extension.type} {supplied.fault}: {kept}"))
        elif supplied.supply is None:
            warnings.append(("spec.extension", f"extension {extension.type} has supplied no endpoints yet"))
        if supplied.supply is None:
            return service
        content = {
            "meta": service.meta,
            "match": service.match.model_dump(by_alias=True, mode="json"),
            "endpoints": [dict(endpoint) for endpoint in supplied.supply.endpoints],
        }
        if supplied.supply.tls is not None:
            content["tls"] = supplied.supply.tls
        completed, violations = check(MeshExternalService, content)
        if completed is not None:
            violations += completed.rules()
        wrong = [f"{format_path(one.path)}: {one.message}" for one in violations if one.severity is Severity.ERROR]
        if completed is None or wrong:
            raise Unusable("spec.extension", f"extension {extension.type} supplied what is wrong: {'; '.join(wrong)}")
        return completed

    def _origination(self, service: MeshExternalService, tls: Tls, warnings: list[tuple[str, str]]) -> Origination:
        mode = tls.mode
        minimum, maximum = tls_versions(tls.version)
        anchors = client = None
        if tls.ca_cert is not None and mode.checks_chain:
            anchors = self._anchors(service, tls.ca_cert, warnings)
        elif mode.checks_chain:
            anchors = self._system_anchors()
        if tls.client_cert is not None and tls.client_key is not None:
            client = self._client(service, tls.client_cert, tls.client_key, warnings)
        origination = Origination(
            mode=mode,
            server_name=tls.server_name,
            sans=tls.sans,
            anchors=anchors,
            client=client,
            min_version=minimum,
            max_version=maximum,
            allow_renegotiation=tls.allow_renegotiation,
            alpn=ALPN.get(service.match.protocol, ()),
        )
        try:
            quiet_context(origination)  # OpenSSL has the last word on material: better now than at the first connection
        except MaterialError as exc:
            raise _unusable(exc) from exc
        return origination

    def _load(self, service: MeshExternalService, which: str, source: DataSource) -> tuple[bytes, str]:
        """The bytes of a data source and, for people, where they came from."""
        field = f"{VERIFICATION}.{which}"
        name = source.secret_name
        if name is None:
            return source.data, field
        data = self._secret(service.mesh, name)
        if data is None:
            raise Unusable(
                field,
                f"could not load {which}: could not load data: resource not found: "
                f'type="Secret" name="{name}" mesh="{service.mesh}"',
                missing=True,
            )
        return data, f'{field} (Secret "{name}")'

    def _anchors(
        self, service: MeshExternalService, source: DataSource, warnings: list[tuple[str, str]]
    ) -> TrustAnchors:
        pem, origin = self._load(service, "caCert", source)
        if (pem, origin) not in self._parsed:
            try:
                self._parsed[pem, origin] = parse_anchors(pem, origin, self._now)
            except MaterialError as exc:
                raise _unusable(exc) from exc
        anchors, notes = self._parsed[pem, origin]
        warnings.extend((f"{VERIFICATION}.caCert", note) for note in notes)
        return anchors

    def _system_anchors(self) -> TrustAnchors:
        if self._system is None:
            try:
                path = find_system_anchors(self._environ)
                if path is None:
                    raise MaterialError("caCert", "the system has no CA file where Kuma looks for one")
                self._system, _ = load_system_anchors(path, self._now)
            except MaterialError as exc:
                self._system = exc
        if isinstance(self._system, MaterialError):
            message = f"no caCert is given, and {self._system.message}: nothing could be verified"
            raise Unusable(f"{VERIFICATION}.caCert", message, missing=True)
        return self._system

    def _client(
        self,
        service: MeshExternalService,
        certificate: DataSource,
        key: DataSource,
        warnings: list[tuple[str, str]],
    ) -> ClientCertificate:
        chain_pem, origin = self._load(service, "clientCert", certificate)
        key_pem, _ = self._load(service, "clientKey", key)
        try:
            client, notes = parse_client(chain_pem, key_pem, origin, self._now)
        except MaterialError as exc:
            raise _unusable(exc) from exc
        warnings.extend((f"{VERIFICATION}.clientCert", note) for note in notes)
        return client


def _unusable(exc: MaterialError) -> Unusable:
    return Unusable(f"{VERIFICATION}.{exc.which}", f"could not load {exc.which}: {exc.message}")


def tls_versions(version: Version) -> tuple[TLSVersion, TLSVersion]:
    """``TLSAuto`` is 1.2 to 1.3, stretched where only the other end was given and lies outside."""
    minimum = VERSIONS.get(version.min)
    maximum = VERSIONS.get(version.max)
    if minimum is None:
        minimum = min(TLSVersion.TLSv1_2, maximum or TLSVersion.TLSv1_2)
    if maximum is None:
        maximum = max(TLSVersion.TLSv1_3, minimum)
    return minimum, maximum


def _target(endpoint: Endpoint) -> Target:
    if endpoint.unix_path is not None:
        return UnixTarget(endpoint.unix_path)
    assert endpoint.port is not None
    address = parse_ip(endpoint.address)
    return IpTarget(address, endpoint.port) if address is not None else DnsTarget(endpoint.address, endpoint.port)
