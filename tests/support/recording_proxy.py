"""A web proxy on loopback that writes down what it is asked for and forwards nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# Every variable by which a library finds a proxy, and every one that keeps hosts from it.
PROXY_VARIABLES = tuple(
    name
    for scheme in ("http", "https", "all", "ws", "wss", "grpc")
    for name in (f"{scheme}_proxy", f"{scheme}_proxy".upper())
)
NO_PROXY_VARIABLES = ("no_proxy", "NO_PROXY", "no_grpc_proxy", "NO_GRPC_PROXY")


@dataclass
class RecordingProxy:
    url: str
    requests: list[str] = field(default_factory=list)  # method and target, such as `CONNECT 127.0.0.1:8265`
    headers: list[dict[str, str]] = field(default_factory=list)

    def environment(self) -> dict[str, str]:
        """The variables of a user behind this proxy who has set no `no_proxy`."""
        return dict.fromkeys(PROXY_VARIABLES, self.url)


@contextmanager
def recording_proxy() -> Iterator[RecordingProxy]:
    class Handler(BaseHTTPRequestHandler):
        def __getattr__(self, name: str) -> Any:
            if name.startswith("do_"):  # any method
                return self._refuse
            raise AttributeError(name)

        def _refuse(self) -> None:
            proxy.requests.append(f"{self.command} {self.path}")
            proxy.headers.append(dict(self.headers))
            self.send_error(502, "The recording proxy forwards nothing")

        def log_message(self, *_: object) -> None:
            """Silent: pytest's output is for tests."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        proxy = RecordingProxy(f"http://127.0.0.1:{http.server_port}")
        thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            http.shutdown()
            thread.join()
