"""The site's half of a job: our agent, whose requests NVFlare carries. It asks what to do; nothing is pushed to it.

What is NVFlare's own task broadcast is not used: an agent that asks can be killed and started again at any moment.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from logging import ERROR
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from nvflare.apis.event_type import EventType
from nvflare.apis.executor import Executor
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.shareable import make_reply

from wardround.core.errors import StorageError, WardRoundError
from wardround.runtimes.https.agent import Agent, Parts
from wardround.runtimes.https.home import Home
from wardround.runtimes.https.logs import Json, TellOnce, say, set_up
from wardround.runtimes.https.patience import Hold, Patience
from wardround.runtimes.nvflare.enrolment import enrol
from wardround.runtimes.nvflare.messages import (
    ALIVE,
    ENROL,
    REQUEST,
    arrived,
    body_of,
    pack_body,
    pack_request,
    response_of,
)
from wardround.runtimes.nvflare.pipe import PipeLink, Request, Response
from wardround.runtimes.nvflare.places import SitePlace, read_place

LOST = 5.0  # seconds in which every request failed, after which the site folder is left to another job's process
AGAIN = 1.0  # seconds between two tries of what cannot be done yet
HOLD = 2.0  # seconds that a poll is held open: so soon a job can end
PULSE = 10.0  # seconds between two signs that this site has a process in the job, whatever that is doing
WAIT = 20.0  # seconds for an enrolment


class WardRoundExecutor(Executor):  # type: ignore[misc, unused-ignore] # NVFlare has no types
    """Serves one site for as long as the job runs. It takes no arguments: a job cannot name a folder."""

    def __init__(self) -> None:
        super().__init__()
        self._stop, self._lost = threading.Event(), threading.Event()
        self._serving: threading.Thread | None = None

    def execute(self, task_name: str, shareable: Any, fl_ctx: Any, abort_signal: Any) -> Any:  # noqa: ARG002
        """No task of NVFlare's is ever sent."""
        return make_reply(ReturnCode.TASK_UNKNOWN)

    def handle_event(self, event_type: str, fl_ctx: Any) -> None:
        """Begin and end with the job's process."""
        if event_type == EventType.START_RUN:
            engine = fl_ctx.get_engine()
            name, workspace = fl_ctx.get_identity_name(), engine.get_workspace()
            local, kit = Path(workspace.get_site_config_dir()), Path(workspace.get_startup_kit_dir())
            self._serving = threading.Thread(target=self._serve, args=(engine, name, local, kit), daemon=True)
            self._serving.start()
        elif event_type in (EventType.ABOUT_TO_END_RUN, EventType.END_RUN):
            self._stop.set()
            if event_type == EventType.END_RUN and self._serving is not None:
                self._serving.join(10)

    def _serve(self, engine: Any, name: str, local: Path, kit: Path) -> None:
        try:
            place = read_place(local, SitePlace)
            home = Home(Path(place.folder))
            home.make()
            _log(home)
            threading.Thread(target=self._pulse, args=(engine,), daemon=True).start()
            while (lock := self._held(home)) is not None:
                try:
                    self._lost.clear()
                    if self._enrolled(home, place, kit, name, engine):
                        self._attend(home, engine)
                finally:
                    os.close(lock)
                self._stop.wait(3 * AGAIN)  # another job's process may wait for the folder
        except Exception as error:  # noqa: BLE001 - a thread's fault would be seen by nobody
            say("cannot_serve", level=ERROR, reason=f"{type(error).__name__}: {error}")

    def _pulse(self, engine: Any) -> None:
        while not self._stop.wait(PULSE):
            with contextlib.suppress(OSError):
                _ask(engine, ALIVE, pack_body(b""), PULSE)

    def _held(self, home: Home) -> int | None:
        """The site folder's lock: another job's process may hold it, or one that is just dying."""
        while not self._stop.is_set():
            try:
                return home.lock()
            except StorageError:
                self._stop.wait(AGAIN)
        return None

    def _enrolled(self, home: Home, place: SitePlace, kit: Path, name: str, engine: Any) -> bool:
        tell, end = TellOnce(), time.monotonic() + WAIT
        while not self._stop.is_set() and time.monotonic() < end:
            try:
                enrol(home, place, kit, name, lambda body: body_of(_ask(engine, ENROL, pack_body(body), WAIT)))
                return True
            except (WardRoundError, OSError, ValueError) as error:
                tell(error, AGAIN)
                self._stop.wait(AGAIN)
        return False

    def _attend(self, home: Home, engine: Any) -> None:
        failing: float | None = None  # since when

        def carry(request: Request, seconds: float) -> Response:
            nonlocal failing
            try:
                response = response_of(_ask(engine, REQUEST, pack_request(request), seconds))
            except (OSError, ValueError) as error:
                failing = time.monotonic() if failing is None else failing
                if time.monotonic() - failing > LOST:
                    self._lost.set()
                raise ConnectionError(str(error)) from error
            failing = None
            return response

        patience = Patience(first=0.2, longest=2.0, pause=self._pause, tell=TellOnce())
        link = PipeLink(carry, "NVFlare")
        agent = Agent(home, Parts(patience=patience, hold=Hold(HOLD), link=lambda _home, _settings: link, renews=False))
        with contextlib.suppress(_Over):
            agent.serve(lambda: not (self._stop.is_set() or self._lost.is_set()))

    def _pause(self, seconds: float) -> None:
        if self._stop.wait(seconds) or self._lost.is_set():
            raise _Over


class _Over(BaseException):
    """The job ends, or reaches nobody: no exception that anything on the way would take for a fault."""


def _ask(engine: Any, topic: str, message: Any, seconds: float) -> Any:
    with engine.new_context() as context:
        replies = engine.send_aux_request(None, topic, message, seconds, context, optional=True)
    return arrived(next(iter(replies.values()), None) if replies else None)


def _log(home: Home) -> None:
    """As `wardround site serve` does: JSON lines to a file that cannot fill the disk, and to NVFlare's log."""
    handler = RotatingFileHandler(home.log, maxBytes=10 << 20, backupCount=3, encoding="utf-8")
    handler.setFormatter(Json())
    set_up().addHandler(handler)
