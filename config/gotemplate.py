"""Go's ``text/template``, as far as Kuma's resources use it: one line that makes a name out of a resource.

Fields (``.DisplayName``), the caller's functions (``label "app"``), strings in both quotings, pipelines, parentheses,
``if``/``else``/``with``/``end``, comments, trim markers, and those built-in functions that make sense of text. No loops
and no definitions: what a template does is bounded by its own length. Messages are Go's where its parser has one for
the mistake; what Go knows and we do not is refused and said so, never rendered as something else.

A template compiles to closures over a :class:`_Scope`; text that needs no decision costs nothing when rendered.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

Value = str | int | bool
Function = Callable[[str], str]
"""Of the caller: raises :class:`ValueError` with the reason where there is no value."""

MAX_TEMPLATE_CHARS = 4096
MAX_NESTING = 32


class TemplateError(ValueError):
    """A template that cannot be parsed or rendered; the message is Go's: ``template: :LINE: ...``."""


@dataclass(frozen=True, slots=True)
class _Scope:
    fields: Mapping[str, str]
    functions: Mapping[str, Function]
    dot: Value | None = None
    """What ``with`` put in the place of the fields."""


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    at: int


@dataclass(frozen=True, slots=True)
class _Node:
    """An operand or a command: how to evaluate it, and how Go's messages name it."""

    evaluate: Callable[[_Scope], Value]
    at: int
    source: str
    kind: str


_Part = Callable[[_Scope], str]

_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\n]+)
      | (?P<string>"(?:[^"\\\n]|\\.)*")
      | (?P<raw>`[^`]*`)
      | (?P<number>[+-]?[0-9]+\b)
      | (?P<field>\.[A-Za-z_][A-Za-z0-9_]*)
      | (?P<dot>\.)
      | (?P<word>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<paren>[()])
      | (?P<pipe>\|)
      | (?P<variable>\$)
      | (?P<comma>,)
      | (?P<assign>:?=)""",
    re.VERBOSE,
)
_ENDS_TOKEN = frozenset(["", *" \t\r\n.,|:)(}="])
_KEYWORDS = frozenset({"if", "else", "end", "with"})
_NOT_HERE = frozenset(
    {
        "range", "define", "template", "block", "break", "continue", "nil", "call", "html", "index", "js", "println",
        "urlquery", "lt", "le", "gt", "ge",
    }
)  # fmt: skip
"""Go's, and not ours."""


class Template:
    """A template that parses. :meth:`render` is pure."""

    __slots__ = ("_parts", "text")

    def __init__(self, text: str, functions: Iterable[str] = ()) -> None:
        """``functions``: the names of the caller's. Raises :class:`TemplateError`."""
        self.text = text
        self._parts = tuple(_Parser(text, frozenset(functions)).parse())

    def render(self, fields: Mapping[str, str], functions: Mapping[str, Function] | None = None) -> str:
        """Raises :class:`TemplateError`."""
        scope = _Scope(fields, functions or {})
        return "".join([part(scope) for part in self._parts])


class _Parser:
    def __init__(self, text: str, functions: frozenset[str]) -> None:
        self._text = text
        self._functions = functions
        self._tokens: list[_Token] = []
        self._next = 0
        self._depth = 0

    def _fail(self, message: str, at: int) -> TemplateError:
        return TemplateError(f"template: :{self._text.count(chr(10), 0, at) + 1}: {message}")

    def parse(self) -> list[_Part]:
        if len(self._text) > MAX_TEMPLATE_CHARS:
            raise self._fail(f"a template must not be longer than {MAX_TEMPLATE_CHARS} characters", 0)
        self._tokens = list(self._scan())
        parts, end = self._parts(inside=False)
        assert end is None
        return parts

    # From characters to tokens

    def _scan(self) -> Iterator[_Token]:
        """Tokens ``text``, ``open``, what is within an action, ``close``; in the end ``eof``."""
        text, position, trim = self._text, 0, False
        while (opening := text.find("{{", position)) >= 0:
            trims_left = text[opening + 2 : opening + 3] == "-" and text[opening + 3 : opening + 4].isspace()
            piece = text[position:opening]
            yield _Token("text", _trimmed(piece, left=trim, right=trims_left), position)
            inner = opening + (3 if trims_left else 2)
            if text[inner:].lstrip().startswith("/*"):
                position, trim = self._comment(opening, inner)
                continue
            yield _Token("open", "{{", opening)
            position, trim = yield from self._action(opening, inner)
        yield _Token("text", _trimmed(text[position:], left=trim, right=False), position)
        yield _Token("eof", "EOF", len(text))

    def _comment(self, opening: int, inner: int) -> tuple[int, bool]:
        end = self._text.find("*/", inner)
        if end < 0:
            raise self._fail("unclosed comment", opening)
        closing = re.compile(r"(\s-)?\}\}").match(self._text, end + 2)
        if closing is None:
            raise self._fail("comment ends before closing delimiter", opening)
        return closing.end(), closing.group(1) is not None

    def _action(self, opening: int, position: int) -> Generator[_Token, None, tuple[int, bool]]:
        """:returns: where the action ends, and whether it trims the text that follows."""
        text = self._text
        depth = 0
        while True:
            closing = re.compile(r"(\s+-)?\}\}").match(text, position)
            if closing is not None:
                if depth:
                    raise self._fail("unclosed left paren", position)
                yield _Token("close", "}}", position)
                return closing.end(), closing.group(1) is not None
            match = _TOKEN.match(text, position)
            if match is None:
                raise self._unlexable(opening, position)
            kind, found = match.lastgroup or "", match.group()
            if kind == "paren":
                depth += 1 if found == "(" else -1
                if depth < 0:
                    raise self._fail("unexpected right paren U+0029 ')'", position)
            if kind in ("field", "number", "word") and not self._ends_token(match.end()):
                raise self._bad_character(match.end())
            yield _Token(kind, found, position)
            position = match.end()

    def _ends_token(self, position: int) -> bool:
        return self._text[position : position + 1] in _ENDS_TOKEN

    def _unlexable(self, opening: int, position: int) -> TemplateError:
        rest = self._text[position:]
        if not rest:
            return self._fail("unclosed action", opening)
        if rest[0] == '"':
            return self._fail("unterminated quoted string", position)
        if rest[0] == "`":
            return self._fail("unterminated raw quoted string", position)
        if rest[0] == "}":
            return self._fail('unexpected "}" in command', position)
        return self._fail(f"unrecognized character in action: {_rune(rest[0])}", position)

    def _bad_character(self, position: int) -> TemplateError:
        return self._fail(f"bad character {_rune(self._text[position])}", position)

    # From tokens to closures

    @property
    def _token(self) -> _Token:
        return self._tokens[self._next]

    def _take(self) -> _Token:
        token = self._tokens[self._next]
        self._next += 1
        return token

    def _skip_space(self) -> None:
        while self._token.kind == "space":
            self._next += 1

    def _parts(self, *, inside: bool) -> tuple[list[_Part], str | None]:
        """The parts up to ``{{else}}`` or ``{{end}}`` (which is returned) of a control action, else up to the end."""
        parts: list[_Part] = []
        while True:
            token = self._take()
            if token.kind == "eof":
                if inside:
                    raise self._fail("unexpected EOF", token.at)
                return parts, None
            if token.kind == "text":
                if token.text:
                    parts.append(_constant(token.text))
                continue
            self._skip_space()
            word = self._token.text if self._token.kind == "word" else ""
            if word in ("else", "end"):
                if not inside:
                    raise self._fail(f"unexpected {{{{{word}}}}}", token.at)
                self._take()
                self._skip_space()
                if word == "end" or self._token.kind == "close":
                    self._close("end" if word == "end" else "else")
                return parts, word
            if word in ("if", "with"):
                self._take()
                parts.append(self._control(word))
            else:
                pipeline = self._pipeline("command")
                self._close("command")
                parts.append(_shown(pipeline))

    def _close(self, context: str) -> None:
        self._skip_space()
        token = self._take()
        if token.kind != "close":
            raise self._fail(f"unexpected {_quoted(token)} in {context}", token.at)

    def _control(self, word: str) -> _Part:
        self._depth += 1
        if self._depth > MAX_NESTING:
            raise self._fail(f"nested deeper than {MAX_NESTING} levels", self._token.at)
        condition = self._pipeline(word)
        self._close(word)
        then, ending = self._parts(inside=True)
        otherwise: list[_Part] = []
        if ending == "else":
            follows = self._token.text if self._token.kind == "word" else ""
            if follows == word:  # {{else if ...}}: its end is ours, too
                self._take()
                otherwise = [self._control(word)]
            else:
                otherwise, ending = self._parts(inside=True)
                if ending == "else":
                    raise self._fail("expected end; found {{else}}", self._token.at)
        self._depth -= 1
        return _choice(condition, tuple(then), tuple(otherwise), rebinds=word == "with")

    def _pipeline(self, context: str) -> _Node:
        self._depth += 1
        if self._depth > MAX_NESTING:
            raise self._fail(f"nested deeper than {MAX_NESTING} levels", self._token.at)
        self._skip_space()
        node = self._command(context, None)
        while True:
            self._skip_space()
            if self._token.kind != "pipe":
                break
            bar = self._take()
            self._skip_space()
            if self._token.kind in ("close", "paren") and self._token.text != "(":
                raise self._fail(f"missing value for {context}", bar.at)
            node = self._command(context, node)
        self._depth -= 1
        return node

    def _command(self, context: str, piped: _Node | None) -> _Node:
        """An operand, or a function with its arguments; ``piped`` is the last argument."""
        start = self._token
        operands: list[_Node] = []
        while True:
            self._skip_space()
            token = self._token
            if token.kind in ("close", "pipe") or (token.kind == "paren" and token.text == ")"):
                break
            operands.append(self._operand(context))
        if not operands:
            raise self._fail(f"missing value for {context}", start.at)
        head, arguments = operands[0], operands[1:]
        end = self._tokens[self._next - 1]
        source = self._text[head.at : end.at + len(end.text)].rstrip()
        if head.kind != "function":
            if piped is not None:
                message = f"non executable command in pipeline stage 2 ({head.source})"
                raise self._fail(message, head.at)
            if arguments:
                raise self._fail(f"can't give argument to non-function {head.source}", head.at)
            return head
        if piped is not None:
            arguments.append(piped)
        return self._call(head.source, arguments, head.at, source)

    def _operand(self, context: str) -> _Node:
        token = self._take()
        match token.kind:
            case "field":
                return self._field(token)
            case "dot":
                return _Node(self._dot(token), token.at, ".", "dot")
            case "string":
                try:
                    text = str(json.loads(token.text.replace("\\'", "'")))
                except ValueError:
                    raise self._fail("invalid syntax", token.at) from None
                return _literal(text, token)
            case "raw":
                return _literal(token.text[1:-1], token)
            case "number":
                return _literal(int(token.text), token)
            case "word" if token.text in ("true", "false"):
                return _literal(token.text == "true", token)
            case "word" if token.text in self._functions or token.text in _BUILTINS:
                return _Node(self._bare(token), token.at, token.text, "function")
            case "word" if token.text in _KEYWORDS:
                raise self._fail(f"unexpected <{token.text}> in {context}", token.at)
            case "word" if token.text in _NOT_HERE:
                raise self._fail(f'"{token.text}" is not supported here', token.at)
            case "word":
                raise self._fail(f'function "{token.text}" not defined', token.at)
            case "paren":
                node = self._pipeline("parenthesized pipeline")
                self._skip_space()
                closing = self._take()
                if closing.text != ")":
                    raise self._fail(f"unexpected {_quoted(closing)} in parenthesized pipeline", closing.at)
                return _Node(node.evaluate, token.at, f"({node.source})", "pipeline")
            case "variable" | "assign":
                raise self._fail("variables are not supported here", token.at)
            case _:
                raise self._fail(f"unexpected {_quoted(token)} in {context}", token.at)

    def _field(self, token: _Token) -> _Node:
        name = token.text[1:]
        if self._token.kind == "field":
            inner = self._token.text
            raise self._fail(f"{token.text} is text and has no field {inner[1:]}", token.at)

        def evaluate(scope: _Scope) -> Value:
            if scope.dot is None and name in scope.fields:
                return scope.fields[name]
            kind = "hostname.meshedName" if scope.dot is None else "string"
            raise self._failed(token.at, token.text, f"can't evaluate field {name} in type {kind}")

        return _Node(evaluate, token.at, token.text, "field")

    def _dot(self, token: _Token) -> Callable[[_Scope], Value]:
        def evaluate(scope: _Scope) -> Value:
            if scope.dot is None:
                raise self._failed(token.at, ".", "the resource as a whole is not text: name one of its fields")
            return scope.dot

        return evaluate

    def _bare(self, token: _Token) -> Callable[[_Scope], Value]:
        """A function as an argument is called without arguments, as in Go."""
        return self._call(token.text, [], token.at, token.text).evaluate

    def _call(self, name: str, arguments: Sequence[_Node], at: int, source: str) -> _Node:
        def failed(message: str) -> TemplateError:
            return self._failed(at, source, message)

        def evaluate(scope: _Scope) -> Value:
            if name in self._functions:
                values = [argument.evaluate(scope) for argument in arguments]
                if len(values) != 1:
                    raise failed(f"wrong number of args for {name}: want 1 got {len(values)}")
                if not isinstance(values[0], str):
                    raise failed(f"expected string; found {_text(values[0])}")
                try:
                    return scope.functions[name](values[0])
                except ValueError as exc:
                    raise failed(f"error calling {name}: {exc}") from exc
            if not arguments and name != "print":
                raise failed(f"wrong number of args for {name}: want at least 1 got 0")
            if name in ("and", "or"):
                return _first(arguments, scope, wanted=name == "or")
            try:
                return _BUILTINS[name]([argument.evaluate(scope) for argument in arguments])
            except TemplateError:
                raise
            except (ValueError, TypeError, IndexError) as exc:
                raise failed(f"error calling {name}: {exc}") from exc

        return _Node(evaluate, at, source, "call")

    def _failed(self, at: int, source: str, message: str) -> TemplateError:
        line = self._text.count("\n", 0, at) + 1
        column = len(self._text[self._text.rfind("\n", 0, at) + 1 : at].encode())
        return TemplateError(f'template: :{line}:{column}: executing "" at <{source}>: {message}')


def _constant(text: str) -> _Part:
    return lambda _scope: text


def _shown(node: _Node) -> _Part:
    return lambda scope: _text(node.evaluate(scope))


def _literal(value: Value, token: _Token) -> _Node:
    return _Node(lambda _scope: value, token.at, token.text, "literal")


def _choice(condition: _Node, then: tuple[_Part, ...], otherwise: tuple[_Part, ...], *, rebinds: bool) -> _Part:
    def render(scope: _Scope) -> str:
        value = condition.evaluate(scope)
        if not value:
            return "".join([part(scope) for part in otherwise])
        inner = _Scope(scope.fields, scope.functions, value) if rebinds else scope
        return "".join([part(inner) for part in then])

    return render


def _trimmed(text: str, *, left: bool, right: bool) -> str:
    if left:
        text = text.lstrip(" \t\r\n")
    return text.rstrip(" \t\r\n") if right else text


def _quoted(token: _Token) -> str:
    return token.text if token.kind == "eof" else f'"{token.text}"'


def _rune(character: str) -> str:
    return f"U+{ord(character):04X} '{character}'"


def _text(value: Value) -> str:
    """As Go prints it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _first(arguments: Sequence[_Node], scope: _Scope, *, wanted: bool) -> Value:
    """The first argument that is true (``or``) or false (``and``), else the last; none after it is evaluated."""
    value: Value = ""
    for argument in arguments:
        value = argument.evaluate(scope)
        if bool(value) is wanted:
            break
    return value


def _equal(values: Sequence[Value]) -> bool:
    """The first equals any of the others."""
    if len(values) < 2:
        raise ValueError("missing argument for comparison")
    if any(type(other) is not type(values[0]) for other in values[1:]):
        raise ValueError("incompatible types for comparison")
    return values[0] in values[1:]


def _not(values: Sequence[Value]) -> bool:
    (value,) = values
    return not value


def _length(values: Sequence[Value]) -> int:
    (value,) = values
    if not isinstance(value, str):
        raise ValueError("len of type int")
    return len(value.encode())


def _print(values: Sequence[Value]) -> str:
    """Go's ``Sprint``: a space between two values of which neither is text."""
    text = ""
    for index, value in enumerate(values):
        if index and not isinstance(value, str) and not isinstance(values[index - 1], str):
            text += " "
        text += _text(value)
    return text


_VERB = re.compile(r"%(.?)", re.DOTALL)


def _printf(values: Sequence[Value]) -> str:
    """``%s``, ``%v``, ``%d``, ``%q`` and ``%%``, each without width or flags."""
    form, *arguments = values
    if not isinstance(form, str):
        raise ValueError("wrong type for value; expected string")
    waiting = iter(arguments)

    def shown(match: re.Match[str]) -> str:
        verb = match.group(1)
        if verb == "%":
            return "%"
        if verb not in ("s", "v", "d", "q"):
            raise ValueError(f"%{verb} is not supported here")
        value = next(waiting, None)
        if value is None:
            raise ValueError("more verbs than arguments")
        if (verb == "d") is not (isinstance(value, int) and not isinstance(value, bool)) and verb != "v":
            raise ValueError(f"%{verb} does not suit {_text(value)}")
        return json.dumps(value) if verb == "q" else _text(value)

    text = _VERB.sub(shown, form)
    if next(waiting, None) is not None:
        raise ValueError("more arguments than verbs")
    return text


def _slice(values: Sequence[Value]) -> str:
    """``slice text from to``; both are optional."""
    text, *bounds = values
    if not isinstance(text, str) or len(bounds) > 2 or any(not isinstance(bound, int) for bound in bounds):
        raise ValueError("wants text and at most two numbers")
    data = text.encode()
    low = int(bounds[0]) if bounds else 0
    high = int(bounds[1]) if len(bounds) > 1 else len(data)
    if not 0 <= low <= high <= len(data):
        raise IndexError("index out of range")
    return data[low:high].decode(errors="replace")


_BUILTINS: dict[str, Callable[[Sequence[Value]], Value]] = {
    "and": lambda values: values[-1],  # these two decide before all arguments are evaluated
    "or": lambda values: values[-1],
    "not": _not,
    "eq": _equal,
    "ne": lambda values: not _equal(values),
    "len": _length,
    "print": _print,
    "printf": _printf,
    "slice": _slice,
}
