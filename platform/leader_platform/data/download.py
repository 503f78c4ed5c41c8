"""One file over HTTP into one place, in spite of cut connections, busy servers and bytes changed on the way.

What has arrived lies in `NAME.partial`. A later attempt, or a later call, asks for the rest alone. `NAME` appears only
when the whole has the expected SHA-256.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx

from leader_platform.errors import RunError, UserError
from leader_platform.progress import Progress
from leader_platform.storage import move_file


class MissingError(UserError):
    """The server has no such file."""


class _BusyError(Exception):
    """What may pass: the server is to be asked again, after the number of seconds or at the date it asked for."""

    def __init__(self, reason: str, retry_after: str | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


@dataclass(frozen=True)
class Retry:
    """How often a server is asked for a file, and how long is waited in between, in seconds.

    The wait doubles from `first_delay_s`, unless the server names its own; neither exceeds `max_delay_s`.
    """

    num_attempts: int = 6
    first_delay_s: float = 1.0
    max_delay_s: float = 60.0
    sleep: Callable[[float], None] = time.sleep

    def delay_s(self, num_failed: int, retry_after: str | None) -> float:
        asked = None if retry_after is None else _seconds(retry_after)
        return min(self.max_delay_s, self.first_delay_s * 2 ** (num_failed - 1) if asked is None else asked)


PATIENT = Retry()


def _seconds(retry_after: str) -> float | None:
    """The header's two forms: seconds, or the date of the next attempt; None for what is neither."""
    if retry_after.isdecimal():
        return float(retry_after)
    try:
        date = parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    return max(0.0, (date.astimezone(UTC) - datetime.now(UTC)).total_seconds())


def partial_of(target: Path) -> Path:
    return target.with_name(f"{target.name}.partial")


def sha256_of(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@dataclass(frozen=True)
class Downloader:
    """Downloads through one client; `name` is how `progress` calls the file."""

    client: httpx.Client
    retry: Retry
    progress: Progress

    def verified(self, name: str, url: str, target: Path, sha256: str) -> None:
        """Bring the file of this digest to `target`. What has another digest is fetched once more, from its start."""
        partial = self.partial(name, url, target)
        found = sha256_of(partial)
        if found != sha256:
            self.progress.log(
                f"{name} arrived with SHA-256 {found}, not {sha256}; fetching it once more from its start."
            )
            partial.unlink()
            found = sha256_of(self.partial(name, url, target))
        if found != sha256:
            partial.unlink()
            raise RunError(
                f"{url} has SHA-256 {found} and not {sha256}, so it was changed there or is damaged on the way; "
                "name another server with --base-url, or download the file yourself if you trust it."
            )
        move_file(partial, target)

    def partial(self, name: str, url: str, target: Path) -> Path:
        """Download into the partial file of `target` until the server has nothing more to send."""
        for num_failed in range(1, self.retry.num_attempts + 1):
            try:
                self._go_on(name, url, partial_of(target))
                return partial_of(target)
            except _BusyError as error:
                reason, retry_after = error, error.retry_after
            if num_failed < self.retry.num_attempts:
                delay_s = self.retry.delay_s(num_failed, retry_after)
                self.progress.log(f"{name}: {reason}; trying again in {delay_s:.0f} s.")
                with self.progress.task(f"Waiting to ask for {name} again"):
                    self.retry.sleep(delay_s)
        raise RunError(
            f"{url} could not be downloaded in {self.retry.num_attempts} attempts ({reason}); run the command again "
            "when the server can be reached, and it goes on where it stopped."
        )

    def _go_on(self, name: str, url: str, partial: Path) -> None:
        """Ask for what is not here yet. A partial file that is too long is found out by its digest."""
        num_here = partial.stat().st_size if partial.exists() else 0
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={num_here}-"} if num_here else {})
        try:
            with self.client.stream("GET", url, headers=headers) as response:
                if num_here and response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                    return
                _check(response, url)
                self._write(name, response, partial, num_here)
        except httpx.RequestError as error:
            raise _BusyError(str(error) or type(error).__name__) from None

    def _write(self, name: str, response: httpx.Response, partial: Path, num_here: int) -> None:
        """Append the part that was asked for, or begin anew when the server sends the whole."""
        num_bytes = num_here if response.status_code == httpx.codes.PARTIAL_CONTENT else 0
        length = response.headers.get("Content-Length")
        num_total = None if length is None else num_bytes + int(length)
        try:
            partial.parent.mkdir(parents=True, exist_ok=True)
            with (
                partial.open("ab" if num_bytes else "wb") as stream,
                self.progress.task(name, num_total, "bytes", num_bytes) as task,
            ):
                for chunk in response.iter_raw():
                    stream.write(chunk)
                    task.advance(len(chunk))
        except OSError as error:
            raise RunError(
                f"{partial} cannot be written ({error.strerror}); make room or name another --out, then run the "
                "command again."
            ) from None


def _check(response: httpx.Response, url: str) -> None:
    """Nothing for an answer that brings the file; else what a person, or a later attempt, can do about it."""
    status = response.status_code
    answer = f"{status} {response.reason_phrase}".strip()
    if status == httpx.codes.TOO_MANY_REQUESTS or response.is_server_error:
        raise _BusyError(f"the server answers {answer}", response.headers.get("Retry-After"))
    if status == httpx.codes.NOT_FOUND:
        raise MissingError(f"{url} does not exist (the server answers {answer}); name another with --base-url.")
    if not response.is_success:
        raise UserError(
            f"{url} cannot be read (the server answers {answer}); see what it asks of its readers, or name another "
            "with --base-url."
        )
