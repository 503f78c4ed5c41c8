"""A server of folders on the loopback that fails on demand: it cuts, corrupts, refuses, and knows no Range."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass(frozen=True)
class Fault:
    """How one answer differs from the right one; faults of a path are used up in order, one a request."""

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    corrupt: bool = False
    ignore_range: bool = False


@dataclass
class FileServer:
    """`folders` maps the first part of a path to what is served below it; `requests` are (path, Range header)."""

    folders: dict[str, Path]
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    url: str = ""

    def file(self, path: str) -> Path:
        prefix, _, rest = path.lstrip("/").partition("/")
        return self.folders.get(prefix, Path("/nowhere")) / rest

    def ranges(self, path: str) -> list[str | None]:
        """The Range headers with which a file was asked for, in order."""
        return [asked for requested, asked in self.requests if requested == path]


@contextmanager
def serving(**folders: Path) -> Iterator[FileServer]:
    server = FileServer(folders)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # else the body waits 40 ms for the headers to be acknowledged

        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            server.requests.append((self.path, asked))
            faults = server.faults.get(self.path, [])
            fault = faults.pop(0) if faults else Fault()
            file = server.file(self.path)
            status = fault.status or (200 if file.is_file() else 404)
            if status != 200:
                self._answer(status, b"", fault)
                return
            content = file.read_bytes()
            if asked is None or fault.ignore_range:
                self._answer(200, content, fault)
                return
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
            self._answer(206 if start < len(content) else 416, content[start:], fault)

        def _answer(self, status: int, content: bytes, fault: Fault) -> None:
            if fault.corrupt:
                content = bytes([content[0] ^ 1]) + content[1:]
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **fault.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content[: fault.cut_after])
            self.close_connection = fault.cut_after is not None

        def log_message(self, *_: object) -> None:
            """Silent: pytest's output is for tests."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        server.url = f"http://127.0.0.1:{http.server_port}"
        try:
            yield server
        finally:
            http.shutdown()
            thread.join()
