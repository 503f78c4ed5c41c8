"""Serve's config of a run, the checks before it, and the wait after it, against a dashboard in memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from ray.serve.schema import ServeDeploySchema

from leader_platform.config import LeaderConfig
from leader_platform.errors import RunError, UserError
from leader_platform.settings import load_config
from leader_serve import deploy as deployment
from leader_serve.app import AppArguments, build
from leader_serve.dashboard import Dashboard
from leader_serve.keys import add_key, remove_key

CONFIG = load_config(LeaderConfig(), None, ["serve.port=18231"])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for product in ("student", "teacher"):
        trained(tmp_path, product, "2026-01-01")
    return tmp_path


def trained(run: Path, product: str, finished_at: str) -> None:
    (run / product).mkdir(exist_ok=True)
    (run / product / "manifest.json").write_text(json.dumps({"key": "abc", "finished_at": finished_at}))


def arguments(plan: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = plan["applications"][0]["args"]
    return found


def test_the_config_is_what_serve_accepts_and_builds(run: Path) -> None:
    plan = deployment.prepare(str(run), CONFIG)
    schema = ServeDeploySchema.model_validate(plan)
    assert (schema.http_options.host, schema.http_options.port) == ("127.0.0.1", 18231)
    assert schema.logging_config is not None
    assert not schema.logging_config.enable_access_log
    (application,) = schema.applications
    assert (application.name, application.route_prefix) == ("leader", "/")
    ingress = build(AppArguments.model_validate(application.args))._bound_deployment
    assert ingress.name == "Ingress"
    assert ingress.max_queued_requests == CONFIG.serve.max_queued_requests
    assert ingress.backpressure_config.retry_after_s == 1


def test_the_teacher_leaves_room_and_keeps_its_threads(run: Path) -> None:
    plan = deployment.prepare(str(run), CONFIG)
    teacher = build(AppArguments.model_validate(arguments(plan)))._bound_deployment.init_args[3]._bound_deployment
    options = teacher.ray_actor_options
    assert options["num_cpus"] == 1.0
    assert options["runtime_env"]["env_vars"]["OMP_NUM_THREADS"] == "2"
    assert options["runtime_env"]["env_vars"]["VLLM_CPU_NUM_OF_RESERVED_CPU"] == "0"


def test_where_the_student_computes_is_a_setting(run: Path) -> None:
    inside = load_config(CONFIG, None, ["serve.student_replicas=3"])
    ingress = build(AppArguments.model_validate(arguments(deployment.prepare(str(run), inside))))._bound_deployment
    assert (ingress.num_replicas, ingress.init_args[2]) == (3, None)
    apart = load_config(inside, None, ["serve.student=deployment"])
    ingress = build(AppArguments.model_validate(arguments(deployment.prepare(str(run), apart))))._bound_deployment
    student = ingress.init_args[2]._bound_deployment
    assert (ingress.num_replicas, student.name, student.num_replicas) == (1, "Student", 3)


def test_others_reach_the_port_with_keys_alone(run: Path) -> None:
    public = load_config(CONFIG, None, ["serve.host=0.0.0.0"])
    with pytest.raises(UserError, match=r"0\.0\.0\.0 is reachable .*`leader serve keys add NAME`"):
        deployment.prepare(str(run), public)
    path = run / "keys.json"
    with_keys = load_config(public, None, [f"serve.keys_file={path}"])
    with pytest.raises(UserError, match="There is no key file"):
        deployment.prepare(str(run), with_keys)
    add_key(str(path), "ward-7")
    assert arguments(deployment.prepare(str(run), with_keys))["serve"]["keys_file"] == str(path)
    remove_key(str(path), "ward-7")
    with pytest.raises(UserError, match="holds no key"):
        deployment.prepare(str(run), with_keys)


def test_a_retrained_run_changes_the_arguments_and_nothing_else_does(run: Path) -> None:
    before = deployment.prepare(str(run), CONFIG)
    assert deployment.prepare(str(run), CONFIG) == before
    trained(run, "student", "2026-01-02")
    assert arguments(deployment.prepare(str(run), CONFIG))["revision"] != arguments(before)["revision"]


def test_a_run_without_a_student_names_the_command_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"leader train --stage distill --run {tmp_path}"):
        deployment.prepare(str(tmp_path), CONFIG)


def test_a_run_without_a_teacher_is_deployed_without_and_says_so(run: Path) -> None:
    (run / "teacher" / "manifest.json").unlink()
    said: list[str] = []
    assert not arguments(deployment.prepare(str(run), CONFIG, say=said.append))["teacher"]
    assert "no teacher" in said[0]
    assert not arguments(deployment.prepare(str(run), CONFIG, with_teacher=False, say=said.append))["teacher"]
    assert len(said) == 1


class FakeDashboard:
    """Answers Serve's REST API: `states` are the application's, one a GET after the PUT."""

    def __init__(self, *states: dict[str, Any], http_options: dict[str, Any] | None = None) -> None:
        self.states = list(states)
        self.http_options = http_options
        self.others: dict[str, Any] = {}
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if request.method != "GET":
            return httpx.Response(200)
        put = any(earlier.method == "PUT" for earlier in self.requests)
        applications = dict(self.others)
        if put:
            applications["leader"] = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        return httpx.Response(200, json={"applications": applications, "http_options": self.http_options})


def state(status: str, message: str = "", deployment_status: str = "HEALTHY") -> dict[str, Any]:
    student = {
        "name": "Student",
        "status": deployment_status,
        "message": message,
        "target_num_replicas": 1,
        "replicas": [{"state": "RUNNING" if deployment_status == "HEALTHY" else "STARTING"}],
    }
    return {"status": status, "message": "", "deployments": {"Student": student}}


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Any:
    def install(fake: FakeDashboard) -> FakeDashboard:
        monkeypatch.setenv("RAY_AUTH_TOKEN", "token-of-the-test")
        monkeypatch.setattr(
            deployment, "Dashboard", lambda url, token: Dashboard(url, token, transport=httpx.MockTransport(fake))
        )
        monkeypatch.setattr("time.sleep", lambda _: None)
        return fake

    return install


def deploy(run: Path, said: list[str] | None = None, timeout_s: float = 60) -> None:
    plan = deployment.prepare(str(run), CONFIG)
    deployment.deploy("http://ray.example:8265", plan, (said if said is not None else []).append, timeout_s=timeout_s)


def test_deploy_waits_until_the_application_runs(run: Path, use: Any) -> None:
    fake = use(FakeDashboard(state("DEPLOYING", deployment_status="UPDATING"), state("RUNNING")))
    said: list[str] = []
    deploy(run, said)
    assert said == ["deploying, Student 0/1", "running, Student 1/1"]
    assert {request.headers["Authorization"] for request in fake.requests} == {"Bearer token-of-the-test"}


def test_a_failed_deployment_tells_the_cause(run: Path, use: Any) -> None:
    use(
        FakeDashboard(state("DEPLOY_FAILED", "Traceback\n  File x\nUserError: The student is broken.", "DEPLOY_FAILED"))
    )
    with pytest.raises(RunError, match=r"Student: UserError: The student is broken\."):
        deploy(run)


def test_a_deployment_that_never_starts_ends_in_a_sentence(run: Path, use: Any) -> None:
    use(FakeDashboard(state("DEPLOYING", deployment_status="UPDATING")))
    with pytest.raises(RunError, match="did not run in time"):
        deploy(run, timeout_s=0)


def test_other_applications_are_not_removed(run: Path, use: Any) -> None:
    fake = use(FakeDashboard(state("RUNNING")))
    fake.others = {"billing": {}}
    with pytest.raises(UserError, match="also serves billing"):
        deploy(run)
    with pytest.raises(UserError, match="also serves billing"):
        deployment.shutdown("http://ray.example:8265")
    assert {request.method for request in fake.requests} == {"GET"}


class EndingServe(FakeDashboard):
    """A Serve that still answers twice after it was told to end, as the real one does for some seconds."""

    answers_left = 2

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if any(earlier.method == "DELETE" for earlier in self.requests):
            self.answers_left -= 1
            if self.answers_left < 0:
                self.http_options = None
        return super().__call__(request)


def test_shutdown_waits_for_the_end(use: Any) -> None:
    fake = use(EndingServe(state("RUNNING"), http_options={"host": "127.0.0.1", "port": 9000}))
    deployment.shutdown("http://ray.example:8265")
    assert [request.method for request in fake.requests] == ["GET", "DELETE", "GET", "GET", "GET"]


def test_nothing_to_shut_down_is_told(use: Any) -> None:
    fake = use(FakeDashboard())
    assert deployment.shutdown("http://ray.example:8265") is False
    assert [request.method for request in fake.requests] == ["GET"]


def test_serve_on_another_port_is_named(run: Path, use: Any) -> None:
    use(FakeDashboard(state("RUNNING"), http_options={"host": "127.0.0.1", "port": 9000}))
    with pytest.raises(UserError, match=r"127\.0\.0\.1:9000 .*--set serve\.port=9000"):
        deploy(run)


def test_a_taken_port_is_named(run: Path, use: Any) -> None:
    import socket

    use(FakeDashboard(state("RUNNING")))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        plan = deployment.prepare(str(run), load_config(LeaderConfig(), None, [f"serve.port={port}"]))
        with pytest.raises(UserError, match=f"Port {port} is taken.*--set serve.port="):
            deployment.deploy("http://127.0.0.1:8265", plan)


def test_status_and_shutdown_without_an_application(use: Any) -> None:
    use(FakeDashboard())
    assert deployment.status("http://ray.example:8265")["status"] == "NOT_DEPLOYED"
    assert not deployment.shutdown("http://ray.example:8265")


def test_the_commands_import_nothing_heavy() -> None:
    heavy = "{'ray', 'torch', 'fastapi'}"
    code = f"import sys, leader_cli.serve, leader_cli.recommend; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
