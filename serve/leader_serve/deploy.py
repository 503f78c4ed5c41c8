"""Bring the application to a cluster through Serve's config API, follow it until it runs, and take it away."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable
from typing import Any

from leader_platform import storage
from leader_platform.artifacts import STUDENT, TEACHER, Run
from leader_platform.config import LeaderConfig, fingerprint
from leader_platform.errors import RunError, UserError
from leader_platform.models.vllm_engine import engine_environment
from leader_serve.dashboard import Dashboard, is_local, last_line
from leader_serve.keys import read_keys

APPLICATION = "leader"
_SHUTDOWN_TIMEOUT_S = 90.0
_FAILED = ("DEPLOY_FAILED", "UNHEALTHY")

Say = Callable[[str], None]


def prepare(run: str, config: LeaderConfig, with_teacher: bool = True, say: Say = lambda _: None) -> dict[str, Any]:
    """The Serve config of a run, after checking that the run can be served.

    Raises `UserError` without a trained student or, where others reach the port, without keys. A missing teacher is
    told to `say` and left out.
    """
    opened = Run(run)
    if not opened.has(STUDENT):
        raise UserError(
            f"The run {opened.uri} has no trained student; run `leader train --stage distill --run {opened.uri}`."
        )
    opened.manifest(STUDENT)  # a damaged run is refused here, in a sentence, and not in a replica's log
    config = _with_keys(config)
    teacher = with_teacher and config.serve.teacher
    if teacher and not opened.has(TEACHER):
        say(
            f"The run has no teacher, so the student answers every request; "
            f"`leader train --stage teacher --run {run}` makes one."
        )
        teacher = False
    return serve_config(run, config, teacher)


def _with_keys(config: LeaderConfig) -> LeaderConfig:
    """The configuration with the place of callers' keys as replicas find it. `UserError` for keys that cannot be read,
    and for an address that others reach without any."""
    host, keys_file = config.serve.host, config.serve.keys_file
    if keys_file is None:
        if not is_local(f"http://{f'[{host}]' if ':' in host else host}"):
            raise UserError(
                f"{host} is reachable from other machines, and no keys are set for callers; make one with "
                "`leader serve keys add NAME`, or keep to --set serve.host=127.0.0.1."
            )
        return config
    keys_file = storage.absolute(keys_file)
    if not read_keys(keys_file):
        raise UserError(f"{keys_file} holds no key, so nobody could call; add one with `leader serve keys add NAME`.")
    return config.model_copy(update={"serve": config.serve.model_copy(update={"keys_file": keys_file})})


def serve_config(run: str, config: LeaderConfig, teacher: bool) -> dict[str, Any]:
    """The application as Serve's declarative config (a ServeDeploySchema)."""
    run = storage.absolute(run)
    # Access logs would hold a line a request; what a hospital must audit belongs to the proxy before this one.
    logging_config = {"enable_access_log": False}
    arguments = {
        "run": run,
        "serve": config.serve.model_dump(mode="json"),
        "resources": config.resources.model_dump(mode="json"),
        "teacher": teacher,
        "teacher_environment": teacher_environment(config) if teacher else {},
        "revision": _revision(Run(run), teacher),
    }
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": config.serve.host, "port": config.serve.port},
        "logging_config": logging_config,
        "applications": [
            {
                "name": APPLICATION,
                "route_prefix": "/",
                "import_path": "leader_serve.app:build",
                "logging_config": logging_config,
                "args": arguments,
            }
        ],
    }


def teacher_environment(config: LeaderConfig) -> dict[str, str]:
    """What the teacher's process must find set before it starts; see the measurements in docs/SERVING.md."""
    if config.serve.teacher_engine != "vllm":
        return {}
    return engine_environment(config.features.kv_cache_gb, on_gpu=config.resources.gpus_per_worker > 0)


def deploy(
    dashboard_url: str,
    config: dict[str, Any],
    on_progress: Say = lambda _: None,
    *,
    timeout_s: float = 900,
    token: str | None = None,
) -> None:
    """Deploy a `serve_config` and wait until it runs.

    Raises `UserError` where the port is taken or the cluster serves something else, `RunError` with the application's
    message where it fails or does not run in time (an engine's start on a CPU takes about half a minute).
    """
    dashboard = Dashboard(dashboard_url, token)
    details = dashboard.details()
    _refuse_other_applications(details, "deploying")
    if details["applications"].get(APPLICATION, {}).get("status") == "DELETING":
        _wait_until_gone(dashboard)
        details = dashboard.details()
    _check_port(dashboard_url, details, **config["http_options"])
    dashboard.put(config)
    _wait_until_running(dashboard, on_progress, time.monotonic() + timeout_s)


def status(dashboard_url: str, token: str | None = None) -> dict[str, Any]:
    """What runs: `status` (`NOT_DEPLOYED` where nothing does), `message`, `url` and the deployments' replicas."""
    details = Dashboard(dashboard_url, token).details()
    application = details["applications"].get(APPLICATION)
    if application is None:
        return {"status": "NOT_DEPLOYED", "message": "", "url": None, "run": None, "deployments": {}}
    options = details.get("http_options") or {}
    configured = application.get("deployed_app_config") or {}
    return {
        "status": application["status"],
        "message": application["message"],
        "url": f"http://{options.get('host')}:{options.get('port')}",
        "run": configured.get("args", {}).get("run"),
        "deployments": {
            name: {
                "status": deployment["status"],
                "replicas": _running(deployment),
                "target_replicas": deployment["target_num_replicas"],
                "message": deployment["message"],
            }
            for name, deployment in application["deployments"].items()
        },
    }


def shutdown(dashboard_url: str, token: str | None = None) -> bool:
    """Take the application away and free its port. False where none was deployed."""
    dashboard = Dashboard(dashboard_url, token)
    details = dashboard.details()
    _refuse_other_applications(details, "shutting down")
    # Serve outlives its last application and then holds the port still.
    if details.get("http_options") is None:
        return False
    dashboard.delete()
    _wait_until_gone(dashboard)
    return APPLICATION in details["applications"]


def _wait_until_gone(dashboard: Dashboard) -> None:
    """Wait for Serve's end. What is deployed to a Serve that is ending is accepted, and ends with it."""
    deadline = time.monotonic() + _SHUTDOWN_TIMEOUT_S
    while dashboard.details().get("http_options") is not None:
        if time.monotonic() > deadline:
            raise RunError(
                f"Serve has not ended after {_SHUTDOWN_TIMEOUT_S:g} s; `leader serve status` follows it, and "
                "`leader cluster down` ends everything."
            )
        time.sleep(0.5)


def _wait_until_running(dashboard: Dashboard, on_progress: Say, deadline: float) -> None:
    told = ""
    while True:
        application = dashboard.details()["applications"].get(APPLICATION, {"status": "NOT_STARTED", "deployments": {}})
        line = _progress(application)
        if line != told:
            on_progress(line)
            told = line
        if application["status"] == "RUNNING":
            return
        if application["status"] in _FAILED:
            raise RunError(f"The application could not be deployed: {_why(application)}")
        if time.monotonic() > deadline:
            raise RunError(
                f"The application did not run in time ({line}); `leader serve status` follows it. "
                "A replica that never starts often asks for more CPUs than the cluster has "
                "(--set resources.cpus_per_worker=1)."
            )
        time.sleep(1)


def _progress(application: dict[str, Any]) -> str:
    parts = [
        f"{name} {_running(deployment)}/{deployment['target_num_replicas']}"
        for name, deployment in sorted(application["deployments"].items())
    ]
    return ", ".join([application["status"].lower().replace("_", " "), *parts])


def _running(deployment: dict[str, Any]) -> int:
    return sum(replica["state"] == "RUNNING" for replica in deployment["replicas"])


def _why(application: dict[str, Any]) -> str:
    """The message nearest to the cause: a deployment's, else the application's."""
    unhealthy = [deployment for deployment in application["deployments"].values() if deployment["status"] != "HEALTHY"]
    for deployment in sorted(unhealthy, key=lambda one: one["status"] not in _FAILED):
        if deployment["message"]:
            return f"{deployment['name']}: {last_line(deployment['message'])}"
    return last_line(application["message"])


def _revision(run: Run, teacher: bool) -> str:
    """Digest of when and from what the run's models were made, so that a retrained run restarts the replicas."""
    products = (STUDENT, TEACHER) if teacher else (STUDENT,)
    return fingerprint(*((manifest["key"], manifest["finished_at"]) for manifest in map(run.manifest, products)))


def _refuse_other_applications(details: dict[str, Any], doing: str) -> None:
    others = sorted(set(details["applications"]) - {APPLICATION})
    if others:
        raise UserError(
            f"The cluster also serves {', '.join(others)}, which {doing} would remove; "
            "use another cluster (--address), or remove it with Serve's own commands first."
        )


def _check_port(dashboard_url: str, details: dict[str, Any], host: str, port: int) -> None:
    running = details.get("http_options")
    if running:
        if (running["host"], running["port"]) != (host, port):
            raise UserError(
                f"Serve already listens on {running['host']}:{running['port']} and cannot move to {host}:{port}; "
                f"run `leader serve shutdown` first, or keep it with --set serve.port={running['port']}."
            )
        return
    # Of another machine's ports nothing can be known from here.
    if not is_local(dashboard_url):
        return
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                message = f"Port {port} is taken by another program; choose one with --set serve.port={port + 1}."
            else:
                message = f"Cannot listen on {host}:{port} ({error.strerror}); see --set serve.host= and serve.port=."
            raise UserError(message) from None
