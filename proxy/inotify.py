"""What the kernel says of folders: inotify(7), by way of the C library, in the event loop and without a thread.

A watch stays with the folder that was there when it was set, not with its name, and with no folder that came since. So
whatever happens to a folder itself, or a queue that overflowed, makes all of it :attr:`Folders.is_outdated`: whoever
watches sets it anew and reads everything.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Self

# include/uapi/linux/inotify.h
IN_MODIFY, IN_ATTRIB, IN_CLOSE_WRITE = 0x2, 0x4, 0x8
IN_MOVED_FROM, IN_MOVED_TO, IN_CREATE, IN_DELETE = 0x40, 0x80, 0x100, 0x200
IN_DELETE_SELF, IN_MOVE_SELF, IN_UNMOUNT = 0x400, 0x800, 0x2000
IN_Q_OVERFLOW, IN_IGNORED = 0x4000, 0x8000
IN_ONLYDIR, IN_ISDIR = 0x1000000, 0x40000000

_TO_FILES = IN_MODIFY | IN_ATTRIB | IN_CLOSE_WRITE | IN_MOVED_FROM | IN_MOVED_TO | IN_CREATE | IN_DELETE
_TO_ITSELF = IN_DELETE_SELF | IN_MOVE_SELF
_IS_OUTDATED = _TO_ITSELF | IN_UNMOUNT | IN_Q_OVERFLOW | IN_IGNORED
_TO_FOLDERS = IN_MOVED_FROM | IN_MOVED_TO | IN_CREATE | IN_DELETE

_EVENT = struct.Struct("iIII")
"""Watch, what happened, cookie, length of the name that follows."""
READ_BYTES = 1 << 16


@cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int, path: str = "") -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path or None)
    return result


class Folders:
    """A watch over folders, with ``recursive`` over all that are below them now; links are not followed. Close it.

    ``descriptor`` is readable once something happened.
    """

    def __init__(self, folders: Iterable[str], *, recursive: bool) -> None:
        """Raises :class:`OSError`, as where the user may watch no more; a folder that is not there is left out."""
        self.is_outdated = False
        self._recursive = recursive
        self.descriptor = _checked(_library().inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        try:
            for folder in folders:
                for path in _tree(folder) if recursive else [folder]:
                    self._add(path)
        except OSError:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        os.close(self.descriptor)

    def take(self, is_wanted: Callable[[str], bool]) -> tuple[bool, bool]:
        """All that happened since: whether anything did, and whether to something whose name ``is_wanted``."""
        any_did = wanted_did = False
        while True:
            try:
                data = os.read(self.descriptor, READ_BYTES)
            except BlockingIOError:
                return any_did, wanted_did
            for mask, name in _events(data):
                any_did = True
                is_folder = self._recursive and mask & IN_ISDIR and mask & _TO_FOLDERS
                if is_folder or mask & _IS_OUTDATED:
                    self.is_outdated = True
                elif not wanted_did:
                    wanted_did = is_wanted(name)

    def _add(self, path: str) -> None:
        mask = _TO_FILES | _TO_ITSELF | IN_ONLYDIR
        try:
            _checked(_library().inotify_add_watch(self.descriptor, os.fsencode(path), mask), path)
        except (FileNotFoundError, NotADirectoryError):
            pass  # it has just gone; its parent, if that is watched too, tells


def _tree(folder: str) -> Iterator[str]:
    for path, _, _ in os.walk(folder):
        yield path


def _events(data: bytes) -> Iterator[tuple[int, str]]:
    at = 0
    while at < len(data):
        _, mask, _, length = _EVENT.unpack_from(data, at)
        at += _EVENT.size
        yield mask, os.fsdecode(data[at : at + length].rstrip(b"\0"))
        at += length
