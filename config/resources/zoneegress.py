"""ZoneEgress (Kuma 2): where the zone's traffic for the outside leaves. In Kuma 3 a Dataplane with a listener takes its
place.

Messages are Kuma's (``pkg/core/resources/apis/mesh/zone_egress_validator.go``), and so is a field with ``address``
twice in its path.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from pydantic import Field

from config.resources.dataplane import BAD_PORT, Admin, address_rules
from config.resources.meta import Resource
from config.resources.shape import PORT_SCHEMA, FreeForm, ProtoInt, ProtoNode, Violation, is_port


class EgressNetworking(ProtoNode):
    address: str = Field("", description="The IP or DNS name at which sidecars reach it, and the IP to listen on.")
    port: ProtoInt = Field(0, description="The port to listen on.", json_schema_extra=PORT_SCHEMA)
    admin: Admin | None = Field(None, description="The admin interface.")


class ZoneEgress(ProtoNode, Resource):
    """An exit of a zone, for all its meshes."""

    kind: ClassVar[str] = "ZoneEgress"
    short: ClassVar[str] = "ze"
    has_mesh: ClassVar[bool] = False

    zone: str = Field("", description="The zone whose exit it is.")
    networking: EgressNetworking = Field(EgressNetworking(), description="What it listens on.")
    envoy: FreeForm | None = Field(None, description="Not interpreted.")

    def rules(self) -> Iterator[Violation]:
        networking = self.networking
        for violation in address_rules(networking.address):
            yield violation.under(("networking", "address"))
        if not is_port(networking.port):
            yield Violation(("networking", "port"), BAD_PORT)
        admin = networking.admin
        if admin is not None and admin.port and admin.port == networking.port:
            yield Violation(("networking", "admin", "port"), "must differ from port")
