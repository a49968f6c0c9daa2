"""Which verified peers may pass: rules over SPIFFE IDs.

Evaluation is Kuma's: what is denied is denied, whoever else allows it; what is allowed passes; of what is allowed
with a *shadow deny* the log is told that it would have been denied; whatever nothing speaks of is denied.

A prefix is compared as text, as in Kuma. In one place we are stricter: a prefix without a path, which is a whole trust
domain, allows that domain alone and not another one whose name is longer (``spiffe://zone-1`` is not ``zone-10``). It
still denies both, as in Kuma.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from tls.policy import MatchType
from tls.spiffe import SCHEME


class Decision(StrEnum):
    ALLOW = "allow"
    SHADOW_DENY = "shadow_deny"
    """The peer passes, and the log says that it would be denied."""
    DENY = "deny"

    @property
    def passes(self) -> bool:
        return self is not Decision.DENY


@dataclass(frozen=True, slots=True)
class IdMatch:
    """``source``: the rule that it is of, for people."""

    type: MatchType
    value: str
    source: str = ""

    def __str__(self) -> str:
        return self.value if self.type is MatchType.EXACT else f"{self.value}*"

    def covers(self, identity: str) -> bool:
        if self.type is MatchType.EXACT:
            return identity == self.value
        return identity.startswith(self.value)

    def allows(self, identity: str) -> bool:
        """As :meth:`covers`, but that a trust domain ends where it ends."""
        names_domain = (
            self.type is MatchType.PREFIX and len(self.value) > len(SCHEME) and "/" not in self.value[len(SCHEME) :]
        )
        return identity.startswith(f"{self.value}/") if names_domain else self.covers(identity)


@dataclass(frozen=True, slots=True)
class Judgement:
    """A decision, and the match that made it; ``None`` where nothing speaks of the peer."""

    decision: Decision
    match: IdMatch | None = None

    @property
    def passes(self) -> bool:
        return self.decision.passes

    @property
    def why(self) -> str:
        """Which rule it was."""
        if self.match is None:
            return "no rule allows it"
        return f"{self.match.source or 'a rule'} says so of {self.match}"


@dataclass(frozen=True, slots=True)
class Permissions:
    deny: tuple[IdMatch, ...] = ()
    shadow_deny: tuple[IdMatch, ...] = ()
    allow: tuple[IdMatch, ...] = ()

    def __add__(self, other: Permissions) -> Permissions:
        """What both say."""
        return Permissions(self.deny + other.deny, self.shadow_deny + other.shadow_deny, self.allow + other.allow)

    def judge(self, identity: str) -> Judgement:
        """For a verified SPIFFE ID."""
        for match in self.deny:
            if match.covers(identity):
                return Judgement(Decision.DENY, match)
        for match in self.shadow_deny:
            if match.allows(identity):
                return Judgement(Decision.SHADOW_DENY, match)
        for match in self.allow:
            if match.allows(identity):
                return Judgement(Decision.ALLOW, match)
        return Judgement(Decision.DENY)

    def decide(self, identity: str) -> Decision:
        """As :meth:`judge`, without the reason."""
        return self.judge(identity).decision
