"""Reading what came from outside into types: JSON bodies, queries, and the parts of paths."""

from __future__ import annotations

import json
import re
from typing import Any, TypeVar

from pydantic import ValidationError

from wardround.core.frozen import Frozen
from wardround.runtimes.https.refusals import Refusal

F = TypeVar("F", bound=Frozen)
DIGITS = 15  # no number that means anything here has more

DIGEST = "[0-9a-f]{64}"
NUMBER = "(?:0|[1-9][0-9]{0,8})"
_VALUES = {
    "sha256": re.compile(f"{DIGEST}\\Z"),
    "size": re.compile(r"[1-9][0-9]{0,14}\Z"),
    "offset": re.compile(r"(0|[1-9][0-9]{0,14})\Z"),
    "count": re.compile(r"[1-9][0-9]{0,14}\Z"),
}


def read_json(body: bytes, kind: type[F]) -> F:
    """A body as one of the messages. Raises Refusal (``malformed``), which does not repeat what came."""
    try:
        # First for what Python's own reader can bound: the length of numbers, and constants that JSON lacks.
        json.loads(body, parse_int=_integer, parse_constant=_constant)
        if b"\\u0000" in body:
            raise ValueError
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"])[:80]
        plain = "".join(c for c in place if c.isascii() and c.isprintable())
        raise Refusal("malformed", f"not a {kind.__name__}: {plain}: {first['type']}") from None
    except (ValueError, RecursionError):
        raise Refusal("malformed", f"not the JSON of a {kind.__name__}") from None


def read_query(text: str, *names: str) -> dict[str, str]:
    """The values of a query that has exactly these names. Raises Refusal."""
    pairs = [part.partition("=") for part in text.split("&")] if text else []
    values = {name: value for name, _, value in pairs}
    if len(pairs) != len(values) or set(values) != set(names):
        raise Refusal("malformed", f"the query must have {', '.join(names) or 'nothing'}")
    for name, value in values.items():
        if _VALUES[name].match(value) is None:
            raise Refusal("malformed", f"{name} is not what it must be")
    return values


def _integer(text: str) -> int:
    if len(text) > DIGITS:
        raise ValueError("a number of so many digits")
    return int(text)


def _constant(text: str) -> Any:
    raise ValueError(text)
