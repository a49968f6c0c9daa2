"""HostnameGenerator: which hostnames services have, by a template over what they are called.

Messages are Kuma's (``pkg/core/resources/apis/hostnamegenerator/api/v1alpha1/validate.go``). A template is parsed and
rendered with sample values when it is read, so that one that could never give a name is refused with its line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, ClassVar

from pydantic import Field, PrivateAttr

from config.gotemplate import Template, TemplateError
from config.resources.meta import ORIGIN_LABEL, Meta, Resource
from config.resources.names import hostname_faults
from config.resources.shape import Labels, Node, Omittable, Violation

FUNCTIONS = ("label",)
_SAMPLE = {"Name": "name", "DisplayName": "displayname", "Namespace": "namespace", "Mesh": "mesh", "Zone": "zone"}


class LabelSelector(Node):
    match_labels: Labels = Field(default_factory=dict, description="Labels that a service must have; none: any does.")

    def matches(self, labels: Mapping[str, str]) -> bool:
        return all(labels.get(key) == value for key, value in self.match_labels.items())


class Selector(Node):
    mesh_service: Omittable[LabelSelector] = Field(None, description="Selects MeshServices, which are not served here.")
    mesh_external_service: Omittable[LabelSelector] = Field(None, description="Selects MeshExternalServices.")
    mesh_multi_zone_service: Omittable[LabelSelector] = Field(
        None, description="Selects MeshMultiZoneServices, which are not served here."
    )


class GeneratorExtension(Node):
    type: str = Field("", description="Which extension generates the names.")
    config: Any = Field(None, description="The extension's own configuration.")


class HostnameGenerator(Resource):
    """The hostnames of services, by a template over their names and labels."""

    kind: ClassVar[str] = "HostnameGenerator"
    short: ClassVar[str] = "hg"
    has_mesh: ClassVar[bool] = False
    has_spec: ClassVar[bool] = True

    selector: Selector = Field(Selector(), description="For which services; exactly one kind of them.")
    template: str = Field(
        "", description='A Go template: {{ .DisplayName }}, .Name, .Namespace, .Zone, .Mesh, {{ label "key" }}.'
    )
    extension: Omittable[GeneratorExtension] = Field(None, description="Hands generation to an extension.")

    _compiled: Template | None = PrivateAttr(None)

    @property
    def compiled(self) -> Template:
        """Raises :class:`~config.gotemplate.TemplateError`."""
        if self._compiled is None:
            self._compiled = Template(self.template, FUNCTIONS)
        return self._compiled

    def rules(self) -> Iterator[Violation]:
        selector = self.selector
        kinds = (selector.mesh_service, selector.mesh_external_service, selector.mesh_multi_zone_service)
        if sum(kind is not None for kind in kinds) != 1:
            text = "exact one selector (meshService, meshExternalService) must be defined"
            yield Violation(("selector",), text)
        if self.extension is not None and not self.extension.type:
            yield Violation(("extension", "type"), "must not be empty")
        fault = self._template_fault()
        if fault is not None:
            yield Violation(("template",), fault)

    def _template_fault(self) -> str | None:
        if not self.template:
            return "must not be empty"
        try:
            template = self.compiled
        except TemplateError as exc:
            return f"couldn't parse template: {exc}"
        try:
            name = template.render(_SAMPLE, {"label": lambda _key: "label"})
        except TemplateError as exc:
            return f"couldn't render template with stub values: {exc}"
        faults = hostname_faults(name)
        return f"template renders to {json.dumps(name)} which is not a valid DNS name: {faults}" if faults else None


@cache
def default_generators() -> tuple[HostnameGenerator, ...]:
    """Those that Kuma creates for MeshExternalServices: for the zone's own, and for those of the whole mesh."""
    return (
        _default("local-mesh-external-service", "zone"),
        _default("synced-mesh-external-service", "global"),
    )


def _default(name: str, origin: str) -> HostnameGenerator:
    labels = {ORIGIN_LABEL: origin}
    return HostnameGenerator(
        meta=Meta(HostnameGenerator.kind, "", name, labels=labels),
        selector=Selector(meshExternalService=LabelSelector(matchLabels=labels)),
        template="{{ .DisplayName }}.extsvc.mesh.local",
    )
