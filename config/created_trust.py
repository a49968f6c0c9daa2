"""The MeshTrust that a MeshIdentity brings with it (``meshTrustCreation``): as a resource of its own zone, and as a
document for another.

In its own zone it is Kuma's: the identity's name, and ``origin.kri`` the identity. For another zone it is what the
user would write: named after its trust domain, so that it meets no other there, and without an origin that is unknown
there. The documents are written by hand, since they are to be read by people; texts are JSON's, which YAML reads alike.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from enum import StrEnum

from config.resources.meshtrust import MeshTrust
from config.resources.meta import MAX_NAME_CHARS, kri

_NOT_IN_NAMES = re.compile(r"[^a-z0-9.-]+")


class Form(StrEnum):
    UNIVERSAL = "universal"
    KUBERNETES = "kubernetes"


@dataclass(frozen=True, slots=True)
class CreatedTrust:
    """``origin`` is the KRI of the identity; ``is_kept`` whether its CA outlives the process. ``file`` and ``line`` are
    the identity's.
    """

    mesh: str
    name: str
    zone: str
    namespace: str
    trust_domain: str
    pem: str
    origin: str
    is_kept: bool
    file: str
    line: int

    @property
    def kri(self) -> str:
        return kri(MeshTrust.short, self.mesh, self.zone, self.namespace, self.name)

    @property
    def spec(self) -> dict[str, object]:
        bundles = [{"type": "Pem", "pem": {"value": self.pem}}]
        return {"trustDomain": self.trust_domain, "caBundles": bundles, "origin": {"kri": self.origin}}

    @property
    def file_name(self) -> str:
        return f"meshtrust-{_NOT_IN_NAMES.sub('-', self.mesh)}.{_NOT_IN_NAMES.sub('-', self.name)}.yaml"

    def for_another_zone(self, form: Form) -> str:
        """A YAML document."""
        name = json.dumps(_NOT_IN_NAMES.sub("-", self.trust_domain).strip(".-")[:MAX_NAME_CHARS])
        mesh = json.dumps(self.mesh)
        if form is Form.UNIVERSAL:
            head = f"type: MeshTrust\nmesh: {mesh}\nname: {name}\n"
        else:
            head = (
                "apiVersion: kuma.io/v1alpha1\nkind: MeshTrust\nmetadata:\n"
                f"  name: {name}\n  namespace: kuma-system\n  labels:\n    kuma.io/mesh: {mesh}\n"
            )
        pem = "".join(f"          {line}\n" for line in self.pem.strip().splitlines())
        return (
            f"{head}spec:\n  trustDomain: {json.dumps(self.trust_domain)}\n"
            f"  caBundles:\n    - type: Pem\n      pem:\n        value: |\n{pem}"
        )
