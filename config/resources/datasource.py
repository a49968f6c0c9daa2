"""Where certificates and keys come from: a secret by name, or the text itself.

Kuma 2.x writes ``{secret: name}``, ``{inline: base64}`` or ``{inlineString: text}``; 3.x writes ``{type:
Secret, secretRef: ...}`` or ``{type: InsecureInline, insecureInline: {value: text}}``. Both become a
:class:`DataSource`. Kuma lets a 2.x source name several and reads the first; here that is refused, since a
key that is ignored should not be believed to be in use.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

from config.document import Path
from config.resources.names import decode_base64
from config.resources.shape import REQUIRED, Violation, clip, refusals, refuse, unknown_field, wrong_type


class SourceKind(StrEnum):
    SECRET = "secret"
    INLINE = "inline"
    TEXT = "text"
    FILE = "file"
    ENVIRONMENT = "environment"


@dataclass(frozen=True, slots=True)
class DataSource:
    """``value`` is a secret's name, decoded bytes, text, the path of a file or the name of an environment variable, as
    ``kind`` says; it is never shown.
    """

    kind: SourceKind
    value: str | bytes = field(repr=False)

    @property
    def secret_name(self) -> str | None:
        return self.value if self.kind is SourceKind.SECRET and isinstance(self.value, str) else None

    @property
    def place(self) -> str | None:
        """The file's path or the variable's name, if it is in one."""
        is_elsewhere = self.kind in (SourceKind.FILE, SourceKind.ENVIRONMENT)
        return self.value if is_elsewhere and isinstance(self.value, str) else None

    @property
    def data(self) -> bytes:
        """The content. :raises ValueError: it is not in the document."""
        if self.kind not in (SourceKind.INLINE, SourceKind.TEXT):
            raise ValueError("the content is elsewhere")
        return self.value if isinstance(self.value, bytes) else self.value.encode()


_OLD_KEYS = ("secret", "inline", "inlineString")
_NEW_KEYS = ("type", "secretRef", "insecureInline", "file", "envVar")
_FORMS = {"Secret": "secretRef", "InsecureInline": "insecureInline", "File": "file", "EnvVar": "envVar"}
_STAND_IN = {"inlineString": ""}


def _parse(value: object) -> DataSource:
    return _read(value, may_be_elsewhere=False)


def _parse_any(value: object) -> DataSource:
    return _read(value, may_be_elsewhere=True)


def _read(value: object, *, may_be_elsewhere: bool) -> DataSource:
    if isinstance(value, DataSource):
        return value
    if not isinstance(value, dict):
        raise refuse(wrong_type("object", value))
    violations = list(_violations(value, may_be_elsewhere))
    if violations:
        raise refusals(violations, _STAND_IN)
    if "secret" in value:
        return DataSource(SourceKind.SECRET, value["secret"])
    if "inline" in value:
        return DataSource(SourceKind.INLINE, decode_base64(value["inline"]) or b"")
    if "inlineString" in value:
        return DataSource(SourceKind.TEXT, value["inlineString"])
    match value["type"]:
        case "Secret":
            return DataSource(SourceKind.SECRET, value["secretRef"]["name"])
        case "File":
            return DataSource(SourceKind.FILE, value["file"]["path"])
        case "EnvVar":
            return DataSource(SourceKind.ENVIRONMENT, value["envVar"]["name"])
    return DataSource(SourceKind.TEXT, value["insecureInline"]["value"])


def _violations(source: Mapping[str, Any], may_be_elsewhere: bool) -> Iterator[Violation]:
    old = [key for key in _OLD_KEYS if key in source]
    new = [key for key in _NEW_KEYS if key in source]
    for key in source:
        if key not in _OLD_KEYS and key not in _NEW_KEYS:
            yield Violation((key,), unknown_field(key, _OLD_KEYS + _NEW_KEYS))
    if old and new:
        both = f"{', '.join(old)} and {', '.join(new)}"
        yield Violation((), f"{both} cannot be combined: one is the form of Kuma 2, the other of Kuma 3")
    elif new:
        yield from _new_violations(source, may_be_elsewhere)
    elif len(old) > 1:
        yield Violation((), f"must have only one of: {', '.join(_OLD_KEYS)}; it has {', '.join(old)}")
    elif not old:
        if not source:
            yield Violation((), "unsupported type of the DataSource")
    elif not isinstance(source[old[0]], str):
        yield Violation((old[0],), wrong_type("string", source[old[0]]))
    elif old[0] == "secret" and not source["secret"]:
        yield Violation(("secret",), "must not be empty")
    elif old[0] == "inline" and decode_base64(source["inline"]) is None:
        yield Violation(("inline",), "must be base64 with padding (inlineString takes plain text)")


def _new_violations(source: Mapping[str, Any], may_be_elsewhere: bool) -> Iterator[Violation]:
    kind = source.get("type")
    if "type" not in source:
        yield Violation(("type",), REQUIRED)
    elif not isinstance(kind, str):
        yield Violation(("type",), wrong_type("string", kind))
    elif kind in ("File", "EnvVar") and not may_be_elsewhere:
        yield Violation(("type",), f"{kind} must be one of: Secret, InsecureInline")
    elif kind not in _FORMS:
        yield Violation(("type",), f"{clip(kind)} must be one of: EnvVar, InsecureInline, File, Secret")
    elif others := [key for key in _FORMS.values() if key in source and key != _FORMS[kind]]:
        yield Violation((), f"type {kind} takes {_FORMS[kind]} only, and {', '.join(others)} is given")
    elif kind == "Secret":
        reference = source.get("secretRef")
        yield from _object_violations(reference, ("secretRef",), ("kind", "name"), "name")
        if isinstance(reference, dict) and (given := reference.get("kind")) != "Secret":
            if given is None:
                yield Violation(("secretRef", "kind"), REQUIRED)
            elif not isinstance(given, str):
                yield Violation(("secretRef", "kind"), wrong_type("string", given))
            else:
                yield Violation(("secretRef", "kind"), f"{clip(given)} must be one of: Secret")
    elif kind == "EnvVar":
        yield from _object_violations(source.get("envVar"), ("envVar",), ("name",), "name")
    elif kind == "File":
        file = source.get("file")
        yield from _object_violations(file, ("file",), ("path",), "path")
        path = file.get("path") if isinstance(file, dict) else None
        if isinstance(path, str) and path:
            yield from _path_violations(path)
    else:
        yield from _object_violations(source.get("insecureInline"), ("insecureInline",), ("value",), "value")


def _path_violations(path: str) -> Iterator[Violation]:
    if not path.startswith("/"):
        yield Violation(("file", "path"), f"file path must be absolute: {clip(path)}")
    if ".." in path.split("/"):
        yield Violation(("file", "path"), f"file path contains directory traversal sequence: {clip(path)}")


def _object_violations(value: object, path: Path, known: tuple[str, ...], text: str) -> Iterator[Violation]:
    """An object with one field of text that must be there."""
    if value is None:
        yield Violation(path, "must be defined")
    elif not isinstance(value, dict):
        yield Violation(path, wrong_type("object", value))
    else:
        for key in value:
            if key not in known:
                yield Violation((*path, key), unknown_field(key, known))
        given = value.get(text)
        if given is None or given == "":
            yield Violation((*path, text), "must be defined")
        elif not isinstance(given, str):
            yield Violation((*path, text), wrong_type("string", given))


def _shown(source: DataSource | None) -> str | None:
    return None if source is None else source.secret_name or f"<{source.kind}>"


def _only(description: str, **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "description": description,
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


_TEXT = {"type": "string", "minLength": 1}
_JSON_SCHEMA = {
    "oneOf": [
        _only("The secret of this name in the resource's mesh (Kuma 2).", secret=_TEXT),
        _only("Base64 (Kuma 2).", inline={"type": "string", "contentEncoding": "base64"}),
        _only("Plain text (Kuma 2).", inlineString={"type": "string"}),
        _only(
            "A secret of the resource's mesh (Kuma 3).",
            type={"const": "Secret"},
            secretRef=_only("Which secret.", kind={"const": "Secret"}, name=_TEXT),
        ),
        _only(
            "Plain text (Kuma 3).",
            type={"const": "InsecureInline"},
            insecureInline=_only("The text.", value=_TEXT),
        ),
    ]
}

_ELSEWHERE = [
    _only("A file on this machine (Kuma 3).", type={"const": "File"}, file=_only("Which file.", path=_TEXT)),
    _only(
        "A variable of this program's environment (Kuma 3).",
        type={"const": "EnvVar"},
        envVar=_only("Which variable.", name=_TEXT),
    ),
]

SourceField = Annotated[
    DataSource,
    PlainValidator(_parse),
    PlainSerializer(_shown),
    WithJsonSchema(_JSON_SCHEMA),
]
"""A data source as a field of a model; a dump of the model has the name of a secret, but no content."""

AnySourceField = Annotated[
    DataSource,
    PlainValidator(_parse_any),
    PlainSerializer(_shown),
    WithJsonSchema({"oneOf": [*_JSON_SCHEMA["oneOf"], *_ELSEWHERE]}),
]
"""One that may also be a file or an environment variable, as for a MeshIdentity."""
