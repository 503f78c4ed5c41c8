"""Baselines against values counted by hand and against scikit-learn."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression as SklearnLogisticRegression
from sklearn.linear_model import Ridge

from leader_platform.baselines import BASELINES, Examples, load
from leader_platform.baselines.hidden_state_ridge import HiddenStateRidge, ridge
from leader_platform.baselines.logistic_regression import LogisticRegression, features, fit_weights
from leader_platform.baselines.popularity import Popularity
from leader_platform.baselines.previous_visit import PreviousVisit
from leader_platform.config import LeaderConfig, PromptConfig, TeacherConfig
from leader_platform.data.records import PROFILE_FIELDS, PatientRecord, Visit
from leader_platform.data.vocabulary import Vocabulary
from leader_platform.errors import UserError
from leader_platform.predict import Knowledge

ROOT = Path(__file__).resolve().parents[2]
SPECIAL = {"<padding>": 0, "<unknown>": 1}
KNOWLEDGE = Knowledge(
    Vocabulary(
        codes={
            "diagnoses": {**SPECIAL, "ICD10CM:E119": 2, "ICD10CM:I10": 3},
            "procedures": SPECIAL,
            "medications": {**SPECIAL, "ATC:A10B": 2, "ATC:C09A": 3, "ATC:N02B": 4},
        },
        profile=dict.fromkeys(PROFILE_FIELDS, SPECIAL),
    ),
    {"ICD10CM:E119": "Type 2 diabetes", "ICD10CM:I10": "Hypertension", "ATC:A10B": "Oral antidiabetics"},
)
MEDICATIONS = KNOWLEDGE.vocabulary.medications


def patient(diagnoses: str = "", earlier: list[str] | None = None) -> PatientRecord:
    """One with the current diagnoses and, for each earlier visit, the medications, parted by blanks."""
    history = tuple(Visit(("ICD10CM:I10",), medications=tuple(told.split())) for told in earlier or [])
    return PatientRecord({"gender": "F", "age": 71}, history, Visit(tuple(diagnoses.split())))


def examples(*rows: tuple[PatientRecord, str]) -> Examples:
    """Records with the medications that they got."""
    labels = np.array([[code in given.split() for code in MEDICATIONS] for _, given in rows])
    return Examples([record for record, _ in rows], labels)


DIABETES, PRESSURE = (patient("ICD10CM:E119"), "ATC:A10B ATC:N02B"), (patient("ICD10CM:I10"), "ATC:C09A ATC:N02B")
CLEAR = examples(*[DIABETES] * 5, *[PRESSURE] * 15)


def test_popularity_is_the_share_of_training_samples() -> None:
    train = examples((patient(), "ATC:C09A"), (patient(), "ATC:C09A ATC:A10B"), (patient(), "ATC:C09A"))
    answers = Popularity(KNOWLEDGE).fit(train, train).predict_proba([patient(), patient("ICD10CM:I10")])
    # Always and never are kept from 1 and 0, whose log-odds are infinite.
    np.testing.assert_allclose(answers, [[1 / 3, 1 - 1e-4, 1e-4]] * 2, rtol=1e-6)
    assert answers.dtype == np.float32


def test_the_previous_visit_is_answered_by_how_often_medications_are_given_again() -> None:
    train = examples(
        (patient(), "ATC:C09A"),
        (patient(earlier=["ATC:N02B", "ATC:C09A"]), "ATC:C09A"),
        (patient(earlier=["ATC:C09A ATC:A10B"]), "ATC:C09A ATC:N02B"),
        (patient(earlier=["ATC:A10B"]), "ATC:N02B"),
    )
    answers = PreviousVisit(KNOWLEDGE).fit(train, train).predict_proba([patient(earlier=["ATC:N02B", "ATC:C09A"])])
    # Of four medications of a previous visit two were given again: C09A in both of its visits, A10B in neither of its.
    given_again = (2 + 1) / (4 + 2)
    c09a_again = (2 + 10 * given_again) / (2 + 10)
    # N02B was new in two of the three visits that follow one, and A10B in none: kept from 0.
    n02b_anew = (2 + 10 * (2 / 4)) / (3 + 10)
    np.testing.assert_allclose(answers, [[1e-4, c09a_again, n02b_anew]], rtol=1e-5)


@pytest.mark.parametrize("earlier", [[], [""], ["ATC:Z99Z"]])
def test_without_a_known_previous_medication_popularity_answers(earlier: list[str]) -> None:
    train = examples((patient(), "ATC:C09A"), (patient(earlier=["ATC:C09A"]), "ATC:N02B"))
    model = PreviousVisit(KNOWLEDGE).fit(train, train)
    np.testing.assert_allclose(model.predict_proba([patient(earlier=earlier)]), [[1e-4, 0.5, 0.5]])


def test_the_previous_visit_needs_no_later_visit_in_training() -> None:
    answers = PreviousVisit(KNOWLEDGE).fit(CLEAR, CLEAR).predict_proba([patient(earlier=["ATC:C09A"])])
    assert answers[0, 1] == pytest.approx((0 + 10 * 1 / 2) / (0 + 10))  # nothing was counted, so a half
    np.testing.assert_allclose(answers[0, [0, 2]], [0.25, 1 - 1e-4], rtol=1e-5)


def test_features_tell_now_from_the_past_and_shares_of_visits() -> None:
    record = PatientRecord(
        {"gender": "F", "age": 80, "race": None},
        (
            Visit(("ICD10CM:I10",), ("ICD9PCS:3961",), ("ATC:C09A", "ATC:C09A")),
            Visit(("ICD10CM:E119",), medications=("ATC:C09A", "ATC:A10B")),
        ),
        Visit(("ICD10CM:E119",), ("ICD9PCS:3961",), ("ATC:N02B",)),  # the answer, which nobody may read
    )
    expected = {
        "intercept": 1.0,
        "age": 0.5,
        "gender F": 0.5,
        "now ICD10CM:E119": 1.0,
        "now ICD9PCS:3961": 1.0,
        "past ICD10CM:I10": 0.25,
        "past ICD10CM:E119": 0.25,
        "past ICD9PCS:3961": 0.25,
        "past ATC:C09A": 1.0,
        "past ATC:A10B": 0.5,
    }
    assert features(record) == expected
    categories = ["ICD10CM:E11*", "ICD10CM:E1*", "ICD10CM:E*", "ICD9PCS:396*", "ICD9PCS:39*"]
    assert features(record, categories=True) == expected | {f"now {name}": 1.0 for name in categories}


def test_features_of_a_record_that_tells_nothing() -> None:
    assert features(PatientRecord()) == {"intercept": 1.0}


@pytest.mark.parametrize("inverse_penalty", [0.03, 1.0])
def test_weights_are_those_of_scikit_learn(inverse_penalty: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leader_platform.baselines.logistic_regression._TOLERANCE", 1e-10)
    random = np.random.default_rng(0)
    inputs = csr_matrix((random.random((80, 12)) < 0.3).astype(np.float32))
    labels = random.random((80, 4)) < [0.1, 0.3, 0.5, 0.9]
    start = np.zeros((12, 4), np.float32)
    weights = fit_weights(inputs, labels, np.zeros((80, 4), np.float32), inverse_penalty, start)
    theirs = SklearnLogisticRegression(C=inverse_penalty, fit_intercept=False, tol=1e-8)
    expected = [theirs.fit(inputs, labels[:, column]).coef_[0].copy() for column in range(4)]
    np.testing.assert_allclose(weights.T, expected, atol=2e-3)


def test_logistic_regression_learns_what_a_diagnosis_is_given() -> None:
    model = LogisticRegression(KNOWLEDGE).fit(CLEAR, CLEAR)
    diabetes, pressure = model.predict_proba([DIABETES[0], PRESSURE[0]])
    # A quarter of the samples had the one and three quarters the other.
    assert diabetes[0] > 0.5 > 0.25 > pressure[0]
    assert pressure[1] > 0.75 > 0.5 > diabetes[1]
    assert diabetes.dtype == np.float32


def test_a_medication_that_all_or_no_training_samples_have_gets_a_finite_answer() -> None:
    train = examples((patient("ICD10CM:I10"), "ATC:N02B"), (patient("ICD10CM:E119"), "ATC:N02B"))
    never, _, always = LogisticRegression(KNOWLEDGE).fit(train, train).predict_proba([patient("ICD10CM:I10")])[0]
    assert 0 < never < 1e-3
    assert 1 - 1e-3 < always < 1


def test_a_code_that_training_never_saw_changes_nothing() -> None:
    model = LogisticRegression(KNOWLEDGE).fit(CLEAR, CLEAR)
    stranger = replace(DIABETES[0], current=Visit(("ICD10CM:E119", "ICD10CM:ZZZ"), ("ICD10PCS:XXX",)))
    np.testing.assert_array_equal(model.predict_proba([stranger]), model.predict_proba([DIABETES[0]]))


def test_the_penalty_is_strong_where_codes_tell_nothing() -> None:
    random = np.random.default_rng(0)
    codes = [f"ICD10CM:X{number:02}" for number in range(40)]

    def noise(num_samples: int) -> Examples:
        records = [patient(" ".join(random.choice(codes, 5, replace=False))) for _ in range(num_samples)]
        return Examples(records, random.random((num_samples, 3)) < [0.2, 0.5, 0.8])

    assert LogisticRegression(KNOWLEDGE).fit(noise(60), noise(200)).inverse_penalty <= 0.03
    assert LogisticRegression(KNOWLEDGE).fit(CLEAR, CLEAR).inverse_penalty > 0.03


def test_logistic_regression_may_begin_from_the_previous_visit() -> None:
    """No code tells the samples apart, so what begins from the previous visit stays there."""
    again = [(patient(earlier=[code]), code) for code in MEDICATIONS]
    train = examples(*again * 5)
    start = PreviousVisit(KNOWLEDGE)
    model = LogisticRegression(KNOWLEDGE, start=start).fit(train, train)
    asked = [record for record, _ in again]
    assert (model.predict_proba(asked).argmax(axis=1) == [0, 1, 2]).all()
    model.weights = np.zeros_like(model.weights)
    np.testing.assert_allclose(model.predict_proba(asked), start.predict_proba(asked), rtol=1e-4)


def test_a_validation_split_without_a_known_medication_is_told() -> None:
    with pytest.raises(UserError, match="No validation sample has a medication that training knows"):
        LogisticRegression(KNOWLEDGE).fit(CLEAR, examples((patient(), "ATC:Z99Z")))


def test_ridge_is_that_of_scikit_learn_on_standardised_states() -> None:
    random = np.random.default_rng(0)
    states = random.normal(size=(30, 5)) * [1, 10, 0.1, 3, 1] + 4
    labels = random.random((30, 3)) < 0.4
    standardised = (states - states.mean(axis=0)) / states.std(axis=0)
    for penalty, model in zip((0.3, 3.0), ridge(states, labels, (0.3, 3.0)), strict=True):
        expected = Ridge(alpha=penalty * 5).fit(standardised, labels).predict(standardised)
        np.testing.assert_allclose(model.predict(states), expected, atol=1e-5)


@pytest.mark.parametrize("name", sorted(BASELINES))
def test_every_baseline_of_the_registry_can_be_made(name: str) -> None:
    baseline = load(name)(KNOWLEDGE, LeaderConfig())
    assert callable(baseline.fit)
    assert callable(baseline.predict_proba)


def test_the_hidden_state_ridge_reads_as_the_teacher_does() -> None:
    settings = {"teacher": {"backbone": "/a/model", "pooling": "mean", "depth": 0.5}, "features": {"dtype": "float32"}}
    config = LeaderConfig.model_validate(settings)
    model = load("hidden_state_ridge")(KNOWLEDGE, config)
    assert isinstance(model, HiddenStateRidge)
    assert (model.prompt, model.teacher, model.dtype) == (config.prompt, config.teacher, "float32")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("popularty", "There is no baseline 'popularty'; choose of popularity, "),
        ("no_such_package:Class", "'no_such_package:Class' cannot be imported .No module named"),
        ("leader_platform.baselines:Absent", "has no attribute 'Absent'"),
        (":Class", "':Class' cannot be imported"),
    ],
)
def test_a_baseline_that_is_not_there_is_named(name: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        load(name)


def test_the_baseline_of_the_documentation_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "EVALUATION.md").read_text(encoding="utf-8")
    code = re.search(r"## Adding a baseline.*?```python\n(.*?)```", page, re.DOTALL)
    assert code
    (tmp_path / "nearest_patients.py").write_text(code[1], encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    train = examples(*[DIABETES] * 6, *[PRESSURE] * 30)
    baseline = load("nearest_patients:NearestPatients")(KNOWLEDGE, LeaderConfig()).fit(train, CLEAR)
    stranger = patient("ICD10CM:ZZZ")
    answers = baseline.predict_proba([DIABETES[0], PRESSURE[0], stranger])
    # The five nearest are all alike; a patient like nobody gets the first five.
    np.testing.assert_allclose(answers, [[1, 0, 1], [0, 1, 1], [1, 0, 1]])
    assert answers.dtype == np.float32


@pytest.mark.slow
def test_the_embedded_language_model_tells_diseases_apart_before_it_is_taught() -> None:
    train = examples(
        *[
            (patient(code, earlier), given)
            for earlier in ([], ["ATC:N02B"])
            for code, given in [
                ("ICD10CM:E119", "ATC:A10B"),
                ("ICD10CM:I10", "ATC:C09A"),
                ("ICD10CM:E119 ICD10CM:I10", "ATC:A10B ATC:C09A"),
                ("", "ATC:N02B"),
            ]
        ]
    )
    model = HiddenStateRidge(KNOWLEDGE, PromptConfig(), TeacherConfig(), "auto").fit(train, train)
    answers = model.predict_proba(train.records)
    assert answers.shape == (8, 3)
    assert answers.dtype == np.float32
    assert ((answers > 0) & (answers < 1)).all()
    assert answers[train.labels].min() > answers[~train.labels].max()
    alone = np.concatenate([model.predict_proba([record]) for record in train.records])
    np.testing.assert_allclose(alone, answers, atol=0.1)  # bfloat16, and a fit on eight samples
