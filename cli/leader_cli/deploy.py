"""`leader deploy`: what other machines need to run the platform, as files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leader_cli.console import log, settings_of, show
from leader_platform.errors import UserError

if TYPE_CHECKING:
    from leader_platform.config import LeaderConfig

app = typer.Typer(help="Write the files that other machines run the platform from.", no_args_is_help=True)
render = typer.Typer(help="Files for a kind of cluster, from the configuration.", no_args_is_help=True)
app.add_typer(render, name="render")

NODES_PATIENCE_S = 1800.0  # machines with GPUs come up slowly, and pull an image of several GB
Out = Annotated[Path, typer.Option(help="Folder for the files; those of the same name are replaced.")]


@render.command()
def kubernetes(
    context: typer.Context,
    out: Out,
    data: Annotated[str, typer.Option(help="The prepared data set, as all pods see it.")] = "s3://leader/data",
    run: Annotated[str, typer.Option(help="The run, as all pods see it.")] = "s3://leader/runs/default",
    raw: Annotated[str, typer.Option(help="The raw tables, as all pods see them.")] = "s3://leader/raw",
    source: Annotated[str, typer.Option(help="Which tables they are.")] = "mimic4",
    terminology: Annotated[str | None, typer.Option(help="Drug tables, as all pods see them.")] = None,
    site: Annotated[
        Path | None, typer.Option(help="YAML with what is your cluster's own: namespace, images, sizes, secrets.")
    ] = None,
) -> None:
    """Manifests for the KubeRay operator: a cluster, a job for each stage, the service, and who may reach what."""
    from leader_platform.kubernetes import Site, to_yaml
    from leader_platform.kubernetes import render as render_manifests
    from leader_platform.settings import read_model

    config = settings_of(context).config()
    where = {"data": data, "run": run, "raw": raw, "terminology": terminology}
    _require_remote({name: uri for name, uri in where.items() if uri is not None})
    chosen = Site() if site is None else read_model(Site, site)
    requests = _requests(config, data, run, raw, source, terminology)
    files = render_manifests(chosen, config, requests, _serve_config(config, run))
    out.mkdir(parents=True, exist_ok=True)
    for name, manifests in files.items():
        (out / name).write_text(to_yaml(manifests))
    show(context, {"out": str(out), "files": sorted(files)})
    log(f"{len(files)} files in {out}; docs/CLUSTERS.md says which secrets they name and how to apply them.")


def _require_remote(places: dict[str, str]) -> None:
    from leader_platform import storage

    for name, uri in places.items():
        if not storage.is_remote(uri):
            raise UserError(f"--{name} {uri} is a path of this machine, which pods do not see; give an s3:// address.")


def _requests(
    config: LeaderConfig, data: str, run: str, raw: str, source: str, terminology: str | None
) -> dict[str, str]:
    """Each stage's request as JSON. A stage runs alone: its cluster has what it needs and nothing for others, and comes
    up while the stage begins."""
    from leader_jobs.pipeline import STAGES
    from leader_jobs.requests import Request

    if not config.resources.wait_for_nodes_s:
        patient = config.resources.model_copy(update={"wait_for_nodes_s": NODES_PATIENCE_S})
        config = config.model_copy(update={"resources": patient})
    prepare = Request(kind="prepare", config=config, data=data, raw=raw, source=source, terminology=terminology)
    stages = {
        name: Request(kind="train", stage=name, config=config, data=data, run=run, only=True, resume=True)
        for name in STAGES
    }
    evaluate = Request(kind="evaluate", config=config, data=data, run=run)
    every = {"prepare": prepare, **stages, "evaluate": evaluate}
    return {name: request.model_dump_json() for name, request in every.items()}


def _serve_config(config: LeaderConfig, run: str) -> dict[str, Any]:
    """Two students at least, on an address that others reach, with keys. The run need not be there yet."""
    from leader_platform.kubernetes import KEYS_FILE, SERVE_PORT
    from leader_serve.plans import serve_config
    from leader_serve.releases import IngressArguments, Release

    public = {"host": "0.0.0.0", "port": SERVE_PORT, "keys_file": KEYS_FILE}
    serve = config.serve.model_copy(update=public | {"student_replicas": max(2, config.serve.student_replicas)})
    config = config.model_copy(update={"serve": serve})
    return serve_config(IngressArguments(stable=Release(run=run, teacher=serve.teacher), serve=serve), config)
