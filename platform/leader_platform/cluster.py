"""A local Ray head with dashboard and token, for one workspace; and finding the cluster that a command should use."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from leader_platform import cluster_processes, ray_folders, storage
from leader_platform.cluster_state import WAY_OUT, ClusterState, environment_token, get_json, require_listening
from leader_platform.errors import RunError, UserError
from leader_platform.machine import usable_cores, usable_memory
from leader_platform.ports import require_free
from leader_platform.progress import Progress

DASHBOARD_PORT = 8265
_START_PATIENCE_S = 120.0
_STOP_PATIENCE_S = 5.0
_NODES_PATIENCE_S = 1800.0
_TEMP_DIR = "temp_dir"  # where the folder of Ray is noted before Ray starts
_SMALLEST_OBJECT_STORE_BYTES = 80_000_000


def up(
    home: Path,
    num_cpus: int | None = None,
    object_store_gb: float | None = None,
    dashboard_port: int = DASHBOARD_PORT,
    prometheus_port: int | None = None,
) -> tuple[ClusterState, bool]:
    """Start a head for the workspace `home`, or return the one that runs; True if it was started now.

    `num_cpus` defaults to the cores that this process may use, `object_store_gb` (1e9 bytes) to the smaller of 2 and
    15 % of the memory; with a `prometheus_port` Prometheus runs beside it. Raises `UserError` for a taken port or a
    half-dead cluster, and `RunError`, leaving nothing behind, if Ray or Prometheus does not start.
    """
    from leader_platform import cluster_head, monitoring

    with _lock(home):
        if running := _healthy_state(home):
            return running, False
        object_store_bytes = _object_store_bytes(object_store_gb)
        if num_cpus is not None and num_cpus < 1:
            raise UserError(f"--num-cpus {num_cpus} is less than 1; leave it out to use all cores.")
        require_free(dashboard_port, "--dashboard-port=")
        if prometheus_port is not None:
            monitoring.require_prometheus()
            require_free(prometheus_port, "--prometheus-port=")
        recorded, temp_dir = temp_dir_of(home), ray_folders.root_said() / _name_of(home)
        if recorded != temp_dir:  # of a start that was killed while TMPDIR was another
            ray_folders.remove(recorded)
        (_folder(home) / _TEMP_DIR).write_text(str(temp_dir))
        try:
            state = cluster_head.start(
                _folder(home),
                temp_dir,
                num_cpus or usable_cores(),
                object_store_bytes,
                dashboard_port,
                _START_PATIENCE_S,
                None if prometheus_port is None else f"http://127.0.0.1:{prometheus_port}",
            )
            if prometheus_port is not None:
                ray_folder = ray_folders.ray_folder(temp_dir)
                monitoring.start(_folder(home) / "prometheus", temp_dir, ray_folder, prometheus_port)
            storage.write_bytes(str(_folder(home) / "state.json"), state.model_dump_json(indent=2).encode())
        except BaseException:
            # Ctrl-C too: nothing half-started may stay behind.
            cluster_head.stop(temp_dir, None, _STOP_PATIENCE_S)
            _forget(home)
            raise
        return state, True


def down(home: Path) -> bool:
    """End the workspace's cluster with every process that it started, and only those; False if there was none.

    `head.log` stays. Raises `RunError` if a process cannot be ended.
    """
    from leader_platform import cluster_head

    if not _folder(home).exists():
        return False
    with _lock(home):
        state = None
        with contextlib.suppress(UserError):
            state = _read_state(home)
        temp_dir = temp_dir_of(home)
        head = state.pid if state and _head_lives(state) else None
        found = (_folder(home) / "state.json").exists() or bool(cluster_processes.members(temp_dir, head))
        cluster_head.stop(temp_dir, head, _STOP_PATIENCE_S)
        _forget(home)
        return found


def find(home: Path, address: str | None) -> ClusterState | None:
    """The cluster to use: the one at `address` or RAY_ADDRESS, else the workspace's own, else None.

    An address is `auto`, host:port or the dashboard's http://host:port. Raises `UserError` if no cluster answers there,
    or if the workspace's own is half-dead.
    """
    address = address or os.environ.get("RAY_ADDRESS")
    if not address:
        return _healthy_state(home)
    state = _read_state(home)
    if state and address.rstrip("/") in (state.address, state.dashboard_url, "auto") and _problem(state) is None:
        return state
    if address.startswith(("http://", "https://")):
        url = address.rstrip("/")
    else:
        url = _dashboard_of(address)
        address = address if ":" in address else url
    found = ClusterState(address=address, dashboard_url=url)
    get_json(found, "/api/version")
    return found


def status(state: ClusterState) -> dict[str, Any]:
    """Nodes, resources, jobs and Serve applications of the cluster, as its dashboard tells them; fit for JSON."""
    from leader_platform.ray_jobs import list_jobs

    nodes = get_json(state, "/api/v0/nodes?detail=1")["data"]["result"]["result"]
    report = get_json(state, "/api/cluster_status")["data"].get("clusterStatus") or {}
    usage = report.get("loadMetricsReport", {}).get("usage", {})
    serve = get_json(state, "/api/serve/applications/")
    return {
        "address": state.address,
        "dashboard_url": state.dashboard_url,
        "token_file": str(state.token_file) if state.token_file else None,
        "prometheus_url": state.prometheus_url,
        "pid": state.pid,
        "uptime_s": round(time.time() - state.started_at, 1) if state.started_at else None,
        "nodes": [
            {
                **{key: node[key] for key in ("node_id", "node_ip", "state", "is_head_node")},
                "resources": _countable(node.get("resources_total") or {}),
            }
            for node in nodes
        ],
        "resources": _resources(nodes, usage),
        "jobs": list_jobs(state),
        "serve_applications": {name: each["status"] for name, each in serve.get("applications", {}).items()},
    }


def wait_for_nodes(state: ClusterState, wanted: int, progress: Progress) -> None:
    """Until `wanted` nodes are up, saying how many are; `RunError` where they are not within half an hour, in which a
    machine can install everything."""
    deadline, told = time.monotonic() + _NODES_PATIENCE_S, -1
    with progress.task("Waiting for nodes", wanted, "nodes") as task:
        while told < wanted:
            up = sum(node["state"] == "ALIVE" for node in status(state)["nodes"])
            if up != told:
                progress.log(f"{up} of {wanted} nodes are up")
                task.update(up)
            told = up
            if up < wanted and time.monotonic() > deadline:
                raise RunError(
                    f"Only {up} of {wanted} nodes are up after {_NODES_PATIENCE_S / 60:.0f} minutes; "
                    f"`ray monitor {state.address}` shows what the head says of the others."
                )
            time.sleep(2.0 if up < wanted else 0.0)


def temp_dir_of(home: Path) -> Path:
    """The folder of the workspace's Ray: where the cluster was started, whatever TMPDIR was then, else where it would
    be."""
    with contextlib.suppress(UserError):
        if (state := _read_state(home)) and state.temp_dir:
            return state.temp_dir
    with contextlib.suppress(FileNotFoundError):
        return Path((_folder(home) / _TEMP_DIR).read_text())
    return ray_folders.root()[0] / _name_of(home)


def _name_of(home: Path) -> str:
    digest = hashlib.sha256(str(home.resolve()).encode()).hexdigest()[:8]
    return f"{ray_folders.PREFIX}{digest}"


def _forget(home: Path) -> None:
    """Nothing of the cluster is left but its logs."""
    for name in ("state.json", "state.partial", "token", _TEMP_DIR):
        (_folder(home) / name).unlink(missing_ok=True)


def _resources(nodes: list[dict[str, Any]], usage: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    total: dict[str, float] = {}
    for node in nodes:
        if node["state"] == "ALIVE":
            for name, amount in _countable(node.get("resources_total") or {}).items():
                total[name] = total.get(name, 0.0) + amount
    # The status report spells names in camel case.
    used = {"object_store_memory" if name == "objectStoreMemory" else name: pair[0] for name, pair in usage.items()}
    return {
        name: {"total": amount, "available": amount - used.get(name, 0.0)} for name, amount in sorted(total.items())
    }


def _countable(resources: dict[str, float]) -> dict[str, float]:
    """Without `node:ADDRESS`, which is Ray's handle for placing work."""
    return {name: amount for name, amount in resources.items() if not name.startswith("node:")}


def _healthy_state(home: Path) -> ClusterState | None:
    """The workspace's cluster if it is whole, None if there is none; `UserError` if it is half-dead."""
    state = _read_state(home)
    if state is None:
        if temp_dir_of(home).exists() and cluster_processes.members(temp_dir_of(home)):
            raise UserError(f"Processes of a cluster that was never finished still run for {home}; {WAY_OUT}")
        return None
    if problem := _problem(state):
        raise UserError(f"The cluster of {home} is half-dead: {problem}; {WAY_OUT}")
    return state


def _problem(state: ClusterState) -> str | None:
    if not _head_lives(state):
        return f"its head process {state.pid} is gone"
    try:
        get_json(state, "/api/version", timeout_s=10.0)
    except (UserError, RunError):
        return f"its dashboard {state.dashboard_url} does not answer"
    return None


def _head_lives(state: ClusterState) -> bool:
    return state.pid is not None and cluster_processes.start_time(state.pid) == state.process_start


def _read_state(home: Path) -> ClusterState | None:
    path = _folder(home) / "state.json"
    try:
        return ClusterState.model_validate(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, ValidationError):
        raise UserError(f"The cluster state {path} cannot be read; {WAY_OUT}") from None


def _folder(home: Path) -> Path:
    return home / "cluster"


@contextlib.contextmanager
def _lock(home: Path) -> Iterator[None]:
    """Two commands must not start or end the same cluster at once."""
    try:
        _folder(home).mkdir(parents=True, exist_ok=True)
        lock = storage.claim(str(_folder(home) / "lock"))
    except OSError as error:
        raise storage.unwritable(home, error) from None
    if lock is None:
        raise UserError(f"Another `leader cluster` command works on {home}; wait until it is done.")
    try:
        yield
    finally:
        lock.release()


def _object_store_bytes(object_store_gb: float | None) -> int:
    if object_store_gb is None:
        return default_object_store_bytes()
    if not _SMALLEST_OBJECT_STORE_BYTES <= object_store_gb * 1e9 < math.inf:
        raise UserError(f"--object-store-gb {object_store_gb} is not a size of at least 0.08, which Ray needs.")
    return int(object_store_gb * 1e9)


def default_object_store_bytes() -> int:
    """The smaller of 2 GB and 15 % of the memory that this process may use; Ray would take 30 %."""
    return max(_SMALLEST_OBJECT_STORE_BYTES, min(2_000_000_000, int(0.15 * usable_memory())))


def _dashboard_of(address: str) -> str:
    """The dashboard's URL of the cluster whose control store is at `address` (host:port or auto)."""
    if address != "auto":
        require_listening(address)
    from leader_platform.ray_environment import apply, loopback_environment, ray_environment

    environment = ray_environment() if environment_token() else {}
    if address.rpartition(":")[0] in ("127.0.0.1", "localhost"):
        environment |= loopback_environment()
    apply(environment)
    from ray.dashboard.utils import ray_address_to_api_server_url

    try:
        return ray_address_to_api_server_url(address)
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"No Ray cluster could be used at {address!r}: {first}") from None
