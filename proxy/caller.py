"""The verified peer of an inbound connection: what the application is told of it, and whether it may pass.

The application hears of its caller by ``x-forwarded-client-cert``, in Envoy's form for ``SANITIZE_SET`` with ``uri``:
``By`` is our SPIFFE ID, ``Hash`` the SHA-256 of the caller's certificate, ``URI`` the caller's SPIFFE ID. None of them
can hold what the header's grammar would have to quote. It belongs to the connection, so it is rendered once with it,
and goes into heads as the request id does, which are themselves shared by connections.

The decision is kept with the connection too, and made anew when the permissions have changed: what is no longer allowed
ends with the next request. Trust is decided by the handshake alone, unless the user has connections drained whose
peers are no longer trusted (``--drain-untrusted``).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from proxy.peer_counts import DENIED
from proxy.wire.h2 import literal
from tls.permissions import Decision, Judgement, Permissions
from tls.svid import recheck
from tls.verdict import Refused

if TYPE_CHECKING:
    from proxy.listener import Listener
    from tls.server_handshake import Accepted
    from tls.svid import Peer

log = logging.getLogger("koguma.inbound")

HEADER = b"x-forwarded-client-cert"


class Caller:
    """See the module. ``http1_field`` goes behind the value of a head's field, ``http2_field`` behind its block."""

    __slots__ = ("_judgement", "_permissions", "http1_field", "http2_field", "id", "peer")

    def __init__(self, accepted: Accepted, *, is_named: bool = True) -> None:
        """``is_named``: to whoever is behind us. Not where that is outside of the mesh."""
        self.peer: Peer = accepted.peer
        self.id = str(accepted.peer.id)
        value = f"By={accepted.local_id};Hash={accepted.peer.leaf_sha256};URI={self.id}".encode("ascii")
        self.http1_field = b"\r\n%b: %b" % (HEADER, value) if is_named else b""
        self.http2_field = literal(HEADER, value) if is_named else b""
        self._permissions: Permissions | None = None
        self._judgement = Judgement(Decision.ALLOW)

    def passes(self, listener: Listener) -> bool:
        """Whether the MeshTrafficPermissions let it through; accounted for."""
        permissions = listener.plan.permissions
        if permissions is None:
            return True
        if permissions is not self._permissions:
            self._permissions, self._judgement = permissions, permissions.judge(self.id)
        stats, decision = listener.stats, self._judgement.decision
        if decision is Decision.ALLOW:
            stats.rbac_allowed += 1
            return True
        if decision is Decision.SHADOW_DENY:
            stats.rbac_shadow_denied += 1
            self._say(listener, "passes, and would be denied otherwise")
            return True
        stats.rbac_denied += 1
        if listener.peer_counts is not None:
            listener.peer_counts.count(self.id, DENIED)
        self._say(listener, "is denied")
        return False

    def is_still_welcome(self, listener: Listener) -> bool:
        """Whether it would be let in today."""
        acceptance, permissions = listener.plan.acceptance, listener.plan.permissions
        if acceptance is None:
            return True
        try:
            recheck(self.peer, acceptance.bundles)
        except Refused:
            return False
        return permissions is None or permissions.decide(self.id).passes

    def _say(self, listener: Listener, what: str) -> None:
        name, judgement = listener.plan.name, self._judgement
        if listener.may_say(f"{judgement.decision} {name} {self.id}"):
            rule = judgement.match.source if judgement.match is not None else None
            event = {"event": f"peer_{judgement.decision}", "listener": name, "peer": self.id, "rule": rule}
            log.warning("%s: %s %s: %s", name, self.id, what, judgement.why, extra=event)
