"""The manifest of a prepared data set as tables, for the terminal and for the page."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

from leader_platform.data.records import KINDS
from leader_platform.report import Share, Table, cell_text

Manifest = dict[str, Any]

_SPLIT = {"random": "patients at random", "time": "by time, test patients have the latest last visits"}


def manifest_tables(manifest: Manifest) -> list[Table]:
    """The tables that sum a data set up, those without a row left out."""
    tables = [flow(manifest), splits(manifest), facts(manifest), warnings(manifest), unmapped(manifest)]
    return [table for table in tables if table.rows]


def flow(manifest: Manifest) -> Table:
    """The admissions that each step of the cohort kept and removed."""
    counts = list(manifest["flow"].values())
    removed = [None, *(before - after for before, after in pairwise(counts))]
    rows = list(zip(manifest["flow"], counts, removed, strict=True))
    return Table(f"Cohort from {manifest['source']}", ("admissions", "kept", "removed"), rows)


def options(manifest: Manifest) -> Table:
    """What each option of the cohort was and what it removed."""

    def text(value: Any) -> str:
        if value is None:  # the label window's alone
            return "whole stay"
        return value if isinstance(value, str) else json.dumps(value)

    rows = [(told["option"], text(told["value"]), told["count"], told["removes"]) for told in manifest["options"]]
    return Table("What each option removed", ("option", "value", "removed", "of"), rows)


def left_out(manifest: Manifest) -> Table:
    """What else is not there, and why."""
    return Table("Left out besides", ("what", "count"), list(manifest["left_out"].items()))


def splits(manifest: Manifest) -> Table:
    """Patients and samples by split."""
    total = sum(split["samples"] for split in manifest["splits"].values())
    rows = [
        (name, split["patients"], split["samples"], Share(split["samples"] / total), split["first_visits"])
        for name, split in manifest["splits"].items()
    ]
    return Table("Splits by patient", ("split", "patients", "samples", "share", "first visits"), rows)


def facts(manifest: Manifest) -> Table:
    """Where labels and ATC codes come from, how patients were split, and how many codes there are of each kind."""
    coverage = manifest["coverage"]
    mapped = Share(coverage["mapped_rows"] / max(1, coverage["prescription_rows"]))
    rows = [
        ("labels", manifest["label_window"]),
        ("split", _SPLIT[manifest["data_config"]["split"]]),
        ("drug mapping", f"{manifest['drug_mapping_source']}, {cell_text(mapped)} of prescription rows"),
        ("fingerprint", manifest["fingerprint"]),
    ]
    for kind in KINDS:
        known = f"{manifest['vocabulary'][kind]:,} in the training vocabulary"
        rows.append((f"distinct {kind}", f"{manifest['distinct_codes'][kind]:,} ({known})"))
        rows.append((f"{kind} a visit", f"{manifest['mean_codes_per_visit'][kind]:.1f}"))
    return Table("Facts", ("", ""), rows)


def warnings(manifest: Manifest) -> Table:
    """What was wrong with the raw tables, and what became of it."""
    return Table("Warnings", ("",), [(warning,) for warning in manifest["warnings"]])


def coverage(manifest: Manifest) -> Table:
    """The prescription rows by what told their ATC codes."""
    found = manifest["coverage"]
    total, mapped = found["prescription_rows"], found["mapped_rows"]
    counts = {f"mapped by {key}": count for key, count in found["mapped_by"].items()} | {"not mapped": total - mapped}
    rows = [(name, count, Share(count / max(1, total))) for name, count in counts.items()]
    return Table("Prescription rows and ATC", ("prescriptions", "rows", "share"), rows)


def unmapped(manifest: Manifest) -> Table:
    """The most frequent drug names without an ATC code."""
    found = manifest["coverage"]
    caption = f"Most frequent of {found['unmapped_names']:,} unmapped names"
    return Table(caption, ("drug name", "rows"), list(found["most_frequent_unmapped"].items()))
