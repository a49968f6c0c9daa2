"""Guarantee: however a file changes, in place, replaced, linked anew or with its folder, it is noticed; and what is
not a resource is not.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import struct
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy import files
from proxy.files import watch_files
from proxy.inotify import IN_Q_OVERFLOW, Folders
from tests.proxy.rig import LoopThread

NOTICED_S = 5.0


class Watching:
    def __init__(self, loop: LoopThread, *paths: Path) -> None:
        self.changes = 0
        self.loop = loop

        def changed() -> None:
            self.changes += 1

        async def start() -> None:
            self.stop = asyncio.Event()
            self.task = asyncio.get_running_loop().create_task(watch_files(list(paths), changed, self.stop))

        loop.run(start())
        self._canary(paths[0])

    def _canary(self, path: Path) -> None:
        """Touch something until it is noticed, and wait until it is quiet: the watch is in place."""
        target = path / "canary.yaml" if path.is_dir() else path
        was = target.read_text() if target.exists() else None

        def poke() -> bool:
            target.write_text((was or "") + "\n# canary")
            return self.changes > 0

        self.loop.until(poke, "the watch to be in place")
        if was is None:
            target.unlink()
        else:
            target.write_text(was)
        self.settle()

    def settle(self) -> None:
        last = -1
        while last != self.changes:
            last = self.changes
            self.loop.run(asyncio.sleep(0.3))

    def notices(self, act: Callable[[], object]) -> None:
        self.settle()
        before = self.changes
        act()
        self.loop.until(lambda: self.changes > before, "the change to be noticed", within_s=NOTICED_S)

    def ignores(self, act: Callable[[], object]) -> None:
        self.settle()
        before = self.changes
        act()
        self.loop.run(asyncio.sleep(0.4))
        assert self.changes == before

    def close(self) -> None:
        async def end() -> None:
            self.stop.set()
            await asyncio.wait_for(self.task, 5)

        self.loop.run(end())


@pytest.fixture(autouse=True)
def quick_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "RETRY_S", 0.1)


def test_a_folder(one_loop: LoopThread, tmp_path: Path) -> None:
    folder = tmp_path / "resources"
    (folder / "deep").mkdir(parents=True)
    watching = Watching(one_loop, folder)
    watching.notices(lambda: (folder / "a.yaml").write_text("1"))
    watching.notices(lambda: (folder / "deep" / "b.json").write_text("1"))
    watching.notices(lambda: (folder / "a.yaml").rename(folder / "c.yml"))
    watching.notices(lambda: (folder / "c.yml").unlink())
    watching.ignores(lambda: (folder / "a.yaml.swp").write_text("an editor's"))
    watching.ignores(lambda: (folder / "notes.txt").write_text("somebody's"))
    watching.close()


def test_folders_that_come_later(one_loop: LoopThread, tmp_path: Path) -> None:
    """A watch stays with the folders that there were: those that are made, moved in or renamed are watched too."""
    folder, elsewhere = tmp_path / "resources", tmp_path / "elsewhere"
    folder.mkdir()
    (elsewhere / "deep").mkdir(parents=True)
    watching = Watching(one_loop, folder)
    watching.notices(lambda: (folder / "new" / "deep").mkdir(parents=True))
    watching.notices(lambda: (folder / "new" / "deep" / "a.yaml").write_text("1"))
    watching.notices(lambda: elsewhere.rename(folder / "moved"))
    watching.notices(lambda: (folder / "moved" / "deep" / "b.yaml").write_text("1"))
    watching.notices(lambda: (folder / "moved").rename(elsewhere))
    watching.ignores(lambda: (elsewhere / "deep" / "b.yaml").write_text("2"))
    watching.close()


def test_no_thread_and_no_descriptor_is_left(one_loop: LoopThread, tmp_path: Path) -> None:
    def watches() -> int:
        links = Path("/proc/self/fd").iterdir()
        return sum(os.path.islink(link) and os.readlink(link) == "anon_inode:inotify" for link in links)

    before, threads = watches(), threading.active_count()
    watching = Watching(one_loop, tmp_path)
    assert (watches(), threading.active_count()) == (before + 1, threads)
    watching.close()
    one_loop.until(lambda: watches() == before, "the watch to be closed")


def test_a_queue_that_overflowed_is_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel drops what there is no room for, and says so: whatever it was, everything is to be read."""
    with Folders([str(tmp_path)], recursive=False) as watch:
        overflow = struct.pack("iIII", -1, IN_Q_OVERFLOW, 0, 0)
        messages = iter([overflow])

        def read(descriptor: int, size: int) -> bytes:
            try:
                return next(messages)
            except StopIteration:
                raise BlockingIOError from None

        with monkeypatch.context() as patched:
            patched.setattr(os, "read", read)
            assert watch.take(lambda name: False) == (True, False)
        assert watch.is_outdated


def test_a_watch_that_the_kernel_refuses(one_loop: LoopThread, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the user may watch no more folders: said, and tried again."""
    refusals = iter([OSError(errno.ENOSPC, "no space left")])

    def refused(self: Folders, path: str) -> None:
        for refusal in refusals:
            raise refusal
        add(self, path)

    add = Folders._add
    monkeypatch.setattr(Folders, "_add", refused)
    watching = Watching(one_loop, tmp_path)
    watching.notices(lambda: (tmp_path / "a.yaml").write_text("1"))
    watching.close()


def test_a_file_and_its_replacement(one_loop: LoopThread, tmp_path: Path) -> None:
    file, draft = tmp_path / "dp.yaml", tmp_path / "draft"
    file.write_text("1")
    watching = Watching(one_loop, file)

    def replace() -> None:
        draft.write_text("2")
        os.replace(draft, file)

    watching.notices(replace)
    watching.notices(lambda: file.write_text("3"))
    watching.ignores(lambda: (tmp_path / "other.yaml").write_text("1"))
    watching.close()


def test_the_way_of_kubernetes(one_loop: LoopThread, tmp_path: Path) -> None:
    """A volume: ``ca.yaml -> ..data/ca.yaml``, ``..data -> ..v1``, and the swap of ``..data``."""
    for version in ("..v1", "..v2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "dp.yaml").write_text(version)
    (tmp_path / "..data").symlink_to("..v1")
    (tmp_path / "dp.yaml").symlink_to("..data/dp.yaml")
    other = tmp_path / "z.yaml"
    other.write_text("")

    def swap() -> None:
        (tmp_path / "..tmp").symlink_to("..v2")
        os.replace(tmp_path / "..tmp", tmp_path / "..data")

    watching = Watching(one_loop, other, tmp_path / "dp.yaml")
    watching.notices(swap)
    assert (tmp_path / "dp.yaml").read_text() == "..v2"
    watching.close()


def test_a_folder_that_vanishes_and_comes_back(one_loop: LoopThread, tmp_path: Path) -> None:
    folder = tmp_path / "resources"
    folder.mkdir()
    watching = Watching(one_loop, folder)
    watching.notices(lambda: shutil.rmtree(folder))

    def write() -> None:
        folder.mkdir()
        (folder / "a.yaml").write_text("1")

    watching.notices(write)
    watching.notices(lambda: (folder / "a.yaml").write_text("2"))
    watching.close()


def test_stopping_ends_it_at_once(one_loop: LoopThread, tmp_path: Path) -> None:
    watching = Watching(one_loop, tmp_path)
    watching.close()
    assert watching.task.done()
    assert watching.task.exception() is None
