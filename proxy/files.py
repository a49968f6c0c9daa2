"""Noticing that files changed.

Folders are watched rather than files: an editor replaces a file, and Kubernetes swaps the symbolic link ``..data``
beside it, which a watch on the file itself would lose. What changed is not looked at: whoever is told reads everything
again, and contents that stayed the same change nothing.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path

from config.load import SUFFIXES
from proxy.inotify import Folders
from proxy.tasks import spawn

log = logging.getLogger("koguma.files")

BURST_S = 0.1
"""Changes that come one after the other are told of once, but not later than this."""
STEP_S = 0.02
"""How long it has to be quiet for a burst to be over."""
RETRY_S = 5.0


async def watch_files(paths: list[Path], changed: Callable[[], None], stop: asyncio.Event) -> None:
    """Call ``changed`` after each burst of changes to these files, or to the resource files below these folders, until
    ``stop``.
    """
    folders = sorted({path.absolute() for path in paths if path.is_dir()})
    files = [path.absolute() for path in paths if not path.is_dir()]
    watches = []
    if folders:
        watches.append(spawn(_watch(folders, _is_resource, changed, recursive=True), "watch folders"))
    if files:
        names = {path.name for path in files}
        parents = sorted({path.parent for path in files})
        watches.append(spawn(_watch(parents, lambda name: name in names or _is_link_swap(name), changed), "watch"))
    try:
        await stop.wait()
    finally:
        for watch in watches:
            watch.cancel()


def _is_resource(name: str) -> bool:
    suffix = os.path.splitext(name)[1]
    return suffix in SUFFIXES or suffix == "" or _is_link_swap(name)


def _is_link_swap(name: str) -> bool:
    """``..data`` and its like: how Kubernetes publishes a new version of a volume."""
    return name.startswith("..")


async def _watch(
    folders: list[Path], is_wanted: Callable[[str], bool], changed: Callable[[], None], *, recursive: bool = False
) -> None:
    """Survives folders that vanish and come back. What changed before the watch was set is not lost: ``changed`` is
    called once it is, too.
    """
    while True:
        watched = _identities(folders)
        try:
            with Folders(map(str, folders), recursive=recursive) as watch:
                changed()
                while not watch.is_outdated and _identities(folders) == watched:
                    if await _burst(watch, is_wanted):
                        changed()
        except OSError as exc:
            log.warning("cannot watch for changes: %s; SIGHUP still reloads, and watching is tried again", exc)
            await asyncio.sleep(RETRY_S)


async def _burst(watch: Folders, is_wanted: Callable[[str], bool]) -> bool:
    """Wait for a burst of changes to end, ``RETRY_S`` at most for one to begin; whether one of them is wanted."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(watch.descriptor, readable.set)
    try:
        async with asyncio.timeout(RETRY_S):
            await readable.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(watch.descriptor)
    deadline = loop.time() + BURST_S
    any_did, found = watch.take(is_wanted)
    while any_did and loop.time() < deadline:
        await asyncio.sleep(STEP_S)
        any_did, more = watch.take(is_wanted)
        found = found or more
    return found


def _identities(folders: list[Path]) -> list[tuple[int, int] | None]:
    """Which folder has each name now; ``None``: none."""
    found: list[tuple[int, int] | None] = []
    for folder in folders:
        try:
            status = folder.stat()
            found.append((status.st_dev, status.st_ino))
        except OSError:
            found.append(None)
    return found
