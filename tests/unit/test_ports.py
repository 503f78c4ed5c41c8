"""Ports: whether a server could listen, and the way out where it could not."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from leader_cli.console import Settings
from leader_cli.quickstart import _with_free_serve_port
from leader_platform import ports
from leader_platform.config import LeaderConfig, ServeConfig
from leader_platform.errors import RunError, UserError


@pytest.fixture(params=["127.0.0.1", "0.0.0.0", "::"])
def taken(request: pytest.FixtureRequest) -> Iterator[int]:
    """A port of loopback on which another program listens, by whatever address."""
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    try:
        server = socket.create_server((request.param, 0), family=family, dualstack_ipv6=":" in request.param)
    except OSError:
        pytest.skip("no IPv6 here")
    with server:
        yield server.getsockname()[1]


def test_a_taken_port_is_refused_with_a_free_one_as_the_way_out(taken: int) -> None:
    with pytest.raises(UserError, match=rf"Port {taken} is taken by another program.*--port=\d+\.$") as refused:
        ports.require_free(taken, "--port=")
    named = int(str(refused.value).rpartition("=")[2].rstrip("."))
    assert named > taken
    ports.require_free(named, "--port=")


@pytest.mark.parametrize(
    ("port", "host", "why"),
    [(65536, "127.0.0.1", "1 to 65535"), (29000, "203.0.113.9", "assign"), (29000, "no such host", "")],
)
def test_an_address_that_cannot_be_used_is_told(port: int, host: str, why: str) -> None:
    with pytest.raises(UserError, match=f"No server can listen on port {port} of {host} .*{why}.*check the address"):
        ports.require_free(port, "--port=", host)


def test_the_next_free_port_is_taken_and_said(taken: int) -> None:
    said: list[str] = []
    port = ports.take_port(taken, "Ray's dashboard", said.append)
    assert port > taken
    assert said == [f"Port {taken} is taken by another program; Ray's dashboard takes {port}."]
    assert ports.take_port(port, "Ray's dashboard", said.append) == port
    assert len(said) == 1


def test_where_no_port_is_free_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "refusal", lambda *_: OSError(98, "taken"))
    for choose in (ports.free_port, lambda: ports.first_free(65500)):
        with pytest.raises(RunError, match="No free port"):
            choose()


def test_the_quickstart_moves_from_a_taken_default(taken: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Before its work starts: the port is used ten minutes later."""
    default = LeaderConfig(serve=ServeConfig(port=taken))
    monkeypatch.setattr("leader_platform.recipes.recipe", lambda _: default)
    settings = _with_free_serve_port(Settings(tmp_path, overrides=("student.width=16",)))
    config = settings.config()
    assert config.serve.port > taken
    assert config.student.width == 16
    assert _with_free_serve_port(settings) is settings, "a port that is set and free is kept"


@pytest.mark.parametrize("by", ["option", "file"])
def test_the_quickstart_keeps_to_the_users_choice(by: str, taken: int, tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(f"serve: {{port: {taken}}}\n")
    chosen = Settings(tmp_path, config_file=str(file))
    if by == "option":
        chosen = Settings(tmp_path, overrides=(f"serve.port={taken}",))
    with pytest.raises(UserError, match=rf"Port {taken} is taken.*--set serve\.port="):
        _with_free_serve_port(chosen)
