"""Clusters of several machines, by Ray's own `ray up` and a cluster file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import yaml

from leader_platform.errors import RunError, UserError


def up(file: Path) -> None:
    """`ray up`: start the head over SSH, which then starts the workers. Its progress goes to the terminal."""
    _ray(file, "up", "-y", str(file))


def down(file: Path) -> None:
    """`ray down`: stop Ray on every machine of the file."""
    _ray(file, "down", "-y", str(file))


def head_address(file: Path) -> str:
    """The head's network address, as `ray get-head-ip` tells it."""
    return _ray(file, "get-head-ip", str(file), capture=True).strip().splitlines()[-1]


def check(file: Path) -> None:
    """`UserError` unless the file is YAML with a cluster's name and provider; Ray would answer with a traceback."""
    try:
        values = yaml.safe_load(file.read_text())
    except OSError as error:
        raise UserError(f"The cluster file {file} cannot be read ({error.strerror}); check the path.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"The cluster file {file} is not valid YAML: {' '.join(str(error).split())}.") from None
    missing = [key for key in ("cluster_name", "provider") if not isinstance(values, dict) or not values.get(key)]
    if missing:
        raise UserError(f"The cluster file {file} has no {' and no '.join(missing)}; see cluster.yaml for an example.")


def _ray(file: Path, *arguments: str, capture: bool = False) -> str:
    check(file)
    command = [sys.executable, "-m", "ray.scripts.scripts", *arguments]
    # Ray's remarks go to the error stream, so that `--json` leaves only the result on the output.
    done = subprocess.run(command, stdout=subprocess.PIPE if capture else sys.stderr, text=True, check=False)
    if done.returncode != 0:
        raise RunError(f"`ray {' '.join(arguments)}` ended with status {done.returncode}; its messages are above.")
    return done.stdout or ""
