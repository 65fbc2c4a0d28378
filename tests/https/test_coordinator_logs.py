"""What is logged: one line each, bounded, for programs or for people."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from wardround.runtimes.https import logs
from wardround.runtimes.https.logs import Throttle, say, set_up


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Logging as it was."""
    names = (logs.ROOT, *logs.OTHERS)
    before = {n: (g.handlers, g.propagate, g.level, g.filters) for n in names for g in [logging.getLogger(n)]}
    yield
    for name, (handlers, propagate, level, filters) in before.items():
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate, logger.filters = handlers, propagate, filters
        logger.setLevel(level)


def test_one_json_object_a_line() -> None:
    stream = io.StringIO()
    set_up(stream)
    say("refused", logging.WARNING, code="signature", message="a\nb\x1b[31m" + "x" * 999)
    (line,) = stream.getvalue().splitlines()
    found = json.loads(line)
    assert (found["event"], found["level"], found["code"]) == ("refused", "warning", "signature")
    assert len(found["message"]) == logs.LONGEST


def test_lines_for_people_hold_no_command_to_the_terminal() -> None:
    stream = io.StringIO()
    set_up(stream, human=True)
    say("refused", logging.WARNING, code="signature", message="a\nb\x1b[31m", nothing=None, empty="")
    (line,) = stream.getvalue().splitlines()
    assert "\x1b" not in line
    assert line.endswith("warning: refused code=signature message=a?b?[31m")


def test_libraries_speak_seldom() -> None:
    stream = io.StringIO()
    set_up(stream)
    for _ in range(1000):
        logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
    logging.getLogger("uvicorn.error").info("Started")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert len(lines) == 20
    assert {line["event"] for line in lines} == {"server"}


def test_a_trace_is_in_its_line() -> None:
    stream = io.StringIO()
    set_up(stream)
    try:
        raise ValueError("what")
    except ValueError:
        logging.getLogger(logs.ROOT).exception("fault", extra={"facts": {"endpoint": "next"}})
    (line,) = stream.getvalue().splitlines()
    assert "ValueError: what" in json.loads(line)["trace"]


def test_a_flood_is_counted_and_not_written() -> None:
    now = [0.0]
    throttle = Throttle(each=3, all_=5, clock=lambda: now[0])
    assert [throttle.admit("a") for _ in range(5)] == [True] * 3 + [False] * 2
    assert [throttle.admit(who) for who in "bcd"] == [True, True, False]
    assert throttle.left_out() == 3
    assert throttle.left_out() == 0
    now[0] = 60.0
    assert throttle.admit("a")
