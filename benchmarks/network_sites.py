"""Sites that speak the whole protocol and train nothing: signed client, resumable transfers, real hashes.

``python network_sites.py FOLDER INVITATIONS --numbers N`` plays one site for every line of the file of
invitations. What a site does about a task besides training is done: the model is fetched, verified and
written down, the update (made once, one number changed every round) is hashed, sent, and answered for.
Seconds by cause are appended to ``FOLDER/seconds.jsonl``, a line a task. The folder should lie in memory:
in a federation every site has a disk of its own.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from wardround import __version__
from wardround.core.encoding import PLAIN
from wardround.core.messages import Facts, InitFacts, Reply, ScoreFacts, Seconds, SiteSummary, Task, TrainFacts
from wardround.core.parcels import pack_as
from wardround.core.scores import Scores
from wardround.core.weights import Part, file_digest, slots, write_tensors
from wardround.planning.transfer import Transfer
from wardround.runtimes.https.client import Client, Rejected
from wardround.runtimes.https.connection import connect, tls
from wardround.runtimes.https.invitations import Invitation, read_invitation
from wardround.runtimes.https.joining import introduce
from wardround.runtimes.https.patience import Patience, Unreachable
from wardround.runtimes.https.signing import public_hex
from wardround.runtimes.https.transfer import Blob, Transfers, task_path
from wardround.runtimes.https.wire import (
    PROTOCOL,
    Consent,
    Done,
    Join,
    Joined,
    Next,
    Offer,
    Poll,
    Results,
    Work,
)

LOCK = threading.Lock()
WAIT = 20.0


def shapes(numbers: int) -> dict[str, tuple[int, ...]]:
    """Tensors with so many numbers in all: large ones and small ones, as a network has."""
    side = 512
    large = numbers // (side * side)
    rest = numbers - large * side * side
    return {**{f"layer{i:03d}.weight": (side, side) for i in range(large)}, "head.weight": (max(1, rest),)}


class Actor:
    """One site."""

    def __init__(self, invitation: Invitation, folder: Path, numbers: int) -> None:
        federation = introduce(invitation)
        self._name, self._folder, self._numbers = invitation.name, folder / invitation.name, numbers
        self._folder.mkdir()
        self._log = folder / "seconds.jsonl"
        key = Ed25519PrivateKey.generate()
        link = connect(invitation.url, tls(federation.authority))
        self._client = Client(link, key, federation, patience=Patience(longest=1.0))
        join = Join(
            token=invitation.token, name=self._name, key=public_hex(key), software=__version__, protocol=PROTOCOL
        )
        self._client.insist("POST", "/v1/join", join, Joined)
        self._moves = Transfers(self._client)
        self._plan: dict[str, Any] = {}
        self._knows: list[str] = []
        self._fetched: list[str] = []

    def serve(self) -> None:
        """Until killed."""
        while True:
            begin = time.perf_counter()
            poll = Poll(
                protocol=PROTOCOL,
                software=__version__,
                wait=WAIT,
                knows=tuple(self._knows[-100:]),
                fetched=tuple(self._fetched[-100:]),
            )
            try:
                do = self._client.call("POST", "/v1/next", poll, Next, wait=WAIT).do
            except Unreachable:
                time.sleep(0.2)
                continue
            waited = time.perf_counter() - begin
            if isinstance(do, Offer):
                self._consent(do)
            elif isinstance(do, Results):
                self._fetched.append(do.plan)
            elif isinstance(do, Work):
                try:
                    self._work(do, waited)
                except (Rejected, Unreachable):
                    time.sleep(0.2)  # not wanted any more, or to be tried again

    def _consent(self, offer: Offer) -> None:
        self._plan = json.loads(self._client.exchange("GET", f"/v1/plans/{offer.plan}", b""))
        self._knows.append(offer.plan)
        self._client.insist("POST", "/v1/consent", Consent(plan=offer.plan, standing="approved"), Done)

    def _work(self, work: Work, waited: float) -> None:
        task, marks = work.task, {"wait": waited}
        model = self._folder / "model.safetensors"
        if task.tensors is not None:
            model.unlink(missing_ok=True)
            marks["download"] = timed(lambda: self._moves.download(str(task.tensors), work.size, model))
        facts, path, digest = self._facts(task), None, None
        if task.verb in ("init", "train"):
            begin = time.perf_counter()
            path = self._renewed(task)
            digest = file_digest(path)
            marks["hash"] = time.perf_counter() - begin
            size, whole = path.stat().st_size, digest
            marks["upload"] = timed(lambda: self._moves.upload(task, Blob(path, whole, size)))
        reply = Reply(
            task=task.id, site=self._name, facts=facts, tensors=digest, size=0 if path is None else path.stat().st_size
        )
        marks["reply"] = timed(lambda: self._client.insist("POST", f"{task_path(task)}/reply", reply, Done))
        line = {"site": self._name, "verb": task.verb, "round": task.round, "plan": task.plan, **marks}
        with LOCK, self._log.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def _facts(self, task: Task) -> Facts:
        if task.verb == "describe":
            return SiteSummary(
                dataset=hashlib.sha256(self._name.encode()).hexdigest(), synthetic=True, cases={"train": 3}
            )
        if task.verb == "init":
            return InitFacts(parameters=self._numbers)
        if task.verb == "train":
            return TrainFacts(cases=3, updates=1, samples=2, loss=0.5, rate=0.01, seconds=Seconds())
        return ScoreFacts(scores=Scores(), seconds=Seconds())

    def _renewed(self, task: Task) -> Path:
        """The answer's file in the plan's encoding: another one each round, for a repeated one is refused."""
        encoding = PLAIN if task.verb == "init" else Transfer.model_validate(self._plan["transfer"]).upward
        path = self._folder / f"{task.verb}-{encoding.kind}-{encoding.updates}.safetensors"
        if not path.exists():
            rng = np.random.default_rng(int(hashlib.sha256(self._name.encode()).hexdigest()[:8], 16))
            arrays = {name: rng.standard_normal(form, dtype=np.float32) for name, form in shapes(self._numbers).items()}
            write_tensors(path, *pack_as({"weights": Part(arrays, 3.0)}, encoding))
        slot = slots(path)[0]["weights/head.weight"]
        mark = [1 + task.round % 100, 1 + int(task.plan[:4], 16) % 100]
        with path.open("r+b") as file:
            file.seek(slot.offset)
            file.write(np.array(mark, slot.dtype).tobytes())
        return path


def timed(action: Any) -> float:
    """Seconds that it takes."""
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("invitations", type=Path)
    parser.add_argument("--numbers", type=int, required=True)
    options = parser.parse_args()
    lines = options.invitations.read_text().split()
    actors = [Actor(read_invitation(line), options.folder, options.numbers) for line in lines]
    print("joined", flush=True)
    for actor in actors:
        threading.Thread(target=actor.serve, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main()
