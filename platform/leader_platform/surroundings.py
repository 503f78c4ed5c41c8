"""What a user's account and terminal lack: a home that can be used, caches that can be written, and letters."""

from __future__ import annotations

import hashlib
import os
import pwd
import shlex
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path

from leader_platform.errors import RunError


def set_up(log: Callable[[str], None], encoding: str | None = None) -> None:
    """At the start of a process: what its terminal cannot show is replaced, and where its home or the caches in it
    cannot be used, it and all that it starts use a private folder instead, and `log` gets a line about it.

    `encoding` is that of whoever reads its output; None: as the terminal says.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(encoding=encoding or stream.encoding, errors="replace")
    own = home()
    instead = environment(os.environ, own)
    if instead:
        os.environ.update(instead)
        log(
            f"Folders of the home {own or 'of this user'} cannot be written, so caches lie in {private_folder()}; "
            f"to keep them elsewhere, set {', '.join(instead)}."
        )


def environment(given: Mapping[str, str], own: Path | None) -> dict[str, str]:
    """The variables to set so that every library finds a home and caches that it can use; empty where it does already.

    A home that can be read stays, since it may hold credentials and models; then only caches move.
    """
    changed: dict[str, str] = {}
    if own is None or not own.is_absolute() or not own.is_dir() or not os.access(own, os.R_OK | os.X_OK):
        own = private_folder() / "home"
        own.mkdir(mode=0o700, exist_ok=True)
        changed["HOME"] = str(own)
    caches, settings = given.get("XDG_CACHE_HOME") or own / ".cache", given.get("XDG_CONFIG_HOME") or own / ".config"
    # By the variable, and where its library would write without it.
    places = {
        "XDG_CACHE_HOME": caches,
        "MPLCONFIGDIR": settings,
        "VLLM_CONFIG_ROOT": settings,
        "TRITON_HOME": own,
        "HF_HOME": Path(caches, "huggingface"),
    }
    for name, place in places.items():
        if not _writable(Path(given.get(name) or place)):
            changed[name] = str(private_folder() / name.lower())
    models = Path(given.get("HF_HOME") or places["HF_HOME"])
    if "HF_HOME" in changed and models.is_dir():
        changed["HF_HOME"] = str(models)  # models that lie there can be read
        if "HF_HOME" in given:
            del changed["HF_HOME"]
    return changed


def cache_folder() -> Path:
    """Where this user's cached files lie; in the private folder where the home cannot be used."""
    variables = {"HOME": str(home()), **os.environ, **environment(os.environ, home())}
    return Path(variables.get("XDG_CACHE_HOME") or Path(variables["HOME"], ".cache"))


def private_folder(folder: Path | None = None) -> Path:
    """A folder, in the temporary directory by default, that only this user may enter. `RunError` where another user
    made it."""
    folder = folder or Path(tempfile.gettempdir()) / f"leader-{os.getuid()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700, parents=True)
    if folder.is_symlink() or not folder.is_dir() or folder.stat().st_uid != os.getuid():
        raise RunError(f"{folder} belongs to another user; remove it, or set TMPDIR to another folder.")
    folder.chmod(0o700)
    return folder


def home() -> Path | None:
    """The user's home as HOME or the system names it, whether it is there or not; None where neither does."""
    if own := os.environ.get("HOME"):
        return Path(own)
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:  # a container's user by its number alone
        return None


def _writable(place: Path) -> bool:
    """Whether `place` is, or could be made, a directory to write in."""
    nearest = place
    while not os.path.exists(nearest):
        nearest = nearest.parent
    return nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)


def run_plainly() -> None:
    """Begin this process again by a link to its interpreter where that lies below a path that a shell must quote: Ray
    starts its workers by a shell, and does not."""
    python = plain_interpreter()
    if python is not None:
        os.execv(python, [python, *sys.orig_argv[1:]])


def plain_interpreter() -> str | None:
    """The environment's interpreter by a link in the private folder; None where its own path will do, and where the
    temporary directory's would be no better."""
    prefix, own = Path(sys.prefix), Path(sys.executable)
    if shlex.quote(sys.executable) == sys.executable or not own.is_relative_to(prefix):
        return None
    link = private_folder() / f"environment-{hashlib.sha256(os.fsencode(prefix)).hexdigest()[:16]}"
    with suppress(FileExistsError):
        link.symlink_to(prefix, target_is_directory=True)
    python = str(link / own.relative_to(prefix))
    return python if shlex.quote(python) == python else None
