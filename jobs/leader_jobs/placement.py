"""Room for a stage's workers, looked for before Ray would wait for it without end; and files on the nodes they use."""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from leader_platform import storage
from leader_platform.config import LeaderConfig, ResourcesConfig, fingerprint
from leader_platform.errors import UserError
from leader_platform.progress import Progress
from leader_platform.surroundings import private_folder

_LOOK_EVERY_S = 5.0
_GIVEN_BACK_AFTER_S = 5.0
# Of a Ray Data actor that holds a language model. Ray sets no limit, even where its memory monitor ends the actor each
# time; a lost machine may cost two.
MAX_RESTARTS = 3

Bundle = Mapping[str, float]


def worker_bundle(resources: ResourcesConfig) -> dict[str, float]:
    """What one worker asks Ray for that computes on one GPU at most."""
    return bundle_of(resources.cores, resources.gpus_of_one_process)


def resolved(config: LeaderConfig) -> LeaderConfig:
    """The configuration with the resources of a worker chosen for the cluster that is connected."""
    return config.model_copy(update={"resources": config.resources.on(_nodes())})


def bundle_of(cpus: float, gpus: float) -> dict[str, float]:
    """CPUs, and GPUs where any are asked for."""
    return {"CPU": cpus} | ({"GPU": gpus} if gpus > 0 else {})


def room(nodes: Sequence[Mapping[str, float]], bundle: Bundle) -> int:
    """How many bundles fit on nodes with these resources, were nothing else there."""
    # A little more, since 0.3 // 0.1 is 2.
    return sum(min(int(node.get(kind, 0) / amount + 1e-6) for kind, amount in bundle.items()) for node in nodes)


def require_room(bundle: Bundle, count: int, doing: str, wait_s: float, progress: Progress) -> None:
    """Wait until the cluster has nodes for `count` bundles, `wait_s` seconds at most; whether something else holds them
    now is only told, since that ends.

    Raises `UserError` that names what is missing.
    """
    from ray.autoscaler.sdk import request_resources

    wanted = f"{count} x {_told(bundle)}"
    deadline = time.monotonic() + wait_s
    waited = False
    try:
        while room(nodes := _nodes(), bundle) < count:
            if time.monotonic() > deadline:
                raise UserError(_missing(bundle, count, doing, nodes, wait_s))
            if not waited:
                progress.log(f"Waiting up to {wait_s:.0f} s for nodes with {wanted}.")
                request_resources(bundles=[dict(bundle)] * count)
                waited = True
            time.sleep(min(_LOOK_EVERY_S, wait_s))
    finally:
        if waited:
            request_resources(bundles=[])  # else the nodes would be kept for ever
    if not _are_free(bundle, count):
        progress.log(f"Waiting for {wanted}, which something else holds now; `leader cluster status` shows what.")


def _are_free(bundle: Bundle, count: int) -> bool:
    """Soon, at least: what this job's last step held is given back a moment after its end."""
    import ray

    deadline = time.monotonic() + _GIVEN_BACK_AFTER_S
    while any(ray.available_resources().get(kind, 0) < amount * count for kind, amount in bundle.items()):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def nodes_with_room(bundle: Bundle) -> list[str]:
    """The Ray ids of the nodes on which a bundle fits, were nothing else there."""
    import ray

    return [node["NodeID"] for node in ray.nodes() if node["Alive"] and room([node["Resources"]], bundle)]


def _nodes() -> list[dict[str, float]]:
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def largest_node_cores() -> int:
    """Whole cores of the largest node, at least one."""
    return max(1, int(max(node.get("CPU", 0) for node in _nodes())))


def _told(bundle: Bundle) -> str:
    amounts = {
        kind: f"{amount / 1e9:.1f} GB of" if kind == "memory" else f"{amount:g}" for kind, amount in bundle.items()
    }
    return " and ".join(f"{amount} {kind}" for kind, amount in amounts.items())


def _missing(bundle: Bundle, count: int, doing: str, nodes: Sequence[Mapping[str, float]], wait_s: float) -> str:
    largest = _told({kind: max(node.get(kind, 0) for node in nodes) for kind in bundle})
    all_of_them = f"{len(nodes)} nodes, the largest with" if len(nodes) > 1 else "one node with"
    waited = f" after {wait_s:.0f} s" if wait_s else ""
    return (
        f"{doing} needs {count} x {_told(bundle)}, and the cluster has{waited} {all_of_them} {largest}; lower "
        "resources.cpus_per_worker, resources.gpus_per_worker or the stage's number of workers, or use a larger "
        "cluster (one that grows by itself: --set resources.wait_for_nodes_s=900)."
    )


@contextmanager
def on_every_node(uri: str, version: str, bundle: Bundle, count: int) -> Iterator[str]:
    """A folder under one path on all nodes, for libraries that read only local files; gone after the block.

    A local `uri` is itself that path, since all nodes see it. Of object storage each node downloads its copy, also
    those that come up only because `count` bundles are asked for; the copy that a killed run left is taken if its
    `version`, which says what is in it, is the same.
    """
    if not storage.is_remote(uri):
        yield storage.absolute(uri)
        return
    import ray

    folder = str(private_folder() / f"model-{fingerprint(uri, version)}")
    download = ray.remote(_download)
    spread = download.options(num_cpus=bundle["CPU"], num_gpus=bundle.get("GPU", 0), scheduling_strategy="SPREAD")
    try:
        ray.get([spread.remote(uri, folder) for _ in range(count)])
        _everywhere(_download, uri, folder)
        yield folder
    finally:
        _everywhere(_remove, folder)


def on_node(node_id: str) -> dict[str, Any]:
    """Options of a task or actor that must run on this node, by its Ray id."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node_id, soft=False)}


def _everywhere(function: Callable[..., None], *arguments: str) -> None:
    """`function(*arguments)` once on each node that is up."""
    import ray

    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    task = ray.remote(num_cpus=0)(function)
    ray.get([task.options(**on_node(node)).remote(*arguments) for node in nodes])


def _download(uri: str, folder: str) -> None:
    """On a node: whole or not at all, and where no other user can put another model in its place."""
    private_folder(Path(folder).parent)
    if Path(folder).exists():
        return
    staging = Path(f"{folder}.{uuid.uuid4().hex}")
    try:
        storage.download(uri, staging)
        storage.move_new_directory(staging, Path(folder))
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _remove(folder: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)
