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

from proxy.wire.h2 import literal
from tls.permissions import Decision, Permissions
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

    __slots__ = ("_decision", "_permissions", "http1_field", "http2_field", "id", "peer")

    def __init__(self, accepted: Accepted) -> None:
        self.peer: Peer = accepted.peer
        self.id = str(accepted.peer.id)
        value = f"By={accepted.local_id};Hash={accepted.peer.leaf_sha256};URI={self.id}".encode("ascii")
        self.http1_field = b"\r\n%b: %b" % (HEADER, value)
        self.http2_field = literal(HEADER, value)
        self._permissions: Permissions | None = None
        self._decision = Decision.ALLOW

    def passes(self, listener: Listener) -> bool:
        """Whether the MeshTrafficPermissions let it through; accounted for."""
        permissions = listener.plan.permissions
        if permissions is None:
            return True
        if permissions is not self._permissions:
            self._permissions, self._decision = permissions, permissions.decide(self.id)
        stats = listener.stats
        if self._decision is Decision.ALLOW:
            stats.rbac_allowed += 1
            return True
        if self._decision is Decision.SHADOW_DENY:
            stats.rbac_shadow_denied += 1
            self._say(listener, "would be denied by a MeshTrafficPermission (allowWithShadowDeny)")
            return True
        stats.rbac_denied += 1
        self._say(listener, "is denied: no MeshTrafficPermission allows it, or one denies it")
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
        name = listener.plan.name
        if listener.may_say(f"{self._decision} {name} {self.id}"):
            event = {"event": f"peer_{self._decision}", "listener": name, "peer": self.id}
            log.warning("%s: %s %s", name, self.id, what, extra=event)
