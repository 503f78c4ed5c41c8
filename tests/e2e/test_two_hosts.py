"""Two hosts by `leader cluster up FILE`: a student trained and served on both, and what happens when one is cut off."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
import venv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from support.hosts import Host, hosts, why_not
from support.made_features import run_with_features

from leader_jobs.prepare import PrepareArguments, prepare
from leader_platform.artifacts import Run
from leader_platform.config import LeaderConfig
from leader_platform.data.dataset import PreparedData
from leader_platform.data.synthetic import write_raw
from leader_platform.progress import SILENT
from leader_platform.ray_session import ray_session
from leader_platform.settings import load_config
from leader_serve.schemas import request_of_sample

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
]

ROOT = Path(__file__).parents[2]
PORT, EPOCHS = 8000, 30
SETTINGS = (
    "student.num_workers=2",
    "student.title_states=false",
    "student.checkpoint_epochs=5",
    # More than half of a host's two cores: no host has room for both workers.
    "resources.cpus_per_worker=1.25",
    f"serve.port={PORT}",
    "serve.host=0.0.0.0",
)


@dataclass
class Cluster:
    """Two hosts on which Ray runs, and the `leader` command on this machine, which is neither."""

    head: Host
    worker: Host
    folder: Path
    environment: dict[str, str]
    data: PreparedData
    run: Run

    @property
    def file(self) -> Path:
        return self.folder / "cluster.yaml"

    def start(self, *arguments: str, more_settings: Sequence[str] = ()) -> subprocess.Popen[str]:
        settings = [f"--set={setting}" for setting in (*SETTINGS, *more_settings)]
        command = [str(Path(sys.executable).parent / "leader"), f"--home={self.folder / 'workspace'}", *settings]
        return subprocess.Popen(
            [*command, *arguments], env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def leader(self, *arguments: str) -> str:
        process = self.start(*arguments)
        output, errors = process.communicate(timeout=600)
        assert process.returncode == 0, output + errors
        return output

    def json(self, *arguments: str) -> Any:
        return json.loads(self.leader("--json", f"--address={self.file}", *arguments))

    def alive(self) -> set[str]:
        return {node["node_ip"] for node in self.json("cluster", "status")["nodes"] if node["state"] == "ALIVE"}

    def nodes_of_replicas(self) -> set[str]:
        (deployment,) = self.json("serve", "status")["deployments"].values()
        return set(deployment["nodes"])

    def wait_for(self, alive: set[str], timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while self.alive() != alive:
            assert time.monotonic() < deadline, f"{self.alive()} and not {alive}"
            time.sleep(2)


def cluster_file(head: Host, worker: Host, key: Path) -> dict[str, Any]:
    """The repository's cluster.yaml with these addresses. Both hosts are one machine, so each is told what it has; they
    reach no index, so of install.sh only the wheel's installation is left."""
    values: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    values["provider"] |= {"head_ip": head.address, "worker_ips": [worker.address]}
    values |= {"auth": {"ssh_user": "root", "ssh_private_key": str(key)}, "min_workers": 1, "max_workers": 1}
    install = "~/leader-env/bin/python -m pip install --quiet --no-deps --force-reinstall ~/.leader/dist/*.whl"
    values["setup_commands"] = [install if "install.sh" in line else line for line in values["setup_commands"]]
    start = "RAY_TMPDIR=$HOME ray start --num-cpus=2 --object-store-memory=200000000"
    for name in ("head_start_ray_commands", "worker_start_ray_commands"):
        values[name] = [line.replace("ray start", start) for line in values[name]]
    return values


def lend_packages(host: Host) -> None:
    """The environment that cluster.yaml names, with this one's packages in sight."""
    environment = host.home / "leader-env"
    venv.create(environment)
    packages = environment / "lib" / Path(sysconfig.get_path("purelib")).relative_to(Path(sys.prefix) / "lib")
    (packages / "lent.pth").write_text(sysconfig.get_path("purelib"))
    ray = environment / "bin/ray"
    ray.write_text(f'#!/bin/sh\nexec {environment}/bin/python -m ray.scripts.scripts "$@"\n')
    ray.chmod(0o755)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Short paths, since Ray's sockets lie in the homes."""
    with (
        tempfile.TemporaryDirectory(prefix="lh") as name,
        hosts(["head", "worker"], Path(name)) as ((head, worker), key),
    ):
        folder = Path(name)
        for host in (head, worker):
            lend_packages(host)
        driver = folder / "driver"
        driver.mkdir()
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "LEADER_"))}
        environment |= {"HOME": str(driver), "RAY_TMPDIR": str(driver)}
        config = load_config(LeaderConfig(), None, [setting for setting in SETTINGS if "host" not in setting])
        write_raw("mimic4", folder / "raw", 60, seed=3)
        with ray_session(num_cpus=2):
            prepare(PrepareArguments("mimic4", str(folder / "raw"), str(folder / "data")), config, SILENT)
        data = PreparedData(str(folder / "data"))
        cluster = Cluster(head, worker, folder, environment, data, run_with_features(folder / "run", data, config))
        cluster.file.write_text(yaml.safe_dump(cluster_file(head, worker, key)))
        cluster.leader("cluster", "up", str(cluster.file))
        assert cluster.alive() == {head.address, worker.address}
        yield cluster


def train(cluster: Cluster, max_epochs: int, *options: str) -> subprocess.Popen[str]:
    """The student's training, on its way, which never stops early."""
    settings = [f"student.max_epochs={max_epochs}", f"student.patience={max_epochs}"]
    where = ("--data", cluster.data.uri, "--run", cluster.run.uri, "--only")
    command = (f"--address={cluster.file}", "train", "--stage", "distill", *where, *options)
    return cluster.start(*command, more_settings=settings)


class Followed:
    """A command on its way, and the lines that it has told so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.lines.extend(self.process.stderr)

    def wait_for_line(self, part: str, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not any(part in line for line in self.lines):
            assert time.monotonic() < deadline, f"{part!r} was not told: {''.join(self.lines)}"
            time.sleep(0.2)

    def wait(self, timeout_s: float) -> None:
        assert self.process.wait(timeout_s) == 0, "".join(self.lines)


def test_the_student_trains_and_answers_on_both_hosts_and_survives_the_loss_of_one(cluster: Cluster) -> None:
    """One test, since each step stands on the one before it."""
    training = train(cluster, 12)
    output, errors = training.communicate(timeout=300)
    assert training.returncode == 0, output + errors
    assert cluster.run.manifest("student")["training"][-1]["epoch"] == 12

    key = json.loads(cluster.leader("--json", "serve", "keys", "add", "ward-7"))["key"]
    run_and_options = ("--run", cluster.run.uri, "--no-teacher")
    cluster.leader(f"--address={cluster.file}", "serve", "deploy", *run_and_options)
    assert cluster.nodes_of_replicas() == {cluster.head.address, cluster.worker.address}
    _, errors = cluster.start("cluster", "up", str(cluster.file)).communicate(timeout=60)
    assert "runs application leader, which starting it again would end" in errors
    request = request_of_sample(cluster.data.samples("test").to_pylist()[0])

    def ask(host: Host) -> int:
        headers = {"Authorization": f"Bearer {key}"}
        url = f"http://{host.address}:{PORT}/v1/recommendations"
        try:
            return httpx.post(url, json=request, headers=headers, timeout=20, trust_env=False).status_code
        except httpx.HTTPError:
            return 0

    assert [ask(host) for host in (cluster.head, cluster.worker)] == [200, 200]

    training = Followed(train(cluster, EPOCHS, "--force"))
    training.wait_for_line("epoch 8 ", 240)
    cluster.worker.cut_off()
    cut_at, answers = time.monotonic(), []
    while time.monotonic() - cut_at < 40:
        answers.append(ask(cluster.head))
        time.sleep(0.5)
    print(f"while the other host was away: {answers.count(200)} of {len(answers)} answered")
    assert answers[-20:] == [200] * 20
    assert answers.count(200) >= 0.9 * len(answers)
    cluster.wait_for({cluster.head.address}, 60)

    cluster.worker.join_again()
    cluster.wait_for({cluster.head.address, cluster.worker.address}, 240)  # the head's monitor starts Ray there again
    training.wait(600)
    epochs = [told["epoch"] for told in cluster.run.manifest("student")["training"]]
    assert epochs[-1] == EPOCHS
    assert len(epochs) < 2 * EPOCHS, "it began anew"
