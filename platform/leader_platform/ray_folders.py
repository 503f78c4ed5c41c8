"""The folder of a Ray that the platform starts: short enough for its sockets, closed to others, and gone with it."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from leader_platform import cluster_processes
from leader_platform.errors import RunError, UserError, find_cause

PREFIX = "leader-"
# Sockets lie up to 89 characters below (`/leader-12345678/r/session_DATE_TIME_PID/sockets/dash_TaskEventsHead`), and a
# socket's path may have 107 (macOS: 103). HAProxy's lie 80 below, since Serve adds the node's id, and may have 97.
_LONGEST_ROOT = 17 if sys.platform == "linux" else 14
_SHORT_ROOTS = ("/tmp", "/var/tmp")
_OWNER = "owner"
_END_PATIENCE_S = 2.0
_REMOVE_PATIENCE_S = 3.0


def root() -> tuple[Path, str | None]:
    """The folder in which Ray's folders are made, and a sentence where it is not the user's temporary folder.

    That is TMPDIR where Ray's sockets fit in, else /tmp or /var/tmp. Raises `UserError` where none can be used.
    """
    try:
        wanted = tempfile.gettempdir()
    except FileNotFoundError:
        raise UserError("No temporary folder can be written to; set TMPDIR to one.") from None
    length = len(os.fsencode(wanted))
    if length <= _LONGEST_ROOT:
        return Path(wanted), None
    too_long = f"The temporary folder {wanted} has {length} characters, and sockets of Ray fit in up to {_LONGEST_ROOT}"
    for short in _SHORT_ROOTS:
        if os.access(short, os.W_OK | os.X_OK):
            return Path(short), f"{too_long}; Ray and what it starts use {short} in its place."
    raise UserError(
        f"{too_long}; {' and '.join(_SHORT_ROOTS)} cannot be written to. Set TMPDIR to a folder with a shorter path."
    )


def root_said() -> Path:
    """As `root`, with its sentence written to the error stream."""
    folder, remark = root()
    if remark is not None:
        logging.getLogger(__name__).warning(remark)
    return folder


def ray_folder(folder: Path) -> Path:
    """Ray's own, in ours: Ray opens it, with logs, sockets and spilled samples, to every user of the machine."""
    return folder / "r"


def make_inner(folder: Path) -> dict[str, str]:
    """Make the folder for temporary files of all that Ray starts; the variables by which that finds it.

    A worker that is killed leaves its files there, and they go with the folder. vLLM and Python keep sockets there too.
    """
    inner = folder / "t"
    inner.mkdir(mode=0o700)
    return {"TMPDIR": str(inner), cluster_processes.MARKER: str(folder)}


@contextmanager
def owned_folder() -> Iterator[Path]:
    """A folder for a Ray of this process, gone after the block with every process that bears its mark.

    Only an error that nobody foresaw leaves Ray's logs, and names them; they, and what killed processes left, are
    removed by the next call on this machine.
    """
    base = root_said()
    remove_abandoned(base)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
    with ExitStack() as owner:
        try:
            _claim(folder, owner)
            yield folder
        except Exception as error:
            _end_processes(folder)
            if _is_explained(error) or not _keep_logs(folder):
                remove(folder)
            else:
                error.add_note(f"The logs of Ray are in {folder / 'logs'} until the next command that starts a Ray.")
            raise
        except BaseException:  # Ctrl-C, SIGTERM
            _end_processes(folder)
            remove(folder)
            raise
        _end_processes(folder)
        remove(folder)


def remove(folder: Path) -> None:
    """Remove a folder of Ray, in which processes that are ending may still write for a moment."""
    deadline = time.monotonic() + _REMOVE_PATIENCE_S
    while True:
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists() or time.monotonic() > deadline:
            return
        time.sleep(0.1)


def remove_abandoned(base: Path) -> None:
    """Remove this user's folders in `base` whose owner has ended, with what still runs in them."""
    for folder in base.glob(f"{PREFIX}*"):
        if _is_abandoned(folder):
            _end_processes(folder)
            remove(folder)


def _claim(folder: Path, owner: ExitStack) -> None:
    """Hold a lock in the folder as long as this process lives: a pid says nothing to another container or machine that
    shares the folder. Where the file system has no locks, the folder is nobody's to remove."""
    unclaimed = folder / f"{_OWNER}.new"
    file = owner.enter_context(unclaimed.open("w"))
    with suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        unclaimed.rename(folder / _OWNER)


def _is_abandoned(folder: Path) -> bool:
    try:
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            return False
        with (folder / _OWNER).open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:  # its owner lives, it is no such folder, or there are no locks
        return False


def _is_explained(error: Exception) -> bool:
    """Whether the command ends with one sentence, so that nobody will look for more."""
    return isinstance(error, OSError) or find_cause(error, (UserError, RunError)) is not None


def _keep_logs(folder: Path) -> bool:
    """Leave only the logs in the folder; False where there are none."""
    kept = False
    for session in ray_folder(folder).glob("session_*"):
        if not session.is_symlink() and (session / "logs").is_dir():
            (session / "logs").rename(folder / "logs")
            kept = True
    for inner in folder.iterdir():
        if inner.is_dir() and inner.name != "logs":
            remove(inner)
    return kept


def _end_processes(folder: Path) -> None:
    cluster_processes.end(cluster_processes.members(folder), _END_PATIENCE_S)
