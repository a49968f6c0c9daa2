"""How the demo talks: numbered steps, quoted files and answers; colours where a person looks at a terminal."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

BOLD, DIM, RED, GREEN, YELLOW, CYAN = "1", "2", "31", "32", "33", "36"


class Narrator:
    """``step`` is what is being told now, for a failure to name."""

    def __init__(self, out: TextIO, *, colours: bool) -> None:
        self.step = "before the first step"
        self._out = out
        self._colours = colours
        self._steps = 0

    def begin(self, title: str) -> None:
        self._steps += 1
        self.step = f"step {self._steps}: {title}"
        self._print()
        self._print(self._paint(f"{self._steps}. {title}", BOLD))

    def say(self, text: str) -> None:
        self._print(f"   {text}")

    def good(self, text: str) -> None:
        self._print(f"   {self._paint('ok', GREEN)} {text}")

    def refused(self, text: str) -> None:
        self._print(f"   {self._paint('refused', RED)} {text}")

    def quote(self, lines: Iterable[str], mark: str = "") -> None:
        """Lines of someone else; those that contain ``mark`` stand out."""
        for line in lines:
            self._print(f"     {self._paint(line, YELLOW if mark and mark in line else DIM)}")

    def file(self, path: Path, containing: Iterable[str], mark: str = "") -> None:
        """The lines of a file that contain one of these texts, with their numbers."""
        texts = tuple(containing)
        self._print(f"   {self._paint(str(path), CYAN)}")
        numbered = enumerate(path.read_text().splitlines(), 1)
        self.quote([f"{number:>3}  {line}" for number, line in numbered if any(text in line for text in texts)], mark)

    def end(self, text: str) -> None:
        self._print()
        self._print(self._paint(text, BOLD, GREEN))

    def _print(self, line: str = "") -> None:
        print(line, file=self._out, flush=True)

    def _paint(self, text: str, *codes: str) -> str:
        return f"\x1b[{';'.join(codes)}m{text}\x1b[0m" if self._colours else text


def wants_colours(out: TextIO) -> bool:
    """https://no-color.org: any value of NO_COLOR that is not empty."""
    return out.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
