"""MeshTrust, MeshIdentity, MeshTLS, MeshTrafficPermission: both shapes, Kuma's objections, what Kuma lets slip."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from config.load import load_resources
from config.problems import Problem, Severity
from config.resources.meshtls import CIPHERS, MeshTLS
from config.resources.meshtrafficpermission import MeshTrafficPermission
from config.resources.meshtrust import MAX_TRUST_DOMAIN_CHARS, MeshTrust
from tests.kit.ca import Authority
from tls.permissions import Decision

ROOT = Authority.root("Root")
OTHER = Authority.root("Other")
LEAF = ROOT.leaf("spiffe://a/x")
CIPHER_LIST = ", ".join(f'"{name}"' for name in CIPHERS)


def load(tmp_path: Path, text: str) -> list[Problem]:
    path = tmp_path / "resources.yaml"
    path.write_text(text)
    return load_resources([path]).all_problems


def read(tmp_path: Path, text: str) -> object:
    path = tmp_path / "resources.yaml"
    path.write_text(text)
    loaded = load_resources([path])
    assert [problem for problem in loaded.all_problems if problem.is_error] == []
    (resource,) = loaded.resources
    return resource


def trust(*pems: str, domain: str = "a.mesh.local", more: str = "", mark: int = 0) -> str:
    lines = ["type: MeshTrust", "mesh: default", "name: trust", "spec:", f"  trustDomain: {domain}", "  caBundles:"]
    for index, pem in enumerate(pems):
        lines += ["    - type: Pem", "      pem:", f"        value: |{' #!' if index == mark else ''}"]
        lines += textwrap.indent(pem, " " * 10).splitlines()
    return "\n".join([*lines, more])


def spec(kind: str, text: str) -> str:
    return f"type: {kind}\nmesh: default\nname: x\nspec:\n" + textwrap.indent(textwrap.dedent(text).strip(), "  ")


def identity(text: str) -> str:
    return spec("MeshIdentity", text)


def provider(text: str) -> str:
    return identity(f"provider: {text} #!")


def given_ca(certificate: str) -> str:
    return provider(f"{{type: Bundled, bundled: {{ca: {{certificate: {certificate}, privateKey: {{secret: k}}}}}}}}")


def allow(match: str, action: str = "allow") -> str:
    return spec("MeshTrafficPermission", f"rules: [{{default: {{{action}: [{{spiffeID: {match}}}]}}}}] #!")


AUTO = "insecureAllowSelfSigned: true, autogenerate: {enabled: true}"
FORMAT = "provided certificate has incorrect format"
P = "spec.provider"
B = f"{P}.bundled"
CASES = [
    # MeshTrust
    (spec("MeshTrust", "trustDomain: a\ncaBundles: [] #!"), "spec.caBundles", "must not be empty"),
    (spec("MeshTrust", "trustDomain: a\ncaBundles: [{type: Pem}] #!"), "spec.caBundles[0].pem", "must be defined"),
    (
        spec("MeshTrust", "trustDomain: a\ncaBundles: [{type: Jks}] #!"),
        "spec.caBundles.type",
        "Jks must be one of: Pem",
    ),
    (trust("no PEM at all"), "spec.caBundles[0].pem.value", FORMAT),
    (trust(LEAF.key_pem), "spec.caBundles[0].pem.value", FORMAT),
    (trust(ROOT.pem, "nothing", mark=1), "spec.caBundles[1].pem.value", FORMAT),
    (
        trust(ROOT.pem + LEAF.key_pem),
        "spec.caBundles[0].pem.value",
        "PEM block 2 is a private key: only CA certificates belong here",
    ),
    (
        trust("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"),
        "spec.caBundles[0].pem.value",
        "PEM block 1 is not a readable certificate",
    ),
    (
        trust(LEAF.pem),
        "spec.caBundles[0].pem.value",
        "CN=leaf: PEM block 1 is not a CA certificate: left out",
    ),
    (
        trust("-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----"),
        "spec.caBundles[0].pem.value",
        "PEM block 1 is a CRL: revocation lists are not honoured here",
    ),
    (trust(ROOT.pem, domain="'' #!", mark=9), "spec.trustDomain", "trustDomain needs to be defined"),
    (
        trust(ROOT.pem, domain="a" * (MAX_TRUST_DOMAIN_CHARS + 1) + " #!", mark=9),
        "spec.trustDomain",
        f"must not be longer than {MAX_TRUST_DOMAIN_CHARS} characters",
    ),
    (
        trust(ROOT.pem, domain="Zone-1.mesh.local #!", mark=9),
        "spec.trustDomain",
        "must be a valid trust domain: trust domain characters are limited to lowercase letters, numbers, dots, "
        "dashes, and underscores",
    ),
    # MeshIdentity
    (
        identity("spiffeID:\n  trustDomain: '{{ .Mesh ' #!"),
        "spec.spiffeID.trustDomain",
        "couldn't parse template: template: :1: unclosed action",
    ),
    (
        identity("spiffeID:\n  path: '{{ nope }}' #!"),
        "spec.spiffeID.path",
        'couldn\'t parse template: template: :1: function "nope" not defined',
    ),
    (provider("{type: Vault}"), f"{P}.type", '"Vault" must be one of ["Bundled", "Spire", "Extension"]'),
    (provider("{type: Bundled}"), B, "configuration needs to be defined"),
    (provider("{type: Spire}"), f"{P}.spire", "configuration needs to be defined"),
    (provider("{type: Extension}"), f"{P}.extension", "configuration needs to be defined"),
    (provider("{type: Extension, extension: {}}"), f"{P}.extension.name", "extension name needs to be defined"),
    (
        provider("{type: Spire, spire: {agent: {timeout: -1s}}}"),
        f"{P}.spire.agent.spire.agent",
        "must not be negative when defined",
    ),
    (
        provider("{type: Bundled, bundled: {" + AUTO + ", meshTrustCreation: Test}}"),
        f"{B}.meshTrustCreation",
        '"Test" must be one of ["Enabled", "Disabled"]',
    ),
    (
        provider("{type: Bundled, bundled: {" + AUTO + ", ca: {}}}"),
        f"{B}.ca",
        "shouldn't be defined once using autogenerated",
    ),
    (provider("{type: Bundled, bundled: {}}"), f"{B}.ca", "must be defined"),
    (
        provider("{type: Bundled, bundled: {" + AUTO + ", certificateParameters: {expiry: -1h}}}"),
        f"{B}.certificateParameters.expiry",
        "must not be negative when defined",
    ),
    (
        provider("{type: Bundled, bundled: {autogenerate: {enabled: true}}}"),
        f"{B}.insecureAllowSelfSigned",
        "self-signed certificates are not allowed",
    ),
    (
        given_ca("{type: File, file: {path: a}}"),
        f"{B}.ca.certificate.file.path",
        "file path must be absolute: a",
    ),
    (
        given_ca("{type: File, file: {path: /a/../b}}"),
        f"{B}.ca.certificate.file.path",
        "file path contains directory traversal sequence: /a/../b",
    ),
    (
        provider("{type: Bundled, bundled: {ca: {certificate: {secret: c}}}}"),
        f"{B}.ca.privateKey",
        "must be defined",
    ),
    # MeshTLS
    (
        spec("MeshTLS", "rules: [{default: {mode: Loose}}] #!"),
        "spec.rules[0].default.mode",
        '"mode" must be one of ["Strict", "Permissive"]',
    ),
    (
        spec("MeshTLS", "rules: [{default: {tlsVersion: {min: TLS13, max: TLS12}}}] #!"),
        "spec.rules[0].default.tlsVersion.min",
        "min version must be lower than max",
    ),
    (
        spec("MeshTLS", "rules: [{default: {tlsCiphers: [RC4]}}] #!"),
        "spec.rules[0].default.tlsCiphers[0]",
        f'"tlsCiphers" must be one of [{CIPHER_LIST}]',
    ),
    (
        spec("MeshTLS", "targetRef: {kind: Dataplane}\nrules: [{default: {tlsVersion: {min: TLS13}}}] #!"),
        "spec.rules[0].default.tlsVersion",
        "tlsVersion can only be defined with top level targetRef kind: Mesh",
    ),
    (
        spec("MeshTLS", f"targetRef: {{kind: Dataplane}}\nrules: [{{default: {{tlsCiphers: [{CIPHERS[0]}]}}}}] #!"),
        "spec.rules[0].default.tlsCiphers",
        "tlsCiphers can only be defined with top level targetRef kind: Mesh",
    ),
    (
        spec("MeshTLS", "from: [{targetRef: {kind: MeshService, name: a}, default: {}}] #!"),
        "spec.from[0].targetRef.kind",
        "value 'MeshService' is not supported",
    ),
    # MeshTrafficPermission
    (
        spec("MeshTrafficPermission", "rules: [{default: {}}] #!"),
        "spec.rules[0]",
        "at least one of 'allow', 'allowWithShadowDeny', 'deny' has to be defined",
    ),
    (
        allow("{type: Exact, value: a}"),
        "spec.rules[0].allow[0].spiffeID",
        "must be a valid Spiffe ID: scheme is missing or invalid",
    ),
    (
        allow("{type: Prefix, value: 'spiffe://a/'}", "deny"),
        "spec.rules[0].deny[0].spiffeID",
        "must be a valid Spiffe ID: path cannot have a trailing slash",
    ),
    (
        allow("{type: Re, value: 'spiffe://a/x'}", "deny"),
        "spec.rules[0].deny[0].spiffeID.type",
        'unrecognized type "Re", supported values are: Exact, Prefix',
    ),
    (
        spec("MeshTrafficPermission", "from: [{targetRef: {kind: Mesh}, default: {action: Maybe}}] #!"),
        "spec.from[0].default.action",
        '"action" must be one of ["Allow", "Deny", "AllowWithShadowDeny"]',
    ),
]


@pytest.mark.parametrize(("text", "field", "message"), CASES, ids=[str(case[1]) for case in CASES])
def test_one_violation(tmp_path: Path, text: str, field: str, message: str) -> None:
    (line,) = (number for number, row in enumerate(text.split("\n"), 1) if "#!" in row)
    found = [problem for problem in load(tmp_path, text) if problem.is_error]
    assert [(problem.line, problem.field, problem.message) for problem in found] == [(line, field, message)]


EMPTY = "at least one of 'from' or 'rules' has to be defined"
BOTH = "field 'from' must be empty when 'rules' is defined"


@pytest.mark.parametrize(
    ("text", "field", "message"),
    [
        (spec("MeshTLS", "rules: []"), "spec", EMPTY),
        (spec("MeshTrafficPermission", "from: []"), "spec", EMPTY),
        (spec("MeshTLS", "rules: [{default: {}}]\nfrom: [{targetRef: {kind: Mesh}, default: {}}]"), "spec", BOTH),
        (spec("MeshTrust", "caBundles: []"), "spec.trustDomain", "in body is required"),
        (spec("MeshTrust", "trustDomain: a"), "spec.caBundles", "in body is required"),
        (spec("MeshTrust", "trustDomain: a\nca: []"), "spec.ca", "unknown field"),
    ],
)
def test_among_others(tmp_path: Path, text: str, field: str, message: str) -> None:
    found = [(problem.field, problem.message) for problem in load(tmp_path, text)]
    assert any(given == field and text.startswith(message) for given, text in found), found


WEAK = Authority.root("Weak", key_type="rsa1024")


@pytest.mark.parametrize(
    ("text", "field", "message"),
    [
        (trust(ROOT.pem + ROOT.pem), "spec.caBundles[0].pem.value", "repeats an earlier one"),
        (trust(ROOT.pem + LEAF.pem), "spec.caBundles[0].pem.value", "is not a CA certificate: left out"),
        (trust(ROOT.pem + WEAK.pem), "spec.caBundles[0].pem.value", "is too weak"),
        (spec("MeshTLS", "rules: [{default: {mode: Permissive}}]"), "spec.rules[0].default.mode", "unverified"),
        (
            spec("MeshTLS", "rules: [{default: {tlsVersion: {min: TLS10}}}]"),
            "spec.rules[0].default.tlsVersion.min",
            "outdated",
        ),
        (
            spec("MeshTrafficPermission", "rules: [{default: {allow: [{}]}}]"),
            "spec.rules[0].allow[0]",
            "matches nobody",
        ),
        (
            spec(
                "MeshTrafficPermission",
                "rules: [{default: {allow: [{spiffeID: {type: Prefix, value: spiffe://a/x}}]}}]",
            ),
            "spec.rules[0].allow[0].spiffeID.value",
            "spiffe://a/x-other",
        ),
        (
            spec("MeshTrafficPermission", "from: [{targetRef: {kind: MeshService, name: a}, default: {action: Deny}}]"),
            "spec.from[0].targetRef.kind",
            "everybody is denied",
        ),
    ],
)
def test_one_warning(tmp_path: Path, text: str, field: str, message: str) -> None:
    (problem,) = load(tmp_path, text)
    assert (problem.field, problem.severity) == (field, Severity.WARNING)
    assert message in problem.message


def test_both_shapes_of_a_mesh_trust(tmp_path: Path) -> None:
    old = read(tmp_path, trust(ROOT.pem + OTHER.pem, more="  origin: {kri: kri_mid_default_default__my-identity_}"))
    kubernetes = (
        "apiVersion: kuma.io/v1alpha1\nkind: MeshTrust\n"
        "metadata: {name: t, namespace: kuma-system, labels: {kuma.io/mesh: default}}\n"
        + "\n".join(trust(ROOT.pem, OTHER.pem).split("\n")[3:])
        + "status: {origin: {kri: kri_mid_default_default_kuma-system_my-identity_}}\n"
    )
    new = read(tmp_path, kubernetes)
    assert isinstance(old, MeshTrust)
    assert isinstance(new, MeshTrust)
    assert old.bundle.domain == new.bundle.domain == "a.mesh.local"
    assert old.bundle.anchors == new.bundle.anchors
    assert len(old.bundle.anchors) == 2
    assert new.kri() == "kri_mtrust_default_default_kuma-system_t_"


def permissions(tmp_path: Path, text: str) -> MeshTrafficPermission:
    found = read(tmp_path, spec("MeshTrafficPermission", text))
    assert isinstance(found, MeshTrafficPermission)
    return found


@pytest.mark.parametrize(
    ("peer", "decision"),
    [
        ("spiffe://zone-1/ns/a/sa/web", Decision.ALLOW),
        ("spiffe://zone-1/ns/a/sa/bad", Decision.DENY),
        ("spiffe://zone-1/ns/b/sa/any", Decision.SHADOW_DENY),
        ("spiffe://zone-10/ns/a/sa/web", Decision.DENY),
        ("spiffe://partner/exact", Decision.ALLOW),
        ("spiffe://partner/exactly", Decision.DENY),
        ("spiffe://evil/x", Decision.DENY),
        ("spiffe://evil.sub/x", Decision.DENY),
        ("spiffe://sni-only/x", Decision.DENY),
    ],
)
def test_who_may_pass(tmp_path: Path, peer: str, decision: Decision) -> None:
    policy = permissions(
        tmp_path,
        """
        rules:
          - default:
              deny: [{spiffeID: {type: Exact, value: spiffe://zone-1/ns/a/sa/bad}},
                     {spiffeID: {type: Prefix, value: spiffe://evil}}]
              allowWithShadowDeny: [{spiffeID: {type: Prefix, value: spiffe://zone-1/ns/b}}]
              allow: [{spiffeID: {type: Prefix, value: spiffe://zone-1}},
                      {spiffeID: {type: Exact, value: spiffe://partner/exact}},
                      {spiffeID: {type: Prefix, value: spiffe://sni-only}, sni: {type: Exact, value: svc}}]
          - default:
              allow: [{spiffeID: {type: Prefix, value: spiffe://evil.sub}}]
        """,
    )
    assert policy.permissions.decide(peer) is decision


@pytest.mark.parametrize(
    ("entries", "decision"),
    [
        ("{targetRef: {kind: Mesh}, default: {action: Allow}}", Decision.ALLOW),
        ("{targetRef: {kind: Mesh}, default: {action: AllowWithShadowDeny}}", Decision.SHADOW_DENY),
        ("{targetRef: {kind: Mesh}, default: {action: Deny}}", Decision.DENY),
        ("{targetRef: {kind: MeshService, name: a}, default: {action: Allow}}", Decision.DENY),
        (
            "{targetRef: {kind: Mesh}, default: {action: Allow}}, "
            "{targetRef: {kind: MeshSubset, tags: {a: b}}, default: {action: Deny}}",
            Decision.DENY,
        ),
    ],
)
def test_permissions_of_kuma_2(tmp_path: Path, entries: str, decision: Decision) -> None:
    assert permissions(tmp_path, f"from: [{entries}]").permissions.decide("spiffe://a/x") is decision


def test_mesh_tls_of_both_shapes(tmp_path: Path) -> None:
    for text in ("rules: [{default: {mode: Strict}}]", "from: [{targetRef: {kind: Mesh}, default: {mode: Strict}}]"):
        policy = read(tmp_path, spec("MeshTLS", text))
        assert isinstance(policy, MeshTLS)
        ((_, conf),) = policy.inbound_confs
        assert conf.mode == "Strict"
