"""`python -m leader_jobs.preflight CHECK`: whether a cluster's nodes run this software and see a job's folders.

A cluster that this machine does not own may have other machines, with other disks and other installations. A job that
finds out by itself does so after minutes, or writes to one machine what the others look for. The command that submits a
job leaves a mark in each of its folders first, and this job, sent ahead, looks for it from every node.
"""

from __future__ import annotations

import json
import os
import sys
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from leader_jobs.placement import on_node
from leader_platform import storage, surroundings
from leader_platform.cluster_state import ClusterState, get_json
from leader_platform.errors import RunError, UserError
from leader_platform.progress import SILENT, Progress, job_progress
from leader_platform.ray_jobs import submit_and_follow, tell_failure
from leader_platform.ray_session import ray_session
from leader_platform.software import differences, installed


class Check(BaseModel):
    """What the command's machine has: its software, and for each folder of the job a file in or above it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    software: dict[str, str]
    marks: dict[str, str]


def check_cluster(state: ClusterState, places: Iterable[str | None], progress: Progress) -> None:
    """Send a check ahead of what uses these files and folders. `UserError` naming what the cluster lacks and what to
    do."""
    theirs = get_json(state, "/api/version").get("ray_version", "")
    _require_same({"ray": theirs}, installed(), state.dashboard_url)
    with _marked(_on_disk(places)) as marks:
        check = Check(software=installed(), marks=marks)
        try:
            submit_and_follow(
                state, [check.model_dump_json()], "leader preflight", progress,
                entrypoint_module="leader_jobs.preflight",
            )  # fmt: skip
        except RunError as error:
            if "No module named" not in str(error):
                raise
            raise UserError(
                f"The cluster at {state.dashboard_url} has no LEADER installed; `leader cluster up FILE` ships it, "
                "or install the same wheel on its nodes."
            ) from None


def _on_disk(places: Iterable[str | None]) -> list[str]:
    """Those that lie on a disk: not in object storage, nor a language model by its name."""
    return [place for place in places if place and not storage.is_remote(place) and os.path.isabs(place)]


@contextmanager
def _marked(folders: list[str]) -> Iterator[dict[str, str]]:
    """For each folder a file that only now came to be in it or the nearest folder above; gone after the block.

    Where this user may not write, the folder itself must do.
    """
    marks: dict[str, str] = {}
    made: list[Path] = []
    try:
        for folder in folders:
            nearest = Path(folder)
            while not nearest.is_dir():
                nearest = nearest.parent
            mark = nearest / f".leader-{uuid.uuid4().hex}"
            try:
                mark.touch()
                made.append(mark)
            except OSError:
                mark = nearest
            marks[folder] = str(mark)
        yield marks
    finally:
        for mark in made:
            mark.unlink(missing_ok=True)


def _require_same(theirs: Mapping[str, str], ours: Mapping[str, str], where: str) -> None:
    told = differences(theirs, ours)
    if told:
        raise UserError(
            f"{where} runs other software than this machine: {told}; install the same on both "
            "(`leader cluster up FILE` ships this machine's)."
        )


def look(check: Check, progress: Progress = SILENT) -> None:
    """On the cluster: from every node. `UserError` for the first that differs."""
    with ray_session():
        import ray

        probe = ray.remote(num_cpus=0)(_probe)
        nodes = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
        pending = {node: probe.options(**on_node(node)).remote(check.marks) for node in nodes}
        for node, answer in pending.items():
            software, unseen = ray.get(answer, timeout=120)
            _require_same(software, check.software, f"Node {nodes[node]}")
            if unseen:
                raise UserError(
                    f"Node {nodes[node]} does not see {', '.join(unseen)}; put it on a file system that all nodes "
                    "share under the same path, or give an s3:// or gs:// address."
                )
        progress.log(f"{len(nodes)} nodes are ready")


def _probe(marks: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """On a node: its software, and the folders of which it does not see the mark."""
    return installed(), [folder for folder, mark in marks.items() if not os.path.exists(mark)]


def main() -> None:
    with tell_failure():
        progress = job_progress()
        surroundings.set_up(progress.log, encoding="utf-8")
        look(Check.model_validate(json.loads(sys.argv[1])), progress)


if __name__ == "__main__":
    main()
