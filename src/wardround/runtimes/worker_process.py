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
from pathlib import Path
from typing import Any, BinaryIO

from wardround.core.messages import Answer, Task
from wardround.data.spec import DatasetSpec
from wardround.planning.plan import Plan
from wardround.runtimes.frames import receive, send
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
    while True:
        message = inbox.get()
        setting = setting_from_json(message["setting"])
        key = f"{message['plan_digest']} {setting.folder}"
        if key not in sites:
            plan = Plan.model_validate_json(Path(message["plan"]).read_bytes())
            sites[key] = Site(plan, setting, _teller(out, setting.name))
        tensors = None if message["tensors"] is None else Path(message["tensors"])
        send(out, _result(sites[key].answer(Task.model_validate(message["task"]), tensors)))


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
    )


if __name__ == "__main__":
    main()
