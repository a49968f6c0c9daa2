"""``koguma validate``: every violation of a set of resources, where it is, in Kuma's words."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence

from config.load import Loader
from config.planner import Planner, Settings
from proxy.clock import wall_clock
from proxy.exits import EXIT_INVALID, EXIT_OK
from proxy.extensions.registry import InstalledExtensions


def validate(paths: Sequence[str], output: str) -> int:
    """Warnings are printed and do not change the exit code."""
    planner = Planner(Settings(os.environ, partial=True, extensions=InstalledExtensions()))
    planned = planner.plan(Loader().load(paths), None, wall_clock())
    problems = sorted(planned.problems)
    if output == "json":
        json.dump([problem.as_json() for problem in problems], sys.stdout, indent=2)
        print()
    else:
        for problem in problems:
            print(problem.as_text())
        if not planned.has_errors:
            warnings = f", {len(problems)} warnings" if problems else ""
            print(f"{len(planned.resources)} resources are valid{warnings}", file=sys.stderr)
    return EXIT_INVALID if planned.has_errors else EXIT_OK
