"""Guarantee: ``koguma demo`` works on a bare machine, says what it saw, fails loudly where something did not happen,
and leaves nothing behind, whichever way it ends.
"""

from __future__ import annotations

import io
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.commands import demo
from proxy.demo import documents
from proxy.demo.narrator import Narrator, wants_colours
from tests.kit import poll
from tests.kit.koguma import KOGUMA, Finished, environment, run_to_end
from tests.kit.program import Program

ESCAPE = "\x1b["


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    """Where the demo puts its folder."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    return folder


def run_demo(temporary: Path) -> Finished:
    return run_to_end("demo", cwd=temporary.parent, env={"TMPDIR": str(temporary)}, timeout_s=50)


def proxies_of(temporary: Path) -> list[int]:
    """Processes whose command line names the demo's folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(temporary).encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            pass  # it has ended meanwhile
    return found


@pytest.fixture
def started(temporary: Path) -> Iterator[Program]:
    """A demo whose proxy is up."""
    program = Program([*KOGUMA, "demo"], env=environment({"TMPDIR": str(temporary)}), cwd=temporary.parent)
    try:
        program.wait_for_line("it is ready", within_s=30)
        yield program
    finally:
        program.close()


def test_tells_the_whole_story_and_cleans_up(temporary: Path) -> None:
    done = run_demo(temporary)
    assert done.exit_code == 0, done.output
    assert re.findall(r"^(\d)\. ", done.stdout, re.MULTILINE) == list("1234567")
    assert (
        "eu.partner.test answered; it saw TLSv1.3, SNI eu.partner.test, client certificate CN=shop-backend"
        in done.stdout
    )
    assert (
        "us.partner.test answered; it saw TLSv1.2, SNI us.partner.test, client certificate CN=shop-backend"
        in done.stdout
    )
    assert f"expected:  {documents.MISTYPED_NAME}" in done.stdout
    assert f"nearest:   {documents.EXPECTED_NAME}" in done.stdout
    assert "drained, exit code 0" in done.stdout
    assert done.stderr == ""
    assert ESCAPE not in done.stdout, "colours are for terminals"
    assert "PRIVATE KEY" not in done.output
    assert list(temporary.iterdir()) == []
    assert proxies_of(temporary) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 130)])
def test_interrupted_it_cleans_up(started: Program, temporary: Path, number: signal.Signals, code: int) -> None:
    assert proxies_of(temporary)
    started.send(number)
    assert started.wait() == code
    assert list(temporary.iterdir()) == []
    assert proxies_of(temporary) == []


def test_a_proxy_that_dies_fails_the_demo(started: Program, temporary: Path) -> None:
    (proxy,) = proxies_of(temporary)
    os.kill(proxy, signal.SIGKILL)
    assert started.wait(within_s=30) == demo.EXIT_FAILED
    assert re.search(r"the demo failed in step \d: ", "\n".join(started.stderr))
    poll.until(lambda: not list(temporary.iterdir()), "the folder to be gone")


def test_a_claim_that_is_not_true_fails_the_demo(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(documents, "MISTYPED_NAME", documents.EXPECTED_NAME)  # a mistake that is none
    assert demo.demo() == demo.EXIT_FAILED
    said = capsys.readouterr()
    assert "the demo failed in step 5: A mistake in the YAML" in said.err
    assert "SIGTERM" not in said.out


def test_colours_mark_what_matters() -> None:
    told = {}
    for colours in (True, False):
        out = io.StringIO()
        narrator = Narrator(out, colours=colours)
        narrator.begin("First")
        narrator.good("fine")
        narrator.quote(["nearest: x", "other"], "nearest")
        told[colours] = out.getvalue()
    assert ESCAPE in told[True]
    assert re.sub(r"\x1b\[[0-9;]*m", "", told[True]) == told[False]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environ", "coloured"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)],
)
def test_colours_are_wanted(monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], coloured: bool) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert wants_colours(Terminal()) is coloured
    assert not wants_colours(io.StringIO())


def test_a_folder_named_proxy_does_not_mislead_it(temporary: Path) -> None:
    """The demo starts its proxy from wherever the user happens to be."""
    here = temporary.parent / "here"
    (here / "config").mkdir(parents=True)
    (here / "config" / "__init__.py").write_text("raise SystemExit('not the right config')\n")
    program = Program(
        [sys.executable, "-P", "-m", "proxy", "demo"], env=environment({"TMPDIR": str(temporary)}), cwd=here
    )
    try:
        assert program.wait(within_s=50) == 0, program.describe()
    finally:
        program.close()
