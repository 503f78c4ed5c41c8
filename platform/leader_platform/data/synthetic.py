"""Writes the synthetic cohort as raw MIMIC-IV `hosp` tables.

The data are made up: they carry no patient of any hospital, and what is learned from them says nothing about medicine.
They let every step run, at any size, where MIMIC-IV itself may not be used. `leader_platform.data.synthetic_model`
states the model in equations, `leader_platform.data.synthetic_tables` lists its parameters.

As in MIMIC-IV: dates are shifted to 2110-2200, `hadm_id` says nothing about time, ages above 89 are 91, the rows of a
patient stand in the order of `hadm_id` and not of time, some visits lack diagnoses or prescriptions, and some drug
names (`Bag`, `Study Drug 114`) belong to no class. Columns that the model does not know (`gsn`, `ndc`, ...) are empty.
"""

import contextlib
import csv
import gzip
import io
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from numpy.random import Generator

from leader_platform.data.synthetic_model import SyntheticPatient, SyntheticVisit, draw_patient
from leader_platform.data.synthetic_tables import Choice, Drug, SyntheticTables, load_tables
from leader_platform.errors import UserError

COLUMNS = {
    "patients": "subject_id,gender,anchor_age,anchor_year,anchor_year_group,dod",
    "admissions": "subject_id,hadm_id,admittime,dischtime,deathtime,admission_type,admit_provider_id,"
    "admission_location,discharge_location,insurance,language,marital_status,race,edregtime,edouttime,hospital_expire_flag",
    "diagnoses_icd": "subject_id,hadm_id,seq_num,icd_code,icd_version",
    "procedures_icd": "subject_id,hadm_id,seq_num,chartdate,icd_code,icd_version",
    "prescriptions": "subject_id,hadm_id,pharmacy_id,poe_id,poe_seq,order_provider_id,starttime,stoptime,drug_type,"
    "drug,formulary_drug_cd,gsn,ndc,prod_strength,form_rx,dose_val_rx,dose_unit_rx,form_val_disp,form_unit_disp,"
    "doses_per_24_hrs,route",
    "d_icd_diagnoses": "icd_code,icd_version,long_title",
    "d_icd_procedures": "icd_code,icd_version,long_title",
}
# Ids are a bijection modulo ID_RANGE, so they stay unique up to that many visits; two million patients have half that.
MAX_PATIENTS = 2_000_000
ID_RANGE, ID_STEP = 10_000_000, 6_180_339

RACES = Choice.from_weights(
    [
        ("WHITE", 64),
        ("BLACK/AFRICAN AMERICAN", 14),
        ("HISPANIC/LATINO - PUERTO RICAN", 4),
        ("OTHER", 4),
        ("ASIAN - CHINESE", 3),
        ("WHITE - OTHER EUROPEAN", 3),
        ("HISPANIC/LATINO - DOMINICAN", 2),
        ("BLACK/CAPE VERDEAN", 2),
        ("UNKNOWN", 2),
        ("ASIAN", 1.5),
        ("PATIENT DECLINED TO ANSWER", 0.5),
    ]
)
BASES = Choice.from_weights(
    [("0.9% Sodium Chloride", 45), ("5% Dextrose", 25), ("Bag", 20), ("Iso-Osmotic Dextrose", 7), ("Sterile Water", 3)]
)


@dataclass(frozen=True)
class SyntheticCounts:
    """Rows written to each table."""

    patients: int
    admissions: int
    diagnoses: int
    procedures: int
    prescriptions: int


def write_mimic4(out: Path, num_patients: int, seed: int) -> SyntheticCounts:
    """Writes `out/hosp/*.csv.gz`: seven raw MIMIC-IV tables of `num_patients` made-up patients.

    Memory does not grow with `num_patients`. Equal arguments give equal tables (and equal bytes, under one build of
    zlib), and the rows of the first patients do not depend on how many follow. `out` appears complete or not at all;
    it may exist if it is an empty folder.

    Raises:
        UserError: `num_patients` or `seed` is out of range, or `out` exists and is not an empty folder.
    """
    _check(out, num_patients, seed)
    partial = out.with_name(f".{out.name}.partial-{os.getpid()}")
    (partial / "hosp").mkdir(parents=True)
    try:
        counts = _write_tables(partial / "hosp", num_patients, seed)
        with contextlib.suppress(FileNotFoundError):
            out.rmdir()
        partial.rename(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return counts


def _check(out: Path, num_patients: int, seed: int) -> None:
    if not 1 <= num_patients <= MAX_PATIENTS:
        raise UserError(f"Cannot write {num_patients} synthetic patients; ask for 1 to {MAX_PATIENTS}.")
    if seed < 0:
        raise UserError(f"The seed {seed} is negative; choose 0 or a larger whole number.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists and is not an empty folder; remove it or choose another place.")


def _write_tables(folder: Path, num_patients: int, seed: int) -> SyntheticCounts:
    tables = load_tables()
    with ExitStack() as stack:
        writer = _Writer({name: stack.enter_context(_open_table(folder, name)) for name in COLUMNS}, tables, seed)
        writer.write_titles()
        for index in range(num_patients):
            writer.write_patient(index, draw_patient(tables, seed, index))
    rows = writer.rows
    names = ("patients", "admissions", "diagnoses_icd", "procedures_icd", "prescriptions")
    return SyntheticCounts(*(rows[name] for name in names))


@contextlib.contextmanager
def _open_table(folder: Path, name: str) -> Iterator[Any]:
    """A csv writer into `name`.csv.gz, its header written. No file name or time goes into the gzip header."""
    with (
        (folder / f"{name}.csv.gz").open("wb") as raw,
        gzip.GzipFile("", "wb", compresslevel=4, fileobj=raw, mtime=0) as packed,
        io.TextIOWrapper(packed, encoding="utf-8", newline="", write_through=False) as text,
    ):
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(COLUMNS[name].split(","))
        yield rows


class _Writer:
    """Turns patients into rows. Holds the open tables and the number of visits so far, nothing else that grows."""

    def __init__(self, sinks: dict[str, Any], tables: SyntheticTables, seed: int) -> None:
        self._sinks = sinks
        self._tables = tables
        self._id_offset = seed * 7_654_321
        self.rows = dict.fromkeys(sinks, 0)

    def _write(self, table: str, rows: list[tuple]) -> None:
        self._sinks[table].writerows(rows)
        self.rows[table] += len(rows)

    def write_titles(self) -> None:
        """Every code of the parameter tables, whether or not a visit uses it."""
        for table, titles in (
            ("d_icd_diagnoses", self._tables.diagnosis_titles),
            ("d_icd_procedures", self._tables.procedure_titles),
        ):
            self._write(table, [(code, version, title) for (version, code), title in titles.items()])

    def write_patient(self, index: int, patient: SyntheticPatient) -> None:
        """All rows of one patient, visits in the order of their ids."""
        subject_id = 10_000_000 + _scatter(index, self._id_offset)
        died = patient.died.strftime("%Y-%m-%d") if patient.died else ""
        anchor = (patient.anchor_age, patient.anchor_year, patient.anchor_year_group)
        self._write("patients", [(subject_id, patient.sex, *anchor, died)])
        first = self.rows["admissions"]
        # Shuffled: otherwise the second of two visits would follow from the first one's id.
        serials = first + patient.rng.permutation(len(patient.visits))
        hadm_ids = [20_000_000 + _scatter(int(serial), self._id_offset) for serial in serials]
        demographics, order_number = _demographics(patient), 0
        for hadm_id, visit in sorted(zip(hadm_ids, patient.visits, strict=True), key=lambda pair: pair[0]):
            ids = (subject_id, hadm_id)
            self._write("admissions", [(*ids, *_admission(visit, patient, demographics))])
            numbered = enumerate(visit.diagnosis_codes, start=1)
            self._write("diagnoses_icd", [(*ids, number, *code) for number, code in numbered])
            self._write("procedures_icd", [(*ids, *row) for row in _procedure_rows(visit)])
            prescriptions = _prescription_rows(self._tables, visit, patient.rng, subject_id, order_number)
            self._write("prescriptions", [(*ids, *row) for row in prescriptions])
            order_number += len(visit.orders.drug)


def _scatter(serial: int, offset: int) -> int:
    """A permutation of 0 .. ID_RANGE - 1: unique ids without remembering those given out."""
    return (serial * ID_STEP + offset) % ID_RANGE


def _demographics(patient: SyntheticPatient) -> dict[str, str]:
    insured, spoken, married, race = patient.rng.random(4)
    older, age = patient.anchor_age >= 65, patient.anchor_age
    insurance = [
        ("Medicare", 8 if older else 1.4),
        ("Medicaid", 0.4 if older else 1.8),
        ("Other", 1.6 if older else 6.8),
    ]
    single, widowed = (0.75 if age < 35 else 0.28), max(0.0, min(0.4, (age - 50) / 100))
    marital = [("SINGLE", single), ("WIDOWED", widowed), ("DIVORCED", 0.08), ("", 0.03)]
    marital.append(("MARRIED", max(0.1, 0.89 - single - widowed)))
    return {
        "insurance": Choice.from_weights(insurance).pick(insured),
        "language": "ENGLISH" if spoken < 0.9 else "?",
        "marital_status": Choice.from_weights(marital).pick(married),
        "race": RACES.pick(race),
    }


def _admission(visit: SyntheticVisit, patient: SyntheticPatient, demographics: dict[str, str]) -> tuple:
    """The columns of `admissions` after the two ids."""
    kind, leaving, provider, waited = patient.rng.random(4)
    planned = visit.is_surgical and not visit.is_icu and kind < 0.5
    emergency = not planned and kind < 0.8
    admission_type = (
        ("SURGICAL SAME DAY ADMISSION" if kind < 0.3 else "ELECTIVE")
        if planned
        else ("EW EMER." if kind < 0.55 else "EU OBSERVATION" if kind < 0.8 else "URGENT")
    )
    location = "PHYSICIAN REFERRAL" if planned else "EMERGENCY ROOM" if emergency else "TRANSFER FROM HOSPITAL"
    died_here = isinstance(patient.died, datetime) and patient.died == visit.discharged
    arrived = visit.admitted - timedelta(minutes=30 + int(waited * 300))
    return (
        _time(visit.admitted),
        _time(visit.discharged),
        _time(visit.discharged) if died_here else "",
        admission_type,
        _provider(provider),
        location,
        "DIED" if died_here else _discharge_location(leaving, patient.anchor_age, visit),
        *demographics.values(),
        _time(arrived) if emergency else "",
        _time(visit.admitted + timedelta(minutes=45)) if emergency else "",
        int(died_here),
    )


def _discharge_location(uniform: float, age: int, visit: SyntheticVisit) -> str:
    facility = 0.06 + 0.2 * (age > 75) + 0.1 * visit.is_icu + 0.08 * visit.is_surgical
    if uniform < facility:
        return "SKILLED NURSING FACILITY" if uniform < 0.75 * facility else "REHAB"
    return "HOME HEALTH CARE" if uniform < facility + 0.25 else "HOME" if uniform < 0.97 else ""


def _procedure_rows(visit: SyntheticVisit) -> list[tuple]:
    return [
        (number, (visit.admitted + timedelta(days=day)).strftime("%Y-%m-%d"), code, version)
        for number, (code, version, day) in enumerate(visit.procedure_codes, start=1)
    ]


def _prescription_rows(
    tables: SyntheticTables, visit: SyntheticVisit, rng: Generator, subject_id: int, order_number: int
) -> list[tuple]:
    """The columns of `prescriptions` after the two ids; a drug given in a bag of fluid has a BASE row beside it."""
    orders, rows = visit.orders, []
    pharmacy_ids = rng.integers(1_000_000, 100_000_000, len(orders.drug)).tolist()
    uniforms = rng.random((len(orders.drug), 3)).tolist()
    times = zip(orders.start_hours.tolist(), orders.stop_hours.tolist(), strict=True)
    for position, (index, (start, stop)) in enumerate(zip(orders.drug.tolist(), times, strict=True)):
        drug, (has_base, base, provider) = tables.drugs[index], uniforms[position]
        number = order_number + position + 1
        order = (pharmacy_ids[position], f"{subject_id}-{number}", number, _provider(provider))
        when = (_hour(visit.admitted, start), _hour(visit.admitted, stop))
        rows.append((*order, *when, "MAIN", drug.name, *_dosing(drug)))
        if drug.route.startswith("IV") and drug.form in ("VIAL", "BAG") and has_base < 0.6:
            kind, fluid = ("ADDITIVE", "Soln") if base > 0.99 else ("BASE", BASES.pick(base))
            volume = ("", "", "", "", "", "100", "mL", "1", "BAG", "", drug.route)
            rows.append((*order, *when, kind, fluid, *volume))
    return rows


def _dosing(drug: Drug) -> tuple[str, ...]:
    """The columns from `formulary_drug_cd` to `route`."""
    letters = "".join(filter(str.isalpha, drug.name)).upper()[:4]
    digits = "".join(filter(str.isdigit, drug.dose))[:3]
    strength = f"{drug.dose} {drug.unit} {drug.form}"
    return (f"{letters}{digits}", "", "", strength, "", drug.dose, drug.unit, "1", drug.form, "", drug.route)


def _time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:00")


def _hour(admitted: datetime, hours: float) -> str:
    """Orders start and stop on the hour, so the first ones may seem to precede the admission by minutes."""
    return (admitted + timedelta(hours=hours)).strftime("%Y-%m-%d %H:00:00")


def _provider(uniform: float) -> str:
    return f"P{int(uniform * 0xFFFFF):05X}"
