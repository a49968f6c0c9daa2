"""The server names by which a sidecar asks a zone egress for a MeshExternalService.

Kuma 3 writes out which resource is meant (``pkg/core/resources/sni/sni.go``), Kuma 2 with ``mesh.mtls`` a hash and the
names (``pkg/xds/envoy/tls/sni.go``). A sidecar of ours asks by the first; an egress answers to both.
"""

from __future__ import annotations

import re

from config.resources.meta import ORIGIN_LABEL, Meta

MAX_SNI_CHARS = 253
MAX_LABEL_CHARS = 63

_MAX_LEGACY_PART_CHARS = 62
_LABEL = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?")
_FNV_OFFSET = 0xCBF29CE484222325
_FNV_PRIME = 0x100000001B3


def sni_of(service: Meta, port: int) -> str | None:
    """``sni.extsvc.<mesh>[.<zone>[.<namespace>]].<name>.<port>``. ``None`` where a part is no DNS label (RFC 1123), or
    the whole is too long for a host name.
    """
    parts = [service.mesh]
    if service.labels.get(ORIGIN_LABEL) != "global":
        parts += [service.zone, *([service.namespace] if service.namespace else [])]
    parts += [service.display_name, str(port)]
    name = ".".join(("sni", "extsvc", *parts))
    is_sound = all(_LABEL.fullmatch(part) and len(part) <= MAX_LABEL_CHARS for part in parts)
    return name if is_sound and len(name) <= MAX_SNI_CHARS else None


def legacy_sni_of(service: Meta, port: int) -> str:
    """``a<hash>.<name>.<port>.<mesh>.mes``; the hash (FNV-1a, 64 bits) is of the whole names, which are then cut."""
    digest = _fnv1a(f"{service.display_name};{service.mesh};".encode())
    return f"a{digest:016x}.{_cut(service.display_name)}.{port}.{_cut(service.mesh)}.mes".lower()


def snis_of(service: Meta, port: int) -> tuple[str, ...]:
    """All of them, that of Kuma 3 first if there is one."""
    current = sni_of(service, port)
    legacy = legacy_sni_of(service, port)
    return (legacy,) if current is None else (current, legacy)


def _cut(part: str) -> str:
    return part if len(part) <= _MAX_LEGACY_PART_CHARS else f"{part[:_MAX_LEGACY_PART_CHARS]}x"


def _fnv1a(data: bytes) -> int:
    value = _FNV_OFFSET
    for byte in data:
        value = (value ^ byte) * _FNV_PRIME & 0xFFFFFFFFFFFFFFFF
    return value
