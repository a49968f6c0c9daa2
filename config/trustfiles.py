"""The MeshTrusts that identities of this zone bring with them, as files in the state directory: to be copied to other
zones by whatever copies files. Each is current after every plan, written as a whole or not at all, and left where it is
when its identity goes: who trusts it elsewhere does so by a copy.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from config.created_trust import CreatedTrust, Form
from config.statefile import replace_file


def write(directory: Path, trusts: Iterable[CreatedTrust]) -> Iterator[Path]:
    """Those whose content is new. Of a CA that would not outlive the process nothing is written. Raises ``OSError``."""
    for trust in trusts:
        path, text = directory / trust.file_name, trust.for_another_zone(Form.UNIVERSAL)
        if trust.is_kept and _read(path) != text:
            replace_file(path, text)
            yield path


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return None
