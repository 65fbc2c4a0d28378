"""Broken input at every parser of what another party wrote: it is taken as valid, or refused in words; nothing else."""

from __future__ import annotations

import pytest
from parsers import Parser, all_parsers, attack

TIMES = 250


@pytest.fixture(scope="module")
def parsers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Parser]:
    return all_parsers(tmp_path_factory.mktemp("parsers"))


def test_the_examples_are_what_the_parsers_take(parsers: dict[str, Parser]) -> None:
    for parser in parsers.values():
        parser.parse(parser.example)


def test_broken_messages_are_refused_in_words(parsers: dict[str, Parser]) -> None:
    for parser in parsers.values():
        times = TIMES if parser.name not in ("plan-yaml", "policy") else TIMES // 5
        refused = attack(parser, times, seed=0)
        assert refused > times // 2 or parser.name in ("audit-log", "policy"), parser.name


def test_a_signature_covers_all_of_it(parsers: dict[str, Parser]) -> None:
    """Change any one character of the headers: it is refused, or says the very same."""
    parser = parsers["signed-request"]
    whole, said = parser.example, parser.parse(parser.example)
    for place in range(len(whole)):
        changed = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
        try:
            assert parser.parse(changed) == said
        except parser.refusals:
            continue
