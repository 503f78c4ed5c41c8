"""`leader data prepare` on Ray Data: what it writes, that it writes it again, and what a failure leaves."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pyarrow import fs as pafs
from support.patients import FLOW, PROMPTS, SAMPLES, UNMAPPED, VISITS, rows, write_hosp

from leader_jobs.events import write_events
from leader_jobs.prepare import PrepareArguments, prepare
from leader_platform import storage
from leader_platform.config import LeaderConfig
from leader_platform.data.dataset import PreparedData
from leader_platform.data.drugs import DrugMap
from leader_platform.data.samples import SPLITS
from leader_platform.data.sources import SOURCES
from leader_platform.errors import UserError, find_cause
from leader_platform.progress import SILENT, LineProgress
from leader_platform.settings import load_config

pytestmark = pytest.mark.slow


def test_hand_written_patients_become_what_stands_beside_them(
    ray_local: None, config: LeaderConfig, tmp_path: Path
) -> None:
    raw = write_hosp(tmp_path / "raw")
    settings = load_config(config, None, ["prompt.history_visits=3"])
    manifest = prepare(PrepareArguments("mimic4", str(raw), str(tmp_path / "data")), settings, LineProgress(print))
    assert manifest["flow"] == FLOW
    assert manifest["coverage"]["most_frequent_unmapped"] == UNMAPPED
    assert rows(pq.read_table(tmp_path / "data/visits")) == VISITS
    prepared = PreparedData(str(tmp_path / "data"))
    samples = {row["sample_id"]: row for split in SPLITS for row in prepared.samples(split).to_pylist()}
    assert samples.keys() == SAMPLES.keys()
    known = set(prepared.vocabulary.medications)
    for sample_id, (prior_visits, labels) in SAMPLES.items():
        assert samples[sample_id]["prior_visits"] == prior_visits
        assert samples[sample_id]["labels"] == [code for code in labels if code in known]
    assert {sample_id: samples[sample_id]["prompt"] for sample_id in PROMPTS} == PROMPTS


def test_every_sample_is_in_one_split_and_every_patient_too(data: PreparedData) -> None:
    samples = {split: data.samples(split, ["sample_id", "subject_id"]).to_pydict() for split in SPLITS}
    sample_ids = [sample for split in SPLITS for sample in samples[split]["sample_id"]]
    assert len(sample_ids) == len(set(sample_ids)) == data.manifest["flow"]["of patients with enough visits"]
    patients = [set(samples[split]["subject_id"]) for split in SPLITS]
    assert sum(map(len, patients)) == len(set.union(*patients)) == data.manifest["patients"]


def test_the_vocabulary_holds_training_codes_and_no_others(data: PreparedData) -> None:
    visits = pq.read_table(f"{data.uri}/visits").to_pylist()
    train = set(data.samples("train", ["subject_id"])["subject_id"].to_pylist())
    for kind in ("diagnoses", "procedures", "medications"):
        seen = {code for visit in visits if visit["subject_id"] in train for code in visit[kind]}
        assert set(data.vocabulary.codes[kind]) - {"<padding>", "<unknown>"} == seen
    everyone = {code for visit in visits for code in visit["diagnoses"]}
    assert everyone - set(data.vocabulary.codes["diagnoses"]), "the test needs codes that training never saw"


def test_training_on_one_icd_version_tests_on_both(
    data: PreparedData, raw: Path, config: LeaderConfig, tmp_path: Path
) -> None:
    of_nine = load_config(config, None, ["data.train_icd_version=9"])
    out = str(tmp_path / "data")
    prepare(PrepareArguments("mimic4", str(raw), out), of_nine, LineProgress(print))
    prepared = PreparedData(out)
    assert {code.split(":")[0] for code in list(prepared.vocabulary.codes["diagnoses"])[2:]} == {"ICD9CM"}
    assert prepared.samples("test", ["sample_id"]).equals(data.samples("test", ["sample_id"]))
    removed = {option["option"]: option["count"] for option in prepared.manifest["options"]}
    kept = sum(prepared.manifest["splits"][split]["samples"] for split in ("train", "validation"))
    every = sum(data.manifest["splits"][split]["samples"] for split in ("train", "validation"))
    assert removed["data.train_icd_version"] == every - kept > 0
    assert prepared.manifest["mean_codes_per_visit"] == data.manifest["mean_codes_per_visit"]


def test_more_shards_and_a_second_run_give_the_same_data(
    ray_local: None, raw: Path, data: PreparedData, config: LeaderConfig, tmp_path: Path
) -> None:
    again = load_config(config, None, ["data.shard_rows=500"])
    prepare(PrepareArguments("mimic4", str(raw), str(tmp_path / "data")), again, LineProgress(print))
    sharded = PreparedData(str(tmp_path / "data"))
    assert len(sharded.sample_parts("train")) > len(data.sample_parts("train")) == 1
    for split in SPLITS:
        expected = {row["sample_id"]: row for row in data.samples(split).to_pylist()}
        assert {row["sample_id"]: row for row in sharded.samples(split).to_pylist()} == expected
    for counted in ("flow", "options", "left_out", "coverage", "warnings", "splits", "mean_codes_per_visit"):
        assert sharded.manifest[counted] == data.manifest[counted]
    assert sharded.vocabulary == data.vocabulary
    assert sharded.titles == data.titles


def test_a_table_cut_short_is_told_in_a_sentence_and_leaves_nothing(
    ray_local: None, raw: Path, config: LeaderConfig, tmp_path: Path
) -> None:
    shutil.copytree(raw, tmp_path / "raw")
    table = tmp_path / "raw/hosp/prescriptions.csv.gz"
    table.write_bytes(table.read_bytes()[: table.stat().st_size // 2])
    with pytest.raises(Exception, match="prescriptions") as raised:
        prepare(
            PrepareArguments("mimic4", str(tmp_path / "raw"), str(tmp_path / "out/data")), config, LineProgress(print)
        )
    cause = find_cause(raised.value, (UserError,))
    assert cause is not None
    assert "prescriptions.csv.gz is damaged, cut short or out of reach" in str(cause)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_failed_run_keeps_the_old_data_set(ray_local: None, raw: Path, config: LeaderConfig, tmp_path: Path) -> None:
    old = prepare(PrepareArguments("mimic4", str(raw), str(tmp_path / "data")), config, LineProgress(print))
    shutil.copytree(raw, tmp_path / "raw")
    with gzip.open(tmp_path / "raw/hosp/diagnoses_icd.csv.gz", "at") as table:
        table.write("not,a,row\n")
    with pytest.raises(Exception, match="diagnoses"):
        prepare(PrepareArguments("mimic4", str(tmp_path / "raw"), str(tmp_path / "data")), config, LineProgress(print))
    assert PreparedData(str(tmp_path / "data")).manifest == old
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "raw"]


def test_an_object_store_is_read_and_written(
    ray_local: None, object_store: str, config: LeaderConfig, tmp_path: Path
) -> None:
    file_system, bucket = storage.filesystem(object_store)
    pafs.copy_files(str(write_hosp(tmp_path / "raw")), f"{bucket}/raw", destination_filesystem=file_system)
    manifest = prepare(
        PrepareArguments("mimic4", f"{object_store}/raw", f"{object_store}/data"), config, LineProgress(print)
    )
    assert manifest["flow"] == FLOW
    remote = PreparedData(f"{object_store}/data")
    prepare(PrepareArguments("mimic4", str(tmp_path / "raw"), str(tmp_path / "data")), config, LineProgress(print))
    local = PreparedData(str(tmp_path / "data"))
    assert remote.fingerprint == local.fingerprint
    assert remote.samples("train").equals(local.samples("train"))
    written = {
        uri.removeprefix(f"{object_store}/").split("/")[0] for uri in storage.list_files(object_store, recursive=True)
    }
    assert written == {"raw", "data"}


def test_a_part_that_another_node_cannot_see_is_told(
    ray_local: None, raw: Path, config: LeaderConfig, tmp_path: Path
) -> None:
    source = SOURCES["mimic4"]
    directory = str(tmp_path / "events")
    events = write_events(
        source, source.open_tables(str(raw)), DrugMap.from_package(), config, directory, "OUT", SILENT
    )
    assert len(events.read("medications", 0)) > 0
    (tmp_path / "events/medications/shard-00000.arrow").unlink()
    with pytest.raises(UserError, match="shared storage"):
        events.read("medications", 0)
