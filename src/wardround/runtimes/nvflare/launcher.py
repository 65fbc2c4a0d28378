"""Starts a site's job process again when it was killed: stock NVFlare would end the whole job.

Named in the site's ``local/resources.json`` in the place of NVFlare's own launcher.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from nvflare.apis.job_launcher_spec import JobHandleSpec
from nvflare.app_common.job_launcher.client_process_launcher import ClientProcessJobLauncher

MOST, WITHIN = 5, 600.0  # starts again, in so many seconds: more often it is a fault that comes back

logger = logging.getLogger("wardround.nvflare")


class RespawningHandle(JobHandleSpec):  # type: ignore[misc, unused-ignore] # NVFlare has no types
    """A job process that is started again where a signal ended it and nobody here wanted that."""

    def __init__(self, start: Callable[[], Any], clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._start, self._clock = start, clock
        self._lock = threading.Lock()
        self._handle = start()
        self._unwanted = False
        self._again: list[float] = []

    def terminate(self) -> None:
        """End it for good."""
        with self._lock:
            self._unwanted = True
        self._handle.terminate()

    def poll(self) -> Any:
        """NVFlare's return code."""
        return self._handle.poll()

    def wait(self) -> None:
        """Until it ended by itself, was terminated, or was killed too often."""
        while True:
            self._handle.wait()
            with self._lock:
                if self._unwanted or not self._killed() or not self._may():
                    return
                self._handle = self._start()

    def _killed(self) -> bool:
        code = self._handle.adapter.poll()
        return code is not None and (code < 0 or code > 128)

    def _may(self) -> bool:
        now = self._clock()
        self._again = [when for when in self._again if now - when < WITHIN]
        if len(self._again) >= MOST:
            logger.error("the job's process was killed %d times in %.0f seconds: it stays ended", MOST + 1, WITHIN)
            return False
        self._again.append(now)
        logger.warning("the job's process was killed: it is started again")
        return True


class RespawningLauncher(ClientProcessJobLauncher):  # type: ignore[misc, unused-ignore] # NVFlare has no types
    """Job processes at a site that outlive being killed."""

    def launch_job(self, job_meta: dict[str, Any], fl_ctx: Any) -> RespawningHandle:
        """See `JobLauncherSpec`."""
        launch = super().launch_job
        return RespawningHandle(lambda: launch(job_meta, fl_ctx))
