"""The Serve deployment that answers HTTP."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle

from leader_platform.config import ServeConfig
from leader_serve.canary import Answering, Canary
from leader_serve.handles import RemoteModel
from leader_serve.http_api import build_http
from leader_serve.keys import KeyRing
from leader_serve.metrics import RayMetrics
from leader_serve.recommender import Recommender
from leader_serve.router import Router
from leader_serve.safety import InteractionTable
from leader_serve.schemas import ReleaseName
from leader_serve.student import Student
from leader_serve.teacher import TeacherDeployment


@dataclass(frozen=True)
class Models:
    """A run, a handle to its student, without which the student computes in the ingress replica, and the name of its
    teacher's application if it has one."""

    run: str
    student: DeploymentHandle | None
    teacher: str | None


class Ingress:
    """Checks requests, routes them, and adds interaction alerts."""

    def __init__(self, config: ServeConfig, stable: Models, canary: Models | None, canary_share: float) -> None:
        self._metrics = RayMetrics()
        self._keys = None if config.keys_file is None else KeyRing(config.keys_file)
        self._answers: Answering = self._recommender(config, stable, "stable")
        if canary is not None:
            self._answers = Canary(self._answers, self._recommender(config, canary, "canary"), canary_share)

    def _recommender(self, config: ServeConfig, models: Models, release: ReleaseName) -> Recommender:
        metrics = self._metrics.of(release)
        student = Student(models.run, metrics) if models.student is None else RemoteModel(models.student)
        teacher = None
        if models.teacher is not None:
            # Not asked for yet: it may still start, and requests degrade meanwhile.
            teacher = RemoteModel(serve.get_deployment_handle(TeacherDeployment.name, models.teacher))
        router = Router(student, teacher, config, metrics)
        return Recommender(router, InteractionTable.load(models.run), config, metrics, release)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Serve calls this in the replica, after `__init__`, so the FastAPI application is never pickled."""
        return build_http(self._answers, self._keys, self._metrics, echo_request_id=False)


IngressDeployment = serve.deployment(name="Ingress")(serve.ingress()(Ingress))
