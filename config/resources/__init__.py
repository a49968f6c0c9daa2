"""Kuma's resources as values: one module a kind, :mod:`.shape` for how a model complains, :mod:`.registry`
for all of them.
"""

from __future__ import annotations

from config.resources.dataplane import Dataplane
from config.resources.datasource import DataSource, SourceKind
from config.resources.mesh import Mesh
from config.resources.meshexternalservice import MeshExternalService
from config.resources.meta import Meta, Resource, kri
from config.resources.secret import GlobalSecret, Secret

__all__ = [
    "DataSource",
    "Dataplane",
    "GlobalSecret",
    "Mesh",
    "MeshExternalService",
    "Meta",
    "Resource",
    "Secret",
    "SourceKind",
    "kri",
]
