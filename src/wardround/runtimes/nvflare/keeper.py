"""`keeping.Network` over NVFlare's own API, with an administrator's startup kit."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from nvflare.fuel.flare_api.flare_api import new_secure_session

from wardround.core.errors import InputError
from wardround.runtimes.nvflare.keeping import Seen

WAITING = ("SUBMITTED", "APPROVED", "DISPATCHED")
CONNECT = 5.0  # seconds


class FlareNetwork:
    """A session that is made anew where it broke."""

    def __init__(self, kit: Path) -> None:
        """Raises InputError where ``kit`` is no administrator's."""
        try:
            config = json.loads((kit / "startup" / "fed_admin.json").read_text(encoding="utf-8"))
            self._user = str(config["admin"]["username"])
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{kit} is not the startup kit of an administrator: startup/fed_admin.json") from error
        self._kit, self._session = kit, None

    def look(self, name: str) -> Seen:
        """See `Network`."""
        return self._done(lambda session: _seen(session, name))  # type: ignore[no-any-return]

    def submit(self, folder: Path) -> str:
        """See `Network`."""
        return str(self._done(lambda session: session.submit_job(str(folder.resolve()))))

    def abort(self, job: str) -> None:
        """See `Network`."""
        self._done(lambda session: session.abort_job(job))

    def close(self) -> None:
        """End the session."""
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def _done(self, action: Any) -> Any:
        try:
            if self._session is None:
                self._session = new_secure_session(self._user, str(self._kit), timeout=CONNECT)
            return action(self._session)
        except Exception as error:
            # Whatever it was (a lost connection, a login that a restarted server forgot): the next call logs in anew.
            with contextlib.suppress(Exception):  # it is given up anyway
                self.close()
            raise OSError(f"{type(error).__name__}: {error}"[:300]) from error


def _seen(session: Any, name: str) -> Seen:
    info = session.get_system_info()
    running = {job.job_id for job in info.job_info}
    jobs = session.list_jobs(name_prefix=name)
    mine = [j["job_id"] for j in jobs if j["status"] in WAITING or j["job_id"] in running]
    return Seen(str(info.server_info.start_time), [client.name for client in info.client_info], mine)
