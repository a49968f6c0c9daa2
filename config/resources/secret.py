"""Secret and GlobalSecret: bytes under a name. The bytes never reach a message or a repr.

Universal: ``data: <base64>`` beside the name. Kubernetes: a core ``v1`` Secret of type
``system.kuma.io/secret`` or ``system.kuma.io/global-secret`` with the base64 in ``data.value``, or plain text
in ``stringData.value``, which Kubernetes lets win. Secrets of other types belong to others and are passed
over.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, WithJsonSchema

from config.resources.meta import Resource
from config.resources.names import decode_base64
from config.resources.shape import ProtoNode, Violation, refuse, wrong_type

KUBERNETES_TYPES = {"system.kuma.io/secret": "Secret", "system.kuma.io/global-secret": "GlobalSecret"}
KUBERNETES_KEYS = ("type", "data", "stringData", "immutable")

_NOT_BASE64 = "must be base64 with padding"


def _decode(value: object) -> object:
    if isinstance(value, str):
        decoded = decode_base64(value)
        if decoded is None:
            raise refuse(_NOT_BASE64)
        return decoded
    return value


class Secret(ProtoNode, Resource):
    """Bytes under a name, for the resources of one mesh."""

    kind: ClassVar[str] = "Secret"
    short: ClassVar[str] = "sec"

    data: Annotated[
        bytes, BeforeValidator(_decode), WithJsonSchema({"type": "string", "contentEncoding": "base64"})
    ] = Field(repr=False, exclude=True, description="The content, in base64.")


class GlobalSecret(Secret):
    """Bytes under a name, outside every mesh."""

    kind: ClassVar[str] = "GlobalSecret"
    short: ClassVar[str] = "gsec"
    has_mesh: ClassVar[bool] = False


def kubernetes_content(tree: Mapping[str, Any]) -> tuple[Mapping[str, Any], list[Violation]]:
    """The content of a core Secret as that of the Universal form, and what stands in the way of it."""
    violations = [
        Violation((section,), wrong_type("object", tree[section]))
        for section in ("data", "stringData")
        if section in tree and tree[section] is not None and not isinstance(tree[section], dict)
    ]
    if violations:
        return {}, violations
    plain = (tree.get("stringData") or {}).get("value")
    encoded = (tree.get("data") or {}).get("value")
    if plain is not None:
        if isinstance(plain, str):
            return {"data": plain.encode()}, []
        return {}, [Violation(("stringData", "value"), wrong_type("string", plain))]
    if encoded is None:
        return {}, [Violation(("data", "value"), "must be defined")]
    if not isinstance(encoded, str):
        return {}, [Violation(("data", "value"), wrong_type("string", encoded))]
    decoded = decode_base64(encoded)
    if decoded is None:
        return {}, [Violation(("data", "value"), _NOT_BASE64)]
    return {"data": decoded}, []
