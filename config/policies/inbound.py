"""Entries of a policy for the traffic that a proxy receives: ``rules`` (Kuma 3) and ``from`` (Kuma 2).

They are validated and not applied, which a warning says.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from pydantic import Field

from config.document import format_path
from config.policies.policy import NO_EFFECT, Conf, Policy
from config.policies.target_ref import TargetKind, TargetRef, target_ref_rules
from config.resources.shape import Listed, Node, Omittable, Violation, clip, warning


class SpiffeIdMatch(Node):
    type: str = Field("", description="How value is compared.", json_schema_extra={"enum": ["Exact", "Prefix"]})
    value: str = Field("", description="A SPIFFE ID, or the start of one.")


class SniMatch(Node):
    type: str = Field("", description="How value is compared.", json_schema_extra={"enum": ["Exact"]})
    value: str = Field("", description="A server name.")


class PeerMatch(Node):
    spiffe_id: Omittable[SpiffeIdMatch] = Field(None, alias="spiffeID", description="The peer's identity.")
    sni: Omittable[SniMatch] = Field(None, description="The server name that the peer asked for (zone egress).")


class FromEntry(Node):
    target_ref: TargetRef = Field(description="The clients that are meant.")
    default: Conf


class RuleEntry(Node):
    matches: Listed[PeerMatch] = Field((), description="The clients that are meant, any one of them; all if empty.")
    default: Conf


class InboundPolicy(Policy):
    """A policy with ``rules`` and ``from`` beside ``to``. A kind declares the fields, and returns them here."""

    rules_shown_as: ClassVar[str] = "rules"
    """The list that Kuma names in violations of ``rules``."""

    @property
    def from_entries(self) -> Sequence[FromEntry]:
        return ()

    @property
    def rule_entries(self) -> Sequence[RuleEntry]:
        return ()

    @property
    def is_inbound(self) -> bool:
        return bool(self.from_entries or self.rule_entries)

    def list_rules(self) -> Iterator[Violation]:
        if self.rule_entries and self.from_entries:
            yield Violation((), "fields 'to' and 'from' must be empty when 'rules' is defined")
        elif self.rule_entries and self.entries:
            yield Violation((), "fields 'to' must be empty when 'rules' is defined")
        if not self.entries and not self.is_inbound:
            yield Violation((), "at least one of 'to' or 'rules' has to be defined")
        yield from self._from_rules()
        yield from self._rule_rules()

    def _from_rules(self) -> Iterator[Violation]:
        for index, entry in enumerate(self.from_entries):
            for violation in target_ref_rules(entry.target_ref, (TargetKind.MESH,)):
                yield violation.under(("from", index, "targetRef"))
            for violation in entry.default.rules():
                yield violation.under(("from", index, "default"))
        if self.from_entries:
            yield warning(("from",), NO_EFFECT)

    def _rule_rules(self) -> Iterator[Violation]:
        for index, entry in enumerate(self.rule_entries):
            for violation in [*_match_rules(entry.matches), *_conf_rules(entry.default)]:
                path = ("rules", index, *violation.path)
                shown = format_path(("spec", self.rules_shown_as, index, *violation.path))
                yield Violation(path, violation.message, violation.severity, shown)
        if self.rule_entries:
            yield warning(("rules",), NO_EFFECT)


def _conf_rules(conf: Conf) -> Iterator[Violation]:
    return (violation.under(("default",)) for violation in conf.rules())


def _match_rules(matches: Sequence[PeerMatch]) -> Iterator[Violation]:
    for index, match in enumerate(matches):
        at = ("matches", index)
        if match.spiffe_id is None and match.sni is None:
            yield Violation(at, "must specify at least one of 'spiffeID' or 'sni'")
        for name, condition, known in (
            ("spiffeID", match.spiffe_id, ("Exact", "Prefix")),
            ("sni", match.sni, ("Exact",)),
        ):
            if condition is None or condition.type in known:
                continue
            text = f'unrecognized type "{clip(condition.type)}", supported values are: {", ".join(known)}'
            yield Violation((*at, name, "type"), text if condition.type else "must be set")
