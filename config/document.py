"""Strict YAML (and JSON, which is YAML): text in, plain values and their lines out.

Design: PyYAML's parser yields events; everything above events is ours. YAML as its usual loaders read it
turns ``no`` into ``False`` and ``1:30`` into ``90``, keeps the last of two equal keys, and lets an alias grow
without end. This reader knows the scalars of the YAML 1.2 core schema and nothing else, and every growth has
a bound. The builder is a stack, not a recursion, so depth is a number that we choose. Plain documents take a
shorter way to the same result (``config.plain``).

A fault that leaves the structure readable (a key given twice, an unknown tag) belongs to its document, and
reading goes on: whoever reads the file learns of every fault at once, and the document can still be named. A
syntax error costs its document only: reading resumes at the next ``---``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias

from config import plain
from config.scalars import resolve

if TYPE_CHECKING:
    import yaml

MAX_BYTES = 8 << 20
MAX_NODES = 500_000
"""Scalars, mappings and sequences of one file, aliases counted as often as they are used."""
MAX_DEPTH = 100
MAX_FAULTS = 100
"""Of one file: the faults of all its documents and its errors of syntax together. Where there is one more, reading ends
behind the document that has it. A folder may have as many for each of its files; nothing bounds how many those are.
"""

Path: TypeAlias = "tuple[str | int, ...]"
Value: TypeAlias = "bool | int | float | str | list[Value] | dict[str, Value] | None"
LineTree: TypeAlias = "int | tuple[int, dict[str, LineTree] | list[LineTree]]"
"""The line of a scalar; of a collection, its line and those of its members. An entry's line is that of its
key.
"""

_NOT_PRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_MARKER_ENDS = frozenset(["", *" \t\r\n\x85\u2028\u2029"])

_TAG = "tag:yaml.org,2002:"
_TAG_TYPES: dict[str, tuple[type, ...]] = {
    _TAG + "null": (type(None),),
    _TAG + "bool": (bool,),
    _TAG + "int": (int,),
    _TAG + "float": (float, int),
}


@dataclass(frozen=True, slots=True)
class Fault:
    """What the reader objects to. ``field`` is empty where no field can be named."""

    line: int
    field: str
    message: str


@dataclass(frozen=True, slots=True)
class Document:
    """One document. With ``faults``, ``value`` is what could be read: good for naming the document, not for
    use.
    """

    value: Value
    lines: Lines = field(repr=False)
    line: int
    faults: tuple[Fault, ...] = ()


class Lines:
    """Where the parts of a document are. Of a plain one it is worked out when somebody asks: something is wrong."""

    __slots__ = ("_first_line", "_text", "_tree")

    def __init__(self, tree: LineTree | None = None, text: str = "", first_line: int = 1) -> None:
        """Either the lines, or the text of a plain document."""
        self._tree = tree
        self._text = text
        self._first_line = first_line

    @property
    def tree(self) -> LineTree:
        if self._tree is None:
            (document,) = _Reader(self._text, self._first_line, _Budget()).documents()
            self._tree, self._text = document.lines.tree, ""
        return self._tree

    def at(self, path: Path) -> int:
        return line_at(self.tree, path)


@dataclass(frozen=True, slots=True)
class Parsed:
    """The documents of a file that are not empty, and the faults that belong to none of them."""

    documents: tuple[Document, ...]
    faults: tuple[Fault, ...]


class _LimitError(Exception):
    """The file asks for more than a bound allows: nothing after this point is read."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.fault = Fault(line, "", message)


class _TooManyFaultsError(_LimitError):
    def __init__(self, line: int) -> None:
        super().__init__(line, f"more than {MAX_FAULTS} errors: the rest is not read")


class _SyntaxError(Exception):
    """``line`` counts from 0, where the reader began."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


def parse(data: bytes) -> Parsed:
    """Read every document of a file. Never raises: what is wrong is in the result."""
    if len(data) > MAX_BYTES:
        return _unreadable(1, f"the file is larger than {MAX_BYTES} bytes")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return _unreadable(1 + data.count(b"\n", 0, error.start), "not valid UTF-8")
    is_simple = text.isascii() and text.replace("\n", "").isprintable()
    if not is_simple and (control := _NOT_PRINTABLE.search(text)):
        line = 1 + text.count("\n", 0, control.start())
        return _unreadable(line, f"control character U+{ord(control[0]):04X} is not allowed")

    documents: list[Document] = []
    faults: list[Fault] = []
    budget = _Budget()
    line, start = 1, 0
    while start < len(text):
        end = _next_marker(text, start)
        found = _read_piece(text[start:end], line, budget)
        if found is not None:
            documents.extend(found)
            line += text.count("\n", start, end)
            start = end
            continue
        # Something is wrong with it, or what it says reaches beyond the marker, as directives do.
        rest = text[start:]
        reader = _Reader(rest, line, budget)
        try:
            documents.extend(reader.documents())
            break
        except _LimitError as limit:
            faults.append(limit.fault)
            break
        except _SyntaxError as error:
            at = error.line
            at_line = line + min(at, rest.count("\n"))
            if budget.faults == MAX_FAULTS:
                faults.append(_TooManyFaultsError(at_line).fault)
                break
            budget.faults += 1
            faults.append(Fault(at_line, "", str(error)))
            # A marker on the line of the error may have ended the broken document, but not started it.
            resume = _next_document(rest, max(at, reader.start + 1))
            if resume is None:
                break
            line += rest.count("\n", 0, resume)
            start += resume
    return Parsed(tuple(documents), tuple(faults))


def _read_piece(text: str, first_line: int, budget: _Budget) -> list[Document] | None:
    """What stands between two markers; ``None`` where it cannot be read by itself."""
    found = plain.read(text, MAX_DEPTH)
    if found is not None and budget.nodes + found.nodes <= MAX_NODES:
        budget.nodes += found.nodes
        if found.value is None:
            return []
        return [Document(found.value, Lines(text=text, first_line=first_line), first_line + found.line)]
    before = replace(budget)
    try:
        return list(_Reader(text, first_line, budget).documents())
    except (_LimitError, _SyntaxError):
        budget.nodes, budget.faults = before.nodes, before.faults
        return None


def line_at(lines: LineTree, path: Path) -> int:
    """The line of the value at ``path``, or of the nearest ancestor that exists."""
    for step in path:
        if isinstance(lines, int):
            return lines
        line, members = lines
        inner: LineTree | None = None
        if isinstance(members, dict):
            inner = members.get(step) if isinstance(step, str) else None
        elif isinstance(step, int) and 0 <= step < len(members):
            inner = members[step]
        if inner is None:
            return line
        lines = inner
    return lines if isinstance(lines, int) else lines[0]


_PLAIN_STEP = re.compile(r"[A-Za-z0-9_-]+\Z")
_STEP = re.compile(r'\.?([A-Za-z0-9_-]+)|\[([0-9]+)\]|\["([^"]*)"\]')


def format_path(path: Path) -> str:
    """A path in Kuma's grammar: ``a.b``, ``a[0]``, ``a["key"]``."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif _PLAIN_STEP.match(step):
            text += f".{step}" if text else step
        else:
            text += f'["{step}"]'
    return text


def parse_path(text: str) -> Path:
    """The inverse of :func:`format_path`; what does not follow the grammar ends the path."""
    steps: list[str | int] = []
    position = 0
    while match := _STEP.match(text, position):
        name, index, key = match.groups()
        steps.append(name if name is not None else int(index) if index is not None else key)
        position = match.end()
    return tuple(steps)


def _unreadable(line: int, message: str) -> Parsed:
    return Parsed((), (Fault(line, "", message),))


def _parser() -> type[yaml.CSafeLoader] | type[yaml.SafeLoader]:
    """PyYAML is imported where it is used, since plain documents do without: it takes a megabyte."""
    import yaml

    return yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader


def _explain(error: yaml.YAMLError | ValueError) -> str:
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "cannot be read"
    context = getattr(error, "context", None)
    return f"YAML syntax: {problem}, {context}" if context else f"YAML syntax: {problem}"


def _next_document(text: str, from_line: int) -> int | None:
    """The offset of the first document marker on or after a line, counted from 0; that is not the first."""
    offset = 0
    for _ in range(from_line):
        offset = text.find("\n", offset) + 1
        if offset == 0:
            return None
    marker = _next_marker(text, offset - 1)
    return marker if marker < len(text) else None


def _next_marker(text: str, start: int) -> int:
    """Where the first line after ``start`` begins that is a document marker; the end of the text where none is."""
    while (before := text.find("\n---", start)) >= 0:
        if text[before + 4 : before + 5] in _MARKER_ENDS:
            return before + 1
        start = before + 4
    return len(text)


@dataclass(slots=True)
class _Budget:
    """What a file has used up. ``faults``: of documents that have ended, and of syntax."""

    nodes: int = 0
    faults: int = 0


@dataclass(slots=True)
class _Frame:
    """A collection that is being read. ``key`` is the mapping key whose value comes next, ``drop`` if that is
    unwanted.
    """

    value: dict[str, Value] | list[Value]
    marks: dict[str, LineTree] | list[LineTree]
    line: int
    anchor: str | None
    nodes_before: int
    height: int = 1
    key: str | None = None
    key_line: int = 0
    wants_key: bool = True
    drop: bool = False


@dataclass(frozen=True, slots=True)
class _Anchored:
    value: Value
    marks: LineTree
    nodes: int
    height: int


class _Reader:
    """Builds the documents of one stretch of text. ``start`` is the line, from 0, where the current document
    starts.
    """

    def __init__(self, text: str, first_line: int, budget: _Budget) -> None:
        self._text = text
        self._first_line = first_line
        self._budget = budget
        self.start = 0
        self._stack: list[_Frame] = []
        self._anchors: dict[str, _Anchored | None] = {}
        self._faults: list[Fault] = []
        self._excess_line: int | None = None
        self._root: tuple[Value, LineTree] = (None, 1)

    def documents(self) -> Iterator[Document]:
        """Yield documents as they end, so that those before an error are kept.

        :raises _SyntaxError: no YAML. :raises _LimitError: too much.
        """
        import yaml

        try:
            parser = _parser()(self._text)
            while (event := parser.get_event()) is not None:
                mark = event.start_mark
                line = self._first_line + (mark.line if mark is not None else 0)
                if isinstance(event, yaml.ScalarEvent):
                    self._scalar(event, line)
                elif isinstance(event, yaml.MappingStartEvent):
                    self._open(event, {}, {}, line)
                elif isinstance(event, yaml.SequenceStartEvent):
                    self._open(event, [], [], line)
                elif isinstance(event, yaml.CollectionEndEvent):
                    self._close()
                elif isinstance(event, yaml.AliasEvent):
                    self._alias(event.anchor, line)
                elif isinstance(event, yaml.DocumentStartEvent):
                    self.start = line - self._first_line
                    self._anchors = {}
                    self._faults = []
                elif isinstance(event, yaml.DocumentEndEvent):
                    value, marks = self._root
                    excess_line = self._excess_line
                    if self._faults or (value is not None and excess_line is None):
                        self._budget.faults += len(self._faults)
                        yield Document(value, Lines(marks), line_at(marks, ()), tuple(self._faults))
                    if excess_line is not None:
                        raise _TooManyFaultsError(excess_line)
        except (yaml.YAMLError, ValueError) as error:
            # A ValueError comes from an escape such as "\U00110000", and from the pure Python parser only.
            mark = getattr(error, "problem_mark", None)
            raise _SyntaxError(mark.line if mark is not None else self.start, _explain(error)) from error

    def _scalar(self, event: yaml.ScalarEvent, line: int) -> None:
        text: str = event.value
        value: Value = text
        tag = event.tag
        if tag is None:
            if event.implicit[0]:
                value = self._plain(text, line)
        elif tag in _TAG_TYPES:
            value = self._plain(text, line)
            if type(value) not in _TAG_TYPES[tag]:
                self._fault(line, f"not a value of type !!{tag.removeprefix(_TAG)}")
        elif tag not in (_TAG + "str", "!"):
            self._fault(line, "tags are not supported")
        if not text.isascii() and _SURROGATE.search(text):
            self._fault(line, "an escape names a character that does not exist")
            value = ""
        if event.anchor is not None:
            self._anchors[event.anchor] = _Anchored(value, line, 1, 0)
        if self._stack and self._stack[-1].wants_key:
            self._key(value, line, is_plain=event.implicit[0] and tag is None)
        else:
            self._count(1, 0, line)
            self._add(value, line, line)

    def _plain(self, text: str, line: int) -> Value:
        try:
            return resolve(text)
        except ValueError as error:
            self._fault(line, str(error))
            return 0

    def _key(self, key: Value, line: int, *, is_plain: bool) -> None:
        frame = self._stack[-1]
        frame.wants_key = False
        frame.key_line = line
        frame.drop = True
        if not isinstance(key, str):
            frame.key = None
            self._fault(line, "a mapping key must be a string")
        elif key == "<<" and is_plain:
            frame.key = None
            self._fault(line, "merge keys (<<) are not supported")
        elif key in frame.value:
            frame.key = key
            first = line_at((frame.line, frame.marks), (key,))
            self._fault(line, f"key {key!r} is given twice, first on line {first}")
        else:
            frame.key = key
            frame.drop = False

    def _open(
        self,
        event: yaml.CollectionStartEvent,
        value: dict[str, Value] | list[Value],
        marks: dict[str, LineTree] | list[LineTree],
        line: int,
    ) -> None:
        is_mapping = isinstance(value, dict)
        if event.tag not in (None, "!", _TAG + ("map" if is_mapping else "seq")):
            self._fault(line, "tags are not supported")
        if self._stack and self._stack[-1].wants_key:
            self._key(None, line, is_plain=False)
            # Until this collection ends, its parent still wants a key: so _close tells it from a value.
            self._stack[-1].wants_key = True
        self._count(1, 1, line)
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        self._stack.append(_Frame(value, marks, line, event.anchor, self._budget.nodes - 1, wants_key=is_mapping))

    def _close(self) -> None:
        frame = self._stack.pop()
        marks: LineTree = (frame.line, frame.marks)
        if frame.anchor is not None:
            nodes = self._budget.nodes - frame.nodes_before
            self._anchors[frame.anchor] = _Anchored(frame.value, marks, nodes, frame.height)
        if self._stack:
            above = self._stack[-1]
            above.height = max(above.height, frame.height + 1)
            if above.wants_key and isinstance(above.value, dict):
                above.wants_key = False
                return
        self._add(frame.value, marks, frame.line)

    def _alias(self, name: str | None, line: int) -> None:
        anchored = self._anchors.get(name or "")
        if anchored is None:
            what = "contains itself" if name in self._anchors else "has no anchor"
            self._fault(line, f"alias *{name} {what}")
            anchored = _Anchored("", line, 1, 0)
        if self._stack and self._stack[-1].wants_key:
            self._key(anchored.value, line, is_plain=False)
            return
        self._count(anchored.nodes, anchored.height, line)
        if self._stack:
            self._stack[-1].height = max(self._stack[-1].height, anchored.height + 1)
        self._add(anchored.value, anchored.marks, line)

    def _add(self, value: Value, marks: LineTree, line: int) -> None:
        if not self._stack:
            self._root = (value, marks)
            return
        frame = self._stack[-1]
        if isinstance(frame.value, list):
            frame.value.append(value)
            assert isinstance(frame.marks, list)
            frame.marks.append(marks if isinstance(marks, int) else (line, marks[1]))
            return
        assert isinstance(frame.marks, dict)
        if frame.key is not None and not frame.drop:
            frame.value[frame.key] = value
            frame.marks[frame.key] = frame.key_line if isinstance(marks, int) else (frame.key_line, marks[1])
        frame.wants_key = True

    def _count(self, nodes: int, height: int, line: int) -> None:
        self._budget.nodes += nodes
        if self._budget.nodes > MAX_NODES:
            raise _LimitError(line, f"the file has more than {MAX_NODES} values")
        if len(self._stack) + height > MAX_DEPTH:
            raise _LimitError(line, f"nested deeper than {MAX_DEPTH} levels")

    def _fault(self, line: int, message: str) -> None:
        if self._budget.faults + len(self._faults) == MAX_FAULTS:
            # The document is read to its end all the same: so it can be named.
            self._excess_line = self._excess_line or line
            return
        steps: list[str | int] = []
        for frame in self._stack:
            if isinstance(frame.value, list):
                steps.append(len(frame.value))
            elif frame.key is not None and not frame.wants_key:
                steps.append(frame.key)
        self._faults.append(Fault(line, format_path(tuple(steps)), message))
