"""`leader data`: raw tables in, a prepared data set out."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from leader_cli.console import log, progress, settings_of, show
from leader_cli.submit import submit
from leader_cli.tables import rich_tables
from leader_platform.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from leader_platform.data.dataset import PreparedData

app = typer.Typer(help="Make, prepare and describe data sets.", no_args_is_help=True)


class Source(StrEnum):
    """The raw schemas that can be read and written."""

    MIMIC4 = "mimic4"
    MIMIC3 = "mimic3"


class Fetchable(StrEnum):
    """What can be downloaded."""

    MIMIC4_DEMO = "mimic4-demo"
    MIMIC3_DEMO = "mimic3-demo"
    TERMINOLOGY = "terminology"


_FETCHABLE = "An open demo, `mimic4-demo` or `mimic3-demo`, or the drug `terminology`."


@app.command()
def fetch(
    context: typer.Context,
    what: Annotated[Fetchable, typer.Argument(show_choices=False, help=_FETCHABLE)],
    out: Annotated[str, typer.Option(help="Folder for the files; what is there and right is kept.")],
    base_url: Annotated[str | None, typer.Option(help="A server with the same files; else their public homes.")] = None,
) -> None:
    """Download open data, verified by SHA-256; a call after a failure goes on where it stopped."""
    from dataclasses import asdict

    from leader_platform import report
    from leader_platform.data import fetch as library

    files = library.fetch(library.COLLECTIONS[what], _local(out), base_url, progress=progress)
    rows = [(file.name, file.num_bytes, "downloaded" if file.downloaded else "was there") for file in files]
    table = report.Table(f"In {out}", ("file", "bytes", ""), rows)
    show(context, {"out": out, "files": [asdict(file) for file in files]}, *rich_tables([table]))


@app.command()
def synth(
    context: typer.Context,
    out: Annotated[str, typer.Option(help="Folder for the raw tables; must be new or empty.")],
    patients: Annotated[int, typer.Option(help="Number of patients.")] = 1000,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal tables.")] = 0,
    table_format: Annotated[Source, typer.Option("--format", help="Schema of the tables.")] = Source.MIMIC4,
) -> None:
    """Write a synthetic cohort as raw MIMIC tables."""
    from dataclasses import asdict

    from leader_platform import report
    from leader_platform.data.synthetic import write_raw

    folder = _local(out)
    with progress.task("Synthetic cohort", patients, "patients") as task:
        counts = asdict(write_raw(table_format.value, folder, patients, seed, task.update))
    table = report.Table(f"Synthetic cohort in {out}", ("", ""), list(counts.items()))
    show(context, {"out": out, "patients": patients, "seed": seed, **counts}, *rich_tables([table]))


def _local(out: str) -> Path:
    from leader_platform import storage

    if storage.is_remote(out):
        raise UserError(f"--out {out} is remote, and this is written locally; name a local folder and copy it there.")
    return Path(storage.absolute(out))


@app.command()
def prepare(
    context: typer.Context,
    raw: Annotated[str, typer.Option(help="Folder or URI of the raw tables, with or without hosp/.")],
    source: Annotated[Source, typer.Option(help="Schema of the raw tables.")] = Source.MIMIC4,
    out: Annotated[str | None, typer.Option(help="The prepared data set [data in the workspace].")] = None,
    terminology: Annotated[str | None, typer.Option(help="Folder of terminology tables [the package's own].")] = None,
) -> None:
    """Turn raw tables into visits, samples, prompts and a vocabulary."""
    from leader_jobs.requests import Request
    from leader_platform.data.dataset import PreparedData
    from leader_platform.storage import absolute

    settings = settings_of(context)
    request = Request(
        kind="prepare",
        config=settings.config(),
        data=absolute(settings.data(out)),
        raw=absolute(raw),
        source=source.value,
        terminology=absolute(terminology) if terminology else None,
    )
    submit(context, request)
    data = PreparedData(request.data)
    show(context, data.manifest, *summary_tables(data))
    log(f"The data set is in {data.uri}.")


@app.command()
def describe(
    context: typer.Context,
    directory: Annotated[str | None, typer.Argument(help="A prepared data set [data in the workspace].")] = None,
    html: Annotated[str | None, typer.Option(help="File for the page [describe.html in a local data set].")] = None,
) -> None:
    """Counts through the filters, visits, medications, coverage, splits and interactions, printed and as a page."""
    from dataclasses import asdict

    from leader_platform import report
    from leader_platform.data.dataset import PreparedData
    from leader_platform.data.describe import describe as statistics_of
    from leader_platform.data.describe_report import page, sections
    from leader_platform.machine import limit_threads

    limit_threads()
    data = PreparedData(settings_of(context).data(directory))
    if html is not None:
        _check_page(html)
    log(f"Counting visits and samples in {data.uri} ...")
    with progress.task("Counting visits and samples"):
        statistics = statistics_of(data)
    contents = sections(data.manifest, statistics, data.titles)
    tables = [block for section in contents for block in section.blocks if isinstance(block, report.Table)]
    show(context, {**data.manifest, "statistics": asdict(statistics)}, *rich_tables(tables, most_rows=10))
    _write_page(data, page(data.manifest, statistics, contents), html)


def _check_page(html: str) -> None:
    """Raise `UserError` for a page that cannot be written, before all is counted for it."""
    from tempfile import TemporaryFile

    from leader_platform import storage

    if storage.is_remote(html):
        storage.filesystem(html)
        return
    file = Path(storage.absolute(html))
    if file.is_dir():
        raise UserError(f"--html {html} is a folder; name a file in it.")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=file.parent).close()
    except OSError as error:
        raise _unwritable(html, error) from None


def _unwritable(html: str, error: OSError) -> UserError:
    return UserError(f"--html {html} cannot be written ({error.strerror or error}); choose another file.")


def _write_page(data: PreparedData, page: str, html: str | None) -> None:
    """Write the page where it was asked for, else beside a data set on this machine that can be written to."""
    from leader_platform import storage

    if html is None and storage.is_remote(data.uri):
        log("No page was written, since the data set is remote; name a file with --html.")
        return
    file = html or storage.join(data.uri, "describe.html")
    try:
        storage.write_bytes(file, page.encode())
    except OSError as error:
        if html is not None:
            raise _unwritable(html, error) from None
        reason = error.strerror or error
        log(f"No page was written, since {data.uri} is read-only here ({reason}); name a file with --html.")
        return
    log(f"The page is in {file}.")


def summary_tables(data: PreparedData) -> list[Table]:
    """What a data set's manifest says of it, for a terminal."""
    from leader_platform.data.manifest_tables import manifest_tables

    return rich_tables(manifest_tables(data.manifest), most_rows=10)
