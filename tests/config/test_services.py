"""From one MeshExternalService to a cluster plan: every setting, and every reason for which it cannot run."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from ssl import TLSVersion
from typing import Any

import pytest

from config.load import load_resources
from config.plan import DnsTarget, EndpointPlan, IpTarget, UnixTarget
from config.resources.meshexternalservice import MeshExternalService
from config.services import Compiled, ServiceCompiler, Unusable
from tests.kit import yamlkit
from tests.kit.ca import EXPIRED, Authority
from tls.material import SYSTEM_CA_VARIABLE
from tls.policy import Mode

ROOT = Authority.root("Services Root")
CLIENT = ROOT.leaf("client.example.test")
NOW = datetime.now(UTC)
ENDPOINT = [{"address": "127.0.0.1", "port": 443}]
V = TLSVersion


class World:
    def __init__(self, tmp_path: Path) -> None:
        self.path = tmp_path / "service.yaml"
        self.secrets: dict[tuple[str, str], str] = {}
        self.environ: Mapping[str, str] = {SYSTEM_CA_VARIABLE: str(tmp_path / "nowhere.pem")}

    def compile(self, document: dict[str, Any]) -> Compiled:
        self.path.write_text(yamlkit.render(document))
        (loaded,) = load_resources([self.path]).documents
        assert isinstance(loaded.resource, MeshExternalService), loaded.problems
        return self.compiler().compile(loaded.resource)

    def compiler(self) -> ServiceCompiler:
        def secret(mesh: str, name: str) -> bytes | None:
            text = self.secrets.get((mesh, name))
            return None if text is None else text.encode()

        return ServiceCompiler(secret, NOW, self.environ)

    def unusable(self, document: dict[str, Any]) -> Unusable:
        with pytest.raises(Unusable) as refused:
            self.compile(document)
        return refused.value


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def service(tls: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return yamlkit.mes("app", 443, more.pop("endpoints", ENDPOINT), tls=tls, **more)


def trusting(**more: Any) -> dict[str, Any]:
    return yamlkit.tls(ca=yamlkit.inline_string(ROOT.pem), **more)


def test_the_parts_of_a_plan(world: World) -> None:
    endpoints = [
        {"address": "10.0.0.1", "port": 1, "priority": 3},
        {"address": "api.example.test", "port": 2},
        {"address": "unix:///run/app.sock"},
    ]
    plan = world.compile(service(endpoints=endpoints, protocol="http", mesh="other")).plan
    assert (plan.name, plan.mesh, plan.service, plan.protocol) == (
        yamlkit.kri("app", 443, mesh="other"), "other", "app", "http",
    )  # fmt: skip
    assert plan.endpoints == (
        EndpointPlan(IpTarget(ip_address("10.0.0.1"), 1), 3),
        EndpointPlan(DnsTarget("api.example.test", 2)),
        EndpointPlan(UnixTarget("/run/app.sock")),
    )
    assert plan.tls is None


def test_tls_that_is_not_enabled_needs_nothing(world: World) -> None:
    tls = {**yamlkit.tls(ca=yamlkit.from_secret("missing")), "enabled": False}
    assert world.compile(service(tls)).plan.tls is None


@pytest.mark.parametrize(
    ("low", "high", "versions"),
    [
        (None, None, (V.TLSv1_2, V.TLSv1_3)),
        ("TLSAuto", "TLSAuto", (V.TLSv1_2, V.TLSv1_3)),
        ("TLS10", None, (V.TLSv1, V.TLSv1_3)),
        ("TLS11", "TLSAuto", (V.TLSv1_1, V.TLSv1_3)),
        ("TLS12", None, (V.TLSv1_2, V.TLSv1_3)),
        ("TLS13", None, (V.TLSv1_3, V.TLSv1_3)),
        (None, "TLS10", (V.TLSv1, V.TLSv1)),
        (None, "TLS11", (V.TLSv1_1, V.TLSv1_1)),
        (None, "TLS12", (V.TLSv1_2, V.TLSv1_2)),
        ("TLSAuto", "TLS13", (V.TLSv1_2, V.TLSv1_3)),
        ("TLS10", "TLS11", (V.TLSv1, V.TLSv1_1)),
        ("TLS12", "TLS12", (V.TLSv1_2, V.TLSv1_2)),
    ],
)
def test_versions(world: World, low: str | None, high: str | None, versions: tuple[TLSVersion, TLSVersion]) -> None:
    tls = world.compile(service(trusting(minimum=low, maximum=high))).plan.tls
    assert tls is not None
    assert (tls.min_version, tls.max_version) == versions


@pytest.mark.parametrize(
    ("protocol", "alpn"), [("tcp", ()), ("http", ("http/1.1",)), ("http2", ("h2",)), ("grpc", ("h2",))]
)
def test_alpn_follows_the_protocol(world: World, protocol: str, alpn: tuple[str, ...]) -> None:
    tls = world.compile(service(trusting(), protocol=protocol)).plan.tls
    assert tls is not None
    assert tls.alpn == alpn


def test_names_and_renegotiation_are_passed_on(world: World) -> None:
    tls = world.compile(
        service(trusting(server_name="a.test", sans=[("Prefix", "b."), ("Exact", "c")], allow_renegotiation=True))
    ).plan.tls
    assert tls is not None
    assert (tls.server_name, [str(san) for san in tls.sans], tls.allow_renegotiation) == ("a.test", ["b.*", "c"], True)


# Trust


@pytest.mark.parametrize("mode", ["SkipCA", "SkipAll"])
def test_a_mode_that_checks_no_chain_needs_no_anchors(world: World, mode: str) -> None:
    tls = world.compile(service(yamlkit.tls(mode=mode, ca=yamlkit.from_secret("missing")))).plan.tls
    assert tls is not None
    assert (tls.mode, tls.anchors) == (Mode(mode), None)


@pytest.mark.parametrize("mode", ["Secured", "SkipSAN"])
def test_without_ca_cert_the_systems_cas_are_trusted(world: World, mode: str, tmp_path: Path) -> None:
    bundle = tmp_path / "system.pem"
    bundle.write_text(ROOT.pem)
    world.environ = {SYSTEM_CA_VARIABLE: str(bundle)}
    tls = world.compile(service(yamlkit.tls(mode=mode))).plan.tls
    assert tls is not None
    assert tls.anchors is not None
    assert (tls.anchors.pem, tls.anchors.source) == (ROOT.pem.encode(), f"system ({bundle})")


def test_the_systems_cas_are_read_once(world: World, tmp_path: Path) -> None:
    bundle = tmp_path / "system.pem"
    bundle.write_text(ROOT.pem)
    world.environ = {SYSTEM_CA_VARIABLE: str(bundle)}
    world.path.write_text(yamlkit.render(service(yamlkit.tls())))
    (document,) = load_resources([world.path]).documents
    assert isinstance(document.resource, MeshExternalService)
    compiler = world.compiler()
    first = compiler.compile(document.resource).plan
    bundle.unlink()
    assert compiler.compile(document.resource).plan == first


def test_without_any_ca_nothing_could_be_verified(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("config.services.find_system_anchors", lambda environ: None)
    assert world.unusable(service(yamlkit.tls())) == Unusable(
        "spec.tls.verification.caCert",
        "no caCert is given, and the system has no CA file where Kuma looks for one: nothing could be verified",
        missing=True,
    )


def test_a_system_file_that_cannot_be_read(world: World, tmp_path: Path) -> None:
    refused = world.unusable(service(yamlkit.tls()))
    path = tmp_path / "nowhere.pem"
    assert refused.message == (
        f"no caCert is given, and the system CA file {path} cannot be read: No such file or directory: "
        "nothing could be verified"
    )
    assert refused.missing


# Secrets and PEM


@pytest.mark.parametrize("shape", list(yamlkit.Shape))
def test_secrets_of_the_services_own_mesh(world: World, shape: yamlkit.Shape) -> None:
    world.secrets = {
        ("default", "ca"): ROOT.pem,
        ("default", "cert"): CLIENT.chain_pem,
        ("default", "key"): CLIENT.key_pem,
    }
    names = {"ca": "ca", "client_cert": "cert", "client_key": "key"}
    tls = yamlkit.tls(**{key: yamlkit.from_secret(name, shape) for key, name in names.items()})  # type: ignore[arg-type]
    compiled = world.compile(service(tls)).plan.tls
    assert compiled is not None
    assert compiled.anchors is not None
    assert compiled.client is not None
    assert compiled.anchors.source == 'spec.tls.verification.caCert (Secret "ca")'
    assert compiled.client.chain_pem == CLIENT.chain_pem.encode()
    refused = world.unusable(service(tls, mesh="other"))
    assert (refused.field, refused.missing) == ("spec.tls.verification.caCert", True)


@pytest.mark.parametrize("which", ["caCert", "clientCert", "clientKey"])
def test_a_secret_that_is_not_there(world: World, which: str) -> None:
    sources = {
        "caCert": yamlkit.inline_string(ROOT.pem),
        "clientCert": yamlkit.inline_string(CLIENT.chain_pem),
        "clientKey": yamlkit.inline_string(CLIENT.key_pem),
        which: yamlkit.from_secret("gone"),
    }
    tls = yamlkit.tls(ca=sources["caCert"], client_cert=sources["clientCert"], client_key=sources["clientKey"])
    assert world.unusable(service(tls)) == Unusable(
        f"spec.tls.verification.{which}",
        f'could not load {which}: could not load data: resource not found: type="Secret" name="gone" mesh="default"',
        missing=True,
    )


STRANGER_KEY = ROOT.leaf("stranger").key_pem


@pytest.mark.parametrize(
    ("ca", "cert", "key", "field", "message"),
    [
        ("", None, None, "caCert", "no certificate in it: at least one PEM block CERTIFICATE is needed"),
        ("no PEM", None, None, "caCert", "no certificate in it"),
        (CLIENT.key_pem, None, None, "caCert", "PEM block 1 is a private key"),
        (ROOT.pem, "no PEM", CLIENT.key_pem, "clientCert", "no certificate in it"),
        (ROOT.pem, CLIENT.chain_pem, "no PEM", "clientKey", "no private key in it"),
        (ROOT.pem, CLIENT.chain_pem, STRANGER_KEY, "clientKey", "the private key does not belong to the certificate"),
    ],
)
def test_pem_that_cannot_be_used(
    world: World, ca: str, cert: str | None, key: str | None, field: str, message: str
) -> None:
    tls = yamlkit.tls(
        ca=yamlkit.inline_string(ca),
        client_cert=None if cert is None else yamlkit.inline_string(cert),
        client_key=None if key is None else yamlkit.inline_string(key),
    )
    refused = world.unusable(service(tls))
    assert refused.field == f"spec.tls.verification.{field}"
    assert refused.message.startswith(f"could not load {field}: {message}")
    assert not refused.missing, "it is there, and wrong"
    for secret in (CLIENT.key_pem, STRANGER_KEY):
        assert secret.splitlines()[1] not in repr(refused)


def test_what_is_worrying_is_a_warning(world: World) -> None:
    old = Authority.root("Old Root", window=EXPIRED)
    compiled = world.compile(service(yamlkit.tls(ca=yamlkit.inline_string(old.pem))))
    ((field, text),) = compiled.warnings
    assert field == "spec.tls.verification.caCert"
    assert "expired on" in text


def test_an_extension_is_not_installed(world: World) -> None:
    document = service()
    document["spec"]["extension"] = {"type": "Lambda"}
    assert world.unusable(document) == Unusable(
        "spec.extension.type", 'no extension "Lambda" is installed', missing=True
    )


def test_secrets_do_not_show(world: World) -> None:
    tls = trusting(
        client_cert=yamlkit.inline_string(CLIENT.chain_pem), client_key=yamlkit.inline_string(CLIENT.key_pem)
    )
    assert CLIENT.key_pem.splitlines()[1] not in repr(world.compile(service(tls)))
