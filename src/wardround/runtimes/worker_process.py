"""A worker process: plays any of the sites of a simulation, one task at a time.

Started by `wardround.runtimes.local` as ``python -m wardround.runtimes.worker_process``. It ends when
its standard input closes, so it never outlives the run, whatever kills that.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import traceback
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from wardround.core.messages import Answer, Task
from wardround.data.spec import DatasetSpec
from wardround.planning.plan import Plan
from wardround.runtimes.frames import receive, send
from wardround.runtimes.ranks import Helpers
from wardround.site.group import Group
from wardround.site.hospital import Source
from wardround.site.worker import Setting, Site


def main() -> None:
    """Answer tasks from standard input on (what was) standard output."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the run's to handle
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a library that prints must not break the protocol
    inbox: queue.Queue[dict[str, Any]] = queue.Queue()
    threading.Thread(target=_listen, args=(sys.stdin.buffer, inbox), daemon=True).start()
    sites: dict[str, Site] = {}
    helpers = Helpers()  # of all sites: they have the same number of threads
    while True:
        message = inbox.get()
        setting = setting_from_json(message["setting"])
        key = f"{message['plan_digest']} {setting.folder}"
        if key not in sites:
            plan = Plan.model_validate_json(Path(message["plan"]).read_bytes())
            tell, together = _teller(out, setting.name), partial(_together, helpers, message)
            sites[key] = Site(plan, setting) if "group" in message else Site(plan, setting, tell, together)
        tensors = None if message["tensors"] is None else Path(message["tensors"])
        task = Task.model_validate(message["task"])
        if "group" in message:
            _assist(out, sites[key], task, tensors, Group(**message["group"]))
        else:
            send(out, _result(sites[key].answer(task, tensors)))


def _together(
    helpers: Helpers, message: dict[str, Any], task: Task, tensors: Path | None, size: int
) -> AbstractContextManager[Group]:
    """`wardround.site.worker.Together`; ``message`` is any of the same plan and site."""
    put = {"task": task.model_dump(mode="json"), "tensors": None if tensors is None else str(tensors)}
    return helpers.beside({**message, **put}, size)


def _assist(out: BinaryIO, site: Site, task: Task, tensors: Path | None, group: Group) -> None:
    """Work beside another worker process; where that fails, this one ends, so that nobody waits for it."""
    try:
        site.assist(task, tensors, group)
    except Exception:  # noqa: BLE001 - whatever it is, the other process is told by the connection's end
        traceback.print_exc()
        os._exit(3)
    send(out, {"done": True})


def _listen(pipe: BinaryIO, inbox: queue.Queue[dict[str, Any]]) -> None:
    for message in receive(pipe):
        inbox.put(message)
    os._exit(0)  # the run is gone: stop in the middle of whatever is being done


def _teller(out: BinaryIO, site: str) -> Any:
    return lambda what, done, total: send(out, {"progress": [site, what, done, total]})


def _result(answer: Any) -> dict[str, Any]:
    if isinstance(answer, Answer):
        tensors = None if answer.tensors is None else str(answer.tensors)
        return {"reply": answer.reply.model_dump(mode="json"), "tensors": tensors}
    return {"failed": answer.model_dump(mode="json")}


def setting_to_json(setting: Setting) -> dict[str, Any]:
    """A site's setting for the pipe."""
    sources = [
        {"folder": str(s.folder), "spec": None if s.spec is None else s.spec.model_dump(mode="json")}
        for s in setting.sources
    ]
    return {
        "name": setting.name,
        "sources": sources,
        "folder": str(setting.folder),
        "store_root": str(setting.store_root),
        "threads": setting.threads,
        "device": setting.device,
        "largest_batch": setting.largest_batch,
        "processes": setting.processes,
    }


def setting_from_json(value: dict[str, Any]) -> Setting:
    """See `setting_to_json`."""
    sources = tuple(
        Source(Path(s["folder"]), None if s["spec"] is None else DatasetSpec.model_validate(s["spec"]))
        for s in value["sources"]
    )
    return Setting(
        value["name"],
        sources,
        Path(value["folder"]),
        Path(value["store_root"]),
        value["threads"],
        value["device"],
        value.get("largest_batch"),
        value.get("processes", 1),
    )


if __name__ == "__main__":
    main()
