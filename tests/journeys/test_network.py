"""A federation of real processes: the same bits as in simulation, and nothing leaves before somebody approved.

B sits behind a proxy that opens TLS and writes down everything in the clear.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from network_world import Network, until

from tiny import plan_dict, write_plan
from wardround.core.weights import read_tensors, weights_digest
from wardround.planning.plan import load_plan
from wardround.runtimes.https.wire import Consent, OwnHead, Poll

sys.path.insert(0, str(Path(__file__).parents[1] / "https"))
from proxies import Exchange, Interceptor

ROUNDS = {"limit": 2, "quorum": 1, "stall": 60}


def plan_file(root: Path, seed: int, steps: int = 3, **rounds: int) -> Path:
    training = {**plan_dict()["training"], "steps": steps}
    return write_plan(root / f"plan{seed}.yaml", seed=seed, training=training, rounds={**ROUNDS, **rounds})


class Watched(Network):
    """The network, and what B said."""

    proxy: Interceptor

    def found(self) -> None:
        super().found()
        self.proxy = Interceptor(self.dir / "authority.pem")
        self.proxy.__enter__()

    def env_of(self, site: str | None) -> dict[str, str]:
        if site != "B":
            return super().env_of(site)
        way = {"HTTPS_PROXY": f"http://127.0.0.1:{self.proxy.port}", "SSL_CERT_FILE": str(self.proxy.ca)}
        return {**super().env_of(site), **way}

    def said(self, begin: int = 0) -> list[Exchange]:
        """All requests of B from the one with this number on."""
        return [exchange for exchange in self.proxy.seen[begin:] if exchange.method]


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with Watched(tmp_path_factory.mktemp("net")) as network:
        network.all_join()
        yield network
        assert not list(network.faults())
    network.proxy.__exit__(None, None, None)


def test_the_weights_are_those_of_the_local_runtime(net: Watched) -> None:
    plan = plan_file(net.root, 1)
    digest = net.submit(plan)
    for name in net.names:
        net.approve(name, digest)
    net.wait(digest)
    assert net.models(digest) == net.local(plan, net.root / "local")
    for name in net.names:
        results = net.folder(name) / "results" / digest
        until((results / "report.html").is_file, f"{name} has its own report")
        assert (results / "model.safetensors").read_bytes() == (net.place(digest) / "model.safetensors").read_bytes()
        assert "nothing was changed" in net.run("site", "log", "--verify", "--dir", net.folder(name), site=name)
    assert net.said()
    assert all(exchange.status == 200 for exchange in net.said())


OWN: list[tuple[dict[str, Any], dict[str, Any] | None]] = [
    ({"tensors": ["norm.affine"]}, {"steps": 4, "rate": 0.01}),
    ({"tensors": ["norm.affine"], "unseen": "mean"}, None),
]


@pytest.mark.parametrize(("private", "finetune"), OWN, ids=["initial", "mean"])
def test_private_tensors_stay_and_all_is_as_in_simulation(
    net: Watched, private: dict[str, Any], finetune: dict[str, Any] | None
) -> None:
    """From the wire: the names in every tensor file that B sent, and what it sent when."""
    begin, kind = len(net.proxy.seen), private.get("unseen", "initial")
    plan = write_plan(net.root / f"own-{kind}.yaml", private=private, finetune=finetune, rounds=ROUNDS)
    digest = net.submit(plan)
    for name in net.names:
        net.approve(name, digest)
    net.wait(digest)
    simulated = net.root / f"own-{kind}"
    assert net.models(digest) == net.local(plan, simulated)
    written, expected = (json.loads((at / "scores.json").read_text()) for at in (net.place(digest), simulated))
    assert written == expected
    assert set(written["sites"]) == set(net.names)

    kept = set(load_plan(plan).private_tensors)
    for name in net.names:
        results = net.folder(name) / "results" / digest
        until((results / "report.html").is_file, f"{name} has its own report")
        own, shared = (read_tensors(results / file) for file in ("model.safetensors", "shared.safetensors"))
        alike = read_tensors(simulated / "sites" / name / "model.safetensors")
        assert weights_digest(own) == weights_digest(alike) != weights_digest(shared)
        assert (results / "shared.safetensors").read_bytes() == (net.place(digest) / "model.safetensors").read_bytes()
        assert set(own) == set(shared) > kept
        assert "a model of its own" in (results / "report.html").read_text()
        assert "shared.safetensors" in net.run("site", "results", digest, "--dir", net.folder(name), site=name)

    uploads: dict[str, bytes] = {}
    for exchange in net.said(begin):
        if exchange.method == "PUT":
            verb = exchange.target.split("/")[-3]
            uploads[f"{verb} {exchange.target.split('/')[-4]}"] = exchange.body
    assert set(uploads) == {"train 0", "train 1"} | ({"share 2"} if kind == "mean" else set())
    for what, body in uploads.items():
        names = {
            name.split("/", 1)[1]
            for name in json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])
            if "/" in name
        }
        assert names == kept if what == "share 2" else names.isdisjoint(kept), what
        assert names


def test_without_approval_nothing_is_sent_but_that_it_is_waited_for(net: Watched) -> None:
    """From the wire: every byte of every body that B sent while a run went on that it had not approved."""
    begin = len(net.proxy.seen)
    digest = net.submit(plan_file(net.root, 2, limit=3))
    net.approve("A", digest)
    until(lambda: net.offered("B", digest), "the plan reaches B")
    net.wait(digest)
    standings = set()
    for exchange in net.said(begin):
        if exchange.target == f"/v1/plans/{digest}":
            assert (exchange.method, exchange.body) == ("GET", b"")
        elif exchange.target == "/v1/consent":
            said = Consent.model_validate_json(exchange.body)
            assert (said.plan, said.reason) in ((digest, "waiting for approval"), (digest, ""))
            standings.add(said.standing)
        else:
            assert exchange.target == "/v1/next", exchange.target
            Poll.model_validate_json(exchange.body)
    assert standings == {"pending"}
    assert {e["site"] for e in net.events(digest, "site_replied")} == {"A"}
    assert {e["kind"] for e in net.events(digest, "site_failed")} == {"pending"}


def test_late_approval_joins_at_the_next_round(net: Watched) -> None:
    digest = net.submit(plan_file(net.root, 3, limit=12, patience=12))
    net.approve("A", digest)
    until(lambda: net.events(digest, "round_ended"), "the first round is over")
    net.approve("B", digest)
    net.wait(digest)
    joined = [sorted(event["sites"]) for event in net.events(digest, "round_ended")]
    assert joined[0] == ["A"]
    assert joined[-1] == ["A", "B"]


def test_a_plan_that_was_changed_after_approval_does_not_run(net: Watched) -> None:
    digest = net.submit(plan_file(net.root, 4, limit=1, quorum=2))
    net.approve("B", digest)
    told = b'"standing":"approved"'
    until(lambda: any(told in e.body and digest.encode() in e.body for e in net.said()), "B says that it approved")
    request = net.folder("B") / "requests" / f"{digest}.json"
    sound = request.read_bytes()
    changed = json.loads(sound)
    changed["training"]["steps"] = 1000
    request.write_text(json.dumps(changed))
    begin = len(net.proxy.seen)
    pending = Consent(plan=digest, standing="pending", reason="waiting for approval").canonical().encode()
    until(lambda: any(exchange.body == pending for exchange in net.said(begin)), "B takes its approval back")
    until(lambda: any(e["event"] == "tampered" for e in net.audit("B")), "B writes it down")
    net.approve("A", digest)
    begin = len(net.proxy.seen)
    until(lambda: len(net.said(begin)) > 1, "B goes on asking")
    assert not net.events(digest, "site_replied")
    assert {e.target for e in net.said(begin)} <= {"/v1/next", "/v1/consent"}
    request.write_bytes(sound)
    net.wait(digest)
    assert {event["site"] for event in net.events(digest, "site_replied")} == {"A", "B"}


def test_revocation_stops_what_is_running(net: Watched) -> None:
    digest = net.submit(plan_file(net.root, 5, steps=600))
    for name in net.names:
        net.approve(name, digest)
    moved = f"/v1/tasks/{digest}/0/train/0/moved"
    until(lambda: any(exchange.target == moved for exchange in net.said()), "B trains")
    begin = len(net.proxy.seen)
    shown = net.run(
        "site", "revoke", digest, "--name", "Dr Test", "--reason", "patients asked", "--dir", net.folder("B"), site="B"
    )
    assert "revoked" in shown
    until(lambda: not net.sites["B"].children(), "B's worker is gone", 10)
    net.wait(digest)
    assert {event["site"] for event in net.events(digest, "site_replied") if event["verb"] == "train"} == {"A"}
    failed = [event for event in net.events(digest, "site_failed") if event["verb"] == "train"]
    assert {(event["site"], event["kind"]) for event in failed} == {("B", "refused")}
    assert "patients asked" in failed[0]["reason"]
    late = [
        e
        for e in net.said(begin)
        if e.target.startswith("/v1/tasks/") and not e.target.endswith(("/moved", "/failure"))
    ]
    assert not late
    for exchange in net.said(begin):
        if exchange.target == "/v1/heads":
            OwnHead.model_validate_json(exchange.body)
