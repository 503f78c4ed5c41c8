"""Starting and stopping the head process of a local cluster."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from pathlib import Path

from leader_platform import cluster_processes
from leader_platform.cluster_state import ClusterState, environment_token, get_json
from leader_platform.errors import RunError, UserError
from leader_platform.machine import Machine
from leader_platform.ports import free_port
from leader_platform.ray_environment import (
    loopback_environment,
    no_proxy_environment,
    ray_environment,
    serve_environment,
)
from leader_platform.ray_folders import make_inner, ray_folder, remove

_TERM_PATIENCE_S = 2.0


def start(
    folder: Path,
    temp_dir: Path,
    num_cpus: int,
    object_store_bytes: int,
    dashboard_port: int,
    patience_s: float,
    prometheus_url: str | None = None,
) -> ClusterState:
    """Start a head whose token and log lie in `folder`, and wait until it takes jobs.

    Raises `RunError` with the log's last lines if it does not within `patience_s`. After an error the caller ends it.
    """
    remove(temp_dir)
    try:
        temp_dir.mkdir(mode=0o700)
    except OSError as error:
        raise UserError(
            f"Ray's folder {temp_dir} cannot be made ({error.strerror}); remove it or set TMPDIR."
        ) from None
    token_file, log = folder / "token", folder / "head.log"
    _write_token(token_file)
    environment = _environment(temp_dir, token_file)
    if prometheus_url is not None:
        environment["RAY_PROMETHEUS_HOST"] = prometheus_url  # the dashboard asks it for its graphs
    process = _spawn(_command(temp_dir, num_cpus, object_store_bytes, dashboard_port), environment, folder, log)
    state = ClusterState(
        address="",
        dashboard_url=f"http://127.0.0.1:{dashboard_port}",
        token_file=token_file,
        pid=process.pid,
        process_start=cluster_processes.start_time(process.pid),
        object_store_bytes=object_store_bytes,
        temp_dir=temp_dir,
        started_at=time.time(),
        prometheus_url=prometheus_url,
    )
    return _wait_until_ready(process, state, temp_dir, log, patience_s)


def _spawn(command: list[str], environment: dict[str, str], folder: Path, log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        # A session of its own, so that closing the terminal leaves the cluster running.
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=folder,
        )


def stop(temp_dir: Path, head: int | None, patience_s: float) -> None:
    """End the head (already known to be ours) and all that it started, and remove Ray's temporary folder.

    Raises `RunError` naming the processes that outlive even SIGKILL.
    """
    # Looked up before the head ends: afterwards its children have no parent to be found by.
    before = cluster_processes.members(temp_dir, head)
    # The head ends an idle Ray by itself in about 3 s; with Serve's actors alive it would wait 30 s for them.
    cluster_processes.ask([process for process in before if process.pid == head], patience_s)
    cluster_processes.end([*before, *cluster_processes.members(temp_dir)], _TERM_PATIENCE_S)
    if left := cluster_processes.members(temp_dir):
        raise RunError(f"These processes of the cluster could not be ended: {[process.pid for process in left]}.")
    remove(temp_dir)


def _wait_until_ready(
    process: subprocess.Popen[bytes], state: ClusterState, temp_dir: Path, log: Path, patience_s: float
) -> ClusterState:
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RunError(f"Ray's head ended with status {process.returncode} while it started; {_last_lines(log)}")
        # Ray writes its address last, once the node runs; the job API answers seconds before it can run a job.
        address = ray_folder(temp_dir) / "ray_current_cluster"
        resources = _head_resources(state) if address.exists() and address.read_text().strip() else None
        if resources is not None:
            return state.model_copy(
                update={
                    "address": address.read_text().strip(),
                    "num_cpus": resources.get("CPU", 0.0),
                    "num_gpus": resources.get("GPU", 0.0),
                }
            )
        time.sleep(0.2)
    raise RunError(f"Ray's head was not ready after {patience_s:.0f} s; {_last_lines(log)}")


def _head_resources(state: ClusterState) -> dict[str, float] | None:
    """What the living head node offers, or None while it does not answer."""
    try:
        get_json(state, "/api/jobs/", timeout_s=5.0)
        nodes = get_json(state, "/api/v0/nodes?detail=1", timeout_s=5.0)["data"]["result"]["result"]
    except (UserError, RunError):
        return None
    return next((node["resources_total"] for node in nodes if node["state"] == "ALIVE"), None)


def _command(temp_dir: Path, num_cpus: int, object_store_bytes: int, dashboard_port: int) -> list[str]:
    # The module, not the `ray` script: a script's first line may be too long for the kernel in a deep folder.
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"]
    command += ["--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard_port}"]
    # 0: any free port; the defaults would collide with another Ray on this machine. The client server takes no 0.
    command += ["--port=0", "--dashboard-agent-listen-port=0", "--min-worker-port=0", "--max-worker-port=0"]
    command += [f"--ray-client-server-port={free_port()}", f"--temp-dir={ray_folder(temp_dir)}"]
    command += [f"--num-cpus={num_cpus}", f"--object-store-memory={object_store_bytes}"]
    memory = Machine().ray_memory(object_store_bytes)
    return command if memory is None else [*command, f"--memory={memory}"]


def _environment(temp_dir: Path, token_file: Path) -> dict[str, str]:
    defaults = {**ray_environment(), **loopback_environment(), **serve_environment(temp_dir, free_port)}
    environment = {**defaults, **os.environ}
    # The token goes by file, out of sight of `ps e`; an address would make Ray look for another cluster.
    for name in ("RAY_AUTH_TOKEN", "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        environment.pop(name, None)
    environment |= {**no_proxy_environment(environment), **make_inner(temp_dir)}
    return {**environment, "RAY_AUTH_TOKEN_PATH": str(token_file)}


def _write_token(path: Path) -> None:
    """The user's own token if there is one, so that their other tools reach this cluster too, else a new one."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(environment_token() or secrets.token_hex(32))


def _last_lines(log: Path, count: int = 8) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()][-count:]
    return f"the last lines of {log}:\n" + "\n".join(lines)
