"""What is to be deployed, as Serve's declarative config: a run in the place of another, beside it, or back again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from shlex import quote
from typing import Any

from pydantic import BaseModel

from leader_platform import storage
from leader_platform.artifacts import STUDENT, TEACHER, Run
from leader_platform.config import LeaderConfig
from leader_platform.dashboard import is_local
from leader_platform.errors import UserError
from leader_platform.progress import SILENT, Progress
from leader_serve.keys import read_keys
from leader_serve.releases import (
    APPLICATION,
    TEACHER_APPLICATIONS,
    IngressArguments,
    Release,
    Replicas,
    TeacherArguments,
    replace,
    roll_back,
    try_beside,
)
from leader_serve.schemas import ReleaseName

# Access logs would hold a line a request; what a hospital must audit belongs to the proxy before this one.
_LOGGING = {"enable_access_log": False}


@dataclass(frozen=True)
class Running:
    """What a cluster serves now: the ingress's arguments, and the applications' configs by name."""

    arguments: IngressArguments
    applications: Mapping[str, dict[str, Any]]


def prepare(
    run: str,
    config: LeaderConfig,
    with_teacher: bool = True,
    progress: Progress = SILENT,
    running: Running | None = None,
    canary_percent: float | None = None,
) -> dict[str, Any]:
    """The Serve config that brings a run to a cluster on which `running` is, in its place or, with `canary_percent`,
    beside it. The run is checked first.

    Raises `UserError` without a trained student or, where others reach the port, without keys. A missing teacher is
    logged and left out.
    """
    opened = Run(run)
    if not opened.has(STUDENT):
        raise UserError(
            f"The run {opened.uri} has no trained student; "
            f"run `leader train --stage distill --run {quote(opened.uri)}`."
        )
    config = _with_keys(config)
    wanted = with_teacher and config.serve.teacher
    teacher = wanted and opened.has(TEACHER)
    # A damaged run is refused here, in a sentence, and not in a replica's log.
    new = IngressArguments(stable=Release.of(storage.absolute(run), teacher), serve=config.serve)
    if wanted and not teacher:
        progress.log(
            f"The run has no teacher, so the student answers every request; "
            f"`leader train --stage teacher --run {quote(run)}` makes one."
        )
    before = None if running is None else running.arguments
    if canary_percent is None:
        return serve_config(replace(new, before), config)
    return serve_config(try_beside(new, before, canary_percent / 100), config, running)


def prepare_rollback(config: LeaderConfig, running: Running | None) -> dict[str, Any]:
    """The Serve config that ends a canary or, without one, returns to the run of before. `UserError` where there is
    nothing to return to."""
    return serve_config(roll_back(None if running is None else running.arguments), config, running)


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


def serve_config(arguments: IngressArguments, config: LeaderConfig, running: Running | None = None) -> dict[str, Any]:
    """The applications as Serve's declarative config (a ServeDeploySchema). A teacher that is in `running` already
    stays as it is; others get the resources of `config`."""
    applications = [_application(APPLICATION, "leader_serve.app:build", arguments)]
    releases: dict[ReleaseName, Release | None] = {"stable": arguments.stable, "canary": arguments.canary}
    for name, release in releases.items():
        if release is not None and release.teacher:
            applications.append(_teacher(TEACHER_APPLICATIONS[name], release, config, running))
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": arguments.serve.host, "port": arguments.serve.port},
        "logging_config": _LOGGING,
        "applications": applications,
    }


def _application(name: str, builder: str, arguments: BaseModel) -> dict[str, Any]:
    return {
        "name": name,
        "route_prefix": "/" if name == APPLICATION else None,
        "import_path": builder,
        "logging_config": _LOGGING,
        "args": arguments.model_dump(mode="json"),
    }


def _check_gpus(release: Release, config: LeaderConfig) -> None:
    """Raises `UserError` where vLLM cannot divide the teacher among the GPUs of a replica."""
    gpus = config.resources.gpus_per_worker
    if gpus <= 1 or config.serve.teacher_engine != "vllm" or storage.is_remote(release.run):
        return
    from leader_platform.models.backbone_checks import backbone_config, require_tensor_parallel
    from leader_platform.models.teacher import MERGED

    merged = Run(release.run).path(TEACHER, MERGED)
    require_tensor_parallel(merged, backbone_config(merged), gpus)


def _teacher(name: str, release: Release, config: LeaderConfig, running: Running | None) -> dict[str, Any]:
    known = running.applications.get(name) if running is not None else None
    if known is not None and (known["args"]["run"], known["args"]["revision"]) == (release.run, release.revision):
        return known
    _check_gpus(release, config)
    arguments = TeacherArguments(
        run=release.run,
        revision=release.revision,
        engine=config.serve.teacher_engine,
        dtype=config.serve.teacher_dtype,
        replicas=Replicas.of("teacher", config.serve),
        max_ongoing_requests=config.serve.max_ongoing_requests,
        max_queued_requests=config.serve.max_queued_requests,
        resources=config.resources,
        kv_cache_gb=config.features.kv_cache_gb,
    )
    return _application(name, "leader_serve.app:build_teacher", arguments)
