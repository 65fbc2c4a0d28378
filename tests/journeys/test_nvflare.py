"""A provisioned NVFlare federation of real processes: a killed job process and a site without approval cost nothing.

``benchmarks/accept_nvflare.py`` also kills the server and submits what must be refused.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from flare_world import JOB_AT_SITE, FlareWorld
from network_world import until

from tiny import write_plan
from wardround.core.audit import verify
from wardround.core.weights import file_digest

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(find_spec("nvflare") is None, reason="needs NVFlare: pip install 'wardround[nvflare]'"),
]


def test_two_of_three_sites_train_and_one_is_killed(tmp_path: Path) -> None:
    with FlareWorld(tmp_path) as world:
        world.found()
        world.start_all()
        digest = world.write_job(write_plan(tmp_path / "plan.yaml", rounds={"limit": 6, "quorum": 2, "patience": 99}))
        world.keep(digest)
        world.approve(digest, "A", "B")
        until(lambda: world.rounds(digest) >= 1, "a round ends", 240)
        world.kill(JOB_AT_SITE, "B")
        assert world.daemons["keep"].wait(400) == 0
        assert world.state(digest) == "ended"
        assert len(world.jobs_submitted()) == 1  # the process was started again, not the job
        events = world.events(digest)
        assert [event["sites"] for event in events if event["event"] == "round_ended"] == [["A", "B"]] * 6
        missing = {(e["site"], e["kind"]) for e in events if e["event"] == "site_failed"}
        assert missing == {("C", "pending")}
        assert not world.home("C").run(digest).exists()
        final = file_digest(world.place(digest).model)
        for name in ("A", "B"):
            outcome = world.home(name).result(digest)
            assert file_digest(outcome / "model.safetensors") == final
            assert json.loads((outcome / "outcome.json").read_text())["sites"] == 2
            assert verify(world.home(name).audit, []).clean
        said = world.run("site", "serve", "--dir", world.home("A").root, code=2)
        assert "NVFlare" in said
