"""MeshTrust: the CA certificates that speak for a trust domain.

Kuma looks at the first PEM block of each bundle and at nothing else (``pkg/core/resources/apis/meshtrust``); here every
block is read, since one that is not what it seems would be found by the first peer that is refused, or by none. Its
trust domain is held against the grammar too: Kuma takes any text, and one illegal domain then breaks every inbound.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import ClassVar

from pydantic import Field

from config.resources.meta import Resource
from config.resources.shape import Listed, Node, Omittable, Violation, clip, warning
from tls.bundles import TrustBundle, parse_bundle
from tls.material import MaterialError
from tls.spiffe import MalformedSpiffeId, check_trust_domain

MAX_TRUST_DOMAIN_CHARS = 253

_BAD_FORMAT = "provided certificate has incorrect format"
_PRIVATE_KEYS = frozenset(f"-----BEGIN {kind}PRIVATE KEY-----" for kind in ("", "RSA ", "EC ", "DSA ", "ENCRYPTED "))


class Pem(Node):
    value: str = Field(description="CA certificates, PEM, one after the other.")


class CaBundle(Node):
    type: str = Field(description="The format.", json_schema_extra={"enum": ["Pem"]})
    pem: Omittable[Pem] = Field(None, description="For type Pem.")


class TrustOrigin(Node):
    kri: str = Field("", description="The MeshIdentity that created the resource.")


class MeshTrust(Resource):
    """The CA certificates that speak for a trust domain."""

    kind: ClassVar[str] = "MeshTrust"
    short: ClassVar[str] = "mtrust"
    has_spec: ClassVar[bool] = True

    trust_domain: str = Field(description="The trust domain, such as default.zone-2.mesh.local.")
    ca_bundles: Listed[CaBundle] = Field(description="CA certificates; those of all bundles add up.")
    origin: Omittable[TrustOrigin] = Field(None, description="Set by Kuma 2; Kuma 3 has it in status.")

    @cached_property
    def bundle(self) -> TrustBundle:
        """Of a valid resource: its CA certificates."""
        anchors: dict[bytes, None] = {}
        for part in self.ca_bundles:
            assert part.pem is not None, "a valid resource"
            anchors.update(dict.fromkeys(parse_bundle(self.trust_domain, part.pem.value.encode(), "")[0].anchors))
        return TrustBundle(self.trust_domain, tuple(anchors), (f'MeshTrust "{self.meta.display_name}"',))

    def rules(self) -> Iterator[Violation]:
        if not self.ca_bundles:
            yield Violation(("caBundles",), "must not be empty")
        for index, bundle in enumerate(self.ca_bundles):
            if bundle.type != "Pem":
                # Kuma forgets the index in this path, and whoever looks for its text shall find it.
                text = f"{clip(bundle.type)} must be one of: Pem"
                yield Violation(("caBundles", index, "type"), text, shown="spec.caBundles.type")
            elif bundle.pem is None:
                yield Violation(("caBundles", index, "pem"), "must be defined")
            else:
                for violation in _pem_rules(bundle.pem.value):
                    yield violation.under(("caBundles", index, "pem", "value"))
        yield from self._trust_domain_rules()

    def _trust_domain_rules(self) -> Iterator[Violation]:
        if not self.trust_domain:
            yield Violation(("trustDomain",), "trustDomain needs to be defined")
        elif len(self.trust_domain) > MAX_TRUST_DOMAIN_CHARS:
            yield Violation(("trustDomain",), f"must not be longer than {MAX_TRUST_DOMAIN_CHARS} characters")
        else:
            try:
                check_trust_domain(self.trust_domain)
            except MalformedSpiffeId as error:
                yield Violation(("trustDomain",), f"must be a valid trust domain: {error}")


def _pem_rules(pem: str) -> Iterator[Violation]:
    first = pem[pem.find("-----BEGIN ") :].partition("\n")[0].strip() if "-----BEGIN " in pem else ""
    if not first or first in _PRIVATE_KEYS:
        yield Violation((), _BAD_FORMAT)
        return
    try:
        _, notes = parse_bundle("any", pem.encode("utf-8", "surrogatepass"), "")
    except MaterialError as error:
        yield Violation((), error.message)
    else:
        yield from (warning((), note) for note in notes)
