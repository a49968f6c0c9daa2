"""Exit codes of ``koguma``: a contract with scripts."""

from __future__ import annotations

EXIT_OK = 0
EXIT_INVALID = 1
"""Resources are wrong; every violation was printed."""
EXIT_USAGE = 2
EXIT_CANNOT_START = 3
"""A port is taken, or a permission is missing."""
