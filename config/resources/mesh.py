"""Mesh. Of its fields only ``routing`` (Kuma 2) means something here; the others are kept as they are."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from config.resources.meta import Resource
from config.resources.shape import FreeForm, Listed, ProtoNode


class Routing(ProtoNode):
    zone_egress: bool = Field(False, description="Send traffic for external services through the zone egress.")
    locality_aware: bool = Field(
        False, alias="localityAwareLoadBalancing", description="Prefer endpoints of the own zone."
    )
    default_forbid_mes_access: bool = Field(
        False,
        alias="defaultForbidMeshExternalServiceAccess",
        description="Refuse access to every MeshExternalService of the mesh.",
    )


class Mesh(ProtoNode, Resource):
    """A mesh, and what holds for all of it."""

    kind: ClassVar[str] = "Mesh"
    short: ClassVar[str] = "m"
    has_mesh: ClassVar[bool] = False

    routing: Routing = Field(Routing(), description="How traffic leaves the mesh.")
    mtls: FreeForm | None = Field(None, description="Not interpreted.")
    networking: FreeForm | None = Field(None, description="Not interpreted.")
    logging: FreeForm | None = Field(None, description="Not interpreted.")
    tracing: FreeForm | None = Field(None, description="Not interpreted.")
    metrics: FreeForm | None = Field(None, description="Not interpreted.")
    mesh_services: FreeForm | None = Field(None, description="Not interpreted.")
    constraints: FreeForm | None = Field(None, description="Not interpreted.")
    skip_creating_initial_policies: Listed[str] = Field((), description="Not interpreted.")
