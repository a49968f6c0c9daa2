"""MeshTrafficPermission: which identities may use an inbound.

Kuma's ``pkg/plugins/policies/meshtrafficpermission/api/v1alpha1``: ``rules`` over SPIFFE IDs, and ``from`` of Kuma 2,
over tags. A certificate of a MeshIdentity has no tags, so of ``from`` only what is said of everybody can be held
against a peer; where something else is denied, everybody is, since nobody can prove not to be meant.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from config.document import Path, format_path
from config.policies.inbound import PeerMatch, SpiffeIdMatch
from config.policies.policy import NO_EFFECT, Policy
from config.policies.target_ref import TargetKind, TargetRef, target_ref_rules
from config.resources.names import DNS_1123_TEXT, is_dns_1123_subdomain
from config.resources.shape import Listed, Node, Violation, choice, clip, one_of, warning
from tls.permissions import IdMatch, Permissions
from tls.policy import MatchType
from tls.spiffe import SCHEME, MalformedSpiffeId, parse_spiffe_id

LISTS = ("deny", "allowWithShadowDeny", "allow")


class Action(StrEnum):
    """``from[].default.action``."""

    ALLOW = "Allow"
    DENY = "Deny"
    ALLOW_WITH_SHADOW_DENY = "AllowWithShadowDeny"


_ACTION = choice(Action, one_of("action", Action), Action.DENY, is_default=False)


class PermissionConf(Node):
    deny: Listed[PeerMatch] = Field((), description="Peers that may not pass, whatever else is said.")
    allow_with_shadow_deny: Listed[PeerMatch] = Field((), description="Peers that pass, and are told of in the log.")
    allow: Listed[PeerMatch] = Field((), description="Peers that may pass.")

    @property
    def lists(self) -> tuple[tuple[str, tuple[PeerMatch, ...]], ...]:
        return tuple(zip(LISTS, (self.deny, self.allow_with_shadow_deny, self.allow), strict=True))


class PermissionRule(Node):
    default: PermissionConf = Field(description="Who may pass.")


class ActionConf(Node):
    action: Annotated[Action, _ACTION] = Field(description="What becomes of them.")


class PermissionFrom(Node):
    target_ref: TargetRef = Field(description="The peers that are meant.")
    default: ActionConf = Field(description="What becomes of them.")


FROM_KINDS = (
    TargetKind.MESH,
    TargetKind.MESH_SUBSET,
    TargetKind.MESH_SERVICE,
    TargetKind.MESH_SERVICE_SUBSET,
)


class MeshTrafficPermission(Policy):
    """Which identities may use an inbound."""

    kind: ClassVar[str] = "MeshTrafficPermission"
    short: ClassVar[str] = "mtp"

    permission_rules: Listed[PermissionRule] = Field((), alias="rules", description="Who may pass, by SPIFFE ID.")
    from_: Listed[PermissionFrom] = Field((), alias="from", description="Who may pass, by tags (Kuma 2).")

    @property
    def is_inbound(self) -> bool:
        return True

    @property
    def permissions(self) -> Permissions:
        """Of a valid resource: what it says of an inbound, all of it together."""
        return self._said(deny=_on_inbound_deny, allow=_on_inbound_allow)

    def permissions_for(self, names: Container[str]) -> Permissions:
        """What it says of a service at a zone egress, which sidecars ask for by these server names. A match without
        ``sni`` is about every service, one without ``spiffeID`` about every peer.
        """

        def is_meant(match: PeerMatch) -> bool:
            return match.spiffe_id is not None if match.sni is None else match.sni.value in names

        return self._said(deny=is_meant, allow=is_meant)

    def permissions_naming(self, names: Container[str]) -> Permissions:
        """Of that, what names the service."""

        def is_meant(match: PeerMatch) -> bool:
            return match.sni is not None and match.sni.value in names

        return self._of_rules(deny=is_meant, allow=is_meant)

    @property
    def names(self) -> frozenset[str]:
        """The server names that it speaks of."""
        matches = (m for rule in self.permission_rules for _, ms in rule.default.lists for m in ms)
        return frozenset(match.sni.value for match in matches if match.sni is not None)

    def _said(self, deny: Callable[[PeerMatch], bool], allow: Callable[[PeerMatch], bool]) -> Permissions:
        found = self._of_rules(deny, allow)
        for index, entry in enumerate(self.from_):
            found += _of_everybody(entry, f'{self.kind} "{self.name}" spec.from[{index}]')
        return found

    def _of_rules(self, deny: Callable[[PeerMatch], bool], allow: Callable[[PeerMatch], bool]) -> Permissions:
        found = Permissions()
        for index, rule in enumerate(self.permission_rules):
            by_list = {}
            for name, matches in rule.default.lists:
                is_meant = deny if name == "deny" else allow
                source = f'{self.kind} "{self.name}" spec.rules[{index}].default.{name}'
                by_list[name] = tuple(
                    _id_match(match, f"{source}[{number}]") for number, match in enumerate(matches) if is_meant(match)
                )
            found += Permissions(*(by_list[name] for name in LISTS))
        return found

    def list_rules(self) -> Iterator[Violation]:
        if self.permission_rules and self.from_:
            yield Violation((), "field 'from' must be empty when 'rules' is defined")
        elif not self.permission_rules and not self.from_:
            yield Violation((), "at least one of 'from' or 'rules' has to be defined")
        may_be_egress = self.target.kind == TargetKind.DATAPLANE
        for index, rule in enumerate(self.permission_rules):
            yield from _rule_rules(rule.default, index, may_be_egress=may_be_egress)
        for index, entry in enumerate(self.from_):
            at: Path = ("from", index, "targetRef")
            found = list(target_ref_rules(entry.target_ref, FROM_KINDS))
            yield from (violation.under(at) for violation in found)
            if not found and entry.target_ref.kind != TargetKind.MESH:
                means = "everybody is denied" if entry.default.action is Action.DENY else f"the entry {NO_EFFECT}"
                yield warning((*at, "kind"), f"certificates have no tags: {means}")


def _rule_rules(conf: PermissionConf, index: int, *, may_be_egress: bool) -> Iterator[Violation]:
    if not any(matches for _, matches in conf.lists):
        text = "at least one of 'allow', 'allowWithShadowDeny', 'deny' has to be defined"
        yield Violation(("rules", index, "default"), text, shown=f"spec.rules[{index}]")
    for name, matches in conf.lists:
        for number, match in enumerate(matches):
            for violation in _match_rules(match, name, may_be_egress=may_be_egress):
                at: Path = (name, number, *violation.path)
                # Kuma leaves "default" out of these paths.
                shown = format_path(("spec", "rules", index, *at))
                path: Path = ("rules", index, "default", *at)
                yield Violation(path, violation.message, violation.severity, shown)


def _match_rules(match: PeerMatch, name: str, *, may_be_egress: bool) -> Iterator[Violation]:
    if match.spiffe_id is None and match.sni is None:
        yield warning((), "matches nobody")
    if match.spiffe_id is not None:
        yield from _spiffe_id_rules(match.spiffe_id, name)
    sni = match.sni
    if sni is not None:
        if sni.type != "Exact":
            text = f'unrecognized type "{clip(sni.type)}", supported values are: Exact' if sni.type else "must be set"
            yield Violation(("sni", "type"), text)
        if not sni.value:
            yield Violation(("sni", "value"), "must be set")
        elif not is_dns_1123_subdomain(sni.value):
            yield Violation(("sni", "value"), DNS_1123_TEXT)
        if may_be_egress:
            return
        effect = "denies whatever its spiffeID says" if name == "deny" and match.spiffe_id is not None else NO_EFFECT
        yield warning(("sni",), f"for the listener of a zone egress; on an inbound it {effect}")


def _spiffe_id_rules(match: SpiffeIdMatch, name: str) -> Iterator[Violation]:
    if match.type not in set(MatchType):
        known = ", ".join(MatchType)
        text = f'unrecognized type "{clip(match.type)}", supported values are: {known}' if match.type else "must be set"
        yield Violation(("spiffeID", "type"), text)
    try:
        parsed = parse_spiffe_id(match.value)
    except MalformedSpiffeId as error:
        yield Violation(("spiffeID",), f"must be a valid Spiffe ID: {error}")
        return
    if match.type == MatchType.PREFIX and parsed.path:
        text = f"also matches longer names, such as {match.value}-other"
        yield warning(("spiffeID", "value"), text)
    elif match.type == MatchType.EXACT and not parsed.path:
        yield warning(("spiffeID", "value"), "matches nobody: a peer's ID has a path")


def _on_inbound_deny(match: PeerMatch) -> bool:
    return match.spiffe_id is not None


def _on_inbound_allow(match: PeerMatch) -> bool:
    """``sni`` narrows a match, and on an inbound there is none: such a match may deny, but never allows."""
    return match.spiffe_id is not None and match.sni is None


def _id_match(match: PeerMatch, source: str) -> IdMatch:
    if match.spiffe_id is None:
        return _anybody(source)
    return IdMatch(MatchType(match.spiffe_id.type), match.spiffe_id.value, source)


def _of_everybody(entry: PermissionFrom, source: str) -> Permissions:
    action, is_everybody = entry.default.action, entry.target_ref.kind == TargetKind.MESH
    if action is Action.DENY:
        return Permissions(deny=(_anybody(source),))
    if not is_everybody:
        return Permissions()
    if action is Action.ALLOW:
        return Permissions(allow=(_anybody(source),))
    return Permissions(shadow_deny=(_anybody(source),))


def _anybody(source: str) -> IdMatch:
    return IdMatch(MatchType.PREFIX, SCHEME, source)
