"""Guarantee: however a file changes, in place, replaced, linked anew or with its folder, it is noticed; and what is
not a resource is not.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy import files
from proxy.files import watch_files
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
