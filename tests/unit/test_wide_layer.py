"""The student's wide layer: it begins as nothing, adds up its slots, and reads titles of codes never seen."""

from __future__ import annotations

import numpy as np
import torch

from leader_platform.data.records import PROFILE_FIELDS, PatientRecord, Visit
from leader_platform.data.vocabulary import SPECIAL, Vocabulary
from leader_platform.models.code_book import SLOTS, CodeBook, TitleReadings, wide_inputs
from leader_platform.models.wide import WideBatch, WideLayer


def table(*names: str) -> dict[str, int]:
    return {name: index for index, name in enumerate((*SPECIAL, *names))}


VOCABULARY = Vocabulary(
    codes={"diagnoses": table("ICD9CM:4019"), "procedures": table(), "medications": table("ATC:A10B")},
    profile={name: table() for name in PROFILE_FIELDS},
)
READINGS = TitleReadings(["ICD9CM:4019", "LOCAL:1", "ATC:A10B"], np.eye(3, 6, dtype=np.float32))
RECORDS = [
    PatientRecord(current=Visit(("ICD9CM:4019",))),
    PatientRecord(history=(Visit(("ICD9CM:4019",), (), ("ATC:A10B",)),), current=Visit(("LOCAL:1",))),
]


def batch(book: CodeBook, records: list[PatientRecord]) -> WideBatch:
    return WideBatch.of(wide_inputs(records, VOCABULARY, book))


def test_it_begins_at_zero() -> None:
    book = CodeBook.of(VOCABULARY, READINGS, 2)
    assert torch.equal(WideLayer(book, 3)(batch(book, RECORDS)), torch.zeros(2, 3))


def test_the_same_code_now_and_before_has_weights_of_its_own() -> None:
    book = CodeBook.of(VOCABULARY, None, 2)
    layer = WideLayer(book, 1)
    number = book.categories["ICD9CM:4019"]
    with torch.no_grad():
        layer.categories.weight[SLOTS.index("current diagnoses") * len(book.categories) + number] = 1.0
        layer.categories.weight[SLOTS.index("past diagnoses") * len(book.categories) + number] = 10.0
    assert layer(batch(book, RECORDS)).flatten().tolist() == [1.0, 10.0]


def test_a_code_that_training_never_saw_is_read_by_its_title() -> None:
    book = CodeBook.of(VOCABULARY, READINGS, 2)
    layer = WideLayer(book, 1)
    assert layer.titles is not None
    torch.nn.init.ones_(layer.titles.weight)
    stranger = PatientRecord(current=Visit(("LOCAL:1",)))
    expected = 4.0 * book.states[book.rows["LOCAL:1"]].sum()
    torch.testing.assert_close(layer(batch(book, [stranger])), torch.tensor([[float(expected)]]))
    assert layer(batch(book, [PatientRecord()])).item() == 0


def test_many_codes_weigh_as_the_root_of_their_number() -> None:
    readings = TitleReadings([f"LOCAL:{n}" for n in range(4)] + ["ICD9CM:4019"], np.eye(5, dtype=np.float32))
    book = CodeBook.of(VOCABULARY, readings, 5)
    layer = WideLayer(book, 1)
    assert layer.titles is not None
    torch.nn.init.ones_(layer.titles.weight)
    alone = [layer(batch(book, [PatientRecord(current=Visit((f"LOCAL:{n}",)))])).item() for n in range(4)]
    together = layer(batch(book, [PatientRecord(current=Visit(tuple(f"LOCAL:{n}" for n in range(4))))])).item()
    np.testing.assert_allclose(together, sum(alone) / 2, rtol=1e-5)


def test_it_may_begin_with_what_the_visit_before_tells() -> None:
    """Popularity 1/2, given again 3 of 4 times, given anew 1 of 4: log-odds of 3, and of 1/3."""
    book = CodeBook.of(VOCABULARY, None, 2)
    layer = WideLayer(book, 1)
    layer.renewal.begin_with(torch.tensor([0.75]), torch.tensor([0.25]), torch.tensor([0.5]))
    others = Visit(("ICD9CM:4019",), (), ("ATC:C09A",))  # a class that training never saw tells nothing
    records = [*RECORDS, PatientRecord(history=(others,), current=Visit())]
    expected = torch.tensor([[0.0], [np.log(3)], [0.0]], dtype=torch.float32)
    torch.testing.assert_close(layer(batch(book, records)), expected)


def test_a_medication_that_the_visit_before_had_not_is_given_anew() -> None:
    two = VOCABULARY.model_copy(update={"codes": {**VOCABULARY.codes, "medications": table("ATC:A10B", "ATC:C09A")}})
    book = CodeBook.of(two, None, 2)
    layer = WideLayer(book, 2)
    half = torch.tensor([0.5, 0.5])
    layer.renewal.begin_with(torch.tensor([0.75, 0.75]), torch.tensor([0.25, 0.25]), half)
    logits = layer(WideBatch.of(wide_inputs([RECORDS[1]], two, book)))
    torch.testing.assert_close(logits, torch.tensor([[np.log(3), -np.log(3)]], dtype=torch.float32))
