"""Carries out all runs of a coordinator, one thread each, from the start of the server to its end."""

from __future__ import annotations

import threading

from sqlalchemy.exc import SQLAlchemyError

from wardround.core.errors import WardRoundError
from wardround.core.rundir import read_events
from wardround.runtimes.https.conduct import Conduct, Means, Report, Say
from wardround.runtimes.https.networked import run_dir
from wardround.runtimes.https.office import Office
from wardround.runtimes.https.store import RunRow

LOOK = 0.25  # seconds between two looks at what is to be done
AGAIN = 30.0  # seconds after which a run that could not even be failed is tried again


class Driver:
    """Starts a thread for each run that waits or runs, also for those that are submitted or resumed later."""

    def __init__(self, office: Office, report: Report, say: Say, means: Means | None = None) -> None:
        """``report`` writes a run's report into its directory; ``say`` is the server's log."""
        self._means = means or Means(office, report, say)
        self.stopping = self._means.stopping  # set it to end all threads soon
        self._threads: dict[str, threading.Thread] = {}
        self._again: dict[str, float] = {}  # when a run that stumbled may be tried again
        self._watch = threading.Thread(target=self._look_after, name="runs", daemon=True)
        self._seen = -1
        self._closed: set[str] = set()  # aborted runs whose logs say so

    def start(self) -> None:
        """Begin. Runs go on where they were when the last server ended, however it ended."""
        self._watch.start()

    def stop(self, timeout: float = 10.0) -> None:
        """End all threads; whatever is under way is durable and goes on at the next start."""
        self.stopping.set()
        for thread in (self._watch, *list(self._threads.values())):
            if thread.is_alive():
                thread.join(timeout)

    def _look_after(self) -> None:
        while not self._means.stopping.wait(LOOK):
            try:
                self._look()
            except (SQLAlchemyError, WardRoundError, OSError) as error:
                self._means.say("runs_unreadable", {"error": str(error)})
                self._means.stopping.wait(AGAIN)

    def _look(self) -> None:
        """Start what is to be done and has no thread; only where something changed since the last look."""
        store, now = self._means.office.store, self._means.clock()
        duties, due = store.duties(), [digest for digest, when in self._again.items() if when <= now]
        if duties == self._seen and not due:
            return
        self._seen = duties
        for digest in due:
            del self._again[digest]
        for row in store.runs():
            if row.digest not in self._threads and row.digest not in self._again and self._open(row):
                thread = threading.Thread(target=self._conduct, args=(row.digest,), name=row.digest[:12], daemon=True)
                self._threads[row.digest] = thread
                thread.start()

    def _open(self, row: RunRow) -> bool:
        """Whether there is something to do: an aborted run's log has to say so, also if nobody served meanwhile."""
        if row.state != "aborted" or row.digest in self._closed:
            return row.state in ("waiting", "running")
        log = run_dir(self._means.office.folder, row.digest).events
        stops = [event for event in read_events(log) if event["event"] == "run_stopped"]
        open_ = log.is_file() and not (stops and stops[-1]["reason"] == "aborted")
        if not open_:
            self._closed.add(row.digest)
        return open_

    def _conduct(self, digest: str) -> None:
        try:
            Conduct(self._means, digest).go()
        except Exception as error:  # noqa: BLE001 - tried again: a full disk or a lost database may be back
            self._means.say("run_stumbled", {"run": digest, "error": f"{type(error).__name__}: {error}"})
            self._again[digest] = self._means.clock() + AGAIN
        finally:
            del self._threads[digest]
            self._seen = -1  # it may have been resumed while this thread was ending
