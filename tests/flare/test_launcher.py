"""A killed job process is started again; one that ended, or was ended here, is not."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

pytest.importorskip("nvflare.apis.job_launcher_spec", reason="NVFlare is not installed: wardround[nvflare]")

from nvflare.app_common.job_launcher.process_launcher import ProcessHandle

from wardround.runtimes.nvflare.launcher import MOST, RespawningHandle


class Starts:
    """Processes that end as the script says: one after the other."""

    def __init__(self, *scripts: str) -> None:
        self.scripts, self.begun = list(scripts), 0

    def __call__(self) -> Any:
        script = self.scripts[min(self.begun, len(self.scripts) - 1)]
        self.begun += 1
        return ProcessHandle(process=subprocess.Popen([sys.executable, "-c", script], start_new_session=True))


KILLED, ENDED, FAILED = "import os; os.kill(os.getpid(), 9)", "pass", "raise SystemExit(1)"


@pytest.mark.parametrize("last", [ENDED, FAILED])
def test_a_killed_process_is_started_again_until_it_ends_by_itself(last: str) -> None:
    starts = Starts(KILLED, KILLED, last)
    RespawningHandle(starts).wait()
    assert starts.begun == 3


def test_not_for_ever() -> None:
    starts = Starts(KILLED)
    RespawningHandle(starts).wait()
    assert starts.begun == MOST + 1


def test_kills_long_ago_do_not_count() -> None:
    times = iter(range(0, 10**6, 1000))
    starts = Starts(*[KILLED] * (MOST + 5), ENDED)
    RespawningHandle(starts, lambda: float(next(times))).wait()
    assert starts.begun == MOST + 6


def test_terminated_stays_ended() -> None:
    starts = Starts("import time; time.sleep(600)")
    handle = RespawningHandle(starts)
    handle.terminate()
    handle.wait()
    assert starts.begun == 1
