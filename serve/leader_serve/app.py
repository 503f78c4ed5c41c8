"""The application graph: ingress, student, teacher. `leader_serve.app:build` is the import path of Serve's config."""

# No `from __future__ import annotations` here: Serve reads the annotation of `build`'s argument as a class.

import math
from typing import Any

from pydantic import BaseModel, ConfigDict
from ray import serve

from leader_platform.config import ResourcesConfig, ServeConfig
from leader_serve.ingress import IngressDeployment
from leader_serve.student import StudentDeployment
from leader_serve.teacher import TeacherDeployment

# A quarter of a core each, and their new replicas of a rolling update as much again: one core in all, which the teacher
# leaves free. A teacher that asked for every core of a small machine would never be placed, or block the update.
_LIGHT_CPUS = 0.25
_CPUS_BESIDE_TEACHER = 4 * _LIGHT_CPUS


class AppArguments(BaseModel):
    """All that the graph depends on; Serve's config file carries it as `args`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: str
    serve: ServeConfig
    resources: ResourcesConfig
    teacher: bool = True
    teacher_environment: dict[str, str] = {}
    revision: str = ""
    """Digest of the run's models. Serve restarts replicas only where arguments changed; a retrained run must be one."""


def build(arguments: AppArguments) -> serve.Application:
    config = arguments.serve
    student, ingress_replicas = None, config.student_replicas
    if config.student == "deployment":
        student, ingress_replicas = _options(StudentDeployment, config, config.student_replicas).bind(arguments.run), 1
    teacher = None
    if arguments.teacher:
        teacher = (
            _options(TeacherDeployment, config, config.teacher_replicas)
            .options(
                ray_actor_options=_teacher_actor(arguments),
                # A second engine beside the first would take the memory of both; requests degrade meanwhile.
                max_surge_percent=0,
                # An engine that compiles or swaps answers late without being broken.
                health_check_timeout_s=60,
            )
            .bind(arguments.run, config.teacher_engine)
        )
    return _options(IngressDeployment, config, ingress_replicas).bind(arguments.run, config, student, teacher)


def _options(deployment: serve.Deployment, config: ServeConfig, num_replicas: int) -> serve.Deployment:
    return deployment.options(
        num_replicas=num_replicas,
        max_ongoing_requests=config.max_ongoing_requests,
        max_queued_requests=config.max_queued_requests,
        backpressure_config={"status_code": 503, "retry_after_s": 1},
        ray_actor_options={"num_cpus": _LIGHT_CPUS},
        # Serve's default stops the old replica first: with one replica, an update would refuse every request.
        max_surge_percent=100,
    )


def _teacher_actor(arguments: AppArguments) -> dict[str, Any]:
    cores = arguments.resources.cpus_per_worker
    # What Ray reserves must not become what the engine computes on: Ray sets OMP_NUM_THREADS to the reservation.
    environment = {"OMP_NUM_THREADS": str(max(1, math.floor(cores))), **arguments.teacher_environment}
    return {
        "num_cpus": max(1.0, cores - _CPUS_BESIDE_TEACHER),
        "num_gpus": arguments.resources.gpus_per_worker,
        "runtime_env": {"env_vars": environment},
    }
