"""A coordinator in this process, asked through ASGI: sites A0, A1, ... and B, a viewer V, a run under way."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tiny import make_plan
from wardround.core.messages import Task
from wardround.core.weights import Part, file_digest, pack, write_tensors
from wardround.runtimes.https import signing
from wardround.runtimes.https.app import App
from wardround.runtimes.https.office import found_office
from wardround.runtimes.https.tables import state as tables_of_state
from wardround.runtimes.https.wire import PROTOCOL, Consent, Join, Refused

Headers = list[tuple[bytes, bytes]]


@dataclass
class Response:
    """What came back; status 0: nothing did, the connection would have been cut."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def refused(self) -> Refused:
        """The refusal that it is."""
        return Refused.model_validate_json(self.body)


class Kept(logging.Handler):
    """Counts what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.traces: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.events.append((record.getMessage(), getattr(record, "facts", {})))
        if record.exc_info:
            self.traces.append(logging.Formatter().formatException(record.exc_info))

    def count(self, event: str) -> int:
        return sum(name == event for name, _ in self.events)


class Desk:
    """As an asynchronous context manager."""

    def __init__(self, folder: Path, pace: float = 60.0, bad: int = 1) -> None:
        self.office = found_office(folder / "coordinator", "https://127.0.0.1:8443")
        self.store = self.office.store
        self.federation = self.office.settings.id
        sites = [*(f"A{number}" for number in range(bad)), "B"]
        self.keys = {name: Ed25519PrivateKey.generate() for name in (*sites, "V")}
        for name, key in self.keys.items():
            self._join(name, key, "viewer" if name == "V" else "site")
        self.plan = make_plan(rounds={"limit": 3, "quorum": 1})
        self.digest = self.plan.digest()
        self.store.add_run(self.plan, sites, "owner")
        self.store.set_run(self.digest, "running")
        for name in sites:
            self.store.set_standing(self.digest, name, Consent(plan=self.digest, standing="approved"))
        self.model = folder / "model.safetensors"
        write_tensors(self.model, *pack({"weights": Part({"w": np.arange(5000, dtype=np.float32)}, 1.0)}))
        self.sha256, self.size = file_digest(self.model), self.model.stat().st_size
        self.task = Task(plan=self.digest, round=1, verb="train", tensors=self.sha256)
        self.store.open_task(self.task, self.model, sites)
        self.place = f"/v1/tasks/{self.digest}/1/train/0"
        self.app = App(self.office, pace=pace)
        self.log = Kept()

    def _join(self, name: str, key: Ed25519PrivateKey, role: Any) -> None:
        token = self.store.invite(name, role, 1)
        public = signing.public_hex(key)
        self.store.join(
            Join(token=token, name=name, key=public, software="0.1", protocol=PROTOCOL), self.office.certify
        )

    async def __aenter__(self) -> Self:
        logger = logging.getLogger("wardround.network")
        self._before = logger.handlers, logger.propagate, logger.level
        logger.handlers, logger.propagate = [self.log], False
        logger.setLevel(logging.INFO)
        await self.app.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.app.stop()
        self.office.close()
        logger = logging.getLogger("wardround.network")
        logger.handlers, logger.propagate, level = self._before
        logger.setLevel(level)

    def signed(
        self, who: str | Ed25519PrivateKey, method: str, target: str, body: bytes = b"", **changes: Any
    ) -> dict[str, str]:
        """Headers of a sound request."""
        key = self.keys[who] if isinstance(who, str) else who
        federation = changes.pop("federation", self.federation)
        headers = signing.sign_request(key, method, target, federation, hashlib.sha256(body).digest(), **changes)
        return {**headers, "content-length": str(len(body))}

    async def ask(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str] | Headers,
        body: bytes | Iterable[bytes] = b"",
        hang_up: bool = False,
    ) -> Response:
        """Put one request to the application; ``hang_up``: the connection breaks after what is in ``body``."""
        chunks = [body] if isinstance(body, bytes) else list(body)
        events: list[dict[str, Any]] = [
            {"type": "http.request", "body": chunk, "more_body": hang_up or number + 1 < len(chunks)}
            for number, chunk in enumerate(chunks)
        ]
        response, over = Response(), asyncio.Event()

        async def receive() -> dict[str, Any]:
            if events:
                return events.pop(0)
            if not hang_up:
                await over.wait()
            return {"type": "http.disconnect"}

        async def send(event: Any) -> None:
            if event["type"] == "http.response.start":
                response.status = event["status"]
                response.headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in event["headers"]}
            else:
                response.body += event.get("body", b"")

        path, _, query = target.encode("latin-1", "replace").decode("latin-1").partition("?")
        rows = headers if isinstance(headers, list) else [
            (name.encode("latin-1", "replace"), value.encode("latin-1", "replace")) for name, value in headers.items()
        ]  # fmt: skip
        scope = {
            "type": "http", "http_version": "1.1", "method": method, "path": path, "client": ("127.0.0.1", 9),
            "state": {}, "raw_path": path.encode("latin-1"), "query_string": query.encode("latin-1"),
            "headers": rows, "scheme": "https", "server": ("127.0.0.1", 8443),
        }  # fmt: skip
        await self.app(scope, receive, send)
        over.set()
        return response

    async def call(self, who: str, method: str, target: str, body: bytes = b"", **changes: Any) -> Response:
        """A sound request."""
        return await self.ask(method, target, self.signed(who, method, target, body, **changes), body)

    def verified(self, method: str, target: str, headers: Mapping[str, str], response: Response) -> bool:
        """Whether a response is signed by the coordinator, for this request."""
        request = signing.Message.of(method, target, dict(headers))
        try:
            signed = signing.verify_response(response.status, response.headers, request, self.office.key.public_key())
        except signing.BadSignature:
            return False
        return signed.digest == hashlib.sha256(response.body).digest()

    def state(self) -> dict[str, Any]:
        """All that must not change by what a stranger sends."""
        with self.store._state.read() as connection:
            tables = [table for table in tables_of_state.sorted_tables if table.name != "counters"]
            dump = {table.name: [tuple(row) for row in connection.execute(table.select())] for table in tables}
        files = {
            str(path.relative_to(self.store.blobs.folder)): file_digest(path)
            for path in sorted(self.store.blobs.folder.rglob("*"))
            if path.is_file()
        }
        return {**dump, "files": files}


def body_of(value: Any) -> bytes:
    """JSON as it is sent."""
    return json.dumps(value).encode()
