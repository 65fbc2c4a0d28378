"""NVFlare among the engines of the conformance tests: a provisioned server and three sites on this machine."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest
from engines import LONG, SITES, World, working
from flare_world import ADMIN, CLIENT_MODULE, JOB_AT_SERVER, FlareWorld
from network_world import until

from tiny import write_sites
from wardround.core.rundir import RunDir
from wardround.planning.plan import load_plan
from wardround.runtimes.https.networked import make_run_dir
from wardround.runtimes.https.office import open_office


class Flare(World):
    """Our requests as messages of NVFlare's jobs."""

    name = "nvflare"
    extra = "nvflare"

    def __init__(self, root: Path) -> None:
        if find_spec("nvflare") is None:
            pytest.skip("needs NVFlare: pip install 'wardround[nvflare]'")
        super().__init__(root)
        write_sites(root, SITES)
        self.flare = FlareWorld(root, SITES, {site: self.data(site) for site in SITES})
        try:
            self.flare.found()
            self.flare.start_all()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self.flare.__exit__(None, None, None)

    def _digest(self, place: Path) -> str:
        return load_plan(place / "plan.json").digest()

    def _kept(self, place: Path, code: int) -> None:
        """Until `keep` says that the run is over."""
        found = self.flare.daemons.pop("keep").wait(LONG)
        assert found == code, (self.root / "keep.log").read_text()[-3000:]

    def start(self, plan: Path) -> Path:
        digest = self.flare.write_job(plan)
        place = make_run_dir(self.flare.dir, load_plan(plan), SITES)
        before = len(self._submitted())
        self.flare.keep(digest)
        until(lambda: len(self._submitted()) > before, "the job is submitted", LONG)
        lock = place.lock()  # until all have approved: with two of three the run would begin without the third
        try:
            self.flare.approve(digest, *SITES)
            office = open_office(self.flare.dir)
            until(lambda: set(office.store.standings(digest).values()) == {"approved"}, "all have approved", LONG)
            office.close()
        finally:
            os.close(lock)
        return place.root

    def _submitted(self) -> list[str]:
        return self.flare.jobs_submitted() if (self.root / "keep.log").is_file() else []

    def wait(self, place: Path) -> None:
        self._kept(place, 0)
        assert RunDir(place).report.is_file()

    def lose(self, place: Path) -> None:
        self._kept(place, 4)

    def abort(self, place: Path) -> None:
        """Stop keeping it, and end NVFlare's job."""
        from wardround.runtimes.nvflare.keeper import FlareNetwork

        keep = self.flare.daemons.pop("keep")
        keep.kill()
        keep.wait()
        network = FlareNetwork(self.flare.kits / ADMIN)
        for job in network.look(f"wardround-{self._digest(place)[:12]}").jobs:
            network.abort(job)
        network.close()
        until(lambda: not list(self.flare.processes(JOB_AT_SERVER)), "the job has ended", LONG)

    def resume(self, place: Path) -> None:
        digest = self._digest(place)
        if self.flare.state(digest) == "failed":
            self.flare.approve(digest, *SITES)  # a dataset that was mended is another one
            self.flare.run("coordinator", "resume", self.flare.dir, digest[:12])
        self.flare.keep(digest)

    def workers(self, site: str) -> list[int]:
        return [pid for parent, _ in self.flare.processes(CLIENT_MODULE, site) for pid in working(parent)]
