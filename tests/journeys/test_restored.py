"""A coordinator restored from a backup: sites that never stopped tell again what it forgot, and runs end."""

from __future__ import annotations

from pathlib import Path

from network_world import Network, until

from tiny import plan_dict, write_plan


def test_sites_tell_a_restored_coordinator_what_it_forgot(tmp_path: Path) -> None:
    """Neither B's approval nor the end of the run, which both came after the backup, are lost for good."""
    training = {**plan_dict()["training"], "steps": 2}
    rounds = {"limit": 2, "quorum": 2, "stall": 600}
    with Network(tmp_path) as net:
        net.all_join()
        digest = net.submit(write_plan(tmp_path / "plan.yaml", training=training, rounds=rounds))
        net.approve("A", digest)
        backup = tmp_path / "backup.tar"
        net.run("coordinator", "backup", net.dir, backup)
        net.approve("B", digest)
        net.wait(digest)
        before = net.models(digest)
        for site in net.names:
            until((net.folder(site) / "results" / digest / "outcome.json").is_file, f"{site} has the results")
        assert net.server is not None
        net.server.kill()
        net.dir.rename(tmp_path / "lost")
        net.run("coordinator", "restore", backup, net.dir)
        net.serve()
        net.wait(digest)
        assert net.models(digest) == before
        assert not list(net.faults())
