"""Plain sockets: opening them, and what the operating system has against it, in words."""

from __future__ import annotations

import errno
import socket
from ipaddress import IPv6Address
from pathlib import Path

IPV6_FREEBIND = 78
"""``linux/in6.h``; Python has no name for it."""
IPV6_ROUTES = Path("/proc/net/ipv6_route")
RTF_LOCAL = 0x80000000
"""``linux/ipv6_route.h``"""

KEEPALIVE_IDLE_S, KEEPALIVE_INTERVAL_S, KEEPALIVE_PROBES = 60, 15, 4


class StartError(Exception):
    """A socket could not be opened; the message says which, and what to do."""

    @property
    def no_such_family(self) -> bool:
        """Whether the machine does not have the IP version of a wildcard address."""
        cause = self.__cause__
        return isinstance(cause, OSError) and cause.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)


def keep_alive(sock: socket.socket) -> None:
    """Let the kernel notice a peer that vanished without a word. Accepted sockets inherit it from their listener."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)


def bind(
    address: str, port: int, kind: socket.SocketKind = socket.SOCK_STREAM, *, is_shared: bool = False
) -> socket.socket:
    """A bound socket, not yet listening. ``is_shared``: other processes of ours bind the same and share what comes.
    Raises :class:`StartError` with one clear line.
    """
    where = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    try:
        sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
    except OSError as exc:
        raise StartError(f"cannot listen on {where}: {reason(exc)}") from exc
    try:
        if kind is socket.SOCK_STREAM:  # on UDP it would let two processes share the port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        _bind(sock, address, port)
    except OSError as exc:
        sock.close()
        raise StartError(f"cannot listen on {where}: {reason(exc)}") from exc
    sock.setblocking(False)
    return sock


def _bind(sock: socket.socket, address: str, port: int) -> None:
    """Raises ``OSError``. Of IPv4, any address that a route makes local can be bound; of IPv6 only those of interfaces,
    unless one insists.
    """
    try:
        sock.bind((address, port))
    except OSError as exc:
        if exc.errno != errno.EADDRNOTAVAIL or sock.family != socket.AF_INET6 or not _has_local_route(address):
            raise
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
        sock.bind((address, port))


def _has_local_route(address: str) -> bool:
    """Whether a route makes an IPv6 address local: on Linux, by ``/proc/net/ipv6_route`` (network, length, and more,
    flags, device; in hexadecimal).
    """
    try:
        routes = IPV6_ROUTES.read_text().splitlines()
    except OSError:
        return False
    value = int(IPv6Address(address))
    for route in routes:
        network, length, *_, flags, _device = route.split()
        shift = 128 - int(length, 16)
        if int(flags, 16) & RTF_LOCAL and value >> shift == int(network, 16) >> shift:
            return True
    return False


def reason(exc: OSError) -> str:
    match exc.errno:
        case errno.EADDRINUSE:
            return "the port is taken by another process"
        case errno.EACCES:
            return "no permission (ports below 1024 need CAP_NET_BIND_SERVICE)"
        case errno.EADDRNOTAVAIL:
            return "no such address on this machine (VIPs outside 127.0.0.0/8 need a route: koguma vips up)"
        case errno.EMFILE:
            return "no descriptor left: raise the limit (ulimit -n)"
        case _:
            return exc.strerror or str(exc)


def connect_abstract(name: str) -> socket.socket:
    """A connection to a unix socket in Linux's abstract namespace, which the event loop does not take by name. Raises
    ``OSError``; never waits: a unix socket is connected at once, or its queue is full.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.connect("\0" + name)
    except BlockingIOError as exc:
        sock.close()
        raise ConnectionRefusedError(errno.ECONNREFUSED, "the queue of the unix socket is full") from exc
    except OSError:
        sock.close()
        raise
    return sock
