"""The model of the synthetic cohort: what `docs/SYNTHETIC.md` says of patients holds for the patients drawn."""

import numpy as np
import pytest

from leader_platform.data.synthetic.blocks import PATIENTS_PER_BLOCK, Block, draw_block
from leader_platform.data.synthetic.choices import Choice, CodeBook
from leader_platform.data.synthetic.model import ONSET, RELAPSE
from leader_platform.data.synthetic.parameters import Parameters, load_parameters


@pytest.fixture(scope="module")
def parameters() -> Parameters:
    return load_parameters()


@pytest.fixture(scope="module")
def block(parameters: Parameters) -> Block:
    return draw_block(parameters, seed=0, number=0)


def pairs_of_visits(block: Block) -> tuple[np.ndarray, np.ndarray]:
    """The places of visits and of the next visit of the same patient."""
    order = np.lexsort((block.visits.admitted, block.visits.patient))
    same = block.visits.patient[order][1:] == block.visits.patient[order][:-1]
    return order[:-1][same], order[1:][same]


def test_a_choice_takes_values_by_their_share() -> None:
    choice = Choice.from_weights([("a", 1), ("b", 0), ("c", 3)])
    assert choice.draw(np.array([0.0, 0.24, 0.25, 0.999])).tolist() == [0, 0, 2, 2]


def test_a_code_book_draws_the_codes_of_a_key() -> None:
    rows = [
        ("gout", 9, "2749", 1.0, "Gout"),
        ("gout", 10, "M109", 3.0, "Gout, unspecified"),
        ("gout", 10, "M1A9XX0", 1.0, "Chronic gout"),
        ("pain", 10, "R52", 1.0, "Pain"),
        ("pain", 10, "M109", 1.0, "Gout, unspecified"),
    ]
    book = CodeBook.from_rows(rows)
    assert book.codes == ((9, "2749"), (10, "M109"), (10, "M1A9XX0"), (10, "R52"))
    gout, pain = book.keys["gout", 10], book.keys["pain", 10]
    assert book.keys_of(["pain", "gout"]).tolist() == [[-1, pain], [book.keys["gout", 9], gout]]
    almost_one = np.nextafter(1.0, 0.0)
    drawn = book.draw(np.array([gout, gout, gout, pain, pain]), np.array([0.0, 0.74, 0.76, 0.4, almost_one]))
    assert [book.codes[code][1] for code in drawn] == ["M109", "M109", "M1A9XX0", "R52", "M109"]
    assert set(book.draw_keys(np.array([1, 1]), np.array([0.1, almost_one]))) == {gout, pain}


def test_chronic_conditions_and_their_variants_persist(parameters: Parameters, block: Block) -> None:
    conditions, (before, after) = parameters.conditions, pairs_of_visits(block)
    is_chronic = np.concatenate([conditions.is_chronic, conditions.is_chronic[conditions.variant_of]])
    had = block.visits.sources[before][:, : len(is_chronic)][:, is_chronic]
    has = block.visits.sources[after][:, : len(is_chronic)][:, is_chronic]
    assert has[had].all()
    assert 0.3 * ONSET < (has & ~had).sum() / (~had).sum() / had.mean() < 1.5 * ONSET


def test_acute_conditions_pass_but_relapse(parameters: Parameters, block: Block) -> None:
    acute, (before, after) = np.flatnonzero(~parameters.conditions.is_chronic), pairs_of_visits(block)
    had, has = block.visits.sources[before][:, acute], block.visits.sources[after][:, acute]
    assert has[had].mean() > has[~had].mean() + RELAPSE / 2
    assert has[had].mean() < 0.5
    assert block.visits.sources[:, acute].any(axis=1).all()


def test_sex_and_age_rule_conditions_out(parameters: Parameters, block: Block) -> None:
    names, visits = parameters.conditions.names, block.visits
    is_female = block.patients.is_female[visits.patient]
    delivers = visits.sources[:, names.index("childbirth")]
    assert delivers.sum() > 10
    assert is_female[delivers].all()
    assert (block.patients.age[visits.patient[delivers]] <= 44).all()
    assert not is_female[visits.sources[:, names.index("prostatic_enlargement")]].any()


def test_one_drug_of_an_exclusive_group_is_given(parameters: Parameters, block: Block) -> None:
    called_for = parameters.companion_rate.any(axis=0)  # a companion is given whatever stands beside it
    for group in parameters.exclusive_groups:
        if not called_for[group].any():
            assert block.visits.drugs[:, group].sum(axis=1).max() <= 1


def test_a_continued_drug_goes_before_others_of_its_group(parameters: Parameters, block: Block) -> None:
    statins = [index for index, drug in enumerate(parameters.drugs) if drug.group == "statin"]
    before, after = pairs_of_visits(block)
    had, has = block.visits.drugs[before][:, statins], block.visits.drugs[after][:, statins]
    both = had.any(axis=1) & has.any(axis=1)
    assert (had & has)[both].any(axis=1).mean() > 0.8


def test_drugs_follow_from_conditions_and_companions(parameters: Parameters, block: Block) -> None:
    drug = {drug.name: index for index, drug in enumerate(parameters.drugs)}
    diabetic = block.visits.sources[:, parameters.conditions.names.index("type_2_diabetes")]
    given = block.visits.drugs
    assert given[diabetic, drug["Insulin"]].mean() > 2 * given[~diabetic, drug["Insulin"]].mean()
    loop_diuretic = given[:, drug["Furosemide"]]
    potassium = given[:, drug["Potassium Chloride"]]
    assert potassium[loop_diuretic].mean() > potassium[~loop_diuretic].mean() + 0.2


def test_a_team_has_habits_of_its_own(parameters: Parameters) -> None:
    """Over two blocks, how often a team gives each drug goes with its habit."""
    blocks = [draw_block(parameters, seed=0, number=number) for number in range(2)]
    drugs = np.concatenate([block.visits.drugs for block in blocks])
    team = np.concatenate([block.visits.team for block in blocks])
    share = np.array([drugs[team == number].mean(axis=0) for number in range(len(parameters.habit))])
    common = drugs.mean(axis=0) > 0.1
    more, habit = share[:, common] / drugs.mean(axis=0)[common], parameters.habit[:, common]
    assert np.corrcoef(more.ravel(), habit.ravel())[0, 1] > 0.4


def test_without_icd10_all_codes_are_of_icd9_and_so_are_the_drugs(parameters: Parameters) -> None:
    early = draw_block(parameters, seed=0, number=0, uses_icd10=False)
    assert {parameters.diagnosis_codes.codes[code][0] for code in early.diagnoses.code} == {9}
    newer = parameters.era_factor[0] < 1
    both = draw_block(parameters, seed=0, number=0)
    assert early.visits.drugs[:, newer].sum() < 0.5 * both.visits.drugs[:, newer].sum()


def test_codes_are_those_of_what_was_present_but_for_a_few(parameters: Parameters, block: Block) -> None:
    """A coded condition or variant is present in its visit, save for what was miscoded on purpose."""
    book, conditions = parameters.diagnosis_codes, parameters.conditions
    names = (*conditions.names, *conditions.variant_names)
    meanings: dict[int, set[int]] = {}
    for key, code in zip(np.floor(np.nextafter(book.limits, 0)).astype(int), book.code_at, strict=True):
        name = next(name for (name, _), number in book.keys.items() if number == key)
        meanings.setdefault(int(code), set()).add(names.index(name))
    diagnoses = block.diagnoses
    right = [
        any(block.visits.sources[visit, source] for source in meanings[int(code)])
        for visit, code in zip(diagnoses.visit[:5000], diagnoses.code[:5000], strict=True)
    ]
    assert 0.94 < np.mean(right) < 0.98


def test_blocks_differ_and_their_ids_do_not_meet(parameters: Parameters, block: Block) -> None:
    other = draw_block(parameters, seed=0, number=1)
    assert not np.array_equal(block.patients.age, other.patients.age)
    assert len(np.unique(np.concatenate([block.subject_id, other.subject_id]))) == 2 * PATIENTS_PER_BLOCK
    assert not np.intersect1d(block.hadm_id, other.hadm_id).size
