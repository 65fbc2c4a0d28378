"""Kill -9 at the worst moments: the run ends by itself, with the same bits. All moments: benchmarks/kill_matrix.py."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from killing import Cell, Stage

# Whoever is killed leaves the proxy's connections half open; asyncio may leave such a socket to the collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    stage = Stage.build(tmp_path_factory.mktemp("kills") / "federation")
    stage.undisturbed()
    yield stage
    stage.close()


@pytest.mark.parametrize(
    ("victim", "when", "phase"),
    [
        ("site", "during", "download"),
        ("worker", "during", "training"),
        ("coordinator", "during", "upload"),
        ("coordinator", "during", "aggregation"),
    ],
)
def test_killed_and_started_again_gives_the_same_bits(stage: Stage, victim: str, when: str, phase: str) -> None:
    cell = stage.play(Cell(victim, phase, when))
    assert cell.equal, cell
    assert not list(stage.net.faults())
