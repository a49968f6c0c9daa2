"""How long a client's HTTP connection may take for what. Looked at every few seconds: each is overrun by as much."""

from __future__ import annotations

HEAD_DEADLINE_S = 60.0
"""From the first byte of a request's head to its last (408); of HTTP/2, to the client's SETTINGS."""
IDLE_TIMEOUT_S = 3600.0
"""Between requests, and without a byte either way in a tunnel. Envoy's default."""
STREAM_IDLE_TIMEOUT_S = 300.0
"""Without a byte either way within an exchange (Envoy's default), or once we close."""
LINGER_S = 1.0
"""From our last byte to the end of the connection. Envoy's ``delayed_close_timeout``."""
