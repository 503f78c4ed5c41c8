"""`leader data`: raw tables in, a prepared data set out."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from leader_cli.console import say, settings_of, show
from leader_cli.submit import submit

if TYPE_CHECKING:
    from leader_platform.data.dataset import PreparedData

app = typer.Typer(help="Make, prepare and describe data sets.", no_args_is_help=True)


class Source(StrEnum):
    """The raw schemas that can be read and written."""

    MIMIC4 = "mimic4"


@app.command()
def synth(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder for the raw tables; must be new or empty.")],
    patients: Annotated[int, typer.Option(help="Number of patients.")] = 1000,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal tables.")] = 0,
    table_format: Annotated[Source, typer.Option("--format", help="Schema of the tables.")] = Source.MIMIC4,
) -> None:
    """Write a synthetic cohort as raw MIMIC tables."""
    from dataclasses import asdict

    from leader_platform.data.synthetic import write_mimic4

    assert table_format is Source.MIMIC4
    counts = asdict(write_mimic4(out, patients, seed))
    table = Table(title=f"Synthetic cohort in {out}", title_justify="left", show_header=False)
    for name, count in counts.items():
        table.add_row(name.replace("_", " "), f"{count:,}")
    show(context, {"out": str(out), "patients": patients, "seed": seed, **counts}, table)


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
    submit(settings, request)
    data = PreparedData(request.data)
    show(context, data.manifest, *description(data))
    say(f"The data set is in {data.uri}.")


@app.command()
def describe(
    context: typer.Context,
    directory: Annotated[str | None, typer.Argument(help="A prepared data set [data in the workspace].")] = None,
) -> None:
    """Counts through the filters, splits, coverage of the drug mapping, and warnings."""
    from leader_platform.data.dataset import PreparedData

    data = PreparedData(settings_of(context).data(directory))
    show(context, data.manifest, *description(data))


def description(data: PreparedData) -> list[Table]:
    """A data set's manifest as tables."""
    manifest = data.manifest
    tables = [_flow(manifest), _splits(manifest), _facts(manifest)]
    unmapped = manifest["coverage"]["most_frequent_unmapped"]
    if unmapped:
        table = Table("drug name", "rows", title="Most frequent names without an ATC code", title_justify="left")
        for name, count in list(unmapped.items())[:10]:
            table.add_row(name, f"{count:,}")
        tables.append(table)
    return tables


def _flow(manifest: dict[str, Any]) -> Table:
    table = Table("admissions", "kept", "removed", title=f"Cohort from {manifest['source']}", title_justify="left")
    before = None
    for step, count in manifest["flow"].items():
        table.add_row(step, f"{count:,}", "" if before is None else f"{before - count:,}")
        before = count
    return table


def _splits(manifest: dict[str, Any]) -> Table:
    table = Table("split", "patients", "samples", "first visits", title="Splits by patient", title_justify="left")
    for name, split in manifest["splits"].items():
        table.add_row(name, *(f"{split[key]:,}" for key in ("patients", "samples", "first_visits")))
    return table


def _facts(manifest: dict[str, Any]) -> Table:
    coverage = manifest["coverage"]
    share = coverage["mapped_rows"] / max(1, coverage["prescription_rows"])
    table = Table(title="Facts", title_justify="left", show_header=False)
    table.add_row("labels", manifest["label_window"])
    table.add_row("drug mapping", f"{manifest['drug_mapping_source']}, {share:.1%} of prescription rows")
    for kind, count in manifest["distinct_codes"].items():
        known = manifest["vocabulary"][kind]
        table.add_row(f"distinct {kind}", f"{count:,} ({known:,} in the training vocabulary)")
    for kind, mean in manifest["mean_codes_per_visit"].items():
        table.add_row(f"{kind} a visit", f"{mean:.1f}")
    for warning in manifest["warnings"]:
        table.add_row("warning", warning)
    return table
