"""Makes LEADER's environment: `install.sh`, which says how it is called, runs this with a Python that fits.

Packages are installed by uv, which takes seconds where pip takes minutes. Where uv cannot be had or fails, by pip. Only
the standard library is used, since nothing else is installed yet.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import install_tools
from install_tools import (
    CERTIFICATE,
    CONFLICT,
    NO_NETWORK,
    NO_SPACE,
    CommandError,
    error_line,
    install_packages,
    log,
    pip_tool,
    run,
    succeeds,
    uv_tool,
)

# Measured on Linux, x86-64: 4.1 GB by uv and 4.7 GB by pip, which compiles; 8.7 GB with CUDA.
NEEDED_GB = {"cpu": 5, "gpu": 10}
STATE = ".leader-install"  # in the environment; install.sh reads its first word
UNFINISHED = "unfinished"


class InstallError(Exception):
    """A sentence that names what is missing and the way out, and the exit code: 2 for what a user asked for or has not
    installed, 1 for what failed on the way."""

    def __init__(self, sentence: str, code: int = 1) -> None:
        super().__init__(sentence)
        self.code = code


def install(environment: Path, extras: str, source: str, options: Sequence[str], python: str) -> None:
    started, needed_gb = time.monotonic(), NEEDED_GB[extras.split(",")[0]]
    with locked(environment) as state:
        wanted = fingerprint(extras, source, options)
        if wanted and is_installed(environment, read(state), wanted):
            log(f"{environment} is up to date.")
            return
        prepare(environment, state, python, needed_gb)
        before = inventory(environment)
        write(state, UNFINISHED)
        try:
            install_by_uv_or_pip(environment, state, extras, source, options, python, needed_gb)
        except BaseException:
            if inventory(environment) == before:
                write(state, "")  # as good as it was, such as without a network
            raise
        log(f"Installed into {environment} in {time.monotonic() - started:.0f} s.")
        write(state, json.dumps({"fingerprint": wanted, "installed": sorted(inventory(environment))}))


def is_installed(environment: Path, state: str, wanted: str) -> bool:
    """Whether this was installed, all of it is still there, and its Python runs."""
    try:
        done = json.loads(state)
    except ValueError:
        return False
    there = inventory(environment).keys() >= set(done["installed"])
    return done["fingerprint"] == wanted and there and succeeds([str(environment / "bin" / "python"), "-c", ""])


def install_by_uv_or_pip(
    environment: Path, state: IO[str], extras: str, source: str, options: Sequence[str], python: str, needed_gb: int
) -> None:
    log("uv, which installs faster than pip:")
    before = inventory(environment)
    try:
        with uv_tool(environment, needed_gb) as uv:
            before = inventory(environment)
            install_packages(uv, environment, extras, source, options)
            return
    except (CommandError, OSError) as error:
        if NO_SPACE.search(str(error)):
            raise
        is_offline = bool(NO_NETWORK.search(str(error)))
        log(f"uv cannot be used; pip is used instead, which takes some minutes: {error_line(str(error))}")
    if inventory(environment) != before:
        make(environment, state, python, needed_gb)  # pip would take a package that is there in part for a whole one
    # Without a network every package would be asked for six times, also where all of them lie in a folder.
    install_packages(pip_tool(environment, num_retries=1 if is_offline else None), environment, extras, source, options)


def prepare(environment: Path, state: IO[str], python: str, needed_gb: int) -> None:
    """See to an environment that has pip and a Python that runs. What an earlier attempt left half-made is made again,
    and a folder that is no environment is left alone."""
    own = str(environment / "bin" / "python")
    is_virtual = (environment / "pyvenv.cfg").is_file()
    if read(state).startswith(UNFINISHED):
        log(f"An earlier installation into {environment} did not finish; it is made again.")
    elif is_virtual and succeeds([own, "-c", ""]):
        if not succeeds([own, "-m", "pip", "--version"]):
            check_venv(own)
            run([own, "-m", "ensurepip"])
        return
    elif is_virtual:
        log(f"The Python of {environment} no longer runs; the environment is made again.")
    elif any(path.name != STATE for path in environment.iterdir()):
        raise InstallError(
            f"{environment} has other files in it and is no virtual environment; name another folder.", 2
        )
    make(environment, state, python, needed_gb)


def make(environment: Path, state: IO[str], python: str, needed_gb: int) -> None:
    """Make an environment in the place of what is in its folder."""
    check_venv(python)
    write(state, UNFINISHED)
    for path in environment.iterdir():
        if path.name != STATE:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    free = shutil.disk_usage(environment).free
    if free < needed_gb * 1e9:
        raise InstallError(
            f"{environment.absolute()} is on a disk with {free / 1e9:.1f} GB free, and the installation takes "
            f"{needed_gb} GB. Free some, or name a folder on another disk (in a checkout: make VENV=/folder install).",
            2,
        )
    log(f"Making {environment} with {python}")
    run([python, "-m", "venv", str(environment)])


def check_venv(python: str) -> None:
    """Raises `InstallError` where an interpreter cannot make environments, as Debian's without a further package."""
    if not succeeds([python, "-c", "import ensurepip, venv"]):
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise InstallError(
            f"{python} cannot make virtual environments, since its modules venv and ensurepip are not complete. On "
            f"Debian and Ubuntu: sudo apt-get install python{version}-venv; then run this again; or name "
            "another Python: PYTHON=python3.12.",
            2,
        )


def inventory(environment: Path) -> dict[str, int]:
    """What is installed: names, with the times of their last change."""
    paths = environment.glob("lib/python*/site-packages/*")
    return {path.name: path.stat().st_mtime_ns for path in paths if path.name != "__pycache__"}


def fingerprint(extras: str, source: str, options: Sequence[str]) -> str | None:
    """A digest of what an installation depends on; None for a folder that is copied, whose code may have changed."""
    if source.endswith(".whl"):
        content = Path(source).read_bytes()
    elif "--editable" in options:
        content = (Path(source) / "pyproject.toml").read_bytes() + os.fsencode(Path(source).resolve())
    else:
        return None
    digest = hashlib.sha256(content)
    for word in (extras, *options, __file__, install_tools.__file__):
        digest.update(Path(word).read_bytes() if Path(word).is_file() else word.encode())
    return digest.hexdigest()


@contextmanager
def locked(environment: Path) -> Iterator[IO[str]]:
    """The state of an environment, which no other installation changes meanwhile: nodes may share a home folder. A file
    system without locks goes without."""
    environment.mkdir(parents=True, exist_ok=True)
    with (environment / STATE).open("a+") as state:
        os.set_inheritable(state.fileno(), True)
        try:
            fcntl.flock(state, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log(f"Waiting for another installation into {environment}")
            fcntl.flock(state, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
                raise
        yield state


def read(state: IO[str]) -> str:
    state.seek(0)
    return state.read()


def write(state: IO[str], text: str) -> None:
    state.seek(0)
    state.truncate()
    state.write(text)
    state.flush()


def explain(output: str, environment: Path) -> str:
    """One sentence for what a failed installation printed."""
    if NO_SPACE.search(output):
        return no_space(environment)
    if not CONFLICT.search(output):
        if CERTIFICATE.search(output):
            return (
                "The certificate of the package index is not trusted here. Where your organisation has an authority of "
                "its own, name its file: export PIP_CERT=/path/to/authority.pem; then run this again."
            )
        if NO_NETWORK.search(output):
            return (
                "The package index cannot be reached. Check the network; behind a proxy set HTTPS_PROXY, and with "
                "an index or a folder of your own, PIP_INDEX_URL or PIP_FIND_LINKS; then run this again."
            )
    return f"The installation failed: {error_line(output)}"


def no_space(environment: Path) -> str:
    return (
        f"No space left on the disk of {environment.absolute()}, of the temporary folder {tempfile.gettempdir()} or of "
        "the cache in your home folder. Free some, or name a temporary folder on another disk by TMPDIR; then run this "
        "again."
    )


def unwritable(environment: Path, error: OSError) -> str:
    return (
        f"{environment.absolute()} cannot be made: {error}. Name another folder (in a checkout: make VENV=/folder "
        "install)."
    )


def main(arguments: Sequence[str]) -> int:
    environment, extras, source, *options = arguments
    if extras == "auto":
        extras = "gpu" if succeeds(["nvidia-smi", "--list-gpus"]) else "cpu"
    folder = Path(environment)
    python = os.environ["PYTHON"]
    if python == str(folder / "bin" / "python"):
        python = sys._base_executable  # type: ignore[attr-defined]  # the environment may have to be made again
    try:
        install(folder, extras, source, options, python)
    except InstallError as error:
        message, code = str(error), error.code
    except CommandError as error:
        message, code = explain(str(error), folder), 1
    except OSError as error:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        message, code = no_space(folder) if is_full else unwritable(folder, error), 1
    except KeyboardInterrupt:
        message, code = f"Interrupted. Run this again to finish {folder.absolute()}.", 130
    else:
        return 0
    print(message, file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
