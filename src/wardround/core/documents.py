"""Plans, sites files and dataset.yaml: YAML (or JSON) text becomes a checked value, or all of its faults.

The text comes from outside. Only plain data is read: no tags, no anchors or aliases (their expansion
can grow without bound), no duplicate keys, bounded size and depth. Scalars follow YAML 1.2's core
schema, so ``no`` is text and ``1e-3`` is a number.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from wardround.core.errors import Fault, InputError
from wardround.core.faults import Lines, Place, faults_of, shown

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_FAULTS = 100

Value = None | bool | int | float | str | list["Value"] | dict[str, "Value"]
M = TypeVar("M", bound=BaseModel)

_INT = re.compile(r"[-+]?[0-9]{1,18}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: dict[str, Value] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", "+.inf"), float("inf")),
    "-.inf": float("-inf"),
    ".nan": float("nan"),
}


def load_document(path: Path, model: type[M]) -> M:
    """Read a YAML or JSON file into ``model``.

    Raises:
        InputError: the file cannot be read, is too large, or is not a valid ``model``; lists every fault.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if len(data) > MAX_BYTES:
            raise _too_large(str(path)) from error
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path} is not valid", [Fault("", "the text is not UTF-8", line)]) from error
    return parse_document(text, model, str(path))


def parse_document(text: str, model: type[M], name: str) -> M:
    """Read YAML or JSON text into ``model``; ``name`` is what the error calls the document.

    Raises:
        InputError: the text is not YAML or not a valid ``model``; lists every fault with its line.
    """
    if len(text) > MAX_BYTES or len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise _too_large(name)
    value, lines, faults = _read(text)
    if not faults:
        try:
            return model.model_validate(value)
        except ValidationError as error:
            faults = faults_of(error, model, value, lines)
    count = len(faults)
    if count > MAX_FAULTS:
        faults = [*faults[:MAX_FAULTS], Fault("", f"and {count - MAX_FAULTS} more")]
    raise InputError(f"{name} is not valid ({count} fault{'s' if count > 1 else ''})", faults)


def _too_large(name: str) -> InputError:
    return InputError(f"{name} is larger than {MAX_BYTES >> 20} MiB, which no such document needs to be")


def _read(text: str) -> tuple[Value, Lines, list[Fault]]:
    """The text as plain data, the line of every path in it, and what is wrong with it as YAML."""
    if text.lstrip()[:1] in ("{", "["):
        text = text.replace("\t", " ")  # JSON may be indented with tabs, YAML may not; no JSON string holds one
    builder = _Builder()
    try:
        node = yaml.compose(text, Loader=_Loader)
        return (builder.value(node, ()) if node is not None else {}), builder.lines, builder.faults
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else None
        return None, {}, [Fault("", f"not valid YAML: {error.problem or error.context}", line)]
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        return None, {}, [Fault("", "a character that no text document may hold", line)]
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # the scanner's own number parsing
        return None, {}, [Fault("", f"not valid YAML: {error}")]


def _refusal(problem: str, event: yaml.Event) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)  # type: ignore[arg-type]


class _Loader(yaml.SafeLoader):
    """Composes nodes only, and refuses what a plain document does not need."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise _refusal("anchors (&) and aliases (*) are not allowed; write the value out", event)
        if getattr(event, "tag", None) is not None:
            raise _refusal(f"tags ({event.tag}) are not allowed", event)
        if self.depth >= MAX_DEPTH:
            raise _refusal(f"nested deeper than {MAX_DEPTH} levels", event)
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


class _Builder:
    """Turns nodes into plain data and remembers where everything stood."""

    def __init__(self) -> None:
        self.lines: Lines = {}
        self.faults: list[Fault] = []

    def value(self, node: yaml.Node, place: Place) -> Value:
        self.lines.setdefault(place, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, place)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(child, (*place, index)) for index, child in enumerate(node.value)]
        return self._scalar(node, place)

    def _mapping(self, node: yaml.MappingNode, place: Place) -> Value:
        found: dict[str, Value] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self.faults.append(Fault(shown(place), "a list or mapping cannot be the name of a field", line))
                continue
            key = self._text(key_node, place)
            if key in found:
                first = self.lines[(*place, key)]
                self.faults.append(Fault(shown((*place, key)), f"given twice (first in line {first})", line))
                continue
            self.lines[(*place, key)] = line
            found[key] = self.value(value_node, (*place, key))
        return found

    def _scalar(self, node: yaml.Node, place: Place) -> Value:
        text = self._text(node, place)
        if getattr(node, "style", None) is not None:  # quoted or block: text, whatever it looks like
            return text
        if text in _WORDS:
            return _WORDS[text]
        if _INT.fullmatch(text):
            return int(text)
        if _FLOAT.fullmatch(text):
            return float(text)
        return text

    def _text(self, node: yaml.Node, place: Place) -> str:
        text = str(node.value)
        try:  # JSON writes characters outside the basic plane as two escapes
            return text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            self.faults.append(Fault(shown(place), "half a surrogate pair is not text", node.start_mark.line + 1))
            return ""
