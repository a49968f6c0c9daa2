"""Where identities come from that we do not issue ourselves, as far as planning sees it: an agent of SPIRE, or files.

Both deliver what came last and what has gone wrong since, so a source that fails costs nothing until the certificate
that it has delivered expires. Who speaks to the agent is the proxy's business (``proxy/spire.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from config.problems import Problem, Severity
from tls.bundles import TrustBundle, parse_bundle
from tls.identity import Svid
from tls.issued import Delivery, is_vouched_by, read_issued
from tls.material import MAX_PEM_BYTES, MaterialError


class Agent(Protocol):
    """An agent of the SPIFFE Workload API. What it is asked here takes a bounded time, and never raises."""

    def delivered(self) -> Delivery:
        """Every identity of this process, and the bundles of its own and of federated trust domains."""


class NoAgent:
    """Where nobody asks one: commands that do not stay would learn, and forget, a key."""

    def delivered(self) -> Delivery:
        return Delivery(fault="only `koguma run` asks the agent for certificates")


@dataclass(frozen=True, slots=True)
class IdentityPaths:
    """``--identity-cert``, ``--identity-key`` and ``--identity-bundle``. The first two may be one file."""

    certificate: Path
    key: Path
    bundle: Path | None = None

    @property
    def all(self) -> list[Path]:
        return [path for path in (self.certificate, self.key, self.bundle) if path is not None]


@dataclass(frozen=True, slots=True)
class FromFiles:
    """What the files say at one moment. ``svid`` is the last good one, whose time may be over."""

    svid: Svid | None
    bundle: TrustBundle | None
    problems: tuple[Problem, ...] = ()


class IdentityFiles:
    """An identity in files. Certificate, key and bundle are good together or not at all, and what was good stays in
    force while its time lasts: files are replaced one by one, and a pair that does not match is half of a change.
    """

    def __init__(self, paths: IdentityPaths) -> None:
        self.paths = paths
        self.version = 0
        """Grows with each change of what the files hold."""
        self._contents: tuple[bytes | str, ...] = ()
        """Of each file, or why it cannot be read."""
        self._good: tuple[Svid, TrustBundle | None] | None = None

    def refresh(self) -> None:
        """Read the files anew."""
        read = {path: _read(path) for path in self.paths.all}  # one file is read once, and so is of one moment
        contents = tuple(read[path] for path in self.paths.all)
        if contents != self._contents:
            self._contents = contents
            self.version += 1

    def read(self, now: datetime) -> FromFiles:
        """Judge what :meth:`refresh` has read."""
        paths, problems = self.paths, list[Problem]()
        try:
            for path, content in zip(paths.all, self._contents, strict=True):
                if isinstance(content, str):
                    raise _Unusable(path, content)
            svid, bundle = self._parse(now, problems)
        except _Unusable as fault:
            kept = ""
            if self._good is not None and self._good[0].not_after > now:
                kept = f": the certificate of before is used, until {self._good[0].not_after:%Y-%m-%d %H:%M:%S} UTC"
            problems = [_problem(fault.path, f"{fault.message}{kept}", Severity.ERROR)]
        else:
            self._good = svid, bundle
        good, anchors = self._good or (None, None)
        return FromFiles(good, anchors, tuple(problems))

    def _parse(self, now: datetime, problems: list[Problem]) -> tuple[Svid, TrustBundle | None]:
        paths = self.paths
        chain, key, *anchors = (content for content in self._contents if isinstance(content, bytes))
        try:
            svid, notes = read_issued(chain, key, str(paths.certificate), now)
        except MaterialError as error:
            raise _Unusable(paths.key if error.which == "key" else paths.certificate, error.message) from error
        problems += (_problem(paths.certificate, note) for note in notes)
        if paths.bundle is None:
            return svid, None
        try:
            bundle, notes = parse_bundle(svid.id.trust_domain, anchors[0], str(paths.bundle))
        except MaterialError as error:
            raise _Unusable(paths.bundle, error.message) from error
        problems += (_problem(paths.bundle, note) for note in notes)
        if not is_vouched_by(bundle, svid, now):
            text = f"does not vouch for {svid.id}: peers that have these CA certificates alone will refuse it"
            problems.append(_problem(paths.bundle, text))
        return svid, bundle


class _Unusable(Exception):
    def __init__(self, path: Path, message: str) -> None:
        super().__init__(message)
        self.path = path
        self.message = message


def _problem(path: Path, message: str, severity: Severity = Severity.WARNING) -> Problem:
    return Problem(str(path), 1, "", "", "", "", message, severity)


def _read(path: Path) -> bytes | str:
    try:
        with path.open("rb") as file:
            return file.read(MAX_PEM_BYTES + 1)
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
