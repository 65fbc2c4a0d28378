"""Our requests and responses as NVFlare's Shareables: plain strings and bytes, whatever comes is checked."""

from __future__ import annotations

import json
from typing import Any

from nvflare.apis.shareable import ReturnCode, Shareable

from wardround.runtimes.https.wire import PIECE
from wardround.runtimes.nvflare.pipe import Request, Response

REQUEST, ENROL, ALIVE = "wardround.request", "wardround.enrol", "wardround.alive"  # topics of auxiliary messages
HEAD, BODY = "wardround_head", "wardround_body"
MOST = PIECE + (1 << 20)


def pack_body(body: bytes) -> Any:
    """A Shareable that holds bytes."""
    message = Shareable()
    message[BODY] = body
    return message


def body_of(message: Any) -> bytes:
    """The bytes of a Shareable. Raises ValueError where there are none, or too many."""
    body = message.get(BODY)
    if not isinstance(body, bytes) or len(body) > MOST:
        raise ValueError("the message has no body as it must be")
    return body


def pack_request(request: Request) -> Any:
    """A request as a Shareable."""
    message = pack_body(request.body)
    message[HEAD] = json.dumps([request.method, request.target, request.headers])
    return message


def request_of(message: Any) -> Request:
    """The request in a Shareable. Raises ValueError where there is none."""
    head, body = message.get(HEAD), body_of(message)
    if not isinstance(head, str) or len(head) > 1 << 16:
        raise ValueError("the message has no head as it must be")
    method, target, headers = json.loads(head)
    return Request(str(method), str(target), tuple((str(name), str(value)) for name, value in headers), body)


def pack_response(response: Response) -> Any:
    """A response as a Shareable."""
    message = pack_body(response.body)
    message[HEAD] = json.dumps([response.status, response.headers])
    return message


def response_of(message: Any) -> Response:
    """The response in a Shareable. Raises ValueError where there is none."""
    status, headers = json.loads(str(message.get(HEAD)))
    return Response(int(status), tuple((str(name), str(value)) for name, value in headers), body_of(message))


def arrived(message: Any) -> Any:
    """The message, where the other side gave one. Raises ConnectionError where NVFlare says that nothing came."""
    if message is None:
        raise ConnectionError("no answer")
    code = message.get_return_code()
    if code != ReturnCode.OK:
        raise ConnectionError(str(code))
    return message
