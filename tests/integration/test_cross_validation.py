"""Folds by patient through the whole stage: models are trained on each, answers are judged together, and it goes on."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from leader_jobs import answers
from leader_jobs.evaluate import SAMPLES_FILE, evaluate
from leader_jobs.folds import fold_data
from leader_platform import storage
from leader_platform.artifacts import EVALUATION, Run
from leader_platform.config import LeaderConfig
from leader_platform.data.dataset import PreparedData
from leader_platform.errors import RunError, UserError
from leader_platform.progress import SILENT, LineProgress
from leader_platform.settings import load_config

pytestmark = pytest.mark.slow

MODELS = "evaluate.models=[popularity,logistic_regression,student_without_teacher]"


@pytest.fixture(scope="module")
def folded(config: LeaderConfig) -> LeaderConfig:
    chosen = ["evaluate.protocol=cross-validation", "evaluate.folds=2", MODELS, "student.max_epochs=2"]
    return load_config(config, None, [*chosen, "evaluate.min_group_patients=5"])


def subjects(data: PreparedData, split: str) -> set[int]:
    return set(data.samples(split, ["subject_id"])["subject_id"].to_pylist())


def test_a_fold_keeps_patients_apart_and_knows_its_training_patients_codes_alone(
    data: PreparedData, tmp_path: Path
) -> None:
    folds = [fold_data(data, fold, 2, 0, str(tmp_path / f"fold-{fold}"), SILENT) for fold in range(2)]
    for fold in folds:
        train, validation, test = (subjects(fold, split) for split in ("train", "validation", "test"))
        assert not train & validation
        assert not (train | validation) & test
        visits = [storage.read_parquet(part) for part in fold.visit_parts()]
        of_train = [table.filter(pc.is_in(table["subject_id"], pa.array(sorted(train)))) for table in visits]
        seen = {code for table in of_train for code in pc.list_flatten(table["diagnoses"]).to_pylist()}
        assert set(list(fold.vocabulary.codes["diagnoses"])[2:]) == seen
    assert subjects(folds[0], "test") | subjects(folds[1], "test") == {
        subject for split in ("train", "validation", "test") for subject in subjects(data, split)
    }
    assert folds[0].fingerprint != folds[1].fingerprint
    again = fold_data(data, 0, 2, 0, str(tmp_path / "again"), SILENT)
    assert again.fingerprint == folds[0].fingerprint


def test_an_interrupted_cross_validation_goes_on_and_judges_every_sample_once(
    data: PreparedData, folded: LeaderConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, trained = Run(str(tmp_path / "run")), []

    def fails_on_the_second(part: answers.Part, models: object, progress: object) -> None:
        trained.append(part.name)
        if len(trained) == 2:
            raise RunError("the machine went down")
        whole(part, models, progress)  # type: ignore[arg-type]

    whole = answers.train
    monkeypatch.setattr("leader_jobs.evaluate.train", fails_on_the_second)
    with pytest.raises(RunError):
        evaluate(data, run, folded, LineProgress(print))
    assert not run.has(EVALUATION)
    first = run.path("cross_validation", "2-folds-0", "fold-0", "seed-0")
    made = Run(first).manifest("student_alone")["id"]
    result = evaluate(data, run, folded, LineProgress(print))
    assert Run(first).manifest("student_alone")["id"] == made, "what was trained before was trained again"
    everything = [s for split in ("train", "validation", "test") for s in data.samples(split)["sample_id"].to_pylist()]
    samples = storage.read_parquet(run.path(EVALUATION, SAMPLES_FILE)).to_pylist()
    for model in folded.evaluate.models:
        assert sorted(row["sample_id"] for row in samples if row["model"] == model) == sorted(everything)
    assert result["protocol"]["num_samples"] == len(everything)
    assert len(result["thresholds"]["popularity"]) == 2
    assert result["costs"]["student_without_teacher"]["parameters"] > 1000
    assert result["costs"]["student_without_teacher"]["samples_per_second"] > 1
    assert set(result["models"]["popularity"]) >= {"all", "first_visit", "multi_visit", "gender=F"}


def test_seeds_train_models_anew_on_the_same_patients(data: PreparedData, folded: LeaderConfig, tmp_path: Path) -> None:
    run = Run(str(tmp_path / "run"))
    settings = ["evaluate.protocol=split", "evaluate.num_seeds=2", "evaluate.models=[student_without_teacher]"]
    result = evaluate(data, run, load_config(folded, None, settings), LineProgress(print))
    assert result["protocol"]["seeds"] == [0, 1]
    weights = [Path(r.path("student_alone", "model.safetensors")) for r in (run, Run(run.path("seeds", "seed-1")))]
    assert weights[0].read_bytes() != weights[1].read_bytes()


def test_more_folds_than_patients_are_refused(data: PreparedData, folded: LeaderConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot fill 99 folds"):
        evaluate(data, Run(str(tmp_path)), load_config(folded, None, ["evaluate.folds=99"]), LineProgress(print))


def test_a_model_that_is_not_known_is_named(data: PreparedData, folded: LeaderConfig, tmp_path: Path) -> None:
    unknown = load_config(folded, None, ["evaluate.protocol=split", "evaluate.models=[gamenet]"])
    with pytest.raises(UserError, match="no baseline 'gamenet'"):
        evaluate(data, Run(str(tmp_path)), unknown, LineProgress(print))
