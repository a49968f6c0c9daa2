"""Reading resources from where the options say."""

from __future__ import annotations

import os
import sys

from config.load import Loaded, Loader, load_dataplane
from config.planner import Planned, Planner, Settings
from proxy.clock import wall_clock
from proxy.options import Sources


def read_dataplane(sources: Sources, stdin: str = "") -> Loaded:
    """The Dataplane from wherever the options say: a file, standard input, or the environment."""
    if sources.dataplane_file is not None:
        return load_dataplane(sources.dataplane_file, sources.dataplane_vars, stdin)
    return load_dataplane("-", sources.dataplane_vars, sources.dataplane_text or "")


def standard_input(sources: Sources) -> str:
    """Read once: a reload finds it used up."""
    return sys.stdin.read() if sources.dataplane_file == "-" else ""


def read_all(sources: Sources, partial: bool) -> tuple[Planned, Planner]:
    """For the commands that read once and do not stay."""
    planner = Planner(Settings(os.environ, partial=partial))
    dataplane = read_dataplane(sources, standard_input(sources))
    return planner.plan(Loader().load(sources.resources), dataplane, wall_clock()), planner
