"""Guarantee: HostnameGenerators are judged, asked and settled as Kuma does it, and outcomes are told in its words."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from config.hostnames import Generation, Hostnames, Reason, with_defaults
from config.load import Loaded, load_resources
from config.resources.hostnamegenerator import HostnameGenerator, default_generators
from config.resources.meta import Meta
from config.resources.names import MAX_LABEL_CHARS, MAX_SUBDOMAIN_CHARS
from tests.kit import yamlkit
from tests.kit.yamlkit import Form

SERVICES: dict[str, Any] = {"meshExternalService": {}}


def generator_document(form: Form = Form.UNIVERSAL, **spec: Any) -> dict[str, Any]:
    document = yamlkit.plugin_resource("HostnameGenerator", "names", spec, form=form)
    if form is Form.UNIVERSAL:
        del document["mesh"]
    return document


def load(tmp_path: Path, *documents: dict[str, Any]) -> Loaded:
    (tmp_path / "all.yaml").write_text(yamlkit.render(*documents))
    return load_resources([tmp_path])


# The resource


VALID = [
    {"selector": SERVICES, "template": "{{ .DisplayName }}.mesh"},
    {"selector": {"meshService": {"matchLabels": {"a": "b"}}}, "template": '{{ label "x" }}.{{ .Namespace }}.mesh'},
    {"selector": {"meshMultiZoneService": {}}, "template": "{{ .Name }}.mesh", "extension": {"type": "x", "config": 1}},
]


@pytest.mark.parametrize("form", Form)
@pytest.mark.parametrize("spec", VALID)
def test_valid(tmp_path: Path, form: Form, spec: dict[str, Any]) -> None:
    (document,) = load(tmp_path, generator_document(form, **spec)).documents
    assert not document.problems
    assert document.mesh == ""
    assert isinstance(document.resource, HostnameGenerator)
    assert document.resource.template == spec["template"]


DNS_NAME = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    r"'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
SELECTOR = "exact one selector (meshService, meshExternalService) must be defined"
INVALID = [
    ({"template": "a.mesh"}, "spec.selector", SELECTOR),
    ({"template": "a.mesh", "selector": {}}, "spec.selector", SELECTOR),
    ({"template": "a.mesh", "selector": {**SERVICES, "meshService": {}}}, "spec.selector", SELECTOR),
    ({"selector": SERVICES}, "spec.template", "must not be empty"),
    ({"selector": SERVICES, "template": ""}, "spec.template", "must not be empty"),
    (
        {"selector": SERVICES, "template": "{{ .Name[4 }}.mesh"},
        "spec.template",
        "couldn't parse template: template: :1: bad character U+005B '['",
    ),
    (
        {"selector": SERVICES, "template": "{{ .Nmae }}.mesh"},
        "spec.template",
        "couldn't render template with stub values: "
        'template: :1:3: executing "" at <.Nmae>: can\'t evaluate field Nmae in type hostname.meshedName',
    ),
    (
        {"selector": SERVICES, "template": "{{ .Name }}.Mesh"},
        "spec.template",
        f'template renders to "name.Mesh" which is not a valid DNS name: {DNS_NAME}',
    ),
    (
        {"selector": SERVICES, "template": "a.mesh", "extension": {"config": {}}},
        "spec.extension.type",
        "must not be empty",
    ),
    ({"selector": SERVICES, "template": "a.mesh", "tempalte": "b"}, "spec.tempalte", 'did you mean "template"?'),
    ({"selector": {"meshExternalServices": {}}, "template": "a"}, "spec.selector.meshExternalServices", "did you mean"),
]


@pytest.mark.parametrize(("spec", "field", "message"), INVALID)
def test_violations(tmp_path: Path, spec: dict[str, Any], field: str, message: str) -> None:
    (document,) = load(tmp_path, generator_document(**spec)).documents
    assert document.resource is None
    found = {problem.field: problem.message for problem in document.problems}
    assert found[field].endswith(message) or message in found[field]


# Who is asked, in which order


def generator(
    name: str, template: str, *, created: int | None = None, origin: str | None = None, **match: str
) -> HostnameGenerator:
    labels = {"kuma.io/origin": origin} if origin is not None else {}
    moment = datetime(2026, 1, created, tzinfo=UTC) if created is not None else None
    return HostnameGenerator.model_validate(
        {
            "meta": Meta("HostnameGenerator", "", name, labels=labels, creation_time=moment),
            "selector": {"meshExternalService": {"matchLabels": match}},
            "template": template,
        }
    )


def service(
    name: str, *, mesh: str = "default", created: int | None = None, namespace: str = "", **labels: str
) -> Meta:
    moment = datetime(2026, 1, created, tzinfo=UTC) if created is not None else None
    given = {key.replace("_", "/"): value for key, value in labels.items()}
    return Meta("MeshExternalService", mesh, name, namespace, given, moment)


def generate(generators: list[HostnameGenerator], *services: Meta) -> dict[tuple[str, str], tuple[Generation, ...]]:
    keyed = {(meta.mesh, meta.core_name): meta for meta in services}
    ordered = with_defaults(generators, (), {"KUMA_DEFAULTS_SKIP_HOSTNAME_GENERATORS": "true"})
    hostnames: Hostnames[tuple[str, str]] = Hostnames()
    first = hostnames.generate(ordered, keyed)
    assert hostnames.generate(ordered, keyed) == first, "the same again, from what is remembered"
    return first


def test_order_of_generators() -> None:
    given = [
        generator("late", "a", created=9),
        generator("global", "a", created=1, origin="global"),
        generator("b", "a"),
        generator("a", "a"),
        generator("early", "a", created=2),
    ]
    assert [one.name for one in with_defaults(given, (), {})] == [
        "local-mesh-external-service", "early", "late", "a", "b", "synced-mesh-external-service", "global",
    ]  # fmt: skip


def test_defaults_may_be_replaced_or_switched_off() -> None:
    own = generator("local-mesh-external-service", "{{ .Name }}.own")
    assert [one.name for one in with_defaults([own], [own.name], {})] == [own.name, "synced-mesh-external-service"]
    assert with_defaults([own], [own.name], {"KUMA_DEFAULTS_SKIP_HOSTNAME_GENERATORS": "true"}) == (own,)
    broken = with_defaults([], ["local-mesh-external-service"], {})
    assert [one.name for one in broken] == ["synced-mesh-external-service"], "its name is taken, though it is broken"


def test_the_defaults_by_origin() -> None:
    hostnames: Hostnames[str] = Hostnames()
    found = hostnames.generate(
        with_defaults([], (), {}), {"a": service("a"), "b": service("b", **{"kuma.io_origin": "global"})}
    )
    assert {key: [(one.generator, one.hostname) for one in each] for key, each in found.items()} == {
        "a": [("local-mesh-external-service", "a.extsvc.mesh.local")],
        "b": [("synced-mesh-external-service", "b.extsvc.mesh.local")],
    }
    assert len(default_generators()) == 2


def test_what_templates_see() -> None:
    template = '{{ .Name }}-{{ .DisplayName }}-{{ .Namespace }}-{{ .Mesh }}-{{ .Zone }}-{{ label "kuma.io/env" }}'
    found = generate(
        [generator("g", template)],
        service("web", **{"kuma.io_display-name": "shop", "kuma.io_zone": "east"}),
        service("web", namespace="ns"),
    )
    assert found["default", "web"][0].hostname == "web-shop--default-east-universal"
    assert found["default", "web.ns"][0].hostname == "web-web-ns-default-default-kubernetes"


def test_selection_by_labels() -> None:
    found = generate([generator("g", "{{ .Name }}.mesh", app="shop")], service("a", app="shop"), service("b", app="x"))
    assert [one.hostname for one in found["default", "a"]] == ["a.mesh"]
    assert found["default", "b"] == ()


def test_failures_are_told() -> None:
    found = generate(
        [generator("a", '{{ label "x" }}.mesh'), generator("b", ".{{ .Name }}"), generator("c", "{{ .Namespace }}")],
        service("web"),
    )
    (missing, malformed) = found["default", "web"]
    assert missing.reason is Reason.TEMPLATE_ERROR
    assert missing.message == (
        'pre evaluation of template with parameters failed with error="template: :1:3: executing \\"\\" at '
        '<label \\"x\\">: error calling label: label x not found"'
    )
    assert malformed.message == f'generated hostname ".web" is not a valid DNS name: {DNS_NAME}'
    assert missing.status()["conditions"] == [
        {"type": "Generated", "status": "False", "reason": "TemplateError", "message": missing.message}
    ]


@pytest.mark.parametrize("label", ["a" * (MAX_LABEL_CHARS + 1), "a" * 50 + "." + "b" * (MAX_LABEL_CHARS + 1)])
def test_a_label_that_dns_cannot_carry(label: str) -> None:
    (found,) = generate([generator("g", f"{label}.mesh")], service("web"))["default", "web"]
    assert found.message.endswith(f"a label must be no more than {MAX_LABEL_CHARS} characters")


@pytest.mark.parametrize("chars", [MAX_SUBDOMAIN_CHARS, MAX_SUBDOMAIN_CHARS + 1])
def test_a_name_that_dns_cannot_carry(chars: int) -> None:
    name = ("a" * (MAX_LABEL_CHARS - 1) + ".") * 4 + "b" * (chars - 4 * MAX_LABEL_CHARS)
    assert len(name) == chars
    (found,) = generate([generator("g", name)], service("web"))["default", "web"]
    if chars > MAX_SUBDOMAIN_CHARS:
        assert found.message.endswith(f": must be no more than {MAX_SUBDOMAIN_CHARS} characters")
    else:
        assert found.hostname == name


def test_a_collision_goes_to_the_older_service() -> None:
    found = generate([generator("g", "same.mesh")], service("a", created=5), service("b", created=1), service("c"))
    assert [one.hostname for one in found["default", "b"]] == ["same.mesh"]
    for loser in ("a", "c"):
        (lost,) = found["default", loser]
        assert (lost.reason, lost.hostname) == (Reason.COLLISION, "")
        assert lost.message == f"Hostname collision with MeshExternalService: {loser}"


def test_a_collision_goes_to_the_generator_that_is_asked_first() -> None:
    first = generator("z", "{{ .Name }}.mesh", created=1)
    second = generator("a", "x.mesh", created=2)
    found = generate([second, first], service("x", created=9), service("w", created=1))
    assert [(one.generator, one.reason) for one in found["default", "w"]] == [
        ("a", Reason.COLLISION),
        ("z", Reason.GENERATED),
    ], "z gave x.mesh to the younger x before a could give it to w"


def test_no_collision_with_oneself_or_across_meshes() -> None:
    found = generate(
        [generator("a", "same.mesh", created=1), generator("b", "same.mesh", created=2)],
        service("web"),
        service("web", mesh="other"),
    )
    assert all(one.reason is Reason.GENERATED for each in found.values() for one in each)
    assert [len(each) for each in found.values()] == [2, 2]


def test_what_changes_is_rendered_anew() -> None:
    hostnames: Hostnames[str] = Hostnames()
    old = (generator("g", "{{ .Name }}.old"),)
    assert hostnames.generate(old, {"k": service("a")})["k"][0].hostname == "a.old"
    assert hostnames.generate(old, {"k": service("b")})["k"][0].hostname == "b.old"
    assert hostnames.generate((generator("g", "{{ .Name }}.new"),), {"k": service("b")})["k"][0].hostname == "b.new"
    assert hostnames.generate(old, {}) == {}
