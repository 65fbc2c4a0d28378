"""pydantic's errors in plain words, at the place in the document where a person can mend them."""

from __future__ import annotations

import re
import types
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from wardround.core.errors import Fault

Place = tuple[str | int, ...]
Lines = dict[Place, int]


def faults_of(error: ValidationError, model: type[BaseModel], value: Any, lines: Mapping[Place, int]) -> list[Fault]:
    """Every error as a `Fault` with the line of the offending field (of its parent where it is missing)."""
    found: dict[Place, list[str]] = {}
    for entry in error.errors(include_url=False):
        place, owner = _locate(entry["loc"], model, value, absent=entry["type"] in ("missing", "extra_forbidden"))
        if entry["type"] == "union_tag_invalid":
            place = (*place, _unquoted(entry["ctx"]["discriminator"]))
        for line in _message(entry, owner).split("\n"):
            where, message = (place, line) if place else _named(line, lines)
            messages = found.setdefault(where, [])
            if message not in messages:
                messages.append(message)
    faults = [Fault(shown(place), "; or ".join(messages), _line(place, lines)) for place, messages in found.items()]
    return sorted(faults, key=lambda fault: (fault.line or 0, fault.field))


def shown(place: Place) -> str:
    """A place as a person reads it: ``sites[2].name``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part[:80]}" for part in place)
    return text.removeprefix(".")


def choices(given: object, valid: Iterable[str]) -> str:
    """``did you mean 'plain'? choose one of: median, plain`` for a name that is not among ``valid``."""
    names = list(valid)
    close = get_close_matches(str(given)[:80], names, n=1, cutoff=0.5)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"{hint}choose one of: {', '.join(names)}"


def _named(message: str, lines: Mapping[Place, int]) -> tuple[Place, str]:
    """A validator of the whole document may begin with the field it means: ``training.patch: too small``.

    It may name several faults, one a line.
    """
    field, colon, rest = message.partition(": ")
    place = tuple(field.split("."))
    known = any(place[:depth] in lines for depth in range(1, len(place) + 1))
    return (place, rest) if colon and known else ((), message)


def _line(place: Place, lines: Mapping[Place, int]) -> int | None:
    while place and place not in lines:
        place = place[:-1]
    return lines.get(place)


def _locate(loc: Iterable[str | int], model: type[BaseModel], value: Any, *, absent: bool) -> tuple[Place, Any]:
    """Where ``loc`` lies in the document, and the type that owns its last part.

    pydantic puts the names of union members between the parts; these are not in the document. With
    ``absent`` the last part is a field that the document lacks, or the model does not know.
    """
    parts = list(loc)
    place: list[str | int] = []
    kind: Any = model
    owner: Any = model
    for index, part in enumerate(parts):
        kind, members = _members(kind)
        if len(members) > 1:
            kind = _member(members, part)
            owner = kind
            continue
        last = absent and index == len(parts) - 1
        if last or _holds(value, part):
            place.append(part)
            owner, kind = kind, _child(kind, part)
            value = _descend(value, part)
    return tuple(place), owner


def _members(kind: Any) -> tuple[Any, list[Any]]:
    """The type without wrapping, and its alternatives (one, where it is not a union)."""
    kind = getattr(kind, "__value__", kind)  # type aliases
    origin = get_origin(kind)
    if origin is Annotated:
        return _members(get_args(kind)[0])
    if origin in (Union, types.UnionType):
        options = [option for option in get_args(kind) if option is not type(None)]
        if len(options) == 1:
            return _members(options[0])
        return kind, [member for option in options for member in _members(option)[1]]
    return kind, [kind]


def _member(members: list[Any], label: str | int) -> Any:
    for member in members:
        if label in (getattr(member, "__name__", None), str(member)) or label in _tags(member):
            return member
    return Any


def _tags(kind: Any) -> set[Any]:
    if not _is_model(kind):
        return set()
    annotations = [field.annotation for field in kind.model_fields.values()]
    return {tag for annotation in annotations if get_origin(annotation) is Literal for tag in get_args(annotation)}


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _child(kind: Any, part: str | int) -> Any:
    if _is_model(kind):
        for name, field in kind.model_fields.items():
            if part in (name, field.alias):
                return field.annotation
        return Any
    arguments = [argument for argument in get_args(kind) if argument is not Ellipsis]
    if not arguments:
        return Any
    fixed_tuple = get_origin(kind) is tuple and isinstance(part, int) and part < len(arguments)
    return arguments[part] if fixed_tuple else arguments[-1]  # type: ignore[index]


def _holds(value: Any, part: str | int) -> bool:
    if isinstance(value, dict):
        return part in value
    return isinstance(value, list) and isinstance(part, int) and 0 <= part < len(value)


def _descend(value: Any, part: str | int) -> Any:
    return value[part] if _holds(value, part) else None


def _message(entry: Any, owner: Any) -> str:  # noqa: PLR0911 - one return for each kind
    kind, given, context = entry["type"], entry.get("input"), entry.get("ctx", {})
    if kind == "missing":
        return "is required, but missing"
    if kind == "extra_forbidden":
        valid = list(owner.model_fields) if _is_model(owner) else []
        return f"is not a known field; {choices(entry['loc'][-1], valid)}" if valid else "is not a known field"
    if kind == "union_tag_not_found":
        return f"needs a field {context['discriminator']} that says which kind it is"
    if kind == "union_tag_invalid":
        return f"{_brief(context['tag'])} is not known; {choices(context['tag'], _quoted(context['expected_tags']))}"
    if kind in ("literal_error", "enum"):
        valid = _quoted(context["expected"]) or [str(context["expected"])]
        return f"{_brief(given)} is not possible; {choices(given, valid)}"
    if kind == "string_type" and not isinstance(given, (dict, list)):
        return f"should be text, not {_brief(given)}; put it in quotes"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return f"should be a mapping of fields, not {_brief(given)}"
    if kind in ("value_error", "assertion_error"):
        return str(entry["msg"]).partition(", ")[2]
    return f"{entry['msg'].removeprefix('Input ')}, not {_brief(given)}"


def _brief(value: Any) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if value is None:
        return "nothing"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    text = text if len(text) <= 60 else f"{text[:57]}..."
    return f"'{text}'" if isinstance(value, str) else text


def _quoted(text: str) -> list[str]:
    return re.findall(r"'([^']*)'", text)


def _unquoted(text: str) -> str:
    return text.strip("'")
