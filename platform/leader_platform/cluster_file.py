"""Clusters of several machines, by Ray's own `ray up` and a cluster file; first the file is checked, and what its nodes
install from is made."""

from __future__ import annotations

import ipaddress
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from pathlib import Path
from shlex import quote
from typing import Any

import yaml

from leader_platform import shipping
from leader_platform.cluster import status
from leader_platform.cluster_state import ClusterState
from leader_platform.errors import RunError, UserError
from leader_platform.ports import free_port
from leader_platform.ray_jobs import ENDED

DIST = "dist"  # beside the cluster file
TOKEN_FILE = Path("~/.leader/ray_token")
_DOCUMENTATION = tuple(map(ipaddress.ip_network, ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24")))
_RAY = (sys.executable, "-m", "ray.scripts.scripts")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_REACH_PATIENCE_S = 60.0
_PLACEHOLDER = "your-"  # as in deploy/clusters/
_FIRST_AUTOSCALER = "RAY_enable_autoscaler_v2=0"
_START = ("head_start_ray_commands", "worker_start_ray_commands")


def up(file: Path) -> None:
    """`ray up`: start the head over SSH, which then starts the workers. Its progress goes to the terminal.

    Raises `UserError` for a fault in the file, and where the cluster is up and has work, which a new start would end;
    that, or `RunError`, where it is up and does not tell.
    """
    values = read(file)
    _make_token()
    if DIST in values.get("file_mounts", {}).values():
        shipping.ship(file.resolve().parent / DIST)
    refuse(file, values)
    if work := _work_of(file):
        raise UserError(
            f"The cluster of {file} runs {', '.join(work)}, which starting it again would end; wait, or end all of it "
            f"with `leader cluster down {quote(str(file))}` first."
        )
    _ray(file, "up", "-y", "--no-config-cache", file.name)


def _work_of(file: Path) -> list[str]:
    """The jobs and applications of the file's cluster; nothing where none answers. One that answers and cannot tell,
    since it refuses the token or fails, may have some: that is raised, as `status` does."""
    with ExitStack() as connection:
        try:
            state = connection.enter_context(reach(file))
        except UserError:  # not up; what keeps SSH from the head keeps `ray up` from it too, which says so
            return []
        about = status(state)
    jobs = [f"job {job['job_id']}" for job in about["jobs"] if job["status"] not in ENDED]
    return [*jobs, *(f"application {name}" for name in about["serve_applications"])]


def num_first_nodes(file: Path) -> int:
    """The head, and the workers that the head starts whether there is work or not."""
    from ray.autoscaler._private.util import prepare_config

    with redirect_stdout(sys.stderr):
        types = prepare_config(read(file))["available_node_types"]
    return 1 + sum(about.get("min_workers", 0) for about in types.values())


def down(file: Path) -> None:
    """`ray down`: stop Ray on every machine of the file."""
    read(file)
    _ray(file, "down", "-y", file.name)


@contextmanager
def reach(file: Path) -> Iterator[ClusterState]:
    """The cluster of a file. Its dashboard stays on the head's loopback and answers here, through the SSH connection of
    `ray dashboard`, as long as the block lasts.

    Raises `UserError` where the head cannot be reached, or no dashboard answers on it.
    """
    values = read(file)
    port, there = free_port(), _dashboard_port(values)
    forward = ["dashboard", "--no-config-cache", f"--port={port}", f"--remote-port={there}", file.name]
    state = ClusterState(
        address=str(file),
        dashboard_url=f"http://127.0.0.1:{port}",
        token_file=TOKEN_FILE.expanduser(),
        forwarded=True,
    )
    with tempfile.TemporaryFile("w+") as told:
        process = subprocess.Popen(
            [*_RAY, *forward],
            cwd=file.resolve().parent,
            stdin=subprocess.DEVNULL,
            stdout=told,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            _wait_for_dashboard(state, process, file, there)
            if process.poll() is not None:
                told.seek(0)
                raise UserError(_why_not(file, told.read()))
            yield state
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait()


def _wait_for_dashboard(state: ClusterState, process: subprocess.Popen[bytes], file: Path, port: int) -> None:
    """Until something answers, if only to ask for a token, or the connection ends."""
    import httpx

    deadline = time.monotonic() + _REACH_PATIENCE_S
    while process.poll() is None:
        with suppress(httpx.TransportError):
            httpx.get(f"{state.dashboard_url}/api/version", timeout=5.0, trust_env=False)
            return
        if time.monotonic() > deadline:
            raise UserError(
                f"The head of {file} does not answer, or has no dashboard at port {port}; check the machine, or start "
                f"Ray there with `leader cluster up {quote(str(file))}`."
            )
        time.sleep(0.2)


def _why_not(file: Path, told: str) -> str:
    """A sentence from what SSH and Ray said."""
    lines = [line.strip() for line in _COLOURS.sub("", told).splitlines() if line.strip()]
    if any("Head node of cluster" in line and "not found" in line for line in lines):
        return f"This machine has started no head from {file}; `leader cluster up {quote(str(file))}` starts one."
    ssh = [line for line in lines if line.startswith(("ssh:", "Host key")) or "denied" in line]
    said = (ssh or lines or ["SSH said nothing"])[-1].removeprefix("The exception is: ")
    return f"The head of {file} cannot be reached ({said}); check provider.head_ip and auth."


def _dashboard_port(values: Mapping[str, Any]) -> int:
    named = re.search(r"--dashboard-port[= ](\d+)", _commands(values, "head_start_ray_commands"))
    return int(named[1]) if named else 8265


def read(file: Path) -> dict[str, Any]:
    """The file's values. `UserError` unless it is YAML with a cluster's name and provider."""
    try:
        values = yaml.safe_load(file.read_bytes())
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
    for value in dict.fromkeys(_own_values(values)):
        if str(value).startswith(_PLACEHOLDER):
            yield f"{value} stands for your own; put it there."
    if provider.get("type") == "local":
        if not provider.get("head_ip"):
            yield "provider.head_ip is missing: the machine that the others follow."
        if _FIRST_AUTOSCALER not in _commands(values, "head_start_ray_commands"):
            yield (
                f"head_start_ray_commands does not set {_FIRST_AUTOSCALER}, without which Ray's autoscaler starts no "
                "worker of `type: local`."
            )
    key = auth.get("ssh_private_key")
    if key and not Path(key).expanduser().is_file():
        yield f"auth.ssh_private_key {key} is not there; `ssh-keygen -f {key}` makes one, for your machines to accept."
    for remote, local in values.get("file_mounts", {}).items():
        if not (file.resolve().parent / Path(local).expanduser()).exists():
            yield f"{local}, which file_mounts puts at {remote}, is not there."
    for name in _START:
        if not any(sign in _commands(values, name) for sign in (shipping.ENVIRONMENT, "RAY_AUTH_MODE=token")):
            yield (
                f"{name} does not read ~/.leader/{DIST}/{shipping.ENVIRONMENT}, without which Ray asks nobody for a "
                "token and runs the code of whoever reaches it."
            )


def _own_values(values: Mapping[str, Any]) -> Iterator[Any]:
    """What nobody but the user of a cloud can know."""
    yield values["provider"].get("project_id")
    for about in values.get("available_node_types", {}).values():
        yield about.get("node_config", {}).get("ImageId")


def _commands(values: Mapping[str, Any], name: str) -> str:
    return " ".join(map(str, values.get(name, ())))


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


def _ray(file: Path, *arguments: str) -> None:
    """In the file's folder, to which the paths in it are relative. Ray's remarks go to the error stream, so that
    `--json` leaves only the result on the output."""
    done = subprocess.run([*_RAY, *arguments], stdout=sys.stderr, check=False, cwd=file.resolve().parent)
    if done.returncode != 0:
        raise RunError(f"`ray {' '.join(arguments)}` ended with status {done.returncode}; its messages are above.")
