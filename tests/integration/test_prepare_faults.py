"""`leader data prepare` on faulty tables, full disks and killed processes: a sentence or a count, nothing half done."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import patients, patients_mimic3

from leader_jobs.prepare import PrepareArguments, prepare
from leader_platform.config import LeaderConfig
from leader_platform.data.dataset import PreparedData
from leader_platform.data.samples import SPLITS
from leader_platform.errors import UserError, find_cause
from leader_platform.progress import LineProgress

pytestmark = pytest.mark.slow


def prepared(source: str, raw: Path, out: Path, config: LeaderConfig) -> PreparedData:
    prepare(PrepareArguments(source, str(raw), str(out)), config, LineProgress(print))
    return PreparedData(str(out))


def failure(raw: Path, out: Path, config: LeaderConfig) -> str:
    with pytest.raises(Exception) as raised:  # noqa: PT011 - Ray wraps the sentence
        prepare(PrepareArguments("mimic4", str(raw), str(out)), config, LineProgress(print))
    cause = find_cause(raised.value, (UserError,))
    assert cause is not None, raised.value
    return str(cause)


def test_mimic3_becomes_a_data_set(ray_local: None, config: LeaderConfig, tmp_path: Path) -> None:
    # Aspirin for everyone, so that whichever patient trains, all samples have a known label.
    more = patients_mimic3.TABLES["PRESCRIPTIONS"]
    for subject, stay, day in ((20, 120000, "2130-06-02"), (30, 130000, "2160-02-29")):
        more += f'9,{subject},{stay},,{day} 00:00:00,,"MAIN","Aspirin",,,,,"0",,,,,,"PO"\n'
    raw = patients_mimic3.write_mimic3(tmp_path / "raw", PRESCRIPTIONS=more)
    data = prepared("mimic3", raw, tmp_path / "data", config)
    assert data.manifest["source"] == "mimic3"
    assert data.manifest["flow"]["admissions"] == 4
    samples = [row for split in SPLITS for row in data.samples(split).to_pylist()]
    assert {row["subject_id"]: row["age"] for row in samples if row["subject_id"] == 20} == {20: 91}
    assert any(code.startswith("ICD9CM:0389") for row in samples for code in row["diagnoses"])


def test_missing_tables_of_titles_are_a_warning(ray_local: None, config: LeaderConfig, tmp_path: Path) -> None:
    raw = patients.write_hosp(tmp_path / "raw", d_icd_diagnoses=None)
    data = prepared("mimic4", raw, tmp_path / "data", config)
    assert "There is no table d_icd_diagnoses, so its codes have no titles." in data.manifest["warnings"]
    prompts = [text for split in SPLITS for text in data.samples(split)["prompt"].to_pylist()]
    assert any("diagnosis: N179, I10;" in prompt for prompt in prompts)


def test_faulty_rows_are_counted_in_warnings(ray_local: None, config: LeaderConfig, tmp_path: Path) -> None:
    tables = patients.TABLES
    raw = patients.write_hosp(
        tmp_path / "raw",
        diagnoses_icd=tables["diagnoses_icd"] + "10,1000,3,I11,11\n10,1000,4,,10\n10,7777,1,I10,10\n",
        patients=tables["patients"] + "10,F,70,2150,2014 - 2016,\n",
    )
    warnings = prepared("mimic4", raw, tmp_path / "data", config).manifest["warnings"]
    for fault in (
        "diagnoses_icd: rows of an unknown ICD version (1 row).",
        "diagnoses_icd: rows without a code (1 row).",
        "diagnoses: rows of an admission that the patient does not have (1 row).",
        "patients: rows that repeat a patient (1 row).",
        "prescriptions: rows without a subject or an admission number (1 row).",
    ):
        assert fault in warnings


def test_a_full_disk_is_told_in_a_sentence_and_left_clean(
    ray_local: None, raw: Path, config: LeaderConfig, small_disk: Path
) -> None:
    message = failure(raw, small_disk / "data", config)
    assert message.startswith(f"There is no room left for {small_disk}/data, or for temporary files")
    assert list(small_disk.iterdir()) == []


_PREPARE = """
import sys
from leader_jobs.prepare import PrepareArguments, prepare
from leader_platform.config import LeaderConfig
from leader_platform.ray_session import ray_session
from leader_platform.progress import LineProgress
with ray_session(num_cpus=2):
    progress = LineProgress(lambda line: print(line, flush=True))
    prepare(PrepareArguments("mimic4", sys.argv[1], sys.argv[2]), LeaderConfig(), progress)
"""


def test_a_killed_run_is_run_again_and_leaves_nothing(ray_local: None, raw: Path, tmp_path: Path) -> None:
    """Killed when it writes samples; the next run gives what an undisturbed one gives."""
    out = tmp_path / "killed" / "data"
    command = [sys.executable, "-c", _PREPARE, str(raw), str(out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("Assembling"):
            break
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert [path.name for path in out.parent.iterdir()] != ["data"]
    time.sleep(5)  # Ray's workers outlive their driver by a moment, and may still write
    again = prepared("mimic4", raw, out, LeaderConfig())
    whole = prepared("mimic4", raw, tmp_path / "whole" / "data", LeaderConfig())
    assert again.fingerprint == whole.fingerprint
    assert [path.name for path in out.parent.iterdir()] == ["data"]
