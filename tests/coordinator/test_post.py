"""What the coordinator sends and takes in the plan's transfer: sizes, files, and who did not keep to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from invented import start

from tiny import make_plan
from wardround.coordinator import checkpoint
from wardround.coordinator.rounds import Run, run_rounds
from wardround.core.containers import compress, expand, is_compressed
from wardround.core.encoding import PLAIN, Encoding
from wardround.core.errors import QuorumLost
from wardround.core.messages import Answer, InitFacts, Reply, ScoreFacts, SiteFailed, SiteSummary, Task, TrainFacts
from wardround.core.parcels import contents, pack_as, unpack_decoded
from wardround.core.rundir import read_events
from wardround.core.scores import LabelScores, Scores
from wardround.core.stats import Moments
from wardround.core.weights import Part, file_digest, read_tensors, unpack, write_tensors
from wardround.planning.plan import Plan

FIRST = {"conv": np.linspace(-1, 1, 40 * 50, dtype=np.float32).reshape(40, 50), "bias": np.ones(40, np.float32)}
STEP = 0.25


class Sites:
    """Three sites that add a step to what they receive and send the change in ``forms`` (by site; else the plan's)."""

    def __init__(self, folder: Path, plan: Plan, forms: dict[str, Encoding] | None = None) -> None:
        self.folder, self.plan, self.forms = folder, plan, forms or {}
        self.steps = {"A": 1.0, "B": 1.0, "C": 1.0}
        self.spoil: dict[str, bytes] = {}
        self.got: list[tuple[str, bool, Encoding | None, int]] = []  # verb, compressed, encoding, bytes

    def ask(self, task: Task, tensors: Path | None, sites: Sequence[str]) -> Iterator[Answer | SiteFailed]:
        if tensors is not None:
            assert file_digest(tensors) == task.tensors
            packed = is_compressed(tensors)
            self.got.append((task.verb, packed, None if packed else contents(tensors).encoding, tensors.stat().st_size))
        yield from (self._answer(task, tensors, site) for site in sites)

    def _answer(self, task: Task, tensors: Path | None, site: str) -> Answer:
        if task.verb == "describe":
            return Answer(Reply(task=task.id, site=site, facts=SiteSummary(dataset="0" * 64)))
        if task.verb in ("validate", "test"):
            dice = LabelScores(dice=Moments.of([0.5]))
            return Answer(Reply(task=task.id, site=site, facts=ScoreFacts(scores=Scores(cases=1, labels={"b": dice}))))
        facts: Any = InitFacts(parameters=2)
        if task.verb == "init":
            packed = pack_as({"weights": Part(FIRST, 1.0)}, PLAIN)
        else:
            facts = TrainFacts(cases=1, updates=3, samples=6, loss=1.0, rate=0.1)
            encoding = self.forms.get(site, self.plan.transfer.upward)
            change = {name: np.full_like(array, STEP + task.round) for name, array in FIRST.items()}
            if not encoding.updates:
                assert tensors is not None
                if self.plan.transfer.zstd:
                    expand(tensors, self.folder / "received", 1 << 20)
                    tensors = self.folder / "received"
                sent = unpack_decoded(tensors)["weights"].arrays
                change = {name: sent[name] + array for name, array in change.items()}
            packed = pack_as({"weights": Part(change, 1.0 + ord(site))}, encoding)
        file = self.folder / f"{site}-{task.round}-{task.verb}"
        write_tensors(file, *packed)
        if self.plan.transfer.zstd and task.verb == "train":
            compress(file, file.with_suffix(".zst"), 1)
            file = file.with_suffix(".zst")
        if task.verb == "train" and site in self.spoil:
            file.write_bytes(self.spoil[site])
        return Answer(
            Reply(task=task.id, site=site, facts=facts, tensors=file_digest(file), size=file.stat().st_size), file
        )


def begin(tmp_path: Path, transfer: dict[str, Any], forms: dict[str, Encoding] | None = None) -> tuple[Run, Sites]:
    plan = make_plan(rounds={"limit": 2, "quorum": 2}, transfer=transfer)
    sites = Sites(tmp_path, plan, forms)
    return start(tmp_path, plan, sites), sites  # type: ignore[arg-type]


def events(run: Run, kind: str) -> list[dict[str, Any]]:
    return [event for event in read_events(run.dir.events) if event["event"] == kind]


ALL: list[dict[str, Any]] = [
    {}, {"zstd": 3}, {"up": "bf16"}, {"up": "int8", "down": "bf16"}, {"down": "int8"},
    {"up": "int8", "down": "int8", "block": 64, "zstd": 1},
]  # fmt: skip


@pytest.mark.parametrize("transfer", ALL, ids=str)
def test_the_coordinators_own_model_is_never_rounded(tmp_path: Path, transfer: dict[str, Any]) -> None:
    """Sites add 0.25, then 1.25 (exact in every encoding): the sum arrives however the model itself was sent."""
    run, sites = begin(tmp_path, transfer)
    run_rounds(run)
    last = read_tensors(run.dir.root / "last.safetensors")
    for name, array in FIRST.items():
        # Rounding the model by half a scale (1 / 254) every round would show: the sum is that of float32.
        np.testing.assert_allclose(last[name], array + 1.5, rtol=1e-6, atol=1e-6)
    down, compressed = sites.plan.transfer.downward, bool(transfer.get("zstd"))
    assert [(verb, packed) for verb, packed, _, _ in sites.got] == [
        ("train", compressed), ("validate", compressed), ("train", compressed), ("validate", compressed),
        ("test", False),
    ]  # fmt: skip
    for verb, packed, encoding, _ in sites.got:
        assert packed or encoding == (PLAIN if verb == "test" or down.plain else down)
    assert not (run.dir.root / "unpacked").exists()


@pytest.mark.parametrize("transfer", ALL, ids=str)
def test_bytes_in_the_log_are_those_of_the_files_that_travelled(tmp_path: Path, transfer: dict[str, Any]) -> None:
    run, sites = begin(tmp_path, transfer)
    run_rounds(run)
    trained = [event for event in events(run, "site_replied") if event["verb"] == "train"]
    ended = events(run, "round_ended")
    sizes = [size for verb, _, _, size in sites.got if verb == "train"]
    for number, down in enumerate(sizes):
        mine = [event for event in trained if event["round"] == number]
        assert {event["bytes_down"] for event in mine} == {down}
        up = [next(tmp_path.glob(f"{s}-{number}-train{'.zst' if transfer.get('zstd') else ''}")) for s in "ABC"]
        assert [event["bytes_up"] for event in mine] == [file.stat().st_size for file in up]
        assert ended[number]["bytes_up"] == sum(file.stat().st_size for file in up)
        assert ended[number]["bytes_down"] == 3 * down


def test_what_is_sent_is_the_exact_model_rounded_once(tmp_path: Path) -> None:
    run, _ = begin(tmp_path, {"up": "int8", "down": "int8"})
    run_rounds(run)
    for number in (1, 2):
        exact = run.dir.round(number) / "model.safetensors"
        sent = checkpoint.sent_file(exact)
        assert sent != exact
        whole, rounded = unpack(exact)["weights"].arrays, unpack_decoded(sent)["weights"].arrays
        assert whole["bias"].tobytes() == rounded["bias"].tobytes()
        off = np.abs(whole["conv"] - rounded["conv"]).max()
        assert 0 < off <= np.abs(whole["conv"]).max() / 254 * (1 + 1e-4)
    point = checkpoint.load(run.dir)
    assert point is not None
    assert point.weights["conv"].tobytes() == whole["conv"].tobytes()


INT8 = Encoding(kind="int8", updates=True)


FOREIGN = [PLAIN, Encoding(kind="int8"), Encoding(updates=True), Encoding(kind="bf16", updates=True),
           Encoding(kind="int8", block=64, updates=True)]  # fmt: skip


@pytest.mark.parametrize("form", FOREIGN, ids=str)
def test_another_encoding_than_the_plans_is_a_failed_site(tmp_path: Path, form: Encoding) -> None:
    """Even where the first site in order is the odd one, and even where they are half of all."""
    run, _ = begin(tmp_path, {"up": "int8"}, {"A": form})
    run_rounds(run)
    assert {(e["site"], e["reason"]) for e in events(run, "site_failed")} == {
        ("A", "its contribution is not encoded as the plan's transfer says")
    }
    assert {(e["site"], e["kind"]) for e in events(run, "site_alert")} == {("A", "rejected")}
    assert all(event["sites"] == ["B", "C"] for event in events(run, "round_ended"))


def test_an_encoded_contribution_is_refused_where_the_plan_says_nothing(tmp_path: Path) -> None:
    run, _ = begin(tmp_path, {}, {"A": INT8, "B": INT8})
    with pytest.raises(QuorumLost, match="not encoded as the plan"):
        run_rounds(run)


def test_what_cannot_be_unpacked_is_a_failed_site(tmp_path: Path) -> None:
    import zstandard

    _, sites = begin(tmp_path, {"zstd": 1})
    bomb = zstandard.compress(bytes(20_000_000))
    assert len(bomb) < 2000
    for site, data in {"A": bomb, "B": b"\x28\xb5\x2f\xfd nonsense"}.items():
        sites.spoil = {site: data}
        home = tmp_path / site
        home.mkdir()
        other = start(home, sites.plan, sites)  # type: ignore[arg-type]
        run_rounds(other)
        failed = events(other, "site_failed")
        assert {event["site"] for event in failed} == {site}
        assert all("compressed file" in event["reason"] for event in failed)
        assert not (other.dir.root / "unpacked").exists()


def test_what_a_killed_run_unpacked_is_removed(tmp_path: Path) -> None:
    run, _ = begin(tmp_path, {"zstd": 1})
    left = run.dir.root / "unpacked" / "A"
    left.parent.mkdir()
    left.write_bytes(b"of a round that was cut off")
    run_rounds(run)
    assert not left.parent.exists()
