"""A user behind a web proxy who excepted nothing from it: this machine is called directly, others as the user says."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import aiohttp
import grpc
import httpx
import pytest
import requests
from support.http_files import serving
from support.recording_proxy import NO_PROXY_VARIABLES, PROXY_VARIABLES, RecordingProxy, recording_proxy
from typer.testing import CliRunner

from leader_cli.main import app
from leader_platform import cluster_head, ray_jobs, shipping
from leader_platform.cluster_state import ClusterState
from leader_platform.data.fetch import COLLECTIONS, fetch
from leader_platform.errors import RunError, UserError
from leader_platform.ray_environment import call_directly, no_proxy_environment
from leader_platform.web import http_client
from leader_serve.client import LeaderClient


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[RecordingProxy]:
    for name in NO_PROXY_VARIABLES:
        monkeypatch.setenv(name, "")  # so that what the code under test sets is taken back
        monkeypatch.delenv(name)
    with recording_proxy() as proxy:
        for name, value in proxy.environment().items():
            monkeypatch.setenv(name, value)
        yield proxy


async def _aiohttp(url: str) -> None:
    async with aiohttp.ClientSession(trust_env=True) as session:
        await session.get(url)


def _grpc(url: str) -> None:
    failed = threading.Event()
    with grpc.insecure_channel(url.partition("//")[2], options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        failure = grpc.ChannelConnectivity.TRANSIENT_FAILURE
        channel.subscribe(lambda state: failed.set() if state is failure else None, try_to_connect=True)
        failed.wait(5)  # looked at five times a second


# The libraries by which Ray, Serve, vLLM, the Hugging Face hub and ours call others.
CALLS: dict[str, Callable[[str], object]] = {
    "requests": lambda url: requests.get(url, timeout=2),
    "httpx": lambda url: httpx.get(url, timeout=2, verify=False),
    "urllib": lambda url: urllib.request.build_opener().open(url, timeout=2),
    "aiohttp": lambda url: asyncio.run(_aiohttp(url)),
    "grpc": _grpc,
}
HERE = ["127.0.0.1", "localhost", "LOCALHOST", "0.0.0.0", "[::1]"]


def asked(proxy: RecordingProxy, call: Callable[[str], object], url: str) -> bool:
    """Whether the proxy was asked for `url`, which nobody answers."""
    before = len(proxy.requests)
    with suppress(OSError, httpx.HTTPError, aiohttp.ClientError):
        call(url)
    return len(proxy.requests) > before


@pytest.mark.parametrize("excepted", [{}, {"NO_PROXY": "a.example"}, {"no_proxy": "*"}, {"no_grpc_proxy": "b.example"}])
@pytest.mark.parametrize("library", CALLS)
def test_no_library_asks_the_proxy_for_this_machine(
    library: str, excepted: dict[str, str], proxy: RecordingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in excepted.items():
        monkeypatch.setenv(name, value)
    call_directly()
    # urllib wants [::1] in brackets, with which httpx does not start; nobody here calls IPv6 by urllib. gRPC is slow.
    hosts = {"urllib": HERE[:-1], "grpc": HERE[:2]}.get(library, HERE)
    assert [host for host in hosts if asked(proxy, CALLS[library], f"http://{host}:1")] == []


@pytest.mark.parametrize("library", CALLS)
def test_other_hosts_are_asked_of_the_proxy_unless_the_user_excepted_them(
    library: str, proxy: RecordingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "excepted.invalid")
    call_directly()
    assert asked(proxy, CALLS[library], "http://other.invalid:1")
    assert not asked(proxy, CALLS[library], "http://excepted.invalid:1")


def test_calls_between_replicas_on_several_machines_pass_no_proxy(proxy: RecordingProxy) -> None:
    """They go by gRPC to addresses in digits, and Serve does not turn proxies off for them."""
    assert asked(proxy, _grpc, "http://127.255.255.254:1")
    call_directly()
    assert not asked(proxy, _grpc, "http://127.255.255.254:1")
    assert {"0.0.0.0/0", "::/0"} <= set(no_proxy_environment(os.environ)["no_grpc_proxy"].split(","))


def test_what_the_user_excepted_stays() -> None:
    given = {"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": " .example.org, localhost ,10.0.0.0/8"}
    made = no_proxy_environment(given)
    for name in ("NO_PROXY", "no_proxy"):
        assert made[name].startswith(".example.org,localhost,10.0.0.0/8,127.0.0.1,")
    assert no_proxy_environment({**given, **made}) == made, "once is enough"
    assert no_proxy_environment({"http_proxy": "p", "no_proxy": "*"})["no_proxy"] == "*"
    assert no_proxy_environment({"http_proxy": "p", "no_proxy": "a", "NO_PROXY": "b"})["NO_PROXY"].startswith("b,")


@pytest.mark.parametrize("environment", [{}, {"http_proxy": ""}, {"RAY_SERVE_ENABLE_HA_PROXY": "1"}])
def test_without_a_proxy_nothing_is_set(environment: dict[str, str]) -> None:
    assert no_proxy_environment(environment) == {}


@pytest.mark.parametrize("name", PROXY_VARIABLES)
def test_every_variable_of_a_proxy_counts(name: str) -> None:
    assert "127.0.0.1" in no_proxy_environment({name: "http://proxy:3128"})["no_proxy"]


def test_the_head_and_what_it_starts_call_this_machine_directly(proxy: RecordingProxy, tmp_path: Path) -> None:
    environment = cluster_head._environment(tmp_path, tmp_path / "token")
    assert environment["http_proxy"] == proxy.url
    assert all("127.0.0.1" in environment[name].split(",") for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"))


@pytest.mark.parametrize("excepted", ["", "*", ".example.org"])
def test_the_nodes_of_a_cluster_file_do_the_same(excepted: str, tmp_path: Path) -> None:
    (tmp_path / "environment.sh").write_text(shipping.environment_script())
    given = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "http_proxy": "http://proxy:3128", "NO_PROXY": excepted}
    script = 'set -eu; . ./environment.sh; python3 -c "import json, os; print(json.dumps(dict(os.environ)))"'
    done = subprocess.run(["sh", "-c", script], cwd=tmp_path, env=given, capture_output=True, text=True, check=True)
    found, expected = json.loads(done.stdout), no_proxy_environment(given)
    for name in ("no_proxy", "NO_PROXY"):
        assert found[name] == expected[name]
    assert set(found["no_grpc_proxy"].split(",")) - {"*", ""} == set(expected["no_grpc_proxy"].split(","))


class _Dashboard(BaseHTTPRequestHandler):
    """As much of Ray's dashboard as submitting a job needs."""

    def do_GET(self) -> None:
        self._answer({"ray_version": "2.60.0", "version": "4", "ray_commit": "", "session_name": ""})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer({"submission_id": "raysubmit_1", "job_id": "raysubmit_1"})

    def _answer(self, values: dict[str, str]) -> None:
        body = json.dumps(values).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Silent: pytest's output is for tests."""


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost"])
def test_rays_job_client_hands_neither_the_request_nor_the_token_to_the_proxy(
    host: str, proxy: RecordingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    with ThreadingHTTPServer(("0.0.0.0", 0), _Dashboard) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        state = ClusterState(address=host, dashboard_url=f"http://{host}:{server.server_port}")
        job = ray_jobs._client(state).submit_job(entrypoint="true")
        server.shutdown()
    assert job == "raysubmit_1"
    assert proxy.requests == []


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost", "[::1]", "0.0.0.0"])
def test_recommend_calls_an_application_here_directly(host: str, proxy: RecordingProxy, tmp_path: Path) -> None:
    (tmp_path / "patient.json").write_text("{}")
    arguments = ["recommend", "--patient", str(tmp_path / "patient.json"), "--url", f"http://{host}:1"]
    result = CliRunner().invoke(app, arguments, env={"LEADER_API_KEY": "secret"})
    assert isinstance(result.exception, RunError)
    assert "Nothing answers" in str(result.exception)
    assert proxy.requests == []


def test_recommend_calls_an_application_elsewhere_by_the_proxy(proxy: RecordingProxy) -> None:
    with LeaderClient("http://leader.invalid:8000") as client, pytest.raises(RunError):
        client.models()
    assert proxy.requests == ["GET http://leader.invalid:8000/v1/models"]


def test_files_are_fetched_from_this_machine_directly(proxy: RecordingProxy, terminology: Path, tmp_path: Path) -> None:
    with serving(terminology=terminology) as server:
        fetch(COLLECTIONS["terminology"], tmp_path, f"{server.url}/terminology")
    assert proxy.requests == []


def test_a_socks_proxy_without_its_package_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://user:password@127.0.0.1:1080")
    with pytest.raises(UserError, match=r"proxy settings .*socksio.*httpx\[socks\]") as refused:
        LeaderClient("http://leader.invalid:8000")
    assert "password" not in str(refused.value)
    http_client("http://127.0.0.1:8000").close()  # for which no proxy is asked
