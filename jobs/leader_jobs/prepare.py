"""Raw MIMIC tables -> a prepared data set.

    raw tables --read--> events by shard --assemble--> visits --split, count--> vocabulary --ask--> samples

Each arrow is a Ray Data pipeline over files or shards; the functions on it are pure and live in `leader_platform.data`.
A shard holds whole patients and about `shard_rows` raw rows, so no task ever needs more memory than a shard takes.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from leader_jobs.events import Events, write_events
from leader_jobs.splits import Split, count_split_values, write_samples
from leader_jobs.tasks import on_each
from leader_platform import storage
from leader_platform.config import LeaderConfig, fingerprint
from leader_platform.data import cohort
from leader_platform.data.dataset import TITLE_SCHEMA, is_data_set
from leader_platform.data.drugs import (
    CLASS_TABLE,
    NAME_TABLE,
    NUMBER_TABLE,
    DrugMap,
    atc_class_names,
    class_names_from_terminology,
    package_substance_names,
)
from leader_platform.data.interactions import GAMENET_FILE, interactions, substance_names
from leader_platform.data.manifest import Counted, fault_warnings, manifest
from leader_platform.data.sources import SOURCES
from leader_platform.data.sources.events import PATIENT_TABLES, TITLE_TABLES
from leader_platform.data.sources.raw import RawTable
from leader_platform.data.tallies import Tally, plain, tally_of
from leader_platform.data.vocabulary import fit_vocabulary
from leader_platform.errors import UserError
from leader_platform.progress import Progress

TERMINOLOGY_TABLES = (NAME_TABLE, NUMBER_TABLE, CLASS_TABLE, GAMENET_FILE)


@dataclass(frozen=True)
class PrepareArguments:
    """What `leader data prepare` was asked; paths are absolute or URIs."""

    source: str
    raw: str
    out: str
    terminology: str | None = None


@dataclass(frozen=True)
class _Work:
    """A data set in the making: by which settings, in which directory, and where it is to lie in the end."""

    config: LeaderConfig
    staging: str
    out: str

    def path(self, *parts: str) -> str:
        return storage.join(self.staging, *parts)

    def visits_part(self, shard: int) -> str:
        return self.path("visits", f"part-{shard:05d}.parquet")


def check(arguments: PrepareArguments, config: LeaderConfig) -> dict[str, RawTable]:
    """The raw tables, found and their headers checked. Needs no Ray, so that a wrong path is told at once.

    Raises `UserError` for an unknown source, a missing or empty table, a missing column, an unusable terminology, and
    for a split by time where the source does not tell when its patients lived.
    """
    if arguments.source not in SOURCES:
        raise UserError(f"--source {arguments.source!r} is not known; the sources are: {', '.join(SOURCES)}.")
    if config.data.split == "time" and not SOURCES[arguments.source].tells_year:
        raise UserError(
            f"data.split=time needs the real years of visits, which {arguments.source} does not tell (its dates are "
            "shifted by patient); use data.split=random."
        )
    if arguments.terminology:
        DrugMap.from_terminology(arguments.terminology)
        interactions(arguments.terminology)
    try:
        _check_out(arguments)
        return SOURCES[arguments.source].open_tables(arguments.raw)
    except OSError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"--raw {arguments.raw} or --out {arguments.out} cannot be reached: {reason}.") from None


def _check_out(arguments: PrepareArguments) -> None:
    """Refuse to replace anything but a data set: the directory is written whole, and what lies there goes."""
    out, raw = (uri if storage.is_remote(uri) else os.path.realpath(uri) for uri in (arguments.out, arguments.raw))
    if f"{out}/".startswith(f"{raw}/") or f"{raw}/".startswith(f"{out}/"):
        raise UserError(f"--out {out} and --raw {raw} lie within each other; choose an --out beside the raw tables.")
    if storage.is_file(out):
        raise UserError(f"--out {out} is a file; choose a new or empty folder.")
    if storage.list_files(out, recursive=True) and not is_data_set(out):
        raise UserError(f"--out {out} holds something that is not a data set; choose a new or empty folder.")


def prepare(arguments: PrepareArguments, config: LeaderConfig, progress: Progress) -> dict[str, Any]:
    """Write a prepared data set to `arguments.out` and return its manifest. Runs on the Ray that is connected.

    Raises `UserError` for missing or damaged tables, for cohorts too small to split and for a full disk; then nothing
    is written.
    """
    tables = check(arguments, config)
    source = SOURCES[arguments.source]
    drugs = DrugMap.from_terminology(arguments.terminology) if arguments.terminology else DrugMap.from_package()
    with (
        progress.task("Preparing the data set"),
        storage.room_for(arguments.out),
        storage.staged_directory(arguments.out) as staging,
    ):
        work = _Work(config, staging, arguments.out)
        progress.log(f"Reading {len(tables)} tables of {arguments.raw}")
        events = write_events(source, tables, drugs, config, work.path("events"), arguments.out, progress)
        progress.log("Assembling visits")
        tally, last_years = _write_visits(events, work, progress)
        split = _split(last_years, config)
        visits = [work.visits_part(shard) for shard in range(events.num_shards)]
        values = count_split_values(visits, split, config.data, work.out, progress)
        vocabulary = fit_vocabulary(values["train"], config.data.min_code_count)
        storage.write_json(work.path("vocabulary.json"), vocabulary.model_dump())
        titles, warnings = _write_titles(events, tables, sum(values.values(), Counter()), arguments, work)
        storage.write_parquet(work.path("interactions.parquet"), interactions(arguments.terminology))
        progress.log(f"Writing samples: {len(vocabulary.medications)} medications in the training vocabulary")
        tally += write_samples(visits, split, vocabulary, titles, config, work.path("samples"), work.out, progress)
        storage.remove(events.directory)
        tally += events.tally
        described = manifest(source.name, config, Counted(tally, split, values, vocabulary))
        described["inputs"] = events.checksums
        described["terminology"] = _terminology_checksums(arguments.terminology)
        described["warnings"] = [*warnings, *fault_warnings(tally)]
        # Of what went in and what came of it, but not of where it lay: moved tables make the same data set.
        content = {name: sorted(plain(counts)) for name, counts in values.items()}
        described["fingerprint"] = fingerprint(described, vocabulary, titles, content)
        described["drug_mapping_source"] = drugs.source
        storage.write_json(work.path("manifest.json"), described)
    return described


# --- events -> visits, split, vocabulary -----------------------------------------------------------------------------


def _write_visits(events: Events, work: _Work, progress: Progress) -> tuple[Tally, dict[int, int | None]]:
    """Assemble each shard's visits; returns the tally, and each patient's year of the last visit."""

    def assemble(shard: int) -> dict[str, Any]:
        visits, tally = cohort.visits({kind: events.read(kind, shard) for kind in PATIENT_TABLES}, work.config.data)
        storage.write_parquet(work.visits_part(shard), visits)
        last = visits.group_by("subject_id", use_threads=False).aggregate([("year", "max")])
        years = list(zip(last["subject_id"].to_pylist(), last["year_max"].to_pylist(), strict=True))
        return {"tally": plain(tally), "last_years": years}

    tally: Tally = Counter()
    last_years: dict[int, int | None] = {}
    with progress.task("Assembling visits", events.num_shards, "shards") as task:
        answers = on_each(assemble, range(events.num_shards), work.out, task)
    for answer in answers:
        tally += tally_of(answer["tally"])
        last_years.update(map(tuple, answer["last_years"]))
    return tally, last_years


def _split(last_years: dict[int, int | None], config: LeaderConfig) -> Split:
    if len(last_years) < 3:
        raise UserError(
            f"{len(last_years)} patients are left after the cohort's filters, and a split needs 3; give more patients, "
            "or loosen the filters (data.min_visits, data.require_procedures)."
        )
    num_undated = sum(year is None for year in last_years.values())
    if config.data.split == "time" and num_undated:
        raise UserError(
            f"data.split=time needs the years of all patients, and {num_undated} have no readable anchor_year_group; "
            "use data.split=random."
        )
    return cohort.split_by_patient(last_years, config.data)


# --- titles ----------------------------------------------------------------------------------------------------------


def _write_titles(
    events: Events, tables: dict[str, RawTable], values: Counter, arguments: PrepareArguments, work: _Work
) -> tuple[dict[str, str], list[str]]:
    """Write the titles of the codes that the cohort uses, of all medication classes and of the substances that
    the package knows; return them and warnings."""
    classes = class_names_from_terminology(arguments.terminology) if arguments.terminology else {}
    source, warnings = SOURCES[arguments.source], list[str]()
    names = package_substance_names() | atc_class_names() | classes
    titles = substance_names() | {f"ATC:{code}": name for code, name in names.items()}
    used = pa.array(sorted(key[1] for key in values if key[0] in ("diagnoses", "procedures")), pa.string())
    for kind in TITLE_TABLES:
        table = events.read_titles(kind)
        wanted = table.filter(pc.is_in(table["code"], used))
        found = dict(zip(wanted["code"].to_pylist()[::-1], wanted["title"].to_pylist()[::-1], strict=True))
        titles |= found
        if len(found) < len(wanted):
            warnings.append(f"{kind}: {len(wanted) - len(found)} rows repeat a code; its first title holds.")
    rows = {"code": list(titles), "title": list(titles.values())}
    storage.write_parquet(work.path("titles.parquet"), pa.table(rows, schema=TITLE_SCHEMA))
    warnings += [
        f"There is no table {source.tables[kind].name}, so its codes have no titles."
        for kind in TITLE_TABLES
        if kind not in tables
    ]
    untitled = [code for code in used.to_pylist() if code not in titles]
    if untitled:
        warnings.append(f"{len(untitled)} codes have no title and stand as codes in prompts, such as {untitled[0]}.")
    return titles, warnings


def _terminology_checksums(terminology: str | None) -> dict[str, str]:
    files = [storage.join(terminology, name) for name in TERMINOLOGY_TABLES] if terminology else []
    return {file.rsplit("/", 1)[-1]: storage.sha256(file) for file in files if storage.exists(file)}
