"""``/config_dump``: the plan that runs, as JSON.

Fails closed: a field that its own class keeps out of its ``repr`` is a secret here too, and so are all bytes; of key
material and certificates only digests are shown.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import AsyncGenerator, Mapping
from enum import Enum, IntEnum

from config.plan import Part
from proxy.admin.context import AdminContext
from proxy.admin.http import JSON, Refusal, Request, Response, json_objects, json_response
from tls.policy import ClientCertificate, TrustAnchors

REDACTED = "[redacted]"

_TYPE = "type.googleapis.com/koguma.admin.v1."
"""Ends as Envoy's type does, so that what selects a section by the end of its type finds it; the content is ours."""

CLUSTERS, LISTENERS = "dynamic_active_clusters", "dynamic_listeners"
EMPTY_IN_ENVOY = ("static_clusters", "dynamic_warming_clusters", "static_listeners")
"""Sections that Envoy has and we never fill: asking for them is no mistake."""


def view(context: AdminContext, request: Request) -> Response:
    runtime = context.runtime
    parts: dict[str, list[Part]] = {
        CLUSTERS: [cluster.plan for cluster in runtime.clusters.values()],
        LISTENERS: [listener.plan for listener in runtime.listeners.values()],
    }
    resource = request.query.get("resource")
    if resource is None:
        return Response(_everything(context, parts), JSON)
    if resource == "bootstrap":
        return json_response({"configs": [_bootstrap(context)]})
    if resource in EMPTY_IN_ENVOY or parts.get(resource) == []:
        return json_response({})
    if resource not in parts:
        raise Refusal(404, f"{resource} not found in config dump")
    return Response(_one(resource, parts[resource]), JSON)


def redacted(value: object) -> object:
    """Any part of a plan as JSON-able values, without secrets."""
    match value:
        case TrustAnchors():
            return {"source": value.source, "pem": REDACTED, "sha256": value.digest}
        case ClientCertificate():
            chain = hashlib.sha256(value.chain_pem).hexdigest()
            return {"source": value.source, "chain": REDACTED, "chain_sha256": chain, "private_key": REDACTED}
        case bytes():
            return REDACTED
        case IntEnum():
            return value.name
        case Enum():
            return value.value
        case None | bool() | int() | float() | str():
            return value
        case Mapping():
            return {str(key): redacted(item) for key, item in value.items()}
        case tuple() | list():
            return [redacted(item) for item in value]
    if dataclasses.is_dataclass(value):
        return {
            field.name: redacted(getattr(value, field.name)) if field.repr else REDACTED
            for field in dataclasses.fields(value)
        }
    return str(value)


def _bootstrap(context: AdminContext) -> dict[str, object]:
    plan = context.runtime.plan
    bootstrap = {"node": {"id": context.node_id} | _object(plan.proxy), "admin": redacted(plan.admin)}
    return {"@type": f"{_TYPE}BootstrapConfigDump", "bootstrap": bootstrap}


def _object(value: object) -> dict[str, object]:
    shown = redacted(value)
    return shown if isinstance(shown, dict) else {}


def _entry(section: str, part: Part) -> dict[str, object]:
    shown = redacted(part)
    if section == LISTENERS:
        return {"name": part.name, "active_state": {"listener": shown}}
    return {"cluster": shown}


async def _everything(context: AdminContext, parts: Mapping[str, list[Part]]) -> AsyncGenerator[bytes, None]:
    yield b'{\n "configs": [\n'
    async for piece in json_objects([_bootstrap(context)], 2):
        yield piece
    for name, section in (("ClustersConfigDump", CLUSTERS), ("ListenersConfigDump", LISTENERS)):
        yield f',\n  {{\n   "@type": "{_TYPE}{name}",\n   "{section}": [\n'.encode()
        async for piece in json_objects((_entry(section, part) for part in parts[section]), 4):
            yield piece
        yield b"\n   ]\n  }"
    yield b"\n ]\n}\n"


async def _one(section: str, parts: list[Part]) -> AsyncGenerator[bytes, None]:
    name = "DynamicListener" if section == LISTENERS else "DynamicCluster"
    yield b'{\n "configs": [\n'
    async for piece in json_objects(({"@type": f"{_TYPE}{name}"} | _entry(section, part) for part in parts), 2):
        yield piece
    yield b"\n ]\n}\n"
