"""What every test may rely on."""

from __future__ import annotations

import resource

import pytest
from hypothesis import settings

settings.register_profile("any machine", deadline=None)  # one that others use takes longer, now and then
settings.load_profile("any machine")


@pytest.fixture(scope="session", autouse=True)
def many_file_descriptors() -> None:
    """Tests that hold thousands of connections need the limit that the system allows, not the default."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
