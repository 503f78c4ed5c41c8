"""The Serve deployment that answers HTTP."""

from __future__ import annotations

from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle

from leader_platform.config import ServeConfig
from leader_serve.handles import RemoteModel
from leader_serve.http_api import build_http
from leader_serve.recommender import Recommender
from leader_serve.router import Router
from leader_serve.safety import InteractionTable


class Ingress:
    """Checks requests, routes them, and adds interaction alerts; the models are behind handles."""

    def __init__(
        self, run: str, config: ServeConfig, student: DeploymentHandle, teacher: DeploymentHandle | None
    ) -> None:
        router = Router(
            RemoteModel(student),
            RemoteModel(teacher) if teacher is not None else None,
            teacher_timeout_s=config.teacher_timeout_s,
        )
        self._recommender = Recommender(router, InteractionTable.load(run), config)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Serve calls this in the replica, after `__init__`, so the FastAPI application is never pickled."""
        return build_http(self._recommender, echo_request_id=False)


IngressDeployment = serve.deployment(name="Ingress")(serve.ingress()(Ingress))
