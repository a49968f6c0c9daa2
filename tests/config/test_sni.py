"""The server names of services, with Kuma's own test vectors."""

from __future__ import annotations

import pytest

from config.resources.meta import Meta
from config.sni import MAX_LABEL_CHARS, MAX_SNI_CHARS, legacy_sni_of, sni_of, snis_of


def service(name: str, mesh: str = "default", namespace: str = "", **labels: str) -> Meta:
    return Meta("MeshExternalService", mesh, name, namespace, {k.replace("_", "/"): v for k, v in labels.items()})


@pytest.mark.parametrize(
    ("meta", "port", "expected"),
    [
        (service("httpbin", namespace="kuma-system"), 80, "sni.extsvc.default.default.kuma-system.httpbin.80"),
        (service("httpbin"), 443, "sni.extsvc.default.default.httpbin.443"),
        (service("httpbin", **{"kuma.io_zone": "east"}), 80, "sni.extsvc.default.east.httpbin.80"),
        (service("httpbin", **{"kuma.io_origin": "global"}), 80, "sni.extsvc.default.httpbin.80"),
        (service("x-1", **{"kuma.io_display-name": "shown"}), 80, "sni.extsvc.default.default.shown.80"),
    ],
    ids=["Kubernetes", "Universal", "zone", "global", "display name"],
)
def test_the_form_of_kuma_3(meta: Meta, port: int, expected: str) -> None:
    assert sni_of(meta, port) == expected


@pytest.mark.parametrize("name", ["with.dot", "Upper", "x" * (MAX_LABEL_CHARS + 1), "-x"])
def test_what_is_no_host_name_has_none(name: str) -> None:
    assert sni_of(service(name), 80) is None
    assert snis_of(service(name), 80) == (legacy_sni_of(service(name), 80),)


def test_too_long_as_a_whole() -> None:
    label = "x" * MAX_LABEL_CHARS
    for chars in (MAX_SNI_CHARS, MAX_SNI_CHARS + 1):
        zone = "z" * (chars - len(f"sni.extsvc.{label}..{label}.{label}.80"))
        meta = service(label, label, label, **{"kuma.io_zone": zone})
        name = f"sni.extsvc.{label}.{zone}.{label}.{label}.80"
        assert len(name) == chars
        assert sni_of(meta, 80) == (name if chars == MAX_SNI_CHARS else None)


@pytest.mark.parametrize(
    ("meta", "port", "expected"),
    [
        (service("mes"), 80, "a9b6a4173bd8ff3ff.mes.80.default.mes"),
        (service("backend", "demo"), 8080, "ae10a8071b8a8eeb8.backend.8080.demo.mes"),
    ],
)
def test_the_form_of_kuma_2(meta: Meta, port: int, expected: str) -> None:
    assert legacy_sni_of(meta, port) == expected


def test_long_names_are_cut_and_stay_distinct() -> None:
    one, other = legacy_sni_of(service("x" * 63), 80), legacy_sni_of(service("x" * 64), 80)
    assert one.split(".")[1] == other.split(".")[1] == "x" * 63
    assert one != other
