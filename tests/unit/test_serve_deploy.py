"""Plans brought to a cluster and taken away again, against a dashboard in memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.served import CONFIG, trained

from leader_platform.config import LeaderConfig
from leader_platform.errors import RunError, UserError
from leader_platform.progress import LineProgress
from leader_platform.settings import load_config
from leader_serve import deploy as deployment
from leader_serve.dashboard import Dashboard
from leader_serve.plans import prepare


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return trained(tmp_path)


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
        "replicas": [{"state": "RUNNING" if deployment_status == "HEALTHY" else "STARTING", "node_ip": "10.0.0.1"}],
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
    plan = prepare(str(run), CONFIG, with_teacher=False)
    deployment.deploy(
        "http://ray.example:8265", plan, LineProgress((said if said is not None else []).append), timeout_s=timeout_s
    )


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


def test_a_replica_without_memory_is_explained(run: Path, use: Any) -> None:
    """Its own sentence where it has one; Ray's memory monitor ends it without."""
    own = "Traceback\ntorch.OutOfMemoryError: CUDA out of memory\nRunError: The teacher ran out of memory; lower it."
    use(FakeDashboard(state("DEPLOY_FAILED", own, "DEPLOY_FAILED")))
    with pytest.raises(RunError, match=r"Student: RunError: The teacher ran out of memory; lower it\.$"):
        deploy(run)
    ended = "A replica failed.\n1 worker(s) were killed due to the node running low on memory.\nSee the logs."
    use(FakeDashboard(state("DEPLOY_FAILED", ended, "DEPLOY_FAILED")))
    with pytest.raises(RunError, match=r"Student: a replica ran out of memory; free some.* See the logs\.$"):
        deploy(run)


def test_a_deployment_that_never_starts_ends_in_a_sentence(run: Path, use: Any) -> None:
    use(FakeDashboard(state("DEPLOYING", deployment_status="UPDATING")))
    with pytest.raises(RunError, match="did not run in time"):
        deploy(run, timeout_s=0)


def test_a_teacher_that_fails_fails_the_deployment(run: Path, use: Any) -> None:
    """Ingress and teacher are two applications, and told as one."""
    fake = use(FakeDashboard(state("RUNNING")))
    plan = prepare(str(run), CONFIG)
    with pytest.raises(RunError, match=r"did not run in time \(not started, Student 1/1\)"):
        deployment.deploy("http://ray.example:8265", plan, timeout_s=0)
    broken = state("DEPLOY_FAILED", "No engine.", "DEPLOY_FAILED")
    broken["deployments"] = {"Teacher": {**broken["deployments"]["Student"], "name": "Teacher"}}
    fake.others = {"leader-teacher": broken}
    with pytest.raises(RunError, match=r"could not be deployed: Teacher: No engine\."):
        deployment.deploy("http://ray.example:8265", plan)
    told = deployment.status("http://ray.example:8265")
    assert (told["status"], set(told["deployments"])) == ("DEPLOY_FAILED", {"Student", "Teacher"})


def test_a_teacher_on_its_way_out_holds_nothing_up(run: Path, use: Any) -> None:
    fake = use(FakeDashboard(state("RUNNING")))
    fake.others = {"leader-teacher": state("DELETING")}
    deploy(run)
    fake.others["leader"] = state("RUNNING")
    assert deployment.status("http://ray.example:8265")["status"] == "RUNNING"
    with pytest.raises(RunError, match="did not run in time"):  # it is to come back, and has not
        deployment.deploy("http://ray.example:8265", prepare(str(run), CONFIG), timeout_s=0)


def test_what_runs_is_read_back_from_the_cluster(run: Path, use: Any) -> None:
    fake = use(FakeDashboard())
    assert deployment.running("http://ray.example:8265") is None
    plan = prepare(str(run), CONFIG)
    fake.others = {one["name"]: {**state("RUNNING"), "deployed_app_config": one} for one in plan["applications"]}
    found = deployment.running("http://ray.example:8265")
    assert found is not None
    assert prepare(str(run), CONFIG, running=found) == plan
    told = deployment.status("http://ray.example:8265")
    assert (told["run"], told["canary"]) == (str(run), None)
    fake.others["leader"]["deployed_app_config"]["args"] = {"run": "of an older version"}
    assert deployment.running("http://ray.example:8265") is None


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
        plan = prepare(str(run), load_config(LeaderConfig(), None, [f"serve.port={port}"]))
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
