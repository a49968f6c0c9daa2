"""How a model states what Kuma checks, and how its complaints become Kuma's.

Design: a resource is judged in two steps, as in Kuma. The *shape* step is pydantic's: types, what is
required, what is known. The *rules* step is each resource's :meth:`Resource.rules`: typed Python over a value
whose shape is right, and every violation is yielded, not the first. Where Kuma stops at a shape fault, we go on:
something harmless stands in for what is wrong, the rules judge the rest, and what they say about a stand-in is
dropped. So whoever validates learns of everything at once. For a value outside an enum Kuma documents the text of its
Go validator, which is what is reported then.

Kuma's plugin resources (:class:`Node`) tell ``null`` from an absent field; its protobuf resources
(:class:`ProtoNode`) do not, know no required fields, and take integers as decimal text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from enum import StrEnum
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    GetCoreSchemaHandler,
    Strict,
    ValidationError,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic_core import CoreSchema, ErrorDetails, InitErrorDetails, PydanticCustomError

from config.document import Path
from config.problems import Severity

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)


@dataclass(frozen=True, slots=True)
class Violation:
    """``path`` leads to the field from the document's root. ``shown`` replaces its text where Kuma's own is
    misspelled.
    """

    path: Path
    message: str
    severity: Severity = Severity.ERROR
    shown: str | None = None

    def under(self, prefix: Path) -> Violation:
        return Violation(prefix + self.path, self.message, self.severity, self.shown)


def warning(path: Path, message: str) -> Violation:
    return Violation(path, message, Severity.WARNING)


MAX_SHOWN_CHARS = 32


class Node(BaseModel):
    """An object in a resource. Unknown fields are refused; YAML's names are the camel case of ours."""

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", alias_generator=to_camel, hide_input_in_errors=True
    )


class ProtoNode(Node):
    """An object in a protobuf resource: ``null`` is the same as absent."""

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, value: object) -> object:
        if isinstance(value, dict) and None in value.values():
            return {key: item for key, item in value.items() if item is not None}
        return value


class _NotNull:
    """Takes ``None`` out of what may be given, while an absent field still is ``None``."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        (given,) = (part for part in get_args(source) if part is not NoneType)
        return handler(given)


Omittable = Annotated[T | None, _NotNull()]
"""May be left out, but ``null`` is refused: ``caCert: null`` must not silently mean the system's CAs."""

Listed = Annotated[tuple[T, ...], Strict(False)]
"""A YAML sequence, as a tuple."""

FreeForm = dict[str, Any]
"""An object that is kept and not interpreted."""

Labels = dict[str, str]


def refuse(message: str, **context: Any) -> PydanticCustomError:
    """An error whose text is Kuma's own, to be raised by a validator. See :func:`choice` for ``stand_in``."""
    return PydanticCustomError("kuma", "{message}", {"message": message, **context})


def refusals(violations: Iterable[Violation], stand_in: Any) -> ValidationError:
    """Several at once, with paths from where the validator stands, which is where ``stand_in`` goes."""
    return ValidationError.from_exception_data(
        "violations",
        [
            InitErrorDetails(type=refuse(v.message, stand_in=stand_in, above=len(v.path)), loc=v.path, input=None)
            for v in violations
        ],
    )


def clip(value: str) -> str:
    """A value as a message may show it: who pasted a key into the wrong field does not find it in a log."""
    return value if len(value) <= MAX_SHOWN_CHARS else f"{value[:MAX_SHOWN_CHARS]}..."


def choice(kinds: type[E], message: str, stand_in: E, *, is_default: bool = True) -> BeforeValidator:
    """One of an enum's values, else ``message``, in which ``{}`` is the value given. ``stand_in`` is the
    default, which empty text and ``null`` mean too; or, with ``is_default`` off, only what lets the other
    rules be judged.
    """
    known = {kind.value: kind for kind in kinds}

    def convert(value: object) -> object:
        if is_default and (value is None or value == ""):
            return stand_in
        if isinstance(value, str) and value not in known:
            raise refuse(message.replace("{}", clip(value)), stand_in=stand_in.value)
        return known[value] if isinstance(value, str) else value

    return BeforeValidator(convert)


def one_of(field: str, kinds: Iterable[StrEnum]) -> str:
    """The text of Kuma's ``MakeFieldMustBeOneOfErr``."""
    values = ", ".join(f'"{kind.value}"' for kind in kinds)
    return f'"{field}" must be one of [{values}]'


def _decimal(value: object) -> object:
    return int(value) if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,20}", value) else value


ProtoInt = Annotated[int, BeforeValidator(_decimal)]
"""An integer of a protobuf resource, which may be written as decimal text."""

PORT_SCHEMA: dict[str, Any] = {"minimum": 1, "maximum": 65535}


def is_port(value: int) -> bool:
    return 1 <= value <= 65535


M = TypeVar("M", bound=Node)

_TYPE_NAMES = {
    "string_type": "string",
    "enum": "string",
    "is_instance_of": "string",
    "bytes_type": "string",
    "int_type": "integer",
    "float_type": "number",
    "bool_type": "boolean",
    "tuple_type": "array",
    "dict_type": "object",
    "mapping_type": "object",
    "model_type": "object",
    "model_attributes_type": "object",
}


def type_name(value: object) -> str:
    """The JSON type of a YAML value, as Kuma's messages name it."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"


def wrong_type(expected: str, value: object) -> str:
    return f'in body must be of type {expected}: "{type_name(value)}"'


REQUIRED = "in body is required"


def unknown_field(name: str, known: Iterable[str]) -> str:
    from difflib import get_close_matches  # here: few documents have mistakes

    near = get_close_matches(name, list(known), n=1)
    return f'unknown field; did you mean "{near[0]}"?' if near else "unknown field"


def check(model: type[M], tree: Mapping[str, Any], more_known: Iterable[str] = ()) -> tuple[M | None, list[Violation]]:
    """Build a model from an object of YAML. Paths of violations start at that object.

    :param more_known: names to suggest for an unknown field of the object itself, besides the model's own.
    :returns: the model, or ``None`` where too much is wrong. With violations a model is good for
        :meth:`Resource.rules` only: something else stands in for what is wrong.
    """
    try:
        return model.model_validate(tree), []
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=True)
    violations = [_violation(model, fault, more_known) for fault in faults]
    patched = deepcopy(dict(tree))
    try:
        for fault in faults:
            _patch(model, patched, fault)
        return model.model_validate(patched), violations
    except (ValidationError, LookupError, TypeError):
        return None, violations  # too much is wrong to judge the rest


def _patch(model: type[Node], tree: dict[str, Any], fault: ErrorDetails) -> None:
    """Put something harmless where ``fault`` is. Raises ``LookupError`` or ``TypeError`` where nothing would be."""
    loc, context = fault["loc"], fault.get("ctx", {})
    if "stand_in" in context:
        _put(tree, loc[: len(loc) - context.get("above", 0)], context["stand_in"])
    elif fault["type"] == "extra_forbidden":
        owner: Any = tree
        for step in loc[:-1]:
            owner = owner[step]
        del owner[loc[-1]]
    else:
        owner_model = _model_at(model, loc[:-1])
        if owner_model is None:
            raise LookupError(loc)
        fields = owner_model.model_fields.items()
        annotation = next(field.annotation for name, field in fields if (field.alias or name) == loc[-1])
        _put(tree, loc, _STAND_INS[_bare(annotation)])


_STAND_INS: dict[Any, object] = {int: 1, str: "stand-in.invalid", bool: False}


def _put(tree: Any, path: Path, value: Any) -> None:
    for step in path[:-1]:
        tree = tree[step]
    tree[path[-1]] = value


def _violation(model: type[Node], fault: ErrorDetails, more_known: Iterable[str]) -> Violation:
    path, kind, context = fault["loc"], fault["type"], fault.get("ctx", {})
    match kind:
        case "missing":
            message = REQUIRED
        case "extra_forbidden":
            owner = _model_at(model, path[:-1])
            known = [field.alias or name for name, field in owner.model_fields.items()] if owner else []
            message = unknown_field(str(path[-1]), [*known, *more_known] if len(path) == 1 else known)
        case "string_too_short":
            message = f"in body should be at least {context['min_length']} chars long"
        case "greater_than_equal":
            message = f"in body should be greater than or equal to {context['ge']}"
        case "less_than_equal":
            message = f"in body should be less than or equal to {context['le']}"
        case "kuma":
            message = fault["msg"]
        case _:
            message = wrong_type(_TYPE_NAMES[kind], fault["input"])
    return Violation(path, message)


def _model_at(model: type[Node], path: Path) -> type[Node] | None:
    """The model of the object at ``path`` below an object of ``model``."""
    current: Any = model
    for step in path:
        if isinstance(step, int):
            current = _bare(get_args(current)[0])
            continue
        fields = current.model_fields.items()
        current = _bare(next(field.annotation for name, field in fields if (field.alias or name) == step))
    return current if isinstance(current, type) and issubclass(current, Node) else None


def _bare(annotation: Any) -> Any:
    """An annotation without what surrounds it: ``Annotated[X | None, ...]`` is ``X``."""
    while True:
        origin = get_origin(annotation)
        if origin is Annotated:
            annotation = get_args(annotation)[0]
        elif origin in (Union, UnionType):
            (annotation,) = (part for part in get_args(annotation) if part is not NoneType)
        else:
            return annotation
