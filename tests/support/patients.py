"""Hand-written patients as raw MIMIC-IV tables, and beside them what the platform must make of them.

| subject | what it is there for |
|---|---|
| 10 | `hadm_id` order unlike time order; `E8889` in both ICD versions; a drug twice; a BASE row; a row without stay |
| 20 | `?` as language; a stay before the anchor year; a stay without diagnosis; no procedures; drugs after 24 hours |
| 30 | its only visit has no drug that maps to ATC |
| 40 | a first visit; no insurance; a code padded with blanks; two drugs of one class |
| 50 | everything prescribed after the first 24 hours |

Every kept visit has paracetamol, so that whichever patients the training split draws, each sample has a known label.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pyarrow as pa

from leader_platform.data.drugs import DrugMap
from leader_platform.data.prescriptions import map_prescriptions
from leader_platform.data.sources import SOURCES

TABLES = {
    "patients": """\
subject_id,gender,anchor_age,anchor_year,anchor_year_group,dod
10,F,70,2150,2014 - 2016,
20,M,50,2120,2008 - 2010,
30,F,33,2130,2011 - 2013,
40,M,91,2140,2014 - 2016,2141-01-01
50,F,18,2160,2017 - 2019,
""",
    "admissions": """\
subject_id,hadm_id,admittime,dischtime,insurance,language,marital_status,race
10,1000,2151-06-01 08:00:00,2151-06-05 12:00:00,Medicare,ENGLISH,WIDOWED,WHITE
10,2000,2150-03-01 22:30:00,2150-03-04 12:00:00,Medicare,ENGLISH,MARRIED,WHITE
20,3001,2119-12-31 23:00:00,2120-01-03 12:00:00,Private,?,SINGLE,BLACK/AFRICAN AMERICAN
20,3002,2121-05-05 05:00:00,2121-05-06 12:00:00,Private,?,SINGLE,BLACK/AFRICAN AMERICAN
20,3003,2122-02-02 12:00:00,2122-02-09 12:00:00,Private,?,SINGLE,BLACK/AFRICAN AMERICAN
30,4001,2130-07-07 07:00:00,2130-07-08 12:00:00,Medicaid,ENGLISH,,ASIAN
40,5001,2140-10-10 10:00:00,2140-10-12 12:00:00,,ENGLISH,DIVORCED,WHITE
50,6001,2160-01-01 00:00:00,2160-01-05 12:00:00,Private,ENGLISH,SINGLE,OTHER
""",
    "diagnoses_icd": """\
subject_id,hadm_id,seq_num,icd_code,icd_version
10,1000,2,I10,10
10,1000,1,N179,10
10,2000,1,E8889,9
10,2000,2,E8889,10
10,2000,3,I10,10
20,3001,1,4019,9
20,3003,1,I10,10
20,3003,2,I10,10
30,4001,1,I10,10
40,5001,1,I10    ,10
50,6001,1,I10,10
""",
    "procedures_icd": """\
subject_id,hadm_id,seq_num,chartdate,icd_code,icd_version
10,2000,1,2150-03-02,5A1D70Z,10
20,3003,2,2122-02-03,3961,9
20,3003,1,2122-02-02,5A1221Z,10
50,6001,1,2160-01-02,3961,9
""",
    "prescriptions": """\
subject_id,hadm_id,starttime,stoptime,drug_type,drug,gsn,ndc
10,2000,2150-03-02 09:00:00,2150-03-04 09:00:00,MAIN,Metoprolol Tartrate,005132,0
10,2000,2150-03-01 23:00:00,2150-03-04 09:00:00,MAIN,Acetaminophen,004489,0
10,2000,2150-03-01 23:30:00,2150-03-04 09:00:00,MAIN,Aspirin,004380,0
10,2000,2150-03-03 09:00:00,2150-03-04 09:00:00,MAIN,Aspirin EC,004381,0
10,2000,2150-03-01 23:00:00,2150-03-04 09:00:00,BASE,0.9% Sodium Chloride,001210,0
10,1000,2151-06-01 09:00:00,2151-06-05 09:00:00,MAIN,Acetaminophen,004489,0
10,1000,2151-06-01 10:00:00,2151-06-05 09:00:00,MAIN,Furosemide,008205,0
10,,2151-09-01 10:00:00,2151-09-05 09:00:00,MAIN,Lisinopril,000391,0
20,3001,2120-01-01 01:00:00,2120-01-03 09:00:00,MAIN,Acetaminophen,004489,0
20,3002,2121-05-05 06:00:00,2121-05-06 09:00:00,MAIN,Acetaminophen,004489,0
20,3003,2122-02-02 13:00:00,2122-02-09 09:00:00,MAIN,Acetaminophen,004489,0
20,3003,2122-02-02 14:00:00,2122-02-09 09:00:00,MAIN,Lisinopril,000391,0
20,3003,2122-02-03 12:00:00,2122-02-09 09:00:00,MAIN,Furosemide,008205,0
20,3003,2122-02-02 15:00:00,2122-02-09 09:00:00,MAIN,"Zzyzx, Study Drug",,0
20,3003,2122-02-02 15:00:00,2122-02-09 09:00:00,MAIN,,,0
30,4001,2130-07-07 08:00:00,2130-07-08 09:00:00,MAIN,"Zzyzx, Study Drug",,0
40,5001,2140-10-10 11:00:00,2140-10-12 09:00:00,MAIN,Aspirin,004380,0
40,5001,2140-10-10 12:00:00,2140-10-12 09:00:00,MAIN,Warfarin,006562,0
40,5001,2140-10-10 13:00:00,2140-10-12 09:00:00,MAIN,Acetaminophen,004489,0
50,6001,2160-01-02 00:00:00,2160-01-05 09:00:00,MAIN,Acetaminophen,004489,0
50,6001,2160-01-03 00:00:00,2160-01-05 09:00:00,MAIN,Insulin,001723,0
""",
    "d_icd_diagnoses": """\
icd_code,icd_version,long_title
4019,9,Unspecified essential hypertension
E8889,9,Unspecified fall
E8889,10,Other specified metabolic disorders
I10,10,Essential (primary) hypertension
N179,10,"Acute kidney failure, unspecified"
""",
    "d_icd_procedures": """\
icd_code,icd_version,long_title
3961,9,Extracorporeal circulation auxiliary to open heart surgery
5A1D70Z,10,"Performance of Urinary Filtration, Intermittent"
""",
}

_WIDOW = {"gender": "F", "insurance": "Medicare", "language": "ENGLISH", "race": "WHITE"}
_SINGLE = {
    "gender": "M",
    "insurance": "Private",
    "language": None,
    "marital_status": "SINGLE",
    "race": "BLACK/AFRICAN AMERICAN",
}

# The rows of `visits/`, of the whole stay's prescriptions; `admitted_at` as text.
VISITS: list[dict[str, Any]] = [
    {
        "subject_id": 10,
        "hadm_id": 2000,
        "admitted_at": "2150-03-01 22:30:00",
        "year": 2014,
        "visit_number": 1,
        "diagnoses": ["ICD9CM:E8889", "ICD10CM:E8889", "ICD10CM:I10"],
        "procedures": ["ICD10PCS:5A1D70Z"],
        "medications": ["ATC:N02B", "ATC:B01A", "ATC:C07A"],
        "substances": ["ATC:N02BE01", "ATC:B01AC06", "ATC:C07AB02"],
        "age": 70,
        "marital_status": "MARRIED",
        **_WIDOW,
    },
    {
        "subject_id": 10,
        "hadm_id": 1000,
        "admitted_at": "2151-06-01 08:00:00",
        "year": 2015,
        "visit_number": 2,
        "diagnoses": ["ICD10CM:N179", "ICD10CM:I10"],
        "procedures": [],
        "medications": ["ATC:N02B", "ATC:C03C"],
        "substances": ["ATC:N02BE01", "ATC:C03CA01"],
        "age": 71,
        "marital_status": "WIDOWED",
        **_WIDOW,
    },
    {
        "subject_id": 20,
        "hadm_id": 3001,
        "admitted_at": "2119-12-31 23:00:00",
        "year": 2007,
        "visit_number": 1,
        "diagnoses": ["ICD9CM:4019"],
        "procedures": [],
        "medications": ["ATC:N02B"],
        "substances": ["ATC:N02BE01"],
        "age": 49,
        **_SINGLE,
    },
    {
        "subject_id": 20,
        "hadm_id": 3003,
        "admitted_at": "2122-02-02 12:00:00",
        "year": 2010,
        "visit_number": 2,
        "diagnoses": ["ICD10CM:I10"],
        "procedures": ["ICD10PCS:5A1221Z", "ICD9PCS:3961"],
        "medications": ["ATC:N02B", "ATC:C09A", "ATC:C03C"],
        "substances": ["ATC:N02BE01", "ATC:C09AA03", "ATC:C03CA01"],
        "age": 52,
        **_SINGLE,
    },
    {
        "subject_id": 40,
        "hadm_id": 5001,
        "admitted_at": "2140-10-10 10:00:00",
        "year": 2014,
        "visit_number": 1,
        "diagnoses": ["ICD10CM:I10"],
        "procedures": [],
        "medications": ["ATC:B01A", "ATC:N02B"],
        "substances": ["ATC:B01AC06", "ATC:B01AA03", "ATC:N02BE01"],
        "gender": "M",
        "age": 91,
        "insurance": None,
        "language": "ENGLISH",
        "marital_status": "DIVORCED",
        "race": "WHITE",
    },
    {
        "subject_id": 50,
        "hadm_id": 6001,
        "admitted_at": "2160-01-01 00:00:00",
        "year": 2017,
        "visit_number": 1,
        "diagnoses": ["ICD10CM:I10"],
        "procedures": ["ICD9PCS:3961"],
        "medications": ["ATC:N02B", "ATC:A10A"],
        "substances": ["ATC:N02BE01", "ATC:A10AB01"],
        "gender": "F",
        "age": 18,
        "insurance": "Private",
        "language": "ENGLISH",
        "marital_status": "SINGLE",
        "race": "OTHER",
    },
]

# Visits left after each step of `cohort.FLOW`, and the prescriptions (MAIN rows alone) that map to ATC.
FLOW = {
    "admissions": 8,
    "with a diagnosis": 7,
    "with a mapped medication": 6,
    "with a procedure, where required": 6,
    "of patients with enough visits": 6,
}
PRESCRIPTION_ROWS, MAPPED_ROWS = 19, 16
UNMAPPED = {"Zzyzx, Study Drug": 2, "(no name)": 1}

# sample_id -> prior visits and labels, of every visit, whole stay, when all medications are in the vocabulary.
SAMPLES = {
    "10-2000": (0, ["ATC:N02B", "ATC:B01A", "ATC:C07A"]),
    "10-1000": (1, ["ATC:N02B", "ATC:C03C"]),
    "20-3001": (0, ["ATC:N02B"]),
    "20-3003": (1, ["ATC:N02B", "ATC:C09A", "ATC:C03C"]),
    "40-5001": (0, ["ATC:B01A", "ATC:N02B"]),
    "50-6001": (0, ["ATC:N02B", "ATC:A10A"]),
}
# The prompts of two of them with the default settings, titles from the tables and from the package's ATC classes.
PROMPTS = {
    "40-5001": (
        "The patient is a 91-year-old male. The patient has 0 times ICU visits. "
        "In this visit, the patient has diagnosis: Essential (primary) hypertension; procedures: none. "
        "Then, the patient should be prescribed:"
    ),
    "10-1000": (
        "The patient is a 71-year-old female. The patient has 1 times ICU visits. "
        "In the 1 visit, the patient had diagnosis: Unspecified fall, Other specified metabolic disorders, "
        "Essential (primary) hypertension; procedures: Performance of Urinary Filtration, Intermittent. "
        "The patient was prescribed drugs: Other analgesics and antipyretics, Antithrombotic agents, "
        "Beta blocking agents. "
        "In this visit, the patient has diagnosis: Acute kidney failure, unspecified, "
        "Essential (primary) hypertension; procedures: none. Then, the patient should be prescribed:"
    ),
}


def write_hosp(directory: Path, *, nested: bool = True, compressed: bool = True, **changes: str | None) -> Path:
    """Write the tables under `directory` (in `hosp/` if nested) and return it; `changes` maps a table's name to other
    text for it, or to None to leave it out."""
    folder = directory / "hosp" if nested else directory
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in {**TABLES, **changes}.items():
        if text is None:
            continue
        data = text.encode()
        path = folder / (f"{name}.csv.gz" if compressed else f"{name}.csv")
        path.write_bytes(gzip.compress(data, mtime=0) if compressed else data)
    return directory


def read_events(directory: Path) -> dict[str, pa.Table]:
    """All events of the tables under `directory`, by kind, as `cohort.visits` takes them."""
    source = SOURCES["mimic4"]
    events = {
        kind: pa.concat_tables(source.read(kind, batch)[0] for batch in table.batches())
        for kind, table in source.open_tables(str(directory)).items()
    }
    mapped, _ = map_prescriptions(events["medications"], DrugMap.from_package().lookup)
    return {**events, "medications": mapped}


def rows(visits: pa.Table) -> list[dict[str, Any]]:
    """A visits table as rows to compare with `VISITS`; labels, which depend on the window, are compared apart."""
    told = visits.select([name for name in visits.column_names if name != "labels"]).to_pylist()
    return [{**row, "admitted_at": f"{row['admitted_at']:%Y-%m-%d %H:%M:%S}"} for row in told]
