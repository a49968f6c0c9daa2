"""JSON Schema of each kind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from config.resources.registry import KINDS
from config.schema import schema_for


def walk(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for item in value.values():
            yield from walk(item)
    elif isinstance(value, list):
        for item in value:
            yield from walk(item)


@pytest.mark.parametrize("kind", KINDS)
def test_a_schema_is_whole(kind: str) -> None:
    schema = json.loads(json.dumps(schema_for(kind)))
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    universal, kubernetes = schema["oneOf"]
    assert universal["properties"]["type"] == {"const": kind}
    assert "kind" in kubernetes["properties"]
    used = {node["$ref"].removeprefix("#/$defs/") for node in walk(schema) if "$ref" in node}
    assert used == set(schema["$defs"])


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_is_described(kind: str) -> None:
    schema = schema_for(kind)
    contents = [*schema["$defs"].values(), schema["oneOf"][1]["properties"].get("spec", {})]
    for content in contents:
        for name, field in content.get("properties", {}).items():
            assert field.get("description"), name


def test_what_an_editor_needs_of_a_meshexternalservice() -> None:
    schema = schema_for("MeshExternalService")
    definitions = schema["$defs"]
    port = definitions["Match"]["properties"]["port"]
    assert (port["type"], port["minimum"], port["maximum"]) == ("integer", 1, 65535)
    assert definitions["Match"]["required"] == ["port"]
    assert definitions["Match"]["additionalProperties"] is False
    assert definitions["Protocol"]["enum"] == ["tcp", "http", "http2", "grpc"]
    assert definitions["Verification"]["properties"]["mode"]["default"] == "Secured"
    assert len(definitions["Verification"]["properties"]["caCert"]["oneOf"]) == 5
    spec = schema["oneOf"][0]["properties"]["spec"]
    assert set(spec["properties"]) == {"match", "extension", "endpoints", "tls"}
    assert spec["required"] == ["match"]


def test_an_unused_kind_has_none() -> None:
    with pytest.raises(KeyError):
        schema_for("MeshTrace")
