"""``python -m bench``: Koguma and its rivals side by side; ``docs/performance/README.md`` says what each row means.

Needs two cores, wrk, h2load, nginx, taskset; a rival that is not installed is left out, and said so.
"""

from __future__ import annotations

import argparse
import resource
import shlex
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from bench import chart, machine, report
from bench.origin import find
from bench.peers import PEERS, Peer
from bench.process import MeasurementError
from bench.results import DIRECT, Outcome
from bench.rows import ROWS, Row
from bench.world import CannotDoError, World

PROGRAMS = {"nginx": "nginx-light", "wrk": "wrk", "h2load": "nghttp2-client", "taskset": "util-linux"}
"""What the load and the origin need, and the Debian package of each."""
QUICK_RUNS, QUICK_SECONDS = 1, 1.0


@dataclass(frozen=True, slots=True)
class Request:
    rows: tuple[Row, ...]
    peers: dict[str, type[Peer]]
    missing: dict[str, str]
    runs: int
    seconds: float


def missing_programs() -> dict[str, str]:
    """The programs that are not installed, with the Debian package of each."""
    missing = {}
    for program, package in PROGRAMS.items():
        try:
            find(program)
        except MeasurementError:
            missing[program] = package
    return missing


def choose_rows(names: Sequence[str], quick: bool, rows: Sequence[Row] = ROWS) -> tuple[Row, ...]:
    """Those whose names contain one of ``names``, whatever the case; all without any. Raises ``ValueError``."""
    for name in names:
        if not any(name.lower() in row.full_name.lower() for row in rows):
            raise ValueError(f'no row is called "{name}"; --list names them')
    return tuple(
        row
        for row in rows
        if (any(name.lower() in row.full_name.lower() for name in names) if names else row.quick or not quick)
    )


def choose_peers(
    names: Sequence[str] | None, quick: bool, peers: Mapping[str, type[Peer]] = PEERS
) -> tuple[dict[str, type[Peer]], dict[str, str]]:
    """Those that take part, and why the others of them that were asked for do not; all are asked for without names."""
    chosen, absent = {}, {}
    for name, peer in peers.items():
        if names and name not in names:
            continue
        if quick and not names and peer.is_slow:
            absent[name] = "too slow for --quick"
        elif peer.version() is None:
            absent[name] = f"not installed{_package(peer)}"
        else:
            chosen[name] = peer
    return chosen, absent


def measure_row(world: World, row: Row, peers: Sequence[str], runs: int) -> Outcome:
    """Every subject once, then every subject again: what the machine does to one, it does to all."""
    outcome = Outcome(row.name, row.family, row.metrics)
    subjects = [*peers, *([DIRECT] if row.direct else [])]
    if row.shares_cores and world.cores.two_workers_share:
        outcome.notes.append("this machine has two cores: the load shares one with the second worker")
    for _ in range(runs):
        for subject in subjects:
            if subject in outcome.absent:
                continue
            try:
                values = row.measure(world, subject)
            except (CannotDoError, MeasurementError, OSError) as exc:
                failed = "" if isinstance(exc, CannotDoError) else "FAILED: "
                outcome.absent[subject] = failed + " ".join(str(exc).split())
                outcome.runs.pop(subject, None)
                print(f"{row.full_name}: {subject}: {exc}", file=sys.stderr)
            else:
                outcome.runs.setdefault(subject, []).append(values)
    return outcome


def measure(request: Request, folder: Path, arguments: str) -> tuple[report.Run, list[Outcome]]:
    described = machine.describe()
    outcomes = []
    with ExitStack() as stack:
        folder.chmod(0o755)  # nginx's worker is another user
        world = World(stack, folder, machine.this_machine(), request.peers, request.seconds)
        for row in request.rows:
            outcome = measure_row(world, row, list(request.peers), request.runs)
            outcomes.append(outcome)
            print(f"\n{row.family}", *report.table([outcome]), sep="\n", flush=True)
        commands = world.commands
    versions = {name: str(peer.version()) for name, peer in request.peers.items()}
    run = report.Run(described, versions, commands, request.missing, arguments, request.runs, request.seconds)
    return run, outcomes


def write(folder: Path, run: report.Run, outcomes: Sequence[Outcome]) -> None:
    """``results.md``, ``results.json`` and a chart for each family."""
    folder.mkdir(parents=True, exist_ok=True)
    charts = {}
    for family, group in groupby(outcomes, key=lambda outcome: outcome.family):
        members = [outcome for outcome in group if outcome.runs]
        if members:
            charts[family] = family.lower().replace(" ", "-").replace("/", "-") + ".svg"
            (folder / charts[family]).write_text(chart.chart(members))
    (folder / "results.md").write_text(report.markdown(run, outcomes, charts))
    (folder / "results.json").write_text(report.as_json(run, outcomes))


def parse(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the rows that say the most, once, for a second each")
    parser.add_argument("--row", action="append", default=[], metavar="NAME", help="only rows whose name contains this")
    parser.add_argument("--peer", action="append", choices=list(PEERS), help="only these")
    parser.add_argument("--runs", type=int, help="of each row (5)")
    parser.add_argument("--seconds", type=float, help="of each run (4)")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="write results.md, results.json and charts there")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every value of every run there")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave configurations and logs there, to be read")
    parser.add_argument("--list", action="store_true", help="name the rows, and end")
    return parser.parse_args(words)


def _package(peer: type[Peer]) -> str:
    if peer.is_slow:
        return " (make bench installs it)"
    return f" (Debian: {peer.debian})" if peer.debian else ""


def main(words: Sequence[str]) -> int:
    """0, or 1 if a row failed, or 2 if nothing can be measured."""
    arguments = parse(words)
    try:
        rows = choose_rows(arguments.row, arguments.quick)
        if arguments.list:
            print("\n".join(row.full_name for row in rows))
            return 0
        machine.this_machine()
    except ValueError as exc:
        print(f"bench: {exc}", file=sys.stderr)
        return 2
    if missing := missing_programs():
        packages = " ".join(missing.values())
        print(f"bench: not installed: {', '.join(missing)} (Debian: apt-get install {packages})", file=sys.stderr)
        return 2
    peers, absent = choose_peers(arguments.peer, arguments.quick)
    for name, reason in absent.items():
        print(f"bench: {name} does not take part: {reason}", file=sys.stderr)
    request = Request(
        rows,
        peers,
        absent,
        arguments.runs or (QUICK_RUNS if arguments.quick else 5),
        arguments.seconds or (QUICK_SECONDS if arguments.quick else 4.0),
    )
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # inherited by whatever is started
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))  # as by Ctrl-C: what was started is ended
    keep = arguments.keep
    if keep is not None:
        keep.mkdir(parents=True)
    with tempfile.TemporaryDirectory() if keep is None else nullcontext(str(keep.absolute())) as folder:
        run, outcomes = measure(request, Path(folder), shlex.join(["python", "-m", "bench", *words]))
    if arguments.output is not None:
        write(arguments.output, run, outcomes)
    if arguments.json is not None:
        arguments.json.write_text(report.as_json(run, outcomes))
    return 1 if any(reason.startswith("FAILED") for outcome in outcomes for reason in outcome.absent.values()) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
