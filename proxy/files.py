"""Noticing that files changed.

Folders are watched rather than files: an editor replaces a file, and Kubernetes swaps the symbolic link ``..data``
beside it, which a watch on the file itself would lose. What changed is not looked at: whoever is told reads everything
again, and contents that stayed the same change nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from watchfiles import awatch

from config.load import SUFFIXES

log = logging.getLogger("koguma.files")

DEBOUNCE_MS = 100
STEP_MS = 20
RETRY_S = 5.0


async def watch_files(paths: list[Path], changed: Callable[[], None], stop: asyncio.Event) -> None:
    """Call ``changed`` after each burst of changes to these files, or to the resource files below these folders, until
    ``stop``.
    """
    folders = sorted({path.absolute() for path in paths if path.is_dir()})
    files = [path.absolute() for path in paths if not path.is_dir()]
    watches = []
    if folders:
        watches.append(_watch(folders, _is_resource, changed, stop, recursive=True))
    if files:
        names = {path.name for path in files}
        parents = sorted({path.parent for path in files})
        watches.append(_watch(parents, lambda path: path.name in names or _is_link_swap(path), changed, stop))
    await asyncio.gather(*watches)


def _is_resource(path: Path) -> bool:
    return path.suffix in SUFFIXES or path.suffix == "" or _is_link_swap(path)


def _is_link_swap(path: Path) -> bool:
    """``..data`` and its like: how Kubernetes publishes a new version of a volume."""
    return path.name.startswith("..")


async def _watch(
    folders: list[Path],
    is_wanted: Callable[[Path], bool],
    changed: Callable[[], None],
    stop: asyncio.Event,
    recursive: bool = False,
) -> None:
    """Survives folders that vanish and come back. What changed before the watch was set is not lost: ``changed`` is
    called once it is, too.
    """
    loop = asyncio.get_running_loop()
    while not stop.is_set():
        loop.call_soon(changed)  # runs after the first step of awatch, which sets the watch
        watched = _identities(folders)
        try:
            async for changes in awatch(
                *(folder for folder in folders if folder.is_dir()),
                watch_filter=lambda _change, path: is_wanted(Path(path)),
                debounce=DEBOUNCE_MS,
                step=STEP_MS,
                stop_event=stop,
                recursive=recursive,
                rust_timeout=int(RETRY_S * 1000),
                yield_on_timeout=True,
            ):
                if changes:
                    changed()
                if _identities(folders) != watched:
                    break  # a watch stays with the folder that was there, not with its name
        except OSError as exc:
            log.warning("cannot watch for changes: %s; SIGHUP still reloads, and watching is tried again", exc)
        if not stop.is_set():
            try:
                async with asyncio.timeout(RETRY_S):
                    await stop.wait()
            except TimeoutError:
                pass


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
