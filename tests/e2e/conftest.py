"""The proxy as a fixture: configured by the test, started by ``with koguma:``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kit.koguma import Koguma


@pytest.fixture
def koguma(tmp_path: Path) -> Koguma:
    """A proxy that has not started, with its files under ``tmp_path``."""
    return Koguma(tmp_path / "koguma")
