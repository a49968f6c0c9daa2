"""Which kinds there are, and how a document becomes a resource of its kind.

A new kind is a module with a subclass of :class:`~config.resources.meta.Resource`, and its line in ``KINDS``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from typing import Any

from config.document import Path
from config.problems import Severity
from config.resources import secret
from config.resources.meta import (
    API_VERSION,
    UNIVERSAL_KEYS,
    Envelope,
    Resource,
    envelope_violations,
    read_meta,
)
from config.resources.shape import REQUIRED, ProtoNode, Violation, check, unknown_field, warning, wrong_type

KINDS: Mapping[str, str] = {
    "Mesh": "mesh",
    "Dataplane": "dataplane",
    "MeshExternalService": "meshexternalservice",
    "HostnameGenerator": "hostnamegenerator",
    "Secret": "secret",
    "GlobalSecret": "secret",
    "MeshTimeout": "meshtimeout",
    "MeshCircuitBreaker": "meshcircuitbreaker",
    "MeshRetry": "meshretry",
    "MeshLoadBalancingStrategy": "meshloadbalancingstrategy",
    "MeshTrust": "meshtrust",
    "MeshIdentity": "meshidentity",
    "MeshTLS": "meshtls",
    "MeshTrafficPermission": "meshtrafficpermission",
    "ZoneEgress": "zoneegress",
}
"""Each kind, and the module of this package whose class of the same name is its model."""

NOT_USED = frozenset(
    [
        "AccessLogStreamer",
        "CircuitBreaker",
        "ContainerPatch",
        "DataplaneInsight",
        "ExternalService",
        "FaultInjection",
        "GlobalConfig",
        "HealthCheck",
        "MeshAccessLog",
        "MeshFaultInjection",
        "MeshGateway",
        "MeshGatewayConfig",
        "MeshGatewayInstance",
        "MeshGatewayRoute",
        "MeshHTTPRoute",
        "MeshHealthCheck",
        "MeshInsight",
        "MeshMetric",
        "MeshMultiZoneService",
        "MeshOpenTelemetryBackend",
        "MeshPassthrough",
        "MeshProxyPatch",
        "MeshRateLimit",
        "MeshService",
        "MeshTCPRoute",
        "MeshTrace",
        "OPAPolicy",
        "ProxyTemplate",
        "RateLimit",
        "Retry",
        "ServiceInsight",
        "Timeout",
        "TrafficLog",
        "TrafficPermission",
        "TrafficRoute",
        "TrafficTrace",
        "VirtualOutbound",
        "Workload",
        "Zone",
        "ZoneEgressInsight",
        "ZoneIngress",
        "ZoneIngressInsight",
        "ZoneInsight",
    ]
)
"""Kuma's other kinds, 2.x and 3.x."""


@cache
def model_of(kind: str) -> type[Resource]:
    """Of one of ``KINDS``, loaded when it is first asked for: a policy's models take 0.3 MiB, and few meshes have each.

    Raises ``KeyError``.
    """
    module = import_module(f"config.resources.{KINDS[kind]}")
    model: type[Resource] = getattr(module, kind)
    return model


def is_foreign(envelope: Envelope) -> bool:
    """Whether this is a Kubernetes Secret that has nothing to do with Kuma."""
    return _is_core_secret(envelope) and str(envelope.tree.get("type")) not in secret.KUBERNETES_TYPES


def kind_of(envelope: Envelope) -> str:
    """The kind as Kuma counts: a core Secret of Kubernetes may be a GlobalSecret."""
    if _is_core_secret(envelope):
        return secret.KUBERNETES_TYPES.get(str(envelope.tree.get("type")), envelope.kind)
    return envelope.kind


def read(envelope: Envelope) -> tuple[Resource | None, list[Violation]]:
    """The resource of a document, or ``None`` where it has errors or is of no kind that we use.

    :returns: with paths of violations from the document's root, in no particular order.
    """
    kind_key = "kind" if envelope.is_kubernetes else "type"
    if not envelope.kind:
        given = envelope.tree.get(kind_key)
        text = REQUIRED if given is None or given == "" else wrong_type("string", given)
        return None, [Violation((kind_key,), text)]
    name = kind_of(envelope)
    if name not in KINDS:
        return None, [warning((kind_key,), _not_read(envelope.kind))]

    kind = model_of(name)
    meta, violations = read_meta(envelope, kind.has_mesh)
    violations += envelope_violations(envelope, _content_keys(envelope, kind))
    version = envelope.tree.get("apiVersion")
    expected = "v1" if _is_core_secret(envelope) else API_VERSION
    if isinstance(version, str) and version != expected:
        violations.append(Violation(("apiVersion",), f"in body should be one of [{expected}]"))

    at, content, faults = _content(envelope, kind)
    violations += faults
    resource: Resource | None = None
    if content is not None:
        more_known = UNIVERSAL_KEYS if not at else ()
        resource, faults = check(kind, {**content, "meta": meta}, more_known)
        violations += [fault.under(at) for fault in faults]
    if resource is not None:
        wrong = [fault.path for fault in faults]
        violations += [fault.under(at) for fault in resource.rules() if _is_about_given(fault, wrong)]
        if not any(violation.path == (*envelope.head, "name") for violation in violations):
            violations += [fault.under((*envelope.head, "name")) for fault in _named(resource.name_rules())]
    if any(violation.severity.value == "error" for violation in violations):
        return None, violations
    return resource, violations


def _is_about_given(violation: Violation, wrong: list[Path]) -> bool:
    """Whether a rule complains of what the document says, and not of what stands in for fields that are wrong. Warnings
    wait until the shape is right.
    """
    if wrong and violation.severity is Severity.WARNING:
        return False
    return not any(violation.path[: len(path)] == path for path in wrong)


def _named(violations: Iterator[Violation]) -> Iterator[Violation]:
    for violation in violations:
        yield Violation(violation.path, violation.message, violation.severity, shown="name")


def _is_core_secret(envelope: Envelope) -> bool:
    return envelope.is_kubernetes and envelope.kind == "Secret" and envelope.tree.get("apiVersion") == "v1"


def _not_read(kind: str) -> str:
    if kind in NOT_USED or kind.removesuffix("List") in (NOT_USED | KINDS.keys()) - {kind}:
        return f"kind {kind} is not used by this version and is skipped"
    from difflib import get_close_matches  # here: few documents are of no kind at all

    near = get_close_matches(kind, [*KINDS, *sorted(NOT_USED)], n=1)
    return f"unknown kind {kind} is skipped (did you mean {near[0]}?)" if near else f"unknown kind {kind} is skipped"


def _content_keys(envelope: Envelope, kind: type[Resource]) -> tuple[str, ...]:
    """The keys that a document of this kind has beside its meta."""
    if _is_core_secret(envelope):
        return secret.KUBERNETES_KEYS
    if envelope.is_kubernetes or kind.has_spec:
        return ("spec", "status")
    return tuple(key for key in envelope.tree if key not in UNIVERSAL_KEYS)


def _content(envelope: Envelope, kind: type[Resource]) -> tuple[Path, Mapping[str, Any] | None, list[Violation]]:
    """The part of a document that its kind describes, and where it starts."""
    tree = envelope.tree
    if _is_core_secret(envelope):
        content, violations = secret.kubernetes_content(tree)
        return (), None if violations else content, violations
    if not envelope.is_kubernetes and not kind.has_spec:
        content = {key: value for key, value in tree.items() if key not in UNIVERSAL_KEYS}
        at: Path = ()
    else:
        at = ("spec",)
        given = tree.get("spec")
        if given is None and issubclass(kind, ProtoNode):
            given = {}
        if not isinstance(given, dict):
            text = REQUIRED if "spec" not in tree else wrong_type("object", given)
            return at, None, [Violation(at, text)]
        content = given
    if "meta" in content:  # the name under which the model holds the meta is not a field of the resource
        known = [field.alias or name for name, field in kind.model_fields.items() if name != "meta"]
        return at, None, [Violation((*at, "meta"), unknown_field("meta", known))]
    return at, content, []
