"""A hospital whose own Ray cluster trains for it, in two processes: the federation gets what it gets from a laptop."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from engines import Local, Ray
from network_world import Network, file_digest

from tiny import write_plan, write_sites

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("ray")]


def test_a_site_computes_on_its_own_cluster(tmp_path: Path) -> None:
    """Only A has a cluster, whose first node dies; each site trains in two processes, also in the reference."""
    plan = write_plan(tmp_path / "plan.yaml", rounds={"limit": 3, "quorum": 2, "stall": 600})
    (tmp_path / "local").mkdir()
    sites = write_sites(tmp_path / "local", ("A", "B"))
    sites.write_text(yaml.safe_dump({**yaml.safe_load(sites.read_text()), "processes": 2}))
    with Local(tmp_path / "local", 1, sites) as local:
        reference = local.start(plan)
        local.wait(reference)
    (tmp_path / "ray").mkdir()
    with (
        Ray(tmp_path / "ray", 2, write_sites(tmp_path / "ray", ("A",)), cpus=2) as ray,
        Network(tmp_path / "net", ("A", "B")) as net,
    ):
        net.found()
        net.join("A", "--processes", 2, "--on", f"ray://{ray.address}")
        net.join("B", "--processes", 2)
        for name in net.names:
            net.start(name)
        digest = net.submit(plan)
        for name in net.names:
            net.approve(name, digest)
        ray.until_event(net.place(digest), "round_ended", round=1)
        assert ray.workers("A"), "nobody computes on the cluster"
        ray.kill_site("A")
        net.wait(digest, 600)
        assert not list(net.faults())
        assert file_digest(net.place(digest) / "last.safetensors") == file_digest(reference / "last.safetensors")
        settings = json.loads((net.folder("A") / "site.json").read_text())
        assert (settings["on"], settings["processes"]) == (f"ray://{ray.address}", 2)
