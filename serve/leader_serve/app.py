"""The application graph: an ingress with the student, and a teacher. Serve's config imports the two builders here."""

# No `from __future__ import annotations` here: Serve reads the annotation of `build`'s argument as a class.

from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray import serve

from leader_platform.config import ServeConfig
from leader_platform.machine import Machine
from leader_platform.models.vllm_engine import engine_environment
from leader_serve.ingress import IngressDeployment, Models
from leader_serve.releases import TEACHER_APPLICATIONS, IngressArguments, Release, Replicas, TeacherArguments
from leader_serve.router import STUDENT_TIMEOUT_S
from leader_serve.schemas import ReleaseName
from leader_serve.student import StudentDeployment
from leader_serve.teacher import TeacherDeployment

# A quarter of a core for each of two replicas, and for their new ones of a rolling update as much again: one core in
# all, which the teacher leaves free. A teacher that asked for every core of a small machine would never be placed, or
# block the update.
_LIGHT_CPUS = 0.25
_CPUS_BESIDE_TEACHER = 4 * _LIGHT_CPUS
_ONE = Replicas(least=1, most=None, target_ongoing_requests=1)
_STUDENTS: Mapping[ReleaseName, str] = {"stable": "Student", "canary": "CanaryStudent"}


def build(arguments: IngressArguments) -> serve.Application:
    """The application that answers HTTP: an ingress that holds the student, or a handle to it, and knows the teacher's
    application; of a canary too."""
    config = arguments.serve
    stable = _models(config, arguments.stable, "stable")
    canary = None if arguments.canary is None else _models(config, arguments.canary, "canary")
    students = Replicas.of("student", config)
    replicas = students if config.student == "ingress" else _ONE
    return _options(IngressDeployment, config, replicas).bind(config, stable, canary, arguments.canary_share)


def _models(config: ServeConfig, release: Release, name: ReleaseName) -> Models:
    student: Any = None
    if config.student == "deployment":
        deployment = _options(StudentDeployment, config, Replicas.of("student", config))
        student = deployment.options(name=_STUDENTS[name]).bind(release.run)
    return Models(release.run, student, TEACHER_APPLICATIONS[name] if release.teacher else None)


def build_teacher(arguments: TeacherArguments) -> serve.Application:
    """A release's teacher, which ingress replicas call by handle."""
    deployment = TeacherDeployment.options(
        **_scaling(arguments.replicas),
        max_ongoing_requests=arguments.max_ongoing_requests,
        max_queued_requests=arguments.max_queued_requests,
        ray_actor_options=_teacher_actor(arguments),
        # A second engine beside the first would take the memory of both; requests degrade meanwhile.
        max_surge_percent=0,
        # An engine that compiles or swaps answers late without being broken.
        health_check_timeout_s=60,
    )
    return deployment.bind(
        arguments.run, arguments.engine, arguments.dtype, arguments.resources.gpus_per_worker, arguments.kv_cache_gb
    )


def _scaling(replicas: Replicas) -> dict[str, Any]:
    if replicas.most is None:
        return {"num_replicas": replicas.least}
    # Fast up, since requests wait; slowly down, since a replica takes seconds to start, and an engine half a minute.
    autoscaling = {
        "min_replicas": replicas.least,
        "max_replicas": replicas.most,
        "target_ongoing_requests": replicas.target_ongoing_requests,
        "upscale_delay_s": 5,
        "downscale_delay_s": 120,
    }
    return {"autoscaling_config": autoscaling}


def _options(deployment: serve.Deployment, config: ServeConfig, replicas: Replicas) -> serve.Deployment:
    return deployment.options(
        **_scaling(replicas),
        max_ongoing_requests=config.max_ongoing_requests,
        max_queued_requests=config.max_queued_requests,
        backpressure_config={"status_code": 503, "retry_after_s": 1},
        ray_actor_options={"num_cpus": _LIGHT_CPUS},
        # A replica that leaves answers what it has taken on, for which it may have to wait for the teacher.
        graceful_shutdown_timeout_s=STUDENT_TIMEOUT_S + config.teacher_timeout_s,
        # Serve's default stops the old replica first: with one replica, an update would refuse every request.
        max_surge_percent=100,
    )


def _teacher_actor(arguments: TeacherArguments) -> dict[str, Any]:
    nodes = _nodes()
    resources = arguments.resources.on(nodes)
    # What Ray reserves must not become what the engine computes on: Ray sets OMP_NUM_THREADS to the reservation.
    environment = {"OMP_NUM_THREADS": str(resources.threads), **_engine_environment(arguments)}
    return {
        "num_cpus": _reserved(resources.cores, nodes),
        "num_gpus": resources.gpus_per_worker if arguments.engine == "vllm" else resources.gpus_of_one_process,
        "runtime_env": {"env_vars": environment},
    }


def _nodes() -> list[dict[str, float]]:
    """The resources of the nodes that are up. Serve builds applications in a task; without a Ray none are known."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]] if ray.is_initialized() else []


def _reserved(cores: float, nodes: Sequence[Mapping[str, float]]) -> float:
    """CPUs that place a teacher which computes on `cores`: none on machines of one core, which all replicas share."""
    largest = max([cores, *(node.get("CPU", 0) for node in nodes)])
    return 0.0 if largest <= 1 else max(1.0, cores - _CPUS_BESIDE_TEACHER)


def _engine_environment(arguments: TeacherArguments) -> dict[str, str]:
    """What the engine's process must find set before it starts (docs/SERVING.md). It names libraries by their place, so
    it is made where the application is built, on a node, and not where the plan is."""
    if arguments.engine != "vllm":
        return {}
    on_gpu = arguments.resources.gpus_per_worker > 0
    return engine_environment(arguments.kv_cache_gb, on_gpu, threads=Machine().threads())
