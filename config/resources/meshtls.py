"""MeshTLS: how strictly inbounds demand mTLS, and which TLS they take.

Kuma's ``pkg/plugins/policies/meshtls/api/v1alpha1``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, ClassVar

from pydantic import Field

from config.document import Path
from config.policies.policy import Conf, Policy
from config.policies.target_ref import TargetKind, TargetRef, target_ref_rules
from config.resources.meshexternalservice import OUTDATED, TlsVersion, Version, version_rules
from config.resources.shape import Listed, Node, Omittable, Violation, choice, one_of, warning
from tls.acceptance import InboundMode

CIPHERS = tuple(
    f"ECDHE-{key}-{suite}"
    for key in ("ECDSA", "RSA")
    for suite in ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305")
)

_MODE = choice(InboundMode, one_of("mode", InboundMode), InboundMode.STRICT, is_default=False)
_CIPHER_NAMES = ", ".join(f'"{name}"' for name in CIPHERS)
_ONLY_MESH = "{} can only be defined with top level targetRef kind: Mesh"


class TlsConf(Conf):
    mode: Omittable[Annotated[InboundMode, _MODE]] = Field(
        None,
        description="Strict (where it is absent): mTLS only; Permissive: plaintext and other TLS pass, too.",
    )
    tls_version: Omittable[Version] = Field(None, description="TLS versions to take; 1.2 to 1.3 where it is absent.")
    tls_ciphers: Omittable[Listed[str]] = Field(
        None, description="Cipher suites of TLS 1.2 to take.", json_schema_extra={"items": {"enum": list(CIPHERS)}}
    )


class TlsRule(Node):
    default: TlsConf = Field(description="How strict, and which TLS.")


class TlsFrom(Node):
    target_ref: TargetRef = Field(description="The clients that are meant: kind Mesh.")
    default: TlsConf = Field(description="How strict, and which TLS.")


class MeshTLS(Policy):
    """How strictly inbounds demand mTLS, and which TLS they take."""

    kind: ClassVar[str] = "MeshTLS"
    short: ClassVar[str] = "mtls"
    top_kinds: ClassVar[Sequence[TargetKind]] = (TargetKind.MESH, TargetKind.MESH_SUBSET, TargetKind.DATAPLANE)

    tls_rules: Listed[TlsRule] = Field((), alias="rules", description="For the inbounds that targetRef means.")
    from_: Listed[TlsFrom] = Field((), alias="from", description="The same (Kuma 2).")

    @property
    def is_inbound(self) -> bool:
        return True

    @property
    def inbound_confs(self) -> list[tuple[Path, TlsConf]]:
        """With their paths, in the document's order."""
        found: list[tuple[Path, TlsConf]] = [
            (("rules", index, "default"), rule.default) for index, rule in enumerate(self.tls_rules)
        ]
        found += [(("from", index, "default"), entry.default) for index, entry in enumerate(self.from_)]
        return found

    def list_rules(self) -> Iterator[Violation]:
        if self.tls_rules and self.from_:
            yield Violation((), "field 'from' must be empty when 'rules' is defined")
        elif not self.tls_rules and not self.from_:
            yield Violation((), "at least one of 'from' or 'rules' has to be defined")
        for index, entry in enumerate(self.from_):
            for violation in target_ref_rules(entry.target_ref, (TargetKind.MESH,)):
                yield violation.under(("from", index, "targetRef"))
        for at, conf in self.inbound_confs:
            for violation in self._conf_rules(conf):
                yield violation.under(at)

    def _conf_rules(self, conf: TlsConf) -> Iterator[Violation]:
        is_for_mesh = self.target.kind == TargetKind.MESH
        if conf.tls_version is not None:
            if not is_for_mesh:
                yield Violation(("tlsVersion",), _ONLY_MESH.format("tlsVersion"))
            for violation in version_rules(conf.tls_version):
                yield violation.under(("tlsVersion",))
            for name, version in (("min", conf.tls_version.min), ("max", conf.tls_version.max)):
                if version in OUTDATED:
                    yield warning(("tlsVersion", name), f"{version.value} is outdated and not secure (RFC 8996)")
        if conf.tls_ciphers is not None:
            if not is_for_mesh:
                yield Violation(("tlsCiphers",), _ONLY_MESH.format("tlsCiphers"))
            for index, name in enumerate(conf.tls_ciphers):
                if name not in CIPHERS:
                    yield Violation(("tlsCiphers", index), f'"tlsCiphers" must be one of [{_CIPHER_NAMES}]')
            if conf.tls_version is not None and conf.tls_version.min is TlsVersion.TLS13:
                yield warning(("tlsCiphers",), "of no effect: TLS 1.3 has cipher suites of its own")
        if conf.mode is InboundMode.PERMISSIVE:
            text = "plaintext, and TLS that is not the mesh's, pass to the application unverified"
            yield warning(("mode",), text)
