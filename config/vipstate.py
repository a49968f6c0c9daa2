"""Which virtual IPs were given away, kept across restarts: one JSON file in the state directory.

    {"version": 1, "leases": [{"mesh": "default", "name": "httpbin", "namespace": "", "ip": "242.7.8.9",
                               "released": null}, ...]}

``released`` is null for a service that is there, else when it was seen to have gone (UTC, ISO 8601). A directory
belongs to one process; machines may be given copies of one file, to agree on what a hash cannot decide.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from config.statefile import replace_file
from config.vips import Lease, Owner

FILE_NAME = "vips.json"
VERSION = 1
MAX_STATE_BYTES = 64 * 1024 * 1024


class StateError(Exception):
    """The state cannot be read or written; the message says which file, and why."""


class DamagedError(StateError):
    """The file is there, and is not one of ours."""


def load(directory: Path) -> list[Lease]:
    """The leases of the last run; none where there was none. Raises :class:`StateError`: :class:`DamagedError` for a
    file that can be read and makes no sense.
    """
    path = directory / FILE_NAME
    try:
        with path.open("rb") as file:
            data = file.read(MAX_STATE_BYTES + 1)
    except FileNotFoundError:
        return []
    except OSError as exc:
        raise StateError(f"{path}: cannot be read: {exc.strerror}") from exc
    if len(data) > MAX_STATE_BYTES:
        raise DamagedError(f"{path}: is larger than {MAX_STATE_BYTES} bytes")
    try:
        tree = json.loads(data)
        if tree["version"] != VERSION:
            raise StateError(f"{path}: has version {tree['version']!r}, and this program knows {VERSION}")
        return [_lease(entry) for entry in tree["leases"]]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
        raise DamagedError(f"{path}: is damaged ({type(exc).__name__}: {exc})") from exc


def set_aside(directory: Path) -> Path:
    """Keep a damaged file for whoever wants to look at it, and make room for a new one. Raises :class:`StateError`."""
    path = directory / FILE_NAME
    damaged = path.with_suffix(".damaged")
    try:
        path.replace(damaged)
    except OSError as exc:
        raise StateError(f"{path}: cannot be renamed: {exc.strerror}") from exc
    return damaged


def save(directory: Path, leases: Iterable[Lease]) -> None:
    """Replace the file, as a whole or not at all. Raises :class:`StateError`."""
    path = directory / FILE_NAME
    lines = ",\n".join(json.dumps(_entry(lease)) for lease in leases)
    text = f'{{"version": {VERSION}, "leases": [\n{lines}\n]}}\n'
    try:
        replace_file(path, text)
    except OSError as exc:
        raise StateError(f"{path}: cannot be written: {exc.strerror}") from exc


def _lease(entry: dict[str, Any]) -> Lease:
    mesh, name, namespace, released = entry["mesh"], entry["name"], entry["namespace"], entry["released"]
    if not all(isinstance(text, str) for text in (mesh, name, namespace, entry["ip"])):
        raise ValueError("a name is not text")
    moment = None if released is None else datetime.fromisoformat(released).astimezone(UTC).timestamp()
    return Lease(Owner(mesh, name, namespace), ip_address(entry["ip"]), moment)


def _entry(lease: Lease) -> dict[str, Any]:
    released = None if lease.released is None else datetime.fromtimestamp(lease.released, UTC).isoformat()
    owner = lease.owner
    return {
        "mesh": owner.mesh,
        "name": owner.name,
        "namespace": owner.namespace,
        "ip": str(lease.address),
        "released": released,
    }
