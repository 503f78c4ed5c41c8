"""Clusters of several machines, by Ray's own `ray up` and a cluster file; first the file is checked, and what its nodes
install from is made."""

from __future__ import annotations

import ipaddress
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import yaml

from leader_platform import shipping
from leader_platform.errors import RunError, UserError

DIST = "dist"  # beside the cluster file
TOKEN_FILE = Path("~/.leader/ray_token")
_DOCUMENTATION = tuple(map(ipaddress.ip_network, ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24")))
_START = ("head_start_ray_commands", "worker_start_ray_commands")


def up(file: Path) -> None:
    """`ray up`: start the head over SSH, which then starts the workers. Its progress goes to the terminal."""
    values = read(file)
    _make_token()
    if DIST in values.get("file_mounts", {}).values():
        shipping.ship(file.resolve().parent / DIST)
    refuse(file, values)
    _ray(file, "up", "-y", "--no-config-cache", file.name)


def down(file: Path) -> None:
    """`ray down`: stop Ray on every machine of the file."""
    read(file)
    _ray(file, "down", "-y", file.name)


def head_address(file: Path) -> str:
    """The head's network address, as `ray get-head-ip` tells it."""
    read(file)
    return _ray(file, "get-head-ip", file.name, capture=True).strip().splitlines()[-1]


def read(file: Path) -> dict[str, Any]:
    """The file's values. `UserError` unless it is YAML with a cluster's name and provider."""
    try:
        values = yaml.safe_load(file.read_text())
    except OSError as error:
        raise UserError(f"The cluster file {file} cannot be read ({error.strerror}); check the path.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"The cluster file {file} is not valid YAML: {' '.join(str(error).split())}.") from None
    missing = [key for key in ("cluster_name", "provider") if not isinstance(values, dict) or not values.get(key)]
    if missing:
        raise UserError(f"The cluster file {file} has no {' and no '.join(missing)}; see cluster.yaml for an example.")
    return dict(values)


def refuse(file: Path, values: Mapping[str, Any]) -> None:
    """`UserError` with a sentence for each fault of a cluster file that would show only on the nodes, or never."""
    found = list(faults(file, values))
    if found:
        raise UserError(f"The cluster file {file} cannot be used. " + " ".join(found))


def faults(file: Path, values: Mapping[str, Any]) -> Iterator[str]:
    told = _schema_fault(values)
    if told is not None:
        yield told
        return
    provider, auth = values["provider"], values.get("auth", {})
    addresses = [provider.get("head_ip"), *provider.get("worker_ips", ())]
    for address in filter(None, addresses):
        if _is_documentation(str(address)):
            yield f"{address} is an address for documentation; put your machine's own."
    if values["provider"].get("type") == "local" and not provider.get("head_ip"):
        yield "provider.head_ip is missing: the machine that the others follow."
    key = auth.get("ssh_private_key")
    if key and not Path(key).expanduser().is_file():
        yield f"auth.ssh_private_key {key} is not there; `ssh-keygen -f {key}` makes one, for your machines to accept."
    for remote, local in values.get("file_mounts", {}).items():
        if not (file.resolve().parent / Path(local).expanduser()).exists():
            yield f"{local}, which file_mounts puts at {remote}, is not there."
    for name in _START:
        commands = " ".join(map(str, values.get(name, ())))
        if not any(sign in commands for sign in (shipping.ENVIRONMENT, "RAY_AUTH_MODE=token")):
            yield (
                f"{name} does not read ~/.leader/{DIST}/{shipping.ENVIRONMENT}, without which Ray asks nobody for a "
                "token and runs the code of whoever reaches it."
            )


def _schema_fault(values: Mapping[str, Any]) -> str | None:
    """What Ray itself would refuse, as a sentence and not as a traceback."""
    from jsonschema import ValidationError
    from ray.autoscaler._private.util import prepare_config, validate_config

    try:
        with redirect_stdout(sys.stderr):  # Ray's remarks
            validate_config(prepare_config(dict(values)))
    except ValidationError as error:
        where = ".".join(map(str, error.absolute_path)) or "the file"
        return f"{where}: {error.message}."
    except Exception as error:  # of many kinds: Ray's autoscaler has no type for them
        return f"Ray refuses it: {' '.join(str(error).split())}."
    return None


def _is_documentation(address: str) -> bool:
    try:
        return any(ipaddress.ip_address(address) in network for network in _DOCUMENTATION)
    except ValueError:  # a name
        return False


def _make_token() -> None:
    """The token of clusters from files, where there is none yet; readable by this user alone."""
    path = TOKEN_FILE.expanduser()
    if path.exists():
        return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(32))


def _ray(file: Path, *arguments: str, capture: bool = False) -> str:
    """In the file's folder, to which the paths in it are relative."""
    command = [sys.executable, "-m", "ray.scripts.scripts", *arguments]
    # Ray's remarks go to the error stream, so that `--json` leaves only the result on the output.
    output = subprocess.PIPE if capture else sys.stderr
    done = subprocess.run(command, stdout=output, text=True, check=False, cwd=file.resolve().parent)
    if done.returncode != 0:
        raise RunError(f"`ray {' '.join(arguments)}` ended with status {done.returncode}; its messages are above.")
    return done.stdout or ""
