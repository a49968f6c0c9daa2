"""Files in, validated resources out, with everything that is wrong on the way.

Nothing here raises for what a file says: a broken document is a :class:`Document` without a resource, still
under its key, so that a reload can keep what it had; a file of which a part cannot even be named is in
:attr:`Loaded.unreadable_files`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from operator import attrgetter
from pathlib import Path as FilePath
from typing import TypeAlias

from config import document as yaml_document
from config.document import MAX_BYTES, Fault, Lines, LineTree, format_path, line_at, parse_path
from config.problems import Problem, Severity
from config.resources.meta import Meta, Resource, open_envelope
from config.resources.registry import KINDS, is_foreign, kind_of, model_of, read
from config.resources.shape import Violation, wrong_type
from config.template import TemplateError, Variables, render

SUFFIXES = (".yaml", ".yml", ".json")
STDIN = "-"
PROXY_KINDS = ("Dataplane", "ZoneEgress")
"""What says which proxy to be."""

Key: TypeAlias = tuple[str, str, str, str]
"""Kind, mesh (empty for a kind that belongs to none), name, namespace (empty in the Universal form)."""


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a file. ``resource`` is ``None`` where it has errors, or is of a kind that is not used
    here.
    """

    kind: str
    mesh: str
    name: str
    namespace: str
    file: str
    line: int
    resource: Resource | None
    problems: tuple[Problem, ...]
    lines: Lines = field(repr=False, compare=False)

    @property
    def key(self) -> Key:
        return (self.kind, self.mesh, self.name, self.namespace)

    @property
    def meta(self) -> Meta:
        """Of one with a resource."""
        assert self.resource is not None
        return self.resource.meta

    @property
    def is_broken(self) -> bool:
        return any(problem.is_error for problem in self.problems)

    def line_of(self, field: str) -> int:
        """The line of a field, or of the nearest object around it that exists. ``field`` is a path as in
        :class:`Problem`; ``name``, ``mesh`` and a Dataplane's ``networking`` are found in the Kubernetes form
            too.
        """
        path, tree = parse_path(field), self.lines.tree
        members = {} if isinstance(tree, int) else tree[1]
        if path and path[0] not in members and isinstance(members, dict):
            for outer in ("spec", "metadata"):
                inner = members.get(outer, 0)
                if not isinstance(inner, int) and path[0] in inner[1]:
                    return line_at(inner, path)
        return line_at(tree, path)

    def problem(self, field: str, message: str, severity: Severity = Severity.ERROR) -> Problem:
        """A problem of this document, found by a later stage."""
        return Problem(self.file, self.line_of(field), self.kind, self.mesh, self.name, field, message, severity)


@dataclass(frozen=True, slots=True)
class Loaded:
    """``problems`` are those of files; each document has its own."""

    documents: tuple[Document, ...] = ()
    problems: tuple[Problem, ...] = ()
    unreadable_files: frozenset[str] = frozenset()

    @property
    def all_problems(self) -> list[Problem]:
        """Sorted by file and line."""
        return sorted([*self.problems, *(problem for document in self.documents for problem in document.problems)])

    @property
    def resources(self) -> Iterator[Resource]:
        return (document.resource for document in self.documents if document.resource is not None)


def load_resources(paths: Sequence[str | FilePath]) -> Loaded:
    """Read files, and directories with all their ``*.yaml``, ``*.yml`` and ``*.json`` files, in sorted order.

    Hidden entries of a directory are passed over, among them the ``..data`` that Kubernetes keeps beside the
    links into it; links to files are followed, links to directories are not. A file that is reached twice is
    read once.
    """
    return Loader().load(paths)


READ_BYTES = 1 << 16
"""How much of a file that has another size than it says is read at a time."""
SETTLED_S = 2.0
"""How long a file must have stayed as it is for its time stamp to prove that it still is: no file system that is
watched counts time in coarser steps.
"""


class Loader:
    """Loads again and again: a file whose content did not change gives the very documents that it gave before.

    With ``clock`` (epoch seconds) a file whose inode, size and times are those of the last reading is not even opened,
    unless it had changed so shortly before that reading that another change could have the same time.
    """

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self._clock = clock
        self._cache: _Cache = {}

    def distrust(self) -> None:
        """Read every file the next time, whatever its time stamp says."""
        self._cache = {file: replace(contents, stamp=None) for file, contents in self._cache.items()}

    def load(self, paths: Sequence[str | FilePath]) -> Loaded:
        """As :func:`load_resources`."""
        loading = _Loading(self._cache, self._clock() - SETTLED_S if self._clock is not None else float("-inf"))
        _load(paths, loading)
        self._cache = loading.read_now
        return loading.finish()


def _load(paths: Sequence[str | FilePath], loading: _Loading) -> None:
    seen: set[str] = set()
    for path in paths:
        try:
            files = list(_files(os.path.normpath(path)))
        except OSError as error:
            loading.unreadable(str(path), 1, _os_message(error))
            continue
        for file, real in files:
            if real not in seen:
                seen.add(real)
                loading.read_file(file)


def load_dataplane(path: str | FilePath, variables: Variables, stdin: str = "") -> Loaded:
    """As :meth:`DataplaneLoader.load`, once."""
    return DataplaneLoader().load(path, variables, stdin)


class DataplaneLoader:
    """Loads again and again: a text that did not change gives the very result that it gave before."""

    def __init__(self) -> None:
        self._last: tuple[str, bytes, Loaded] | None = None
        """File, digest of the text, and what it held."""

    def load(self, path: str | FilePath, variables: Variables, stdin: str = "") -> Loaded:
        """Read a Dataplane file, a Mustache template, with ``variables`` filled in; ``-`` takes the text from
        ``stdin``.

        Lines are those of the rendered text. A file that does not hold exactly one Dataplane has a problem.
        """
        file = "<stdin>" if str(path) == STDIN else str(path)
        loading = _Loading()
        try:
            data = stdin.encode("utf-8", "surrogateescape") if str(path) == STDIN else _read(FilePath(path))
        except OSError as error:
            loading.unreadable(file, 1, _os_message(error))
            return loading.finish()
        try:
            # What is too large or not UTF-8 stays as it is, for the parser to refuse.
            if len(data) <= MAX_BYTES:
                data = render(data.decode("utf-8-sig"), variables).encode()
        except UnicodeDecodeError:
            pass
        except TemplateError as error:
            loading.unreadable(file, error.line, str(error))
            return loading.finish()
        digest = sha256(data).digest()
        if self._last is None or self._last[:2] != (file, digest):
            loading.read(file, data)
            self._last = file, digest, _only_dataplane(loading.finish(), file)
        return self._last[2]


def _only_dataplane(loaded: Loaded, file: str) -> Loaded:
    documents: list[Document] = []
    found = False
    for document in loaded.documents:
        extra = None
        if document.kind and document.kind not in PROXY_KINDS:
            extra = f"only a Dataplane belongs here: {document.kind} is read from --resources"
        elif found:
            extra = "only one Dataplane belongs here"
        found = found or document.kind in PROXY_KINDS
        if extra is not None:
            problem = document.problem("kind" if "kind" in _keys(document.lines.tree) else "type", extra)
            document = replace(document, resource=None, problems=(*document.problems, problem))
        documents.append(document)
    problems = loaded.problems
    if not documents and not problems:
        problems = (Problem(file, 1, "", "", "", "", "the file has no Dataplane"),)
    return Loaded(tuple(documents), problems, loaded.unreadable_files)


@dataclass(frozen=True, slots=True)
class _Contents:
    """What one file held."""

    digest: bytes
    documents: tuple[Document, ...]
    faults: tuple[Fault, ...]
    stamp: _Stamp | None = None
    """``None``: not to be relied on."""


_Stamp: TypeAlias = "tuple[int, int, int, int, int]"
"""Device, inode, size, and the times of the last change of content and of anything, in nanoseconds."""

_Cache: TypeAlias = "dict[str, _Contents]"
"""By file name."""


def _read_contents(file: str, data: bytes, digest: bytes, stamp: _Stamp | None) -> _Contents:
    parsed = yaml_document.parse(data)
    found = (_document(file, document) for document in _unpacked(parsed.documents))
    return _Contents(digest, tuple(document for document in found if document is not None), parsed.faults, stamp)


class _Loading:
    """What has been read so far."""

    def __init__(self, cache: _Cache | None = None, settled_s: float = float("-inf")) -> None:
        """``settled_s``: a change before this moment (epoch seconds) cannot be mistaken for a later one."""
        self._cache = cache or {}
        self._settled_ns = settled_s * 1e9
        self.read_now: _Cache = {}
        self._documents: list[Document] = []
        self._problems: list[Problem] = []
        self._unreadable: set[str] = set()
        self._places: dict[Key, Document] = {}

    def finish(self) -> Loaded:
        return Loaded(tuple(self._documents), tuple(self._problems), frozenset(self._unreadable))

    def unreadable(self, file: str, line: int, message: str) -> None:
        self._unreadable.add(file)
        self._problems.append(Problem(file, line, "", "", "", "", message))

    def read_file(self, file: str) -> None:
        try:
            known = self._cache.get(file)
            if known is None or known.stamp is None or known.stamp != _stamp(os.stat(file)):
                known = self._read_file(file, known)
        except OSError as error:
            self.unreadable(file, 1, _os_message(error))
        else:
            self._take(file, known)

    def _read_file(self, file: str, known: _Contents | None) -> _Contents:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            stamp = _stamp(os.fstat(descriptor))
            data = _read_all(descriptor, stamp[2])
        finally:
            os.close(descriptor)
        return self._contents(file, data, known, stamp if max(stamp[3:]) < self._settled_ns else None)

    def read(self, file: str, data: bytes) -> None:
        self._take(file, self._contents(file, data, self._cache.get(file), None))

    def _contents(self, file: str, data: bytes, known: _Contents | None, stamp: _Stamp | None) -> _Contents:
        digest = sha256(data).digest()
        if known is not None and known.digest == digest:
            return _Contents(digest, known.documents, known.faults, stamp)
        return _read_contents(file, data, digest, stamp)

    def _take(self, file: str, contents: _Contents) -> None:
        self.read_now[file] = contents
        for fault in contents.faults:
            self.unreadable(file, fault.line, fault.message)
        for document in contents.documents:
            if not (document.kind and document.name) and document.is_broken:
                self._unreadable.add(file)
            self._documents.append(self._unique(document))

    def _unique(self, document: Document) -> Document:
        if document.kind not in KINDS or not document.name:
            return document
        first = self._places.setdefault(document.key, document)
        if first is document:
            return document
        problem = document.problem("name", f"already defined at {first.file}:{first.line}")
        return replace(document, resource=None, problems=(*document.problems, problem))


def _unpacked(documents: Iterable[yaml_document.Document]) -> Iterator[yaml_document.Document]:
    """The documents, with a Kubernetes ``List`` (as ``kubectl get`` prints it) replaced by its items."""
    for document in documents:
        value = document.value
        if not document.faults and isinstance(value, dict) and value.get("kind") == "List":
            items, members = value.get("items"), _keys(document.lines.tree).get("items", 0)
            if isinstance(items, list) and not isinstance(members, int) and isinstance(members[1], list):
                for item, where in zip(items, members[1], strict=True):
                    yield yaml_document.Document(item, Lines(where), line_at(where, ()))
                continue
        yield document


def _document(file: str, read_document: yaml_document.Document) -> Document | None:
    """``None`` for what is none of our business."""
    value, lines, line, faults = read_document.value, read_document.lines, read_document.line, read_document.faults
    if not isinstance(value, dict):
        problem = Problem(file, line, "", "", "", "", wrong_type("object", value))
        problems = tuple(Problem(file, fault.line, "", "", "", fault.field, fault.message) for fault in faults)
        return Document("", "", "", "", file, line, None, problems or (problem,), lines)
    envelope = open_envelope(value)
    if is_foreign(envelope):
        return None
    kind = kind_of(envelope)
    has_mesh = kind not in KINDS or model_of(kind).has_mesh
    mesh, name = envelope.mesh if has_mesh else "", envelope.name

    def stated(violation: Violation) -> Problem:
        at, shown = violation.path, violation.shown
        field = format_path(at) if shown is None else shown
        return Problem(file, lines.at(at), kind, mesh, name, field, violation.message, violation.severity)

    resource = None
    if faults:
        problems = tuple(Problem(file, fault.line, kind, mesh, name, fault.field, fault.message) for fault in faults)
    else:
        resource, violations = read(envelope)
        problems = tuple(sorted(map(stated, violations)))
    return Document(kind, mesh, name, envelope.namespace, file, line, resource, problems, lines)


def _keys(lines: LineTree) -> dict[str, LineTree]:
    return lines[1] if not isinstance(lines, int) and isinstance(lines[1], dict) else {}


def _files(path: str) -> Iterator[tuple[str, str]]:
    """A file, whatever its name; or the files of a directory. With each, its real path, which for ten thousand files of
    one folder is not worked out one by one.
    """
    if not os.path.isdir(path):
        yield path, os.path.realpath(path)
        return
    with os.scandir(path) as entries:
        ordered = sorted(entries, key=attrgetter("name"))
    folder = os.path.join(os.path.realpath(path), "")
    for entry in ordered:
        name = entry.name
        if name.startswith("."):
            continue
        if entry.is_symlink():
            if name.endswith(SUFFIXES) and not entry.is_dir():
                yield entry.path, os.path.realpath(entry.path)
        elif entry.is_dir():
            yield from _files(entry.path)
        elif name.endswith(SUFFIXES) and entry.is_file():
            yield entry.path, folder + name


def _stamp(status: os.stat_result) -> _Stamp:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _read(file: str | FilePath) -> bytes:
    """At most one byte more than the parser takes."""
    with open(file, "rb") as stream:
        return stream.read(MAX_BYTES + 1)


def _read_all(descriptor: int, size: int) -> bytes:
    """As :func:`_read`; with as few calls of the system as may be, since there may be ten thousand files. ``size``: as
    the system says, which is nothing for a pipe, and may be outdated.
    """
    parts = [os.read(descriptor, min(size, MAX_BYTES) + 1)]
    if len(parts[0]) != size:
        while parts[-1] and sum(map(len, parts)) <= MAX_BYTES:
            parts.append(os.read(descriptor, READ_BYTES))
    return b"".join(parts)[: MAX_BYTES + 1]


def _os_message(error: OSError) -> str:
    return f"cannot be read: {error.strerror or error}"
