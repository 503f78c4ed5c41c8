"""Room for workers on nodes, and a model's files on them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from leader_jobs import placement
from leader_platform.config import ResourcesConfig
from leader_platform.errors import RunError

SMALL, LARGE = {"CPU": 2.0, "memory": 8e9}, {"CPU": 16.0, "GPU": 2.0}


@pytest.mark.parametrize(
    ("nodes", "bundle", "count"),
    [
        ([SMALL], {"CPU": 2.0}, 1),
        ([SMALL, SMALL], {"CPU": 1.25}, 2),  # one a node: what is left of two nodes is not one worker's
        ([SMALL], {"CPU": 0.1}, 20),
        ([SMALL, LARGE], {"CPU": 4.0, "GPU": 1.0}, 2),
        ([SMALL, LARGE], {"CPU": 9.0, "GPU": 1.0}, 1),
        ([SMALL], {"CPU": 1.0, "GPU": 1.0}, 0),
        ([], {"CPU": 1.0}, 0),
    ],
)
def test_workers_fit_on_single_nodes(nodes: list[dict[str, float]], bundle: dict[str, float], count: int) -> None:
    assert placement.room(nodes, bundle) == count


@pytest.mark.parametrize(
    ("settings", "nodes", "cpus"),
    [
        ({}, [{"CPU": 1.0}], 1.0),
        ({}, [SMALL], 2.0),
        ({}, [{"CPU": 1.0}, LARGE], 2.0),
        ({"gpus_per_worker": 1.0}, [{"CPU": 1.0, "GPU": 1.0}, {"CPU": 16.0}], 1.0),  # a worker is where its GPU is
        ({"gpus_per_worker": 1.0}, [{"CPU": 1.0}], 1.0),
        ({"wait_for_nodes_s": 9.0}, [{"CPU": 1.0}], 2.0),  # on nodes that are still to come
        ({}, [{"memory": 8e9}], 2.0),  # a head that computes nothing
        ({"cpus_per_worker": 3.0}, [{"CPU": 1.0}], 3.0),  # what was asked for is refused, not changed
    ],
)
def test_a_worker_has_two_cores_or_what_there_is(
    settings: dict[str, float], nodes: list[dict[str, float]], cpus: float
) -> None:
    chosen = ResourcesConfig.model_validate(settings).on(nodes)
    assert (chosen.cores, chosen.threads) == (cpus, int(cpus))


def test_what_is_missing_is_told_by_the_largest_node() -> None:
    told = placement._missing({"CPU": 4.0, "GPU": 4.0}, 2, "Tuning", [SMALL, LARGE], 0.0)
    assert told.startswith(
        "Tuning needs 2 x 4 CPU and 4 GPU, and the cluster has 2 nodes, the largest with 16 CPU and 2 G"
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a folder to another user needs root")
def test_a_model_is_not_put_where_another_user_could_change_it(tmp_path: Path) -> None:
    folder = tmp_path / "leader-0"
    folder.mkdir()
    os.chown(folder, 12345, 12345)
    with pytest.raises(RunError, match="leader-0 belongs to another user"):
        placement._download("s3://nowhere/model", str(folder / "model-1"))
    assert list(folder.iterdir()) == []
