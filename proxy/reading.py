"""Reading resources from where the options say."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

from config import vipstate
from config.extension import Extensions
from config.issuers import IdentityFiles
from config.load import DataplaneLoader, Loaded, Loader
from config.planner import Planned, Planner, Settings
from config.vips import Lease
from proxy.clock import wall_clock
from proxy.extensions.registry import InstalledExtensions
from proxy.options import Sources, VirtualIps


def wall_clock_s() -> float:
    """Seconds since the epoch, as the time stamps of files are."""
    return wall_clock().timestamp()


def read_dataplane(sources: Sources, loader: DataplaneLoader, stdin: str = "") -> Loaded:
    """The Dataplane from wherever the options say: a file, standard input, or the environment."""
    if sources.dataplane_file is not None:
        return loader.load(sources.dataplane_file, sources.dataplane_vars, stdin)
    return loader.load("-", sources.dataplane_vars, sources.dataplane_text or "")


def standard_input(sources: Sources) -> str:
    """Read once: a reload finds it used up."""
    return sys.stdin.read() if sources.dataplane_file == "-" else ""


def read_leases(vips: VirtualIps) -> tuple[Lease, ...]:
    """The virtual IPs that were given away before. Raises :class:`~config.vipstate.StateError`."""
    return tuple(vipstate.load(vips.state_dir)) if vips.state_dir is not None else ()


@dataclass(frozen=True, slots=True)
class Reading:
    """All that was read at one moment, and what it is planned with."""

    planner: Planner
    resources: Loaded
    dataplane: Loaded

    def plan(self) -> Planned:
        return self.planner.plan(self.resources, self.dataplane, wall_clock())


def read_all(sources: Sources, partial: bool, vips: VirtualIps | None = None) -> Planned:
    """For the commands that read and plan once, and do not stay. Raises :class:`~config.vipstate.StateError`."""
    return read(sources, InstalledExtensions(), partial=partial, vips=vips).plan()


def read(sources: Sources, extensions: Extensions, *, partial: bool = False, vips: VirtualIps | None = None) -> Reading:
    """Raises :class:`~config.vipstate.StateError`."""
    vips = vips or VirtualIps()
    files = IdentityFiles(sources.identity) if sources.identity is not None else None
    if files is not None:
        files.refresh()
    settings = Settings(
        os.environ,
        partial=partial,
        vips=vips.listen,
        pools=vips.pools,
        leases=read_leases(vips),
        extensions=extensions,
        identity_files=files,
        identity_dir=vips.identity_dir,
    )
    dataplane = read_dataplane(sources, DataplaneLoader(), standard_input(sources))
    return Reading(Planner(settings), Loader().load(sources.resources), dataplane)
