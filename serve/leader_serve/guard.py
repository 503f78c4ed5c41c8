"""What every request passes first: a request id, a key, a limit on the body, and no error that quotes a patient."""

from __future__ import annotations

import re
import time
import uuid

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from leader_serve.keys import KeyRing
from leader_serve.observer import Observer
from leader_serve.prediction import current_request_id, log_failure
from leader_serve.schemas import ErrorAnswer, ErrorDetail

REQUEST_ID_HEADER = "X-Request-ID"
# Serve's messages between replicas end at 4 MiB, and a record is about as large there as in JSON.
MAX_BODY_BYTES = 3 * 1024 * 1024
OPEN_PATHS = ("/healthz", "/readyz")  # a load balancer has no key
# It goes to logs and back to the caller, so nothing that could forge a line of either.
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


def error_response(status: int, detail: ErrorDetail, retry_after_s: int | None = None) -> JSONResponse:
    headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
    answer = ErrorAnswer(error=detail, request_id=current_request_id.get())
    return JSONResponse(answer.model_dump(mode="json"), status_code=status, headers=headers)


class RequestGuard:
    """ASGI middleware. Plain ASGI, because Starlette's own base class costs each request a task and a queue."""

    def __init__(
        self, app: ASGIApp, keys: KeyRing | None = None, observer: Observer | None = None, echo_request_id: bool = True
    ) -> None:
        self._app = app
        self._keys = keys
        self._observer = observer or Observer()
        self._echo_request_id = echo_request_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        given = Headers(scope=scope).get(REQUEST_ID_HEADER, "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        token = current_request_id.set(request_id)
        reply = _Reply(send, request_id if self._echo_request_id else None)
        try:
            await self._answer(scope, receive, reply.send)
        except Exception as error:
            log_failure("ingress", error)
            if not reply.status:
                detail = ErrorDetail(code="internal", message="An internal error; the log has its place by request id.")
                await error_response(500, detail)(scope, receive, reply.send)
        finally:
            current_request_id.reset(token)
            self._observer.responded(reply.status, time.perf_counter() - began)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        if not await self._may_pass(scope["path"], headers):
            message = "Present a key of this application: `Authorization: Bearer KEY`."
            refusal = error_response(401, ErrorDetail(code="unauthenticated", message=message))
            refusal.headers["WWW-Authenticate"] = "Bearer"
            await refusal(scope, receive, send)
            return
        body = await _read(headers, receive)
        if body is None:
            message = f"The body may hold at most {MAX_BODY_BYTES} bytes."
            await error_response(413, ErrorDetail(code="too-large", message=message))(scope, receive, send)
            return
        await self._app(scope, _replay(body, receive), send)

    async def _may_pass(self, path: str, headers: Headers) -> bool:
        if self._keys is None or path in OPEN_PATHS:
            return True
        scheme, _, key = headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and await self._keys.accepts(key.strip())


class _Reply:
    """Adds the request id to the answer, and knows its status once it began; 0 before."""

    def __init__(self, send: Send, request_id: str | None) -> None:
        self._send = send
        self._request_id = request_id
        self.status = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if self._request_id is not None:
                MutableHeaders(scope=message)[REQUEST_ID_HEADER] = self._request_id
        await self._send(message)


async def _read(headers: Headers, receive: Receive) -> list[Message] | None:
    """The messages of the whole body, or None where it is too large; the proxy has buffered it already."""
    length = headers.get("content-length", "0")
    if length.isdecimal() and int(length[:20]) > MAX_BODY_BYTES:
        return None
    messages: list[Message] = []
    size = 0
    while True:
        message = await receive()
        messages.append(message)
        size += len(message.get("body", b""))
        if size > MAX_BODY_BYTES:
            return None
        if message["type"] != "http.request" or not message.get("more_body", False):
            return messages


def _replay(messages: list[Message], receive: Receive) -> Receive:
    remaining = iter(messages)

    async def next_message() -> Message:
        message = next(remaining, None)
        return message if message is not None else await receive()

    return next_message
