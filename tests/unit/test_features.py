"""The teacher's features as Parquet: the numbers come back, row for row with the samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from leader_jobs.features import rows_a_block, seconds_per_sample
from leader_platform import storage
from leader_platform.artifacts import FEATURES, Run
from leader_platform.data.dataset import FORMAT_VERSION, PreparedData
from leader_platform.data.vocabulary import SPECIAL, Vocabulary
from leader_platform.errors import UserError
from leader_platform.features import feature_table, label_matrix, matrix, probabilities, read_features


def test_a_sample_takes_what_follows_the_first_batch() -> None:
    """The first waits for the engine, and batches are told in the order of blocks, not of time."""
    assert seconds_per_sample(3.0, [(10.0, 4), (12.0, 4), (11.0, 2)]) == pytest.approx(2 / 6)
    assert seconds_per_sample(3.0, [(10.0, 4)]) == pytest.approx(7 / 4)


PARTS = {"part-00000.parquet": [["ATC:B"], ["ATC:A", "ATC:C"]], "part-00003.parquet": [["ATC:C"]]}


def numbers(rows: int, size: int) -> np.ndarray:
    return np.random.default_rng(rows).standard_normal((rows, size)).astype(np.float32)


@pytest.fixture
def data(tmp_path: Path) -> PreparedData:
    directory = str(tmp_path / "data")
    storage.write_json(f"{directory}/manifest.json", {"format_version": FORMAT_VERSION, "fingerprint": "f"})
    indices = {name: index for index, name in enumerate((*SPECIAL, "ATC:A", "ATC:B", "ATC:C"))}
    vocabulary = Vocabulary(codes={"diagnoses": {}, "procedures": {}, "medications": indices}, profile={})
    storage.write_json(f"{directory}/vocabulary.json", vocabulary.model_dump())
    sample_ids = iter("012")
    for name, labels in PARTS.items():
        table = pa.table({"sample_id": [next(sample_ids) for _ in labels], "labels": labels})
        storage.write_parquet(f"{directory}/samples/test/{name}", table)
    return PreparedData(directory)


@pytest.mark.parametrize(("samples", "rows"), [(0, 32), (590, 32), (5000, 224), (1_000_000, 512)])
def test_samples_go_to_the_engine_in_blocks_that_show_how_far_it_is(samples: int, rows: int) -> None:
    assert rows_a_block(samples, batch_size=32) == rows


def test_features_survive_parquet(tmp_path: Path) -> None:
    states, logits = numbers(3, 8), numbers(3, 5)
    path = str(tmp_path / "part.parquet")
    storage.write_parquet(path, feature_table(["a", "b", "c"], states, logits))
    table = storage.read_parquet(path)
    assert table["sample_id"].to_pylist() == ["a", "b", "c"]
    assert table.schema.field("hidden_state").type == pa.list_(pa.float32(), 8)
    np.testing.assert_array_equal(matrix(table["hidden_state"]), states)
    np.testing.assert_array_equal(matrix(table["logits"]), logits)
    assert matrix(table["logits"]).dtype == np.float32


def test_columns_in_chunks_and_slices_become_one_matrix() -> None:
    states = numbers(5, 4)
    table = feature_table(list("abcde"), states, states)
    parts = pa.concat_tables([table.slice(1, 1), table.slice(3)])
    np.testing.assert_array_equal(matrix(parts["hidden_state"]), states[[1, 3, 4]])


def test_features_are_read_in_the_order_of_samples(tmp_path: Path, data: PreparedData) -> None:
    run, states = Run(str(tmp_path / "run")), numbers(3, 4)
    for name, rows in (("part-00003.parquet", slice(2, 3)), ("part-00000.parquet", slice(0, 2))):
        table = feature_table([str(row) for row in range(3)][rows], states[rows], states[rows, :2])
        storage.write_parquet(run.path(FEATURES, "test", name), table)
    np.testing.assert_array_equal(read_features(run, data, "test", "hidden_state"), states)
    np.testing.assert_array_equal(read_features(run, data, "test", "logits"), states[:, :2])


def test_labels_become_a_matrix_in_the_order_of_medications(data: PreparedData) -> None:
    assert label_matrix(data, "test").tolist() == [[False, True, False], [True, False, True], [False, False, True]]


def test_a_split_without_samples_is_named(data: PreparedData) -> None:
    with pytest.raises(UserError, match="no validation samples"):
        data.samples("validation")


@pytest.mark.filterwarnings("error")
def test_probabilities_of_large_logits_do_not_overflow() -> None:
    logits = np.array([-1e4, -1.0, 0.0, 1.0, 1e4])
    np.testing.assert_allclose(probabilities(logits), [0, 0.2689414, 0.5, 0.7310586, 1], atol=1e-6)


@pytest.mark.parametrize("text", ["{", '{"format_version": 999}', "[]"])
def test_an_unreadable_data_set_is_named(tmp_path: Path, text: str) -> None:
    storage.write_bytes(str(tmp_path / "manifest.json"), text.encode())
    with pytest.raises(UserError, match=str(tmp_path)):
        PreparedData(str(tmp_path))


def test_a_folder_that_is_no_data_set_is_named_with_the_command(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{tmp_path}.*leader data prepare"):
        PreparedData(str(tmp_path))
