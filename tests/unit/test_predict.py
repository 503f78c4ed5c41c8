"""A student's directory read back as a predictor, and the evaluation of what a run has. No Ray."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from safetensors.torch import save
from support.patients import read_events, write_hosp

from leader_jobs.evaluate import PAGE_FILE, evaluate
from leader_platform import storage
from leader_platform.artifacts import EVALUATION, STUDENT, Run
from leader_platform.config import DataConfig, LeaderConfig, PromptConfig, StudentConfig
from leader_platform.data import cohort
from leader_platform.data.dataset import FORMAT_VERSION, INTERACTION_SCHEMA, TITLE_SCHEMA, PreparedData
from leader_platform.data.records import PatientRecord
from leader_platform.data.samples import samples
from leader_platform.data.vocabulary import count_values, fit_vocabulary
from leader_platform.errors import UserError
from leader_platform.models.code_book import CodeBook
from leader_platform.models.student import Student
from leader_platform.predict import CODE_BOOK_FILE, CONFIG_FILE, WEIGHTS_FILE, StudentPredictor
from leader_platform.progress import SILENT, LineProgress
from leader_platform.runs import METRICS_FILE, SAMPLES_FILE
from leader_platform.settings import load_config

SMALL = StudentConfig(width=8, heads=2, feed_forward=12)
FILES = ("vocabulary.json", "titles.parquet", "interactions.parquet")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    """The hand-written patients, all of them in every split."""
    folder = tmp_path_factory.mktemp("predict")
    visits, _ = cohort.visits(read_events(write_hosp(folder / "raw")), DataConfig())
    vocabulary = fit_vocabulary(count_values(visits), 1)
    directory = str(folder / "data")
    about = {
        "format_version": FORMAT_VERSION,
        "fingerprint": "f",
        "label_window": "whole stay",
        "data_config": DataConfig().model_dump(mode="json"),
    }
    storage.write_json(f"{directory}/manifest.json", about)
    storage.write_json(f"{directory}/vocabulary.json", vocabulary.model_dump())
    titles = {"code": ["ATC:N02B", "ICD10CM:I10"], "title": ["Analgesics", "Hypertension"]}
    storage.write_parquet(f"{directory}/titles.parquet", pa.table(titles, schema=TITLE_SCHEMA))
    pair = [{"code_a": "ATC:N02B", "code_b": "ATC:B01A", "source": "this test"}]
    storage.write_parquet(f"{directory}/interactions.parquet", pa.Table.from_pylist(pair, schema=INTERACTION_SCHEMA))
    storage.write_parquet(f"{directory}/visits/part-00000.parquet", visits)
    table, _ = samples(visits, vocabulary, {}, DataConfig(), PromptConfig())
    for split in ("train", "validation", "test"):
        storage.write_parquet(f"{directory}/samples/{split}/part-00000.parquet", table)
    return PreparedData(directory)


def write_student(run: Run, data: PreparedData, threshold: float = 0.37) -> Student:
    book = CodeBook.of(data.vocabulary, None, 8)
    model = Student(SMALL, data.vocabulary, book=book).eval()
    with run.product(STUDENT, "k1", LeaderConfig(), {"max_history_visits": 20, "data": data.fingerprint}) as directory:
        storage.write_bytes(storage.join(directory, WEIGHTS_FILE), save(model.state_dict()))
        storage.write_json(
            storage.join(directory, CONFIG_FILE),
            {"threshold": threshold, "temperature": 1.5, "student": SMALL.model_dump(mode="json")},
        )
        storage.write_parquet(storage.join(directory, CODE_BOOK_FILE), book.to_table())
        for name in FILES:
            storage.write_bytes(storage.join(directory, name), storage.read_bytes(storage.join(data.uri, name)))
    return model


def records(data: PreparedData) -> list[PatientRecord]:
    return [PatientRecord.from_sample(row) for row in data.samples("test").to_pylist()]


def test_a_student_is_read_back_with_all_it_needs(tmp_path: Path, data: PreparedData) -> None:
    run = Run(str(tmp_path))
    write_student(run, data)
    predictor = StudentPredictor.load(run.uri)
    assert (predictor.threshold, predictor.version) == (0.37, "student-k1")
    assert predictor.medications == data.vocabulary.medications
    assert predictor.medication_names == {"ATC:N02B": "Analgesics"}
    assert predictor.unknown_codes(PatientRecord(current=records(data)[0].current)) == []


def test_probabilities_are_the_same_alone_and_together(tmp_path: Path, data: PreparedData) -> None:
    run = Run(str(tmp_path))
    write_student(run, data)
    predictor = StudentPredictor.load(run.uri)
    together = predictor.predict(records(data))
    assert together.shape == (6, len(data.vocabulary.medications))
    assert together.dtype == np.float32
    assert ((together > 0) & (together < 1)).all()
    alone = np.concatenate([predictor.predict([record]) for record in records(data)])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert predictor.predict([]).shape == (0, len(data.vocabulary.medications))


def test_an_unknown_code_is_answered_and_told(tmp_path: Path, data: PreparedData) -> None:
    run = Run(str(tmp_path))
    write_student(run, data)
    predictor = StudentPredictor.load(run.uri)
    stranger = PatientRecord.from_sample({**data.samples("test").to_pylist()[0], "diagnoses": ["ICD10CM:ZZZ"]})
    assert "ICD10CM:ZZZ" in predictor.unknown_codes(stranger)
    assert np.isfinite(predictor.predict([stranger])).all()


@pytest.mark.parametrize("name", [WEIGHTS_FILE, CONFIG_FILE, CODE_BOOK_FILE, "vocabulary.json", "titles.parquet"])
@pytest.mark.parametrize("damage", ["cut", "gone", "changed"])
def test_a_damaged_student_is_named(tmp_path: Path, data: PreparedData, name: str, damage: str) -> None:
    run = Run(str(tmp_path))
    write_student(run, data)
    path = Path(run.path(STUDENT, name))
    if damage == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif damage == "changed":
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    else:
        path.unlink()
    fault = "is missing" if damage == "gone" else "is not what the stage wrote"
    with pytest.raises(UserError, match=f"{tmp_path}/student/{name} {fault}; train it again"):
        StudentPredictor.load(run.uri)
    # A run of before there were checksums is told as far as it can be.
    manifest = run.manifest(STUDENT)
    del manifest["sha256"]
    storage.write_json(run.path(STUDENT, "manifest.json"), manifest)
    if damage != "changed":
        with pytest.raises(UserError, match=f"{tmp_path}/student is not a readable student"):
            StudentPredictor.load(run.uri)


def test_a_run_without_a_student_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no student"):
        StudentPredictor.load(str(tmp_path))


def with_models(*names: str) -> LeaderConfig:
    return load_config(LeaderConfig(), None, [f"evaluate.models={json.dumps(names)}", "evaluate.min_group_patients=1"])


def test_an_evaluation_tells_of_baselines_and_every_model_that_is_there(tmp_path: Path, data: PreparedData) -> None:
    run, said = Run(str(tmp_path)), []
    config = with_models("popularity", "student", "teacher")
    assert set(evaluate(data, run, config, LineProgress(said.append))["models"]) == {"popularity"}
    write_student(run, data)
    result = evaluate(data, run, config, LineProgress(said.append))
    assert set(result["models"]) == {"popularity", "student"}
    assert json.loads(storage.read_bytes(run.path(EVALUATION, METRICS_FILE))) == result
    for groups in result["models"].values():
        counts = {name: groups[name]["samples"] for name in ("all", "first_visit", "multi_visit")}
        assert counts == {"all": 6, "first_visit": 4, "multi_visit": 2}
    assert result["protocol"]["label_window"] == "whole stay"
    assert set(result["paired"]) == {"student-popularity"}
    samples = storage.read_parquet(run.path(EVALUATION, SAMPLES_FILE))
    means = {
        name: np.mean([row["prauc"] for row in samples.to_pylist() if row["model"] == name])
        for name in result["models"]
    }
    for name, mean in means.items():
        assert result["models"][name]["all"]["prauc"][0] == pytest.approx(mean, abs=1e-5)
    assert "<html" in storage.read_bytes(run.path(EVALUATION, PAGE_FILE)).decode()


def test_popularity_and_prescriptions_are_as_counted_by_hand(tmp_path: Path, data: PreparedData) -> None:
    result = evaluate(data, Run(str(tmp_path)), with_models("popularity"), SILENT)
    popular = result["models"]["popularity"]["all"]
    # N02B is in all six visits, B01A and C03C in two each, the other three in one each; more choices pay off at no
    # threshold, so N02B alone is chosen.
    assert result["thresholds"]["popularity"] == [pytest.approx(0.34)]
    assert popular["medications_per_visit"][0] == 1
    assert popular["jaccard"][0] == pytest.approx((1 / 3 + 1 / 2 + 1 + 1 / 3 + 1 / 2 + 1 / 2) / 6, abs=1e-5)
    prescribed = result["prescriptions"]["all"]
    assert prescribed["medications_per_visit"][0] == pytest.approx(13 / 6, abs=1e-5)
    assert result["protocol"]["interaction_source"] == ["this test"]
    # Nine pairs were prescribed together, and paracetamol with an antithrombotic (N02B, B01A) in two visits.
    assert prescribed["interaction_rate"][0] == pytest.approx(2 / 9, abs=1e-5)


def test_a_label_that_no_training_patient_had_counts_as_missed(tmp_path: Path, data: PreparedData) -> None:
    """Without B01A in the vocabulary nobody can name it, and the visits that had it are judged with it all the same."""
    codes = {**data.vocabulary.codes}
    codes["medications"] = {
        code: n for n, code in enumerate(code for code in codes["medications"] if code != "ATC:B01A")
    }
    folder = tmp_path / "data"
    shutil.copytree(data.uri, folder)
    storage.write_json(
        str(folder / "vocabulary.json"), data.vocabulary.model_copy(update={"codes": codes}).model_dump()
    )
    result = evaluate(PreparedData(str(folder)), Run(str(tmp_path / "run")), with_models("popularity"), SILENT)
    assert result["protocol"]["num_classes"] == len(data.vocabulary.medications)
    assert result["prescriptions"]["all"]["medications_per_visit"][0] == pytest.approx(13 / 6, abs=1e-5)
