"""JSON Schema (draft 2020-12) of a kind, generated from its model, for editors.

What only the rules of a resource know (a port that a unix socket must not have) is not in it: a document that
its schema refuses is wrong, one that it accepts may still be.
"""

from __future__ import annotations

from typing import Any

from config.resources.meta import API_VERSION, MESH_LABEL, Resource
from config.resources.registry import model_of
from config.resources.secret import KUBERNETES_TYPES

_STRING = {"type": "string"}
_LABELS = {"type": "object", "additionalProperties": _STRING}
_TIME = {"type": "string", "format": "date-time"}
_NAME = {"type": "string", "minLength": 1, "maxLength": 253}


def schema_for(kind: str) -> dict[str, Any]:
    """The schema of a document of one kind, in the Universal or the Kubernetes form.

    :raises KeyError: a kind that is not used.
    """
    model = model_of(kind)
    content = model.model_json_schema(by_alias=True, mode="validation")
    definitions = content.pop("$defs", {})
    definitions.pop("Meta", None)
    content["properties"].pop("meta")
    content["required"] = [name for name in content.get("required", []) if name != "meta"]
    description = content.pop("description")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": kind,
        "description": description,
        "oneOf": [_universal(model, content), _kubernetes(model, content)],
        "$defs": definitions,
    }


def _universal(model: type[Resource], content: dict[str, Any]) -> dict[str, Any]:
    properties: dict[str, Any] = {"type": {"const": model.kind}, "name": _NAME}
    if model.has_mesh:
        properties["mesh"] = {"type": "string", "default": "default"}
    properties |= {"labels": _LABELS, "creationTime": _TIME, "modificationTime": _TIME, "kri": _STRING}
    required = ["type", "name"]
    if model.has_spec:
        properties |= {"spec": content, "status": {"type": "object"}}
        required.append("spec")
    else:
        properties |= content["properties"]
        required += content["required"]
    return _object("The Universal form.", properties, required)


def _kubernetes(model: type[Resource], content: dict[str, Any]) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "type": "object",
        "properties": {
            "name": _NAME,
            "namespace": _STRING,
            "labels": _LABELS | {"description": f"The mesh is the label {MESH_LABEL}."},
        },
        "required": ["name"],
    }
    core_types = [name for name, kind in KUBERNETES_TYPES.items() if kind == model.kind]
    if core_types:
        value = {"type": "object", "properties": {"value": content["properties"]["data"]}}
        properties = {
            "apiVersion": {"const": "v1"},
            "kind": {"const": "Secret"},
            "metadata": metadata,
            "type": {"const": core_types[0]},
            "immutable": {"type": "boolean"},
            "data": value,
            "stringData": {"type": "object", "properties": {"value": _STRING}},
        }
        return _object("The Kubernetes form.", properties, ["apiVersion", "kind", "metadata", "type"])
    properties = {
        "apiVersion": {"const": API_VERSION},
        "kind": {"const": model.kind},
        "metadata": metadata,
        "spec": content,
        "status": {"type": "object"},
    }
    if model.has_mesh:
        properties["mesh"] = _STRING
    return _object("The Kubernetes form.", properties, ["apiVersion", "kind", "metadata"])


def _object(description: str, properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {
        "type": "object",
        "description": description,
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }
