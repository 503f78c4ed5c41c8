"""What a job would miss on another machine is found before it is sent: folders that are not shared, other software."""

from __future__ import annotations

from pathlib import Path

import pytest

from leader_jobs import preflight
from leader_jobs.preflight import Check, look
from leader_jobs.requests import Request
from leader_platform.config import LeaderConfig
from leader_platform.errors import UserError
from leader_platform.progress import LineProgress
from leader_platform.software import differences, installed

pytestmark = pytest.mark.slow


def test_nodes_with_the_same_software_and_folders_are_ready(ray_local: None, tmp_path: Path) -> None:
    said: list[str] = []
    request = Request(kind="train", config=LeaderConfig(), data=str(tmp_path), run=str(tmp_path / "new" / "run"))
    with preflight._marked(preflight._on_disk(request.reads_and_writes)) as marks:
        assert set(marks) == {str(tmp_path), str(tmp_path / "new" / "run")}
        look(Check(software=installed(), marks=marks), LineProgress(said.append))
    assert said == ["1 nodes are ready"]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_a_node_does_not_see_is_named(ray_local: None, tmp_path: Path) -> None:
    marks = {str(tmp_path): str(tmp_path), "/data/mimic": "/data/.leader-0"}
    with pytest.raises(UserError, match=r"Node .* does not see /data/mimic; put it on a file system that all nodes"):
        look(Check(software=installed(), marks=marks))


def test_other_software_is_refused(ray_local: None) -> None:
    with pytest.raises(UserError, match=r"Node .*: python 3\.\d+ there, 2\.7 here"):
        look(Check(software={**installed(), "python": "2.7"}, marks={}))


def test_software_is_compared_where_both_have_it() -> None:
    ours = {"python": "3.11", "ray": "2.60.0", "leader": "abc"}
    assert differences(ours, ours) == ""
    assert differences({"ray": "2.59.0", "vllm": "0.32.0"}, ours) == "ray 2.59.0 there, 2.60.0 here"
    assert {"python", "leader", "ray", "torch", "vllm"} <= installed().keys()
