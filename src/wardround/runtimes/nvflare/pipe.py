"""Our requests as messages of another carrier: the site's end is a `Link`, the server's end runs the application.

A message holds what HTTP would carry: method, target, headers and body one way, status, headers and body back.
"""

from __future__ import annotations

import asyncio
import io
import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import urllib3

from wardround.runtimes.https.app import App
from wardround.runtimes.https.connection import Link
from wardround.runtimes.https.office import Office
from wardround.runtimes.nvflare.places import URL

SLOWEST = 120.0  # seconds for one request at the server, long polls included
NEXT = "/v1/next"


@dataclass(frozen=True)
class Request:
    """What a site sends."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


@dataclass(frozen=True)
class Response:
    """What comes back."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


Carry = Callable[[Request, float], Response]  # seconds to wait; raises OSError where nothing comes back


class PipeLink(Link):
    """A `Link` whose requests something else carries."""

    def __init__(self, carry: Carry, name: str) -> None:
        super().__init__(URL, urllib3.PoolManager(), None)
        object.__setattr__(self, "_carry", carry)
        object.__setattr__(self, "_name", name)

    def send(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | None, read: float
    ) -> urllib3.BaseHTTPResponse:
        """See `Link.send`."""
        length = {"content-length": str(len(body))} if body is not None else {}
        carry: Carry = self._carry  # type: ignore[attr-defined] # set in __init__: the dataclass is frozen
        came = carry(Request(method, target, tuple({**headers, **length}.items()), body or b""), read)
        return urllib3.HTTPResponse(
            body=io.BytesIO(came.body),
            headers=dict(came.headers),
            status=came.status,
            preload_content=False,
            decode_content=False,
            request_method=method,
        )

    def in_words(self, error: Exception) -> str:
        """See `Link.in_words`."""
        name: str = self._name  # type: ignore[attr-defined] # as above
        return f"{name} does not carry requests to the coordinator now ({error})"


class Bridge:
    """The application of an office, answering messages in threads of the carrier."""

    def __init__(self, office: Office) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="application", daemon=True)
        self._thread.start()
        self._app = self._run(_make(office))
        self._run(self._app.start())
        self._resting: dict[str, bool] = {}  # who asked last: whether there was nothing to do
        self._closed = False

    def answer(self, sender: str, request: Request) -> Response:
        """What the application says. ``sender`` is only remembered: who asks shows in the signature.

        Raises:
            ConnectionError: it was closed.
        """
        if self._closed:
            raise ConnectionError("the application has ended")
        response: Response = self._run(self._serve(sender, request))
        if request.target == NEXT and response.status == 200:
            self._resting[sender] = json.loads(response.body)["do"]["kind"] == "nothing"
        return response

    def see_off(self, going: Callable[[], bool], longest: float) -> None:
        """Wait until everybody who asked has asked again and nothing was left to do: results are fetched.

        Args:
            going: False ends it.
            longest: seconds.
        """
        self._resting = dict.fromkeys(self._resting, False)
        end = time.monotonic() + longest
        while going() and time.monotonic() < end and not all(self._resting.values()):
            threading.Event().wait(0.1)

    def close(self) -> None:
        """End the application and its threads."""
        if self._closed:
            return
        self._closed = True
        self._run(self._app.stop())
        self._app.uploads.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, doing: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(doing, self._loop).result(SLOWEST)

    async def _serve(self, sender: str, request: Request) -> Response:
        path, _, query = request.target.partition("?")
        scope = {
            "type": "http",
            "method": request.method,
            "path": path,
            "raw_path": path.encode("latin-1", "replace"),
            "query_string": query.encode("latin-1", "replace"),
            "headers": [
                (name.encode("latin-1", "replace"), value.encode("latin-1", "replace"))
                for name, value in request.headers
            ],
            "client": (sender, 0),
            "state": {},
        }
        come, said = [request.body], _Said()

        async def receive() -> dict[str, Any]:
            if come:
                return {"type": "http.request", "body": come.pop(), "more_body": False}
            await asyncio.Event().wait()  # nobody hangs up
            return {"type": "http.disconnect"}

        await self._app(scope, receive, said.take)
        return Response(said.status, tuple(said.headers), bytes(said.body))


class _Said:
    """A response as it is made."""

    def __init__(self) -> None:
        self.status, self.headers, self.body = 500, list[tuple[str, str]](), bytearray()

    async def take(self, event: Any) -> None:
        if event["type"] == "http.response.start":
            self.status = event["status"]
            self.headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in event["headers"]]
        else:
            self.body += event.get("body", b"")


async def _make(office: Office) -> App:
    return App(office)  # in the loop: it makes events of it
