"""Hand-written patients as raw MIMIC-III tables, in both shapes in which PhysioNet ships them.

| subject | what it is there for |
|---|---|
| 10 | two stays, of which the first has the larger `hadm_id`; codes with leading zeros; a BASE row |
| 20 | over 89: born 300 years before the first stay; a code with a dot; a stay without language |
| 30 | a newborn, admitted in the hour of its birth; a diagnosis row without code and number |
"""

from __future__ import annotations

import gzip
from collections import Counter
from pathlib import Path

import pyarrow as pa

from leader_platform.data.sources import SOURCES

TABLES = {
    "PATIENTS": """\
row_id,subject_id,gender,dob,dod,dod_hosp,dod_ssn,expire_flag
1,10,"F",2075-03-13 00:00:00,,,,0
2,20,"M",1830-06-01 00:00:00,2131-01-01 00:00:00,,2131-01-01 00:00:00,1
3,30,"F",2160-02-29 00:00:00,,,,0
""",
    "ADMISSIONS": """\
row_id,subject_id,hadm_id,admittime,dischtime,deathtime,admission_type,admission_location,discharge_location,insurance,\
language,religion,marital_status,ethnicity,edregtime,edouttime,diagnosis,hospital_expire_flag,has_chartevents_data
1,10,199999,2150-03-12 23:00:00,2150-03-20 12:00:00,,"EMERGENCY","EMERGENCY ROOM ADMIT","HOME","Medicare",\
"ENGL","CATHOLIC","MARRIED","WHITE",,,"SEPSIS, UROSEPSIS",0,1
2,10,100001,2151-03-13 01:00:00,2151-03-20 12:00:00,,"EMERGENCY","EMERGENCY ROOM ADMIT","SNF","Medicare",\
"ENGL","CATHOLIC","WIDOWED","WHITE",,,"PNEUMONIA",0,1
3,20,120000,2130-06-01 08:00:00,2130-06-09 12:00:00,,"ELECTIVE","PHYS REFERRAL","HOME","Private",\
,,"SINGLE","ASIAN - CHINESE",,,"STROKE",0,1
4,30,130000,2160-02-29 00:00:00,2160-03-02 12:00:00,,"NEWBORN","PHYS REFERRAL","HOME","Medicaid",\
,"UNOBTAINABLE",,"UNKNOWN/NOT SPECIFIED",,,"NEWBORN",0,1
""",
    "DIAGNOSES_ICD": """\
row_id,subject_id,hadm_id,seq_num,icd9_code
1,10,199999,1,"0389"
2,10,199999,2,"E8788"
3,10,100001,1,"486"
4,20,120000,1,"434.91"
5,20,120000,2,"V5861"
6,30,130000,1,"V3000"
7,30,130000,,
""",
    "PROCEDURES_ICD": """\
row_id,subject_id,hadm_id,seq_num,icd9_code
1,10,199999,1,"0331"
2,10,199999,2,"331"
3,20,120000,1,"0066"
""",
    "PRESCRIPTIONS": '''\
row_id,subject_id,hadm_id,icustay_id,startdate,enddate,drug_type,drug,drug_name_poe,drug_name_generic,\
formulary_drug_cd,gsn,ndc,prod_strength,dose_val_rx,dose_unit_rx,form_val_disp,form_unit_disp,route
1,10,199999,,2150-03-13 00:00:00,2150-03-14 00:00:00,"MAIN","Vancomycin",,,\
"VANC1F","043952","00338355248","1g Frozen Bag","1000","mg","1","BAG","IV"
2,10,199999,,2150-03-13 00:00:00,2150-03-14 00:00:00,"BASE","Iso-Osmotic Dextrose",,,\
"DEX5","","0","200ml Bag","200","ml","200","ml","IV"
3,10,199999,,2150-03-13 00:00:00,2150-03-15 00:00:00,"MAIN"," Aspirin ",,,\
"ASA81","004380 004381","00904404073","81mg Tab","81","mg","1","TAB","PO"
4,20,120000,,,2130-06-03 00:00:00,"MAIN","Heparin Flush (10 units/ml), ""PF""",,,\
"HEPA10",,,"10ml","1","ml","1","SYR","IV"
5,20,,,2130-06-02 00:00:00,2130-06-03 00:00:00,"MAIN","Aspirin",,,"ASA81","004380","00904404073","81mg","81","mg",,,"PO"
6,30,130000,,2160-02-29 00:00:00,2160-03-01 00:00:00,"ADDITIVE","Vitamin K",,,,,,,,,,,"IM"
''',
    "D_ICD_DIAGNOSES": """\
row_id,icd9_code,short_title,long_title
1,"0389","Septicemia NOS","Unspecified septicemia"
2,"486","Pneumonia, organism NOS","Pneumonia, organism unspecified"
""",
    "D_ICD_PROCEDURES": """\
row_id,icd9_code,short_title,long_title
1,"0331","Spinal tap","Spinal tap"
2,"331","Incision of lung","Incision of lung"
""",
}


def write_mimic3(directory: Path, *, full: bool = True, **changes: str | None) -> Path:
    """Write the tables and return `directory`: in the shape of the full set (packed, upper-case headers in quotation
    marks), else in that of the open demo (plain, lower-case headers).

    `changes` maps a table's name to other text for it, or to None to leave it out.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in {**TABLES, **changes}.items():
        if text is None:
            continue
        if full:
            header, _, body = text.partition("\n")
            quoted = ",".join(f'"{column.upper()}"' for column in header.split(","))
            (directory / f"{name}.csv.gz").write_bytes(gzip.compress(f"{quoted}\n{body}".encode(), mtime=0))
        else:
            (directory / f"{name}.csv").write_text(text)
    return directory


def read_source(name: str, directory: Path) -> tuple[dict[str, pa.Table], Counter]:
    """All events of the raw tables of the source called `name`, by kind, and the tally of what was left out."""
    source, tally = SOURCES[name], Counter()
    events: dict[str, list[pa.Table]] = {}
    for kind, table in source.open_tables(str(directory)).items():
        for batch in table.batches():
            found, left_out = source.read(kind, batch)
            events.setdefault(kind, []).append(found)
            tally.update(left_out)
    return {kind: pa.concat_tables(tables) for kind, tables in events.items()}, tally
