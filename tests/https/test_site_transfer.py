"""Blobs down and tensors up over lines that break, coordinators that lie, and processes that die in between."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from site_fakes import Asked, FakeCoordinator, Said, say, serving

from wardround.core.errors import StorageError, WardRoundError
from wardround.core.messages import Task
from wardround.runtimes.https.client import Rejected
from wardround.runtimes.https.home import LEAST_PIECE
from wardround.runtimes.https.patience import Unreachable
from wardround.runtimes.https.transfer import Blob, Pace, Transfers
from wardround.runtimes.https.wire import PIECE, Received, Refused

DATA = np.random.default_rng(3).bytes(3_300_003)
DIGEST = hashlib.sha256(DATA).hexdigest()
TASK = Task(plan="a" * 64, round=3, verb="train")


@pytest.fixture
def fake() -> Iterator[FakeCoordinator]:
    with serving(piece_of(DATA)) as server:
        yield server


def piece_of(data: bytes, spoil: Callable[[Asked, Said], Said] = lambda _, said: said) -> Callable[[Asked], Said]:
    def answer(asked: Asked) -> Said:
        offset, count = int(asked.query["offset"]), int(asked.query["count"])
        return spoil(asked, Said(data[offset : offset + count]))

    return answer


class Uploads:
    """The coordinator's half of an upload."""

    def __init__(self, go_on: int | None = None) -> None:
        self.data, self.go_on = bytearray(), go_on

    def __call__(self, asked: Asked) -> Said:
        assert asked.path == f"/v1/tasks/{TASK.plan}/3/train/0/tensors"
        if asked.method == "PUT":
            assert int(asked.query["offset"]) == len(self.data)
            self.data += asked.body
        size = int(asked.query["size"])
        if len(self.data) == size and hashlib.sha256(self.data).hexdigest() != asked.query["sha256"]:
            self.data.clear()
            return say(Refused(code="conflict", message="wrong digest", received=self.go_on), 409)
        return say(Received(received=len(self.data), whole=len(self.data) == size))


def test_a_blob_arrives_in_pieces_whole_and_once(fake: FakeCoordinator, tmp_path: Path) -> None:
    target, moves = tmp_path / "inbox" / "model", Transfers(fake.client())
    moves.download(DIGEST, len(DATA), target)
    assert target.read_bytes() == DATA
    assert [asked.query["offset"] for asked in fake.asked] == ["0", str(2 << 20)]
    moves.download(DIGEST, len(DATA), target)
    assert len(fake.asked) == 2
    assert len({asked.connection for asked in fake.asked}) == 1
    assert [path.name for path in target.parent.iterdir()] == ["model"]


def test_what_arrived_before_a_cut_or_a_kill_is_not_fetched_again(fake: FakeCoordinator, tmp_path: Path) -> None:
    cuts = [1_000_000, 900_000]
    fake.answer = piece_of(DATA, lambda _, said: Said(said.body, cut=cuts.pop()) if cuts else said)
    target = tmp_path / "model"
    with pytest.raises(Unreachable):
        Transfers(fake.client(tries=1)).download(DIGEST, len(DATA), target)
    assert not target.exists()
    have = (tmp_path / "model.part").stat().st_size
    assert 800_000 < have <= 900_000
    Transfers(fake.client(tries=2)).download(DIGEST, len(DATA), target)
    assert target.read_bytes() == DATA
    assert fake.asked[1].query["offset"] == str(have)
    fetched = sum(int(asked.query["count"]) for asked in fake.asked[2:])
    assert fetched <= len(DATA) - have - 900_000


def test_a_blob_of_another_digest_is_fetched_anew_once(fake: FakeCoordinator, tmp_path: Path) -> None:
    fake.answer = piece_of(DATA[::-1])
    with pytest.raises(WardRoundError, match="twice"):
        Transfers(fake.client(tries=None)).download(DIGEST, len(DATA), tmp_path / "model")
    assert sum(int(asked.query["count"]) for asked in fake.asked) == 2 * len(DATA)
    assert not list(tmp_path.iterdir())


def test_a_spoilt_rest_of_an_earlier_process_costs_a_second_fetch_only(fake: FakeCoordinator, tmp_path: Path) -> None:
    (tmp_path / "model.part").write_bytes(b"x" * 1000)
    Transfers(fake.client()).download(DIGEST, len(DATA), tmp_path / "model")
    assert (tmp_path / "model").read_bytes() == DATA


@pytest.mark.parametrize(
    "spoil",
    [
        lambda _, said: Said(said.body, signed=False),
        lambda _, said: Said(said.body, body_signed=b"other"),
        lambda _, said: Said(said.body + b"more"),
        lambda _, said: Said(said.body[:-1]),
        lambda *_: Said(b"<html>please log in</html>", 200, signed=False),
    ],
    ids=["unsigned", "another body", "too long", "too short", "login page"],
)
def test_nothing_of_a_piece_stays_that_was_not_signed(
    fake: FakeCoordinator, tmp_path: Path, spoil: Callable[[Asked, Said], Said]
) -> None:
    fake.answer = piece_of(DATA, spoil)
    with pytest.raises(Unreachable):
        Transfers(fake.client()).download(DIGEST, len(DATA), tmp_path / "model")
    part = tmp_path / "model.part"
    assert not part.exists() or part.stat().st_size == 0


def test_giving_up_leaves_what_arrived(fake: FakeCoordinator, tmp_path: Path) -> None:
    calls = []

    def going() -> None:
        calls.append(1)
        if len(calls) == 2:
            raise WardRoundError("revoked")

    with pytest.raises(WardRoundError, match="revoked"):
        Transfers(fake.client()).download(DIGEST, len(DATA), tmp_path / "model", going)
    assert (tmp_path / "model.part").stat().st_size == 2 << 20


def test_a_full_disk_is_no_reason_to_ask_for_ever(fake: FakeCoordinator, tmp_path: Path) -> None:
    (tmp_path / "model.part").mkdir()
    with pytest.raises(StorageError):
        Transfers(fake.client(tries=None)).download(DIGEST, len(DATA), tmp_path / "model")


def test_an_upload_goes_on_where_the_coordinator_stands(fake: FakeCoordinator, tmp_path: Path) -> None:
    path = tmp_path / "tensors"
    path.write_bytes(DATA)
    uploads = Uploads()
    uploads.data += DATA[:1_500_000]
    fake.answer = uploads
    Transfers(fake.client()).upload(TASK, Blob(path, DIGEST, len(DATA)))
    assert bytes(uploads.data) == DATA
    assert fake.bytes_in == len(DATA) - 1_500_000
    Transfers(fake.client()).upload(TASK, Blob(path, DIGEST, len(DATA)))
    assert fake.bytes_in == len(DATA) - 1_500_000


def test_an_upload_survives_cuts_and_sends_little_twice(fake: FakeCoordinator, tmp_path: Path) -> None:
    data = DATA * 6
    path, sha256 = tmp_path / "tensors", hashlib.sha256(data).hexdigest()
    path.write_bytes(data)
    uploads = Uploads()
    fake.answer, fake.stop_reading_at = uploads, 9_000_000
    Transfers(fake.client(tries=2), Pace(largest=1 << 20)).upload(TASK, Blob(path, sha256, len(data)))
    assert bytes(uploads.data) == data
    assert len(data) < fake.bytes_in < 1.05 * len(data)


def test_an_upload_that_is_not_wanted_ends(fake: FakeCoordinator, tmp_path: Path) -> None:
    path = tmp_path / "tensors"
    path.write_bytes(DATA)
    fake.answer = lambda _: say(Refused(code="closed", message="the task is closed"), 410)
    with pytest.raises(Rejected, match="closed"):
        Transfers(fake.client(tries=None)).upload(TASK, Blob(path, DIGEST, len(DATA)))
    assert fake.bytes_in == 0


def test_a_coordinator_that_says_where_to_go_on_is_followed(fake: FakeCoordinator, tmp_path: Path) -> None:
    path = tmp_path / "tensors"
    path.write_bytes(DATA)
    uploads, once = Uploads(), [True]

    def answer(asked: Asked) -> Said:
        if asked.method == "PUT" and once:
            once.clear()
            return say(Refused(code="conflict", message="go on elsewhere", received=len(uploads.data)), 409)
        return uploads(asked)

    fake.answer = answer
    Transfers(fake.client(tries=3)).upload(TASK, Blob(path, DIGEST, len(DATA)))
    assert bytes(uploads.data) == DATA


@pytest.mark.parametrize(("go_on", "times"), [(None, 1), (0, 2)])
def test_a_wrong_whole_is_sent_twice_at_most(
    fake: FakeCoordinator, tmp_path: Path, go_on: int | None, times: int
) -> None:
    path = tmp_path / "tensors"
    path.write_bytes(DATA)
    fake.answer = Uploads(go_on)
    with pytest.raises(Rejected, match="wrong digest"):
        Transfers(fake.client(tries=None)).upload(TASK, Blob(path, "0" * 64, len(DATA)))
    assert fake.bytes_in == times * len(DATA)


@given(st.integers(1, 1 << 31), st.integers(0, 40), st.integers(18, 23))
def test_pieces_cover_a_file_and_end_on_their_own_multiples(total: int, start: int, power: int) -> None:
    pace = Pace(size=1 << power)
    offset = min(total - 1, start * 123_457)
    count = pace.piece(offset, total)
    assert 0 < count <= PIECE
    assert offset + count == total or (offset + count) % (1 << power) == 0


@given(st.lists(st.one_of(st.none(), st.floats(0.001, 1e9)), max_size=40), st.integers(LEAST_PIECE, PIECE))
def test_the_pace_stays_within_its_limits(rates: list[float | None], largest: int) -> None:
    pace = Pace(largest=largest)
    for rate in rates:
        count = pace.piece(0, 1 << 40)
        assert min(LEAST_PIECE, largest) <= count <= largest
        pace.broke() if rate is None else pace.went(count, count / rate)


def test_the_pace_finds_two_seconds() -> None:
    pace = Pace()
    for _ in range(20):
        count = pace.piece(0, 1 << 40)
        pace.went(count, 0.08 + count / 2.5e6)  # 20 Mbit/s, 80 ms
    assert 0.8 < pace.piece(0, 1 << 40) / 2.5e6 <= 2


def test_what_takes_less_than_two_seconds_goes_in_one_piece() -> None:
    pace, total = Pace(), 124 << 20
    assert pace.piece(0, total) == 2 << 20  # nothing is known of the link
    pace.went(2 << 20, 0.01)
    assert pace.piece(0, total) == total
    assert pace.piece(4 << 20, total) == 4 << 20  # the rest of what was cut goes in pieces
    assert pace.piece(0, 1 << 30) <= PIECE  # too much for the memory
    pace.broke()
    assert pace.piece(0, total) == 2 << 20
    strict = Pace(largest=1 << 20)  # a proxy takes no longer bodies
    strict.went(1 << 20, 0.001)
    assert strict.piece(0, total) == 1 << 20


def test_a_second_blob_arrives_in_one_piece_and_a_wrong_one_is_still_found(
    fake: FakeCoordinator, tmp_path: Path
) -> None:
    moves = Transfers(fake.client())
    moves.download(DIGEST, len(DATA), tmp_path / "first")
    before = len(fake.asked)
    moves.download(DIGEST, len(DATA), tmp_path / "second")
    assert len(fake.asked) == before + 1
    with pytest.raises(WardRoundError, match="twice"):
        moves.download("0" * 64, len(DATA), tmp_path / "third")
    assert (tmp_path / "second").read_bytes() == DATA
    assert not (tmp_path / "third").exists()
