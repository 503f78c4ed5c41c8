"""What the raw tables of any source say about patients, in the platform's own columns.

A source renames the columns of its raw tables to those of `EVENT_SCHEMAS`; `checked` then applies the rules that hold
for every source. Rows that cannot become an event are left out and counted, each under one key of a *tally*:
`("left out", "<table>: <rows>")` for what is normal, `("fault", "<table>: <rows>")` for what a clean table never has.
All functions are pure, and work on whole columns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from leader_platform import storage
from leader_platform.data.lists import whole
from leader_platform.data.sources.raw import RawTable, TableSpec, open_tables

Column: TypeAlias = "pa.ChunkedArray | pa.Array"
NUMBER, TEXT, TIME = pa.int64(), pa.string(), pa.timestamp("ms")
NAME = pa.dictionary(pa.int32(), pa.string())  # text of which a table repeats the same few thousand values

PATIENT_TABLES = ("patients", "admissions", "diagnoses", "procedures", "medications")
TITLE_TABLES = ("diagnosis_titles", "procedure_titles")
PROFILE = ("insurance", "language", "marital_status", "race")
IDS = {"subject_id": NUMBER, "hadm_id": NUMBER}

_CODED = pa.schema([*IDS.items(), ("position", NUMBER), ("code", TEXT)])
_TITLED = pa.schema([("code", TEXT), ("title", TEXT)])
EVENT_SCHEMAS: dict[str, pa.Schema] = {
    # year_shift: what to add to a year of the patient's shifted calendar for the real one; null where unknown.
    "patients": pa.schema([("subject_id", NUMBER), ("gender", TEXT), ("born_at", TIME), ("year_shift", pa.int32())]),
    "admissions": pa.schema(
        [*IDS.items(), ("admitted_at", TIME), ("discharged_at", TIME), *((name, TEXT) for name in PROFILE)]
    ),
    "diagnoses": _CODED,
    "procedures": _CODED,
    "medications": pa.schema([*IDS.items(), ("started_at", TIME), ("drug", NAME), ("ndc", NAME), ("gsn", NAME)]),
    "diagnosis_titles": _TITLED,
    "procedure_titles": _TITLED,
}

_CODE_SYSTEM = {"diagnoses": "CM", "diagnosis_titles": "CM", "procedures": "PCS", "procedure_titles": "PCS"}
_ICD_VERSIONS = (9, 10)
# The shortest ICD-9 and ICD-10 codes are of three characters: `042`, `016`, `I10`.
_MIN_CODE_LENGTH = 3
_MAX_TITLE_LENGTH = 1000  # the longest of MIMIC has 228 characters; a prompt must stay one
_DISSOLVING = ("BASE", "ADDITIVE")

# Both MIMICs hide ages over 89: MIMIC-III by a birth 300 years before the first admission, MIMIC-IV by the age 91,
# which is also about the median age of those whom MIMIC-III hides (91.4, says its documentation).
_OLDEST_AGE = 120
_HIDDEN_AGE = 91


@dataclass(frozen=True)
class Source:
    """A data set that can be read: its raw tables by kind, in which folders of it they may lie, and how a batch of one
    becomes events; `tells_year` says whether the real years of admissions are known."""

    name: str
    tables: Mapping[str, TableSpec]
    subfolders: tuple[str, ...]
    read: Callable[[str, pa.Table], tuple[pa.Table, Counter]]
    tells_year: bool

    def open_tables(self, raw: str) -> dict[str, RawTable]:
        """The tables by kind, in the first of `subfolders` that is in `raw`, else in `raw` itself; headers checked.

        Optional tables that are not there are not in the answer. Raises `UserError`, see `raw.open_tables`.
        """
        nested = [folder for name in self.subfolders if storage.exists(folder := storage.join(raw, name))]
        return open_tables(nested[0] if nested else raw, self.tables)


def no_events(kind: str) -> pa.Table:
    """The empty table of events of `kind`."""
    return EVENT_SCHEMAS[kind].empty_table()


def renamed(batch: pa.Table, names: Mapping[str, str]) -> pa.Table:
    """The batch with the columns that `names` maps under their new names."""
    return batch.rename_columns([names.get(name, name) for name in batch.column_names])


def checked(kind: str, table: str, batch: pa.Table) -> tuple[pa.Table, Counter]:
    """A batch of the raw table called `table` as events of `kind`, and the tally of the rows that were left out.

    The batch has the columns of `EVENT_SCHEMAS[kind]`, coded tables and titles also `icd_version`, and medications a
    dictionary-encoded `drug_type`. Texts are trimmed and codes get their system; drug names, NDC and GSN stay as they
    stand.
    """
    for name in ("gender", "title", *PROFILE):
        if name in batch.column_names:
            batch = _with_column(batch, name, meaningful(batch[name]))
    if "code" in batch.column_names:
        batch = _with_column(batch, "code", bare_codes(batch["code"]))
    kept, tally = _sifted(kind, table, batch)
    if "code" in batch.column_names:
        kept = _with_column(kept, "code", namespaced(kind, kept["icd_version"], kept["code"]))
    return kept.select(EVENT_SCHEMAS[kind].names).cast(EVENT_SCHEMAS[kind]), tally


def meaningful(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Trimmed text; what says nothing (blank, `?`) is null."""
    trimmed = pc.utf8_trim_whitespace(texts)
    return pc.if_else(pc.is_in(trimmed, value_set=pa.array(["", "?"])), pa.scalar(None, TEXT), trimmed)


def bare_codes(codes: pa.ChunkedArray) -> pa.ChunkedArray:
    """ICD codes in upper case, without dots and without blanks around them; null where nothing is left.

    Codes are text and their leading zeros stay: procedure `0331` is a spinal tap, `331` an incision of the lung. The
    published files have the zeros. Copies saved by a program that read codes as numbers lack them, and cannot be put
    right, since `331` is a code, too; what tells such a copy is a code of fewer than three characters, see `_reasons`.
    """
    bare = pc.ascii_upper(pc.utf8_trim_whitespace(pc.replace_substring(codes, ".", "")))
    return pc.if_else(pc.equal(bare, ""), pa.scalar(None, TEXT), bare)


def namespaced(kind: str, versions: pa.ChunkedArray, codes: pa.ChunkedArray) -> pa.ChunkedArray:
    """`ICD9CM:4019`; without the system the same string is two codes (FIELD, defect 5)."""
    return pc.binary_join_element_wise("ICD", pc.cast(versions, TEXT), f"{_CODE_SYSTEM[kind]}:", codes, "")


def age_at(admitted_at: pa.ChunkedArray, born_at: pa.ChunkedArray) -> pa.ChunkedArray:
    """Full years from birth to admission by the calendar's dates: int32 [rows].

    Ages that only a hidden date of birth gives are 91. Null where a time is unknown, and before birth.
    """
    before_birthday = pc.less(_day_of_year(admitted_at), _day_of_year(born_at))
    years = pc.subtract(pc.subtract(pc.year(admitted_at), pc.year(born_at)), pc.cast(before_birthday, NUMBER))
    years = pc.if_else(pc.greater(years, _OLDEST_AGE), _HIDDEN_AGE, years)
    return pc.cast(pc.if_else(pc.less(years, 0), pa.scalar(None, NUMBER), years), pa.int32())


def _day_of_year(times: pa.ChunkedArray) -> pa.ChunkedArray:
    """A number that orders the days of any one year, the same for a date in every year."""
    return pc.add(pc.multiply(pc.month(times), 100), pc.day(times))


def _with_column(table: pa.Table, name: str, column: pa.ChunkedArray) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, column)


def _reasons(kind: str, batch: pa.Table) -> Iterator[tuple[str, str, Column]]:
    """Why rows are left out: "fault" or "left out", in words, and which rows [rows]."""
    if kind == "patients":
        yield "fault", "rows without a subject number", pc.is_null(batch["subject_id"])
    elif kind in PATIENT_TABLES:
        absent = pc.or_(pc.is_null(batch["subject_id"]), pc.is_null(batch["hadm_id"]))
        yield "fault", "rows without a subject or an admission number", absent
    if kind == "admissions":
        yield "fault", "rows without an admission time", pc.is_null(batch["admitted_at"])
    if kind in _CODE_SYSTEM:
        too_short = pc.less(pc.utf8_length(batch["code"]), _MIN_CODE_LENGTH)
        yield "fault", "rows without a code", pc.is_null(batch["code"])
        yield "fault", "rows with a code of fewer than three characters, as a lost leading zero leaves it", too_short
        yield "fault", "rows of an unknown ICD version", _not_in(batch["icd_version"], _ICD_VERSIONS)
    if kind in TITLE_TABLES:
        yield "fault", "rows without a title", pc.is_null(batch["title"])
        too_long = pc.greater(pc.utf8_length(batch["title"]), _MAX_TITLE_LENGTH)
        yield "fault", f"rows with a title of more than {_MAX_TITLE_LENGTH} characters", too_long
    if kind == "medications":
        # Of three types in millions of rows: each is looked at once.
        types = whole(batch["drug_type"].unify_dictionaries())
        names = pc.ascii_upper(pc.utf8_trim_whitespace(types.dictionary))
        unknown = _not_in(names, ("MAIN", *_DISSOLVING)).take(types.indices)
        yield "fault", "rows of an unknown drug type", pc.fill_null(unknown, True)
        fluids = pc.is_in(names, value_set=pa.array(_DISSOLVING)).take(types.indices)
        yield "left out", "rows of type BASE or ADDITIVE, the fluid a drug is dissolved in", pc.fill_null(fluids, False)


def _not_in(column: Column, values: tuple) -> Column:
    return pc.invert(pc.is_in(column, value_set=pa.array(values, column.type)))


def _sifted(kind: str, table: str, batch: pa.Table) -> tuple[pa.Table, Counter]:
    """The rows that no reason marks, and the tally of the others, each under the first reason that marks it."""
    reasons = list(_reasons(kind, batch))
    marks = pc.make_struct(*(marked for _, _, marked in reasons))
    first = pc.case_when(marks, *(pa.scalar(number, NUMBER) for number in range(len(reasons))))
    tally: Counter = Counter()
    for found in pc.value_counts(first.drop_null()).to_pylist():
        sort, reason, _ = reasons[found["values"]]
        tally[(sort, f"{table}: {reason}")] = found["counts"]
    return batch.filter(pc.is_null(first)), tally
