"""A plan in the making."""

from __future__ import annotations

from config.load import Document
from config.plan import ClusterPlan, ListenerPlan, NamePlan
from config.problems import Problem, Severity


class Draft:
    """Listeners and clusters of a proxy, as far as they are planned."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self.mesh = document.mesh
        self.proxy = document.resource
        self.listeners: dict[str, ListenerPlan] = {}
        self.clusters: dict[str, ClusterPlan] = {}
        self.names: dict[str, NamePlan] = {}
        self.problems: list[Problem] = []

    def add(self, listener: ListenerPlan, cluster: ClusterPlan) -> None:
        self.listeners[listener.name] = listener
        self.clusters[cluster.name] = cluster

    def object(self, field: str, message: str, severity: Severity = Severity.ERROR) -> None:
        self.problems.append(self._document.problem(field, message, severity))
