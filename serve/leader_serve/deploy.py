"""Bring a plan to a cluster through Serve's config API, follow it until it runs, and take it away."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from leader_platform.dashboard import is_local, last_line
from leader_platform.errors import RunError, UserError
from leader_platform.models.memory import says_out_of_memory
from leader_platform.ports import require_free
from leader_platform.progress import SILENT, Progress, Task
from leader_serve.dashboard import Dashboard
from leader_serve.plans import Running
from leader_serve.releases import APPLICATION, TEACHER_APPLICATIONS, IngressArguments

OURS = (APPLICATION, *TEACHER_APPLICATIONS.values())
_SHUTDOWN_TIMEOUT_S = 90.0
_FAILED = ("DEPLOY_FAILED", "UNHEALTHY")


def deploy(
    dashboard_url: str,
    config: dict[str, Any],
    progress: Progress = SILENT,
    *,
    timeout_s: float = 900,
    token: str | None = None,
    forwarded: bool = False,
) -> None:
    """Deploy a plan of `plans` and wait until it runs. `forwarded` says that the dashboard is another machine's, though
    its URL is this one's.

    Raises `UserError` where the port is taken or the cluster serves something else, `RunError` with the application's
    message where it fails or does not run in time (an engine's start on a CPU takes about half a minute).
    """
    dashboard = Dashboard(dashboard_url, token)
    details = dashboard.details()
    _refuse_other_applications(details, "deploying")
    if _is_ending(details, APPLICATION):
        with progress.task("Waiting for the former application's end"):
            _wait_until_gone(dashboard)
        details = dashboard.details()
    here = is_local(dashboard_url) and not forwarded
    _check_port(details, here, **config["http_options"])
    dashboard.put(config)
    names = [application["name"] for application in config["applications"]]
    with progress.task("Deploying", unit="replicas") as task:
        _wait_until_running(dashboard, names, progress, task, time.monotonic() + timeout_s)


def running(dashboard_url: str, token: str | None = None) -> Running | None:
    """What the cluster serves now; None where nothing is deployed by this version of the platform."""
    applications = {
        name: application["deployed_app_config"]
        for name, application in Dashboard(dashboard_url, token).details()["applications"].items()
        if name in OURS and application.get("deployed_app_config") and application["status"] != "DELETING"
    }
    try:
        return Running(IngressArguments.model_validate(applications[APPLICATION]["args"]), applications)
    except (KeyError, ValidationError):
        return None


def status(dashboard_url: str, token: str | None = None) -> dict[str, Any]:
    """What runs: `status` (`NOT_DEPLOYED` where nothing does), `message`, `url`, the runs that answer, and the
    deployments' replicas."""
    details = Dashboard(dashboard_url, token).details()
    merged = _merged(details, OURS)
    if merged["status"] == "NOT_STARTED":
        return {"status": "NOT_DEPLOYED", "message": "", "url": None, "run": None, "canary": None, "deployments": {}}
    options = details.get("http_options") or {}
    configured = (details["applications"].get(APPLICATION) or {}).get("deployed_app_config") or {}
    stable, canary = (configured.get("args", {}).get(name) or {} for name in ("stable", "canary"))
    return {
        "status": merged["status"],
        "message": merged["message"],
        "url": f"http://{options.get('host')}:{options.get('port')}",
        "run": stable.get("run"),
        "canary": canary.get("run"),
        "deployments": {
            name: {
                "status": deployment["status"],
                "replicas": _running(deployment),
                "target_replicas": deployment["target_num_replicas"],
                "nodes": sorted({replica["node_ip"] for replica in deployment["replicas"] if _runs(replica)}),
                "message": deployment["message"],
            }
            for name, deployment in merged["deployments"].items()
        },
    }


def shutdown(dashboard_url: str, token: str | None = None, progress: Progress = SILENT) -> bool:
    """Take the application away and free its port. False where none was deployed."""
    dashboard = Dashboard(dashboard_url, token)
    details = dashboard.details()
    _refuse_other_applications(details, "shutting down")
    # Serve outlives its last application and then holds the port still.
    if details.get("http_options") is None:
        return False
    with progress.task("Stopping the application"):
        dashboard.delete()
        _wait_until_gone(dashboard)
    return _merged(details, OURS)["status"] != "NOT_STARTED"


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


def _merged(details: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """These applications of the cluster as one: the status of the worst, and all deployments. A teacher that is on its
    way out is none of them."""
    found = {
        name: details["applications"][name]
        for name in names
        if name in details["applications"] and not (name != APPLICATION and _is_ending(details, name))
    }
    statuses = [application["status"] for application in found.values()]
    others = [status for status in statuses if status != "RUNNING"]
    failed = [status for status in others if status in _FAILED]
    return {
        "status": (failed or others or statuses or ["NOT_STARTED"])[0],
        "message": " ".join(application["message"] for application in found.values() if application["message"]),
        "deployments": {
            ("Canary" if name == TEACHER_APPLICATIONS["canary"] else "") + deployment: about
            for name, application in found.items()
            for deployment, about in application["deployments"].items()
        },
    }


def _is_ending(details: dict[str, Any], name: str) -> bool:
    return bool(details["applications"].get(name, {}).get("status") == "DELETING")


def _wait_until_running(
    dashboard: Dashboard, names: Sequence[str], progress: Progress, task: Task, deadline: float
) -> None:
    told = ""
    while True:
        details = dashboard.details()
        application = _merged(details, names)
        if any(name not in details["applications"] or _is_ending(details, name) for name in names):
            application["status"] = "NOT_STARTED"
        deployments = application["deployments"].values()
        task.update(
            sum(_running(deployment) for deployment in deployments),
            sum(deployment["target_num_replicas"] for deployment in deployments) or None,
            status=application["status"].lower().replace("_", " "),
        )
        line = _progress(application)
        if line != told:
            progress.log(line)
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
    return sum(_runs(replica) for replica in deployment["replicas"])


def _runs(replica: dict[str, Any]) -> bool:
    return bool(replica["state"] == "RUNNING")


def _why(application: dict[str, Any]) -> str:
    """The message nearest to the cause: a deployment's, else the application's."""
    unhealthy = [deployment for deployment in application["deployments"].values() if deployment["status"] != "HEALTHY"]
    for deployment in sorted(unhealthy, key=lambda one: one["status"] not in _FAILED):
        if deployment["message"]:
            return f"{deployment['name']}: {_cause(deployment['message'])}"
    return _cause(application["message"])


def _cause(message: str) -> str:
    """The last line, in which a replica's own sentence stands; where Ray ended the replica, there is none."""
    last = last_line(message)
    if says_out_of_memory(message) and not says_out_of_memory(last):
        return f"a replica ran out of memory; free some, or deploy less (--no-teacher, a smaller run). {last}"
    return last


def _refuse_other_applications(details: dict[str, Any], doing: str) -> None:
    others = sorted(set(details["applications"]) - set(OURS))
    if others:
        raise UserError(
            f"The cluster also serves {', '.join(others)}, which {doing} would remove; "
            "use another cluster (--address), or remove it with Serve's own commands first."
        )


def _check_port(details: dict[str, Any], here: bool, host: str, port: int) -> None:
    running = details.get("http_options")
    if running:
        if (running["host"], running["port"]) != (host, port):
            raise UserError(
                f"Serve already listens on {running['host']}:{running['port']} and cannot move to {host}:{port}; "
                f"run `leader serve shutdown` first, or keep it with --set serve.port={running['port']}."
            )
        return
    # Of another machine's ports nothing can be known from here.
    if not here:
        return
    require_free(port, "--set serve.port=", host)
