"""Raw MIMIC tables -> a prepared data set.

    raw tables --read--> events by shard --assemble--> visits --split, count--> vocabulary --ask--> samples

Each arrow is a Ray Data pipeline over files or shards; the functions on it are pure and live in `leader_platform.data`.
A shard holds whole patients and about `shard_rows` raw rows, so no task ever needs more memory than a shard takes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from leader_jobs.events import PATIENT_TABLES, read_events, read_titles, write_events
from leader_platform import storage
from leader_platform.config import LeaderConfig, fingerprint
from leader_platform.data import cohort, mimic4
from leader_platform.data.dataset import FORMAT_VERSION, TITLE_SCHEMA
from leader_platform.data.drugs import DrugMap, atc_class_names, class_names_from_terminology
from leader_platform.data.interactions import package_interactions, terminology_interactions
from leader_platform.data.raw import RawTable, sha256
from leader_platform.data.records import KINDS
from leader_platform.data.samples import SPLITS, samples
from leader_platform.data.vocabulary import SPECIAL, Vocabulary, count_values, fit_vocabulary
from leader_platform.errors import UserError


@dataclass(frozen=True)
class PrepareArguments:
    """What `leader data prepare` was asked; paths are absolute or URIs."""

    source: str
    raw: str
    out: str
    terminology: str | None = None


@dataclass
class _Cohort:
    """What the driver knows after the visits are assembled: sums and small tables, never visits."""

    tally: Counter = field(default_factory=Counter)
    split: dict[int, str] = field(default_factory=dict)


def check(arguments: PrepareArguments) -> dict[str, RawTable]:
    """The raw tables, found and their headers checked. Needs no Ray, so that a wrong path is told at once.

    Raises `UserError` for an unknown source, a missing or empty table, a missing column, an unusable terminology.
    """
    if arguments.source != "mimic4":
        raise UserError(f"--source {arguments.source!r} is not known; the sources are: mimic4.")
    _check_out(arguments)
    if arguments.terminology:
        DrugMap.from_terminology(arguments.terminology)
        terminology_interactions(arguments.terminology)
    return mimic4.open_tables(arguments.raw)


def _check_out(arguments: PrepareArguments) -> None:
    """Refuse to replace anything but a data set: the directory is written whole, and what lies there goes."""
    out, raw = arguments.out.rstrip("/"), arguments.raw.rstrip("/")
    if f"{out}/".startswith(f"{raw}/") or f"{raw}/".startswith(f"{out}/"):
        raise UserError(f"--out {out} and --raw {raw} lie within each other; choose an --out beside the raw tables.")
    if storage.is_file(out):
        raise UserError(f"--out {out} is a file; choose a new or empty folder.")
    if storage.list_files(out, recursive=True) and not storage.exists(storage.join(out, "manifest.json")):
        raise UserError(f"--out {out} holds something that is not a data set; choose a new or empty folder.")


def prepare(arguments: PrepareArguments, config: LeaderConfig, say: Callable[[str], None]) -> dict[str, Any]:
    """Write a prepared data set to `arguments.out` and return its manifest. Runs on the Ray that is connected.

    Raises `UserError` for missing or damaged tables and for cohorts too small to split; then nothing is written.
    """
    tables = check(arguments)
    drugs = DrugMap.from_terminology(arguments.terminology) if arguments.terminology else DrugMap.from_package()
    with storage.staged_directory(arguments.out) as staging:
        events_directory = storage.join(staging, "events")
        say(f"Reading {len(tables)} tables of {arguments.raw}")
        num_shards, checksums = write_events(tables, drugs, config, events_directory)
        say("Assembling visits")
        found = _write_visits(events_directory, num_shards, config, staging)
        values = _count_values(num_shards, found, staging)
        vocabulary = fit_vocabulary(values["train"], config.data.min_code_count)
        storage.write_json(storage.join(staging, "vocabulary.json"), vocabulary.model_dump())
        every_value = sum(values.values(), Counter())
        titles, warnings = _write_titles(events_directory, every_value, arguments, staging)
        storage.write_parquet(storage.join(staging, "interactions.parquet"), _interactions(arguments.terminology))
        say(f"Writing samples: {len(vocabulary.medications)} medications in the training vocabulary")
        sample_tally = _write_samples(num_shards, found, vocabulary, titles, config, staging)
        storage.remove(events_directory)
        manifest = _manifest(arguments, config, found.tally + sample_tally, found.split, every_value)
        manifest["vocabulary"] = {kind: len(codes) - len(SPECIAL) for kind, codes in vocabulary.codes.items()}
        manifest |= {"inputs": checksums | _terminology_checksums(arguments.terminology), "warnings": warnings}
        # Of what went in and what came of it, but not of where it lay: moved tables make the same data set.
        manifest["fingerprint"] = fingerprint(manifest)
        manifest["drug_mapping_source"] = drugs.source
        storage.write_json(storage.join(staging, "manifest.json"), manifest)
    return manifest


# --- events -> visits, split, vocabulary -----------------------------------------------------------------------------


def _over_shards(function: Callable[[int], dict[str, Any]], num_shards: int) -> list[dict[str, Any]]:
    """`function(shard)` on the cluster for every shard; its answers, JSON-able, in no particular order."""
    import ray

    shards = ray.data.from_items([{"shard": shard} for shard in range(num_shards)], override_num_blocks=num_shards)
    answers = shards.map(lambda row: {"answer": json.dumps(function(row["shard"]))})
    return [json.loads(row["answer"]) for row in answers.take_all()]


def _pairs(counter: Counter) -> list[Any]:
    return [[list(key), count] for key, count in counter.items()]


def _counter(pairs: list[Any]) -> Counter:
    return Counter({tuple(key): count for key, count in pairs})


def _visits_part(staging: str, shard: int) -> str:
    return storage.join(staging, "visits", f"part-{shard:05d}.parquet")


def _write_visits(directory: str, num_shards: int, config: LeaderConfig, staging: str) -> _Cohort:
    """Assemble each shard's visits, add the tallies up, and split the patients."""

    def assemble(shard: int) -> dict[str, Any]:
        events = {kind: read_events(directory, kind, shard) for kind in PATIENT_TABLES}
        visits, tally = cohort.visits(events, config.data)
        storage.write_parquet(_visits_part(staging, shard), visits)
        return {"tally": _pairs(tally), "subjects": pc.unique(visits["subject_id"]).to_pylist()}

    found = _Cohort()
    subjects: list[int] = []
    for answer in _over_shards(assemble, num_shards):
        found.tally.update(_counter(answer["tally"]))
        subjects += answer["subjects"]
    if len(subjects) < 3:
        raise UserError(
            f"{len(subjects)} patients have a visit with a diagnosis and a mapped medication, and a split needs 3; "
            "give more patients or loosen the cohort's filters (--set data.min_visits=1)."
        )
    found.split = cohort.split_by_patient(subjects, config.data)
    return found


def _count_values(num_shards: int, found: _Cohort, staging: str) -> dict[str, Counter]:
    """`count_values` of each split's visits."""
    split = found.split

    def count(shard: int) -> dict[str, Any]:
        visits = storage.read_parquet(_visits_part(staging, shard))
        names = pa.array([split[subject] for subject in visits["subject_id"].to_pylist()], pa.string())
        return {name: _pairs(count_values(visits.filter(pc.equal(names, name)))) for name in SPLITS}

    values = {name: Counter[Any]() for name in SPLITS}
    for answer in _over_shards(count, num_shards):
        for name in SPLITS:
            values[name].update(_counter(answer[name]))
    return values


# --- titles and interactions -----------------------------------------------------------------------------------------


def _write_titles(
    directory: str, values: Counter, arguments: PrepareArguments, staging: str
) -> tuple[dict[str, str], list[str]]:
    """Write the titles of the codes that the cohort uses and of all medication classes; return them and warnings."""
    classes = class_names_from_terminology(arguments.terminology) if arguments.terminology else {}
    titles = {f"ATC:{code}": name for code, name in (atc_class_names() | classes).items()}
    used = pa.array(sorted(key[1] for key in values if key[0] in ("diagnoses", "procedures")), pa.string())
    for table in read_titles(directory):
        wanted = table.filter(pc.is_in(table["code"], used)).drop_null()
        titles |= dict(zip(wanted["code"].to_pylist(), wanted["title"].to_pylist(), strict=True))
    rows = {"code": list(titles), "title": list(titles.values())}
    storage.write_parquet(storage.join(staging, "titles.parquet"), pa.table(rows, schema=TITLE_SCHEMA))
    untitled = [code for code in used.to_pylist() if code not in titles]
    warnings = (
        [f"{len(untitled)} codes have no title and stand as codes in prompts, such as {untitled[0]}."]
        if untitled
        else []
    )
    return titles, warnings


def _terminology_checksums(terminology: str | None) -> dict[str, str]:
    files = storage.list_files(terminology) if terminology else []
    return {file.rsplit("/", 1)[-1]: sha256(file) for file in files}


def _interactions(terminology: str | None) -> pa.Table:
    given = terminology_interactions(terminology) if terminology else None
    return package_interactions() if given is None else given


# --- visits -> samples -----------------------------------------------------------------------------------------------


def _write_samples(
    num_shards: int,
    found: _Cohort,
    vocabulary: Vocabulary,
    titles: dict[str, str],
    config: LeaderConfig,
    staging: str,
) -> Counter:
    """Write each shard's samples by split, and return the tally with the number of samples and medications a split."""
    import ray

    split = found.split
    shared_titles: Any = ray.put(titles)

    def ask(shard: int) -> dict[str, Any]:
        visits = storage.read_parquet(_visits_part(staging, shard))
        table, tally = samples(visits, vocabulary, ray.get(shared_titles), config.data, config.prompt)
        names = pa.array([split[subject] for subject in table["subject_id"].to_pylist()], pa.string())
        for name in SPLITS:
            part = table.filter(pc.equal(names, name))
            tally[("samples", name)] += len(part)
            tally[("first visits", name)] += pc.sum(pc.equal(part["prior_visits"], 0)).as_py() or 0
            if len(part):
                storage.write_parquet(storage.join(staging, "samples", name, f"part-{shard:05d}.parquet"), part)
        return {"tally": _pairs(tally)}

    total: Counter = Counter()
    for answer in _over_shards(ask, num_shards):
        total.update(_counter(answer["tally"]))
    for name in SPLITS:
        if not total[("samples", name)]:
            raise UserError(f"The {name} split has no sample; give more patients, or change the splits' fractions.")
    return total


# --- manifest --------------------------------------------------------------------------------------------------------


def _manifest(
    arguments: PrepareArguments, config: LeaderConfig, tally: Counter, split: dict[int, str], values: Counter
) -> dict[str, Any]:
    """What was done and what it left out, JSON-able."""
    unmapped = Counter({key[1]: count for key, count in tally.items() if key[0] == "unmapped"})
    patients = Counter(split.values())
    window = config.data.label_window_hours
    num_visits = tally[("flow", cohort.FLOW[-1])]
    return {
        "format_version": FORMAT_VERSION,
        "source": arguments.source,
        "data_config": config.data.model_dump(mode="json"),
        "prompt_config": config.prompt.model_dump(mode="json"),
        "label_window": "whole stay" if window is None else f"first {window:g} hours",
        "flow": {step: tally[("flow", step)] for step in cohort.FLOW},
        "patients": sum(patients.values()),
        "splits": {
            name: {
                "patients": patients[name],
                "samples": tally[("samples", name)],
                "first_visits": tally[("first visits", name)],
            }
            for name in SPLITS
        },
        "distinct_codes": {kind: sum(key[0] == kind for key in values) for kind in KINDS},
        "mean_codes_per_visit": {
            kind: sum(count for key, count in values.items() if key[0] == kind) / num_visits for kind in KINDS
        },
        "coverage": {
            "prescription_rows": tally[("prescription rows",)],
            "mapped_rows": tally[("mapped prescription rows",)],
            "unmapped_names": len(unmapped),
            "most_frequent_unmapped": dict(unmapped.most_common(20)),
        },
        "left_out": {
            key[0]: tally[key]
            for key in (
                ("prescription rows outside the label window",),
                ("labels outside the training vocabulary",),
                ("samples without a known medication",),
            )
        },
    }
