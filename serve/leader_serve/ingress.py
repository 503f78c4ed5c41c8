"""The Serve deployment that answers HTTP."""

from __future__ import annotations

from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle

from leader_platform.config import ServeConfig
from leader_serve.handles import RemoteModel
from leader_serve.http_api import build_http
from leader_serve.keys import KeyRing
from leader_serve.metrics import RayMetrics
from leader_serve.recommender import Recommender
from leader_serve.router import Router
from leader_serve.safety import InteractionTable
from leader_serve.student import Student


class Ingress:
    """Checks requests, routes them, and adds interaction alerts. The student is in this process, unless there is a
    handle to it; the teacher is behind one."""

    def __init__(
        self, run: str, config: ServeConfig, student: DeploymentHandle | None, teacher: DeploymentHandle | None
    ) -> None:
        self._observer = RayMetrics()
        router = Router(
            Student(run, self._observer) if student is None else RemoteModel(student),
            None if teacher is None else RemoteModel(teacher),
            config,
            self._observer,
        )
        self._recommender = Recommender(router, InteractionTable.load(run), config, self._observer)
        self._keys = None if config.keys_file is None else KeyRing(config.keys_file)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Serve calls this in the replica, after `__init__`, so the FastAPI application is never pickled."""
        return build_http(self._recommender, self._keys, self._observer, echo_request_id=False)


IngressDeployment = serve.deployment(name="Ingress")(serve.ingress()(Ingress))
