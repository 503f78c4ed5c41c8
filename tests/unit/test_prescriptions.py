"""Prescription rows as ATC codes: what is mapped, by which key, and what is told of the rest."""

from __future__ import annotations

import pyarrow as pa

from leader_platform.data.drugs import Mapping
from leader_platform.data.prescriptions import MAPPED_SCHEMA, map_prescriptions
from leader_platform.data.sources.events import EVENT_SCHEMAS

KNOWN = {"Aspirin": Mapping("B01AC06", "drug name"), "00071015523": Mapping("C10AA05", "NDC")}


def lookup(drug: str | None, ndc: str | None, gsn: str | None) -> Mapping | None:
    return KNOWN.get(drug or "") or KNOWN.get(ndc or "")


def table(*rows: tuple[int, str | None, str | None]) -> pa.Table:
    return pa.Table.from_pylist(
        [{"subject_id": 1, "hadm_id": stay, "started_at": None, "drug": drug, "ndc": ndc} for stay, drug, ndc in rows],
        schema=EVENT_SCHEMAS["medications"],
    )


def test_rows_are_mapped_in_their_order_and_counted_by_key() -> None:
    named = ((3, "Aspirin", "0"), (2, "Zzyzx", None), (1, "Study", "00071015523"), (4, "Aspirin", None))
    rows = table(*named, (5, None, None))
    mapped, tally = map_prescriptions(rows, lookup)
    assert mapped.schema == MAPPED_SCHEMA
    assert mapped["hadm_id"].to_pylist() == [3, 1, 4]
    assert mapped["atc"].to_pylist() == ["ATC:B01AC06", "ATC:C10AA05", "ATC:B01AC06"]
    assert tally == {
        ("prescription rows",): 5,
        ("mapped by", "drug name"): 2,
        ("mapped by", "NDC"): 1,
        ("unmapped", "Zzyzx"): 1,
        ("unmapped", "(no name)"): 1,
    }


def test_codes_that_no_row_has_are_not_in_the_dictionary() -> None:
    mapped, _ = map_prescriptions(table((1, "Zzyzx", None), (2, "Aspirin", None)), lookup)
    assert mapped["atc"].chunk(0).dictionary.to_pylist() == ["ATC:B01AC06"]


def test_each_combination_is_looked_up_once() -> None:
    asked = []

    def counting(drug: str | None, ndc: str | None, gsn: str | None) -> Mapping | None:
        asked.append((drug, ndc, gsn))
        return None

    map_prescriptions(table((1, "Aspirin", None), (2, "Aspirin", None), (3, "Aspirin", "7"), (4, None, "7")), counting)
    assert sorted(asked, key=str) == [("Aspirin", "7", None), ("Aspirin", None, None), (None, "7", None)]


def test_no_rows_give_no_rows() -> None:
    mapped, tally = map_prescriptions(table(), lookup)
    assert len(mapped) == 0
    assert tally.total() == 0
