"""The server's half of a job: our application answers the sites' requests, and our rounds run, in the job's process.

All state lies in the coordinator's folder that the server's ``local/wardround.json`` names. So a second job of the
same plan goes on where the first one ended, however it ended.
"""

from __future__ import annotations

import getpass
import threading
import time
from collections.abc import Sequence
from logging import ERROR, INFO
from pathlib import Path
from typing import Any

from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.impl.controller import Controller
from nvflare.apis.shareable import make_reply

from wardround.core.errors import RunError, StorageError, WardRoundError
from wardround.planning.plan import Plan
from wardround.runtimes.https.conduct import Conduct, Means
from wardround.runtimes.https.logs import say, set_up
from wardround.runtimes.https.office import Office, open_office
from wardround.runtimes.https.people import Person, act
from wardround.runtimes.https.people_wire import Submit
from wardround.runtimes.nvflare.enrolment import hold_places, register
from wardround.runtimes.nvflare.job import PLAN
from wardround.runtimes.nvflare.messages import ALIVE, ENROL, REQUEST, body_of, pack_body, pack_response, request_of
from wardround.runtimes.nvflare.pipe import Bridge
from wardround.runtimes.nvflare.places import ServerPlace, read_place

OPEN = ("waiting", "running")
AGAIN = 1.0  # seconds between two tries of a run that another process still holds
FULL = 30.0  # seconds after which a run is tried again that could not even be failed
LINGER = 120.0  # seconds in which sites fetch the results, at most
TROUBLE = ("run_crashed", "run_stumbled")


class WardRoundController(Controller):  # type: ignore[misc, unused-ignore] # NVFlare has no types
    """Carries out one plan with the sites of the job.

    Args:
        sites: NVFlare's names of the sites, in fold order.
    """

    def __init__(self, sites: Sequence[str]) -> None:
        super().__init__()
        self._sites = tuple(sites)
        self._office: Office | None = None
        self._bridge: Bridge | None = None
        self._roots = b""
        self._stopping = threading.Event()

    def start_controller(self, fl_ctx: Any) -> None:
        """Open the coordinator's folder, and answer from now on."""
        workspace = self._engine.get_workspace()
        try:
            place = read_place(Path(workspace.get_site_config_dir()), ServerPlace)
            plan = Path(workspace.get_app_config_dir(fl_ctx.get_job_id())) / PLAN
            text = plan.read_text(encoding="utf-8")
            self._roots = Path(workspace.get_file_path_in_startup("rootCA.pem")).read_bytes()
            set_up()
            self._office = open_office(Path(place.folder))
            self._digest = self._begun(self._office, text)
            self._bridge = Bridge(self._office)
        except (WardRoundError, OSError, ValueError) as error:
            say("cannot_serve", level=ERROR, reason=str(error))
            self.system_panic(f"Ward Round cannot begin: {error}", fl_ctx)
            return
        self._engine.register_aux_message_handler(ENROL, self._enrol)
        self._engine.register_aux_message_handler(REQUEST, self._answer)
        self._engine.register_aux_message_handler(ALIVE, self._alive)

    def control_flow(self, abort_signal: Any, fl_ctx: Any) -> None:
        """Until the run is over, or NVFlare ends the job."""
        if self._office is None or self._bridge is None:
            return
        watch = threading.Thread(target=self._watch, args=(abort_signal,), daemon=True)
        watch.start()
        means = Means(self._office, lambda _place: None, _say, self._stopping)
        while not self._stopping.is_set() and self._state() in OPEN:
            try:
                Conduct(means, self._digest).go()
            except (RunError, StorageError) as error:  # a process of the last job that is still ending; a full disk
                say("run_stumbled", level=ERROR, run=self._digest[:12], error=str(error))
                self._stopping.wait(AGAIN if isinstance(error, RunError) else FULL)
        if (state := self._state()) == "ended":
            self._bridge.see_off(lambda: not self._stopping.is_set(), LINGER)
        elif state not in OPEN:
            self.system_panic(f"the run is {state}: {self._office.store.run(self._digest).note}", fl_ctx)

    def stop_controller(self, fl_ctx: Any) -> None:  # noqa: ARG002
        """Everything is durable."""
        self._stopping.set()
        if self._bridge is not None:
            self._bridge.close()

    def _begun(self, office: Office, text: str) -> str:
        """The run of the job's plan; submitted by the first of its jobs."""
        plan = Plan.model_validate_json(text)
        digest = plan.digest()
        hold_places(office, self._sites)
        if digest not in {row.digest for row in office.store.runs()}:
            act(office, Person(getpass.getuser(), "owner"), Submit(plan=text, sites=self._sites))
        return digest

    def _state(self) -> str:
        assert self._office is not None  # noqa: S101 - opened before
        return self._office.store.run(self._digest).state

    def _watch(self, abort_signal: Any) -> None:
        while not self._stopping.is_set():
            if abort_signal.triggered:
                self._stopping.set()
            time.sleep(0.2)

    def _enrol(self, topic: str, request: Any, fl_ctx: Any) -> Any:  # noqa: ARG002
        assert self._office is not None  # noqa: S101 - opened before
        try:
            return pack_body(register(self._office, self._roots, body_of(request)))
        except ValueError:
            return make_reply(ReturnCode.BAD_REQUEST_DATA)

    def _alive(self, topic: str, request: Any, fl_ctx: Any) -> Any:  # noqa: ARG002
        assert self._office is not None  # noqa: S101 - opened before
        if (sender := _sender(fl_ctx)) in self._sites:  # it only says that a process of the job is there
            self._office.store.saw(sender)
        return make_reply(ReturnCode.OK)

    def _answer(self, topic: str, request: Any, fl_ctx: Any) -> Any:  # noqa: ARG002
        assert self._bridge is not None  # noqa: S101 - opened before
        try:
            return pack_response(self._bridge.answer(_sender(fl_ctx), request_of(request)))
        except ConnectionError:
            return make_reply(ReturnCode.SERVICE_UNAVAILABLE)
        except ValueError:
            return make_reply(ReturnCode.BAD_REQUEST_DATA)


def _sender(fl_ctx: Any) -> str:
    """Who NVFlare says sends this. Nothing that matters rests on it."""
    peer = fl_ctx.get_peer_context()
    return str(peer.get_identity_name())[:64] if peer is not None else "?"


def _say(event: str, facts: dict[str, Any]) -> None:
    say(event, ERROR if event in TROUBLE else INFO, **facts)
