"""Files and directories that are whole or not there, and products of a run."""

from __future__ import annotations

import errno
import fcntl
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from ray.exceptions import OutOfDiskError

from leader_platform import cluster, storage
from leader_platform.artifacts import FEATURES, STUDENT, TEACHER, Run
from leader_platform.config import LeaderConfig
from leader_platform.errors import UserError
from leader_platform.settings import load_config


def everything(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


def test_absolute_means_the_same_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert storage.absolute("runs/one") == f"{tmp_path}/runs/one"
    assert storage.absolute(f"file://{tmp_path}/runs") == f"{tmp_path}/runs"
    assert storage.absolute("s3://bucket/runs/") == "s3://bucket/runs"


@pytest.mark.parametrize("uri", ["floppy://a/b", "http://"])
def test_an_unknown_scheme_is_named(uri: str) -> None:
    with pytest.raises(UserError, match=uri):
        storage.exists(uri)


def test_json_is_written_with_its_folders_and_read_back(tmp_path: Path) -> None:
    path = str(tmp_path / "a" / "b" / "c.json")
    storage.write_json(path, {"größe": [1, None]})
    assert storage.read_json(path) == {"größe": [1, None]}
    assert everything(tmp_path) == ["a/b/c.json"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "value.json"
    storage.write_json(str(path), "old")

    def fail(*_: str) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        storage.write_json(str(path), "new")
    assert storage.read_json(str(path)) == "old"
    assert everything(tmp_path) == ["value.json"]


def test_what_cannot_be_json_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    storage.write_json(str(path), "old")
    with pytest.raises(TypeError):
        storage.write_json(str(path), object())
    assert storage.read_json(str(path)) == "old"


def test_bytes_of_a_compressed_file_are_its_own(tmp_path: Path) -> None:
    packed = gzip.compress(b"text")
    storage.write_bytes(str(tmp_path / "a.csv.gz"), packed)
    assert (tmp_path / "a.csv.gz").read_bytes() == packed
    assert storage.read_bytes(str(tmp_path / "a.csv.gz")) == packed


def test_parquet_round_trip_with_chosen_columns(tmp_path: Path) -> None:
    table = pa.table({"a": [1, 2], "b": ["x", None]})
    storage.write_parquet(str(tmp_path / "t.parquet"), table)
    assert storage.read_parquet(str(tmp_path / "t.parquet")).equals(table)
    assert storage.read_parquet(str(tmp_path / "t.parquet"), ["b"]).column_names == ["b"]


def test_files_are_listed_sorted_by_ending_and_depth(tmp_path: Path) -> None:
    for name in ("b.parquet", "a.parquet", "c.json", "deep/d.parquet"):
        storage.write_bytes(str(tmp_path / name), b"")
    listed = storage.list_files(str(tmp_path), ".parquet")
    assert listed == [f"{tmp_path}/a.parquet", f"{tmp_path}/b.parquet"]
    assert len(storage.list_files(str(tmp_path), ".parquet", recursive=True)) == 3
    assert storage.list_files(str(tmp_path / "nowhere")) == []


def test_a_staged_directory_takes_the_place_of_the_old_one_whole(tmp_path: Path) -> None:
    final = tmp_path / "runs" / "product"
    for text in ("old", "new"):
        with storage.staged_directory(str(final)) as staging:
            storage.write_bytes(storage.join(staging, f"{text}.txt"), b"")
    assert everything(tmp_path) == ["runs/product/new.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_staged_directory_that_fails_leaves_the_old_one(tmp_path: Path, error: type[BaseException]) -> None:
    final = tmp_path / "product"
    with storage.staged_directory(str(final)) as staging:
        storage.write_bytes(storage.join(staging, "old.txt"), b"")

    def crash() -> None:
        with storage.staged_directory(str(final)) as staging:
            storage.write_bytes(storage.join(staging, "new.txt"), b"")
            raise error

    with pytest.raises(error):
        crash()
    assert everything(tmp_path) == ["product/old.txt"]


def test_the_old_directory_is_untouched_until_the_new_one_is_done(tmp_path: Path) -> None:
    final = tmp_path / "product"
    with storage.staged_directory(str(final)) as staging:
        storage.write_bytes(storage.join(staging, "old.txt"), b"")
    with storage.staged_directory(str(final)):
        assert everything(final) == ["old.txt"]


# --- products of a run ---------------------------------------------------------------------------------------------


def make(run: Run, stage: str, key: str, text: str = "weights", fail: bool = False) -> None:
    with run.product(stage, key, LeaderConfig(), {"threshold": 0.4}) as directory:
        storage.write_bytes(storage.join(directory, "weights"), text.encode())
        if fail:
            raise RuntimeError("worker died")


def test_a_product_explains_itself(tmp_path: Path) -> None:
    run = Run(str(tmp_path / "run"))
    make(run, TEACHER, "k1")
    manifest = run.manifest(TEACHER)
    assert (manifest["stage"], manifest["key"], manifest["threshold"]) == (TEACHER, "k1", 0.4)
    assert {"python", "torch", "ray"} <= set(manifest["versions"])
    assert load_config(LeaderConfig(), run.path(TEACHER, "configuration.yaml")) == LeaderConfig()


def test_a_product_is_current_for_its_key_alone(tmp_path: Path) -> None:
    run = Run(str(tmp_path / "run"))
    assert not run.is_current(TEACHER, "k1")
    make(run, TEACHER, "k1")
    assert run.is_current(TEACHER, "k1")
    assert not run.is_current(TEACHER, "k2")
    assert not run.is_current(STUDENT, "k1")


def test_a_crash_leaves_the_old_product_and_nothing_half_written(tmp_path: Path) -> None:
    run = Run(str(tmp_path / "run"))
    make(run, STUDENT, "k1", "old")
    before = everything(tmp_path)
    with pytest.raises(RuntimeError, match="worker died"):
        make(run, STUDENT, "k2", "new", fail=True)
    assert everything(tmp_path) == before
    assert run.is_current(STUDENT, "k1")
    assert storage.read_bytes(run.path(STUDENT, "weights")) == b"old"


def test_a_first_product_that_crashes_is_not_there(tmp_path: Path) -> None:
    run = Run(str(tmp_path / "run"))
    with pytest.raises(RuntimeError, match="worker died"):
        make(run, STUDENT, "k1", fail=True)
    assert not run.has(STUDENT)
    assert everything(tmp_path) == []


def test_the_runs_manifest_tells_of_all_products(tmp_path: Path) -> None:
    run = Run(str(tmp_path / "run"))
    make(run, TEACHER, "k1")
    make(run, FEATURES, "k2")
    make(run, TEACHER, "k3")
    overview = storage.read_json(run.path("manifest.json"))
    assert {stage: about["key"] for stage, about in overview["stages"].items()} == {TEACHER: "k3", FEATURES: "k2"}


def test_a_missing_product_is_named_with_its_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{tmp_path} has no student"):
        Run(str(tmp_path)).manifest(STUDENT)


@pytest.mark.parametrize("text", ["{", "", "7"])
def test_a_damaged_manifest_is_named(tmp_path: Path, text: str) -> None:
    run = Run(str(tmp_path))
    storage.write_bytes(run.path(STUDENT, "manifest.json"), text.encode())
    with pytest.raises(UserError, match=r"student/manifest\.json"):
        run.manifest(STUDENT)


def test_what_a_block_learns_goes_into_the_manifest(tmp_path: Path) -> None:
    run, about = Run(str(tmp_path)), {"steps": 0}
    with run.product(TEACHER, "k1", LeaderConfig(), about):
        about["steps"] = 60
    assert json.loads((tmp_path / TEACHER / "manifest.json").read_text())["steps"] == 60


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    left = tmp_path / "data.unfinished-0a1b2c3d"
    left.mkdir()
    (left / "part.parquet").write_text("half")
    other = tmp_path / "database.unfinished-0a1b2c3d"
    other.mkdir()
    with storage.staged_directory(str(tmp_path / "data")) as staging:
        storage.write_json(storage.join(staging, "manifest.json"), {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "database.unfinished-0a1b2c3d"]


def test_what_another_process_is_writing_is_left_to_it(tmp_path: Path) -> None:
    with storage.staged_directory(str(tmp_path / "data")) as first:
        storage.write_json(storage.join(first, "manifest.json"), "first")
        with storage.staged_directory(str(tmp_path / "data")) as second:
            storage.write_json(storage.join(second, "manifest.json"), "second")
    assert storage.read_json(str(tmp_path / "data/manifest.json")) == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


# --- file systems of homes -------------------------------------------------------------------------------------------

WITHOUT_LOCKS = [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP]
# Of a process that is killed while it writes; `{number}` is what its file system answers to a lock.
KILLED = """
import errno, fcntl, os, signal
from leader_platform import storage
def refuse(*_):
    raise OSError({number}, os.strerror({number}))
if {number}:
    fcntl.flock = refuse
with storage.staged_directory({final!r}) as staging:
    storage.write_json(storage.join(staging, "half"), 1)
    print("writing", flush=True)
    signal.pause()
"""


@pytest.fixture(params=[0, *WITHOUT_LOCKS], ids=["flock", "ENOSYS", "ENOLCK", "EOPNOTSUPP"])
def locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """What the file system answers to a lock; 0 where it has them."""
    if request.param:

        def refuse(*_: int) -> None:
            raise OSError(request.param, os.strerror(request.param))

        monkeypatch.setattr(fcntl, "flock", refuse)
    return int(request.param)


def test_a_living_writer_is_left_alone_and_a_killed_one_cleared_away(tmp_path: Path, locks: int) -> None:
    final = str(tmp_path / "d ä[1]")
    code = KILLED.format(number=locks, final=final)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "writing\n"
        for alive in (True, False):
            with storage.staged_directory(final) as staging:
                storage.write_json(storage.join(staging, "manifest.json"), {})
            halves = [path for path in tmp_path.iterdir() if ".unfinished-" in path.name and path.is_dir()]
            assert len(halves) == int(alive)
            other.kill()
            other.wait()
    assert everything(tmp_path) == ["d ä[1]/manifest.json"]


def test_two_commands_do_not_start_a_cluster_at_once(tmp_path: Path, locks: int) -> None:
    with cluster._lock(tmp_path), pytest.raises(UserError, match="Another `leader cluster` command works on"):  # noqa: SIM117
        with cluster._lock(tmp_path):
            pass
    with cluster._lock(tmp_path):
        pass


def test_a_failing_disk_is_not_taken_for_one_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(UserError, match="product cannot be written"), storage.staged_directory(f"{tmp_path}/product"):
        pass


@pytest.fixture(params=["directories", "an image's", "all"])
def no_rename(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that cannot rename directories, those of a lower layer of an overlay, or anything."""
    rename = os.replace

    def refuse(source: str | Path, target: str | Path) -> None:
        lower = Path(source, "of-the-image").exists()
        if request.param == "all" or (lower if request.param == "an image's" else Path(source).is_dir()):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(source), None, str(target))
        rename(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    monkeypatch.setattr(Path, "rename", lambda source, target: refuse(source, target))


def test_a_directory_takes_its_place_where_none_can_be_renamed(tmp_path: Path, no_rename: None) -> None:
    final = tmp_path / "runs" / "product"
    final.mkdir(parents=True)
    (final / "of-the-image").touch()
    with storage.staged_directory(str(final)) as staging:
        storage.write_json(storage.join(staging, "adapter", "weights"), 1)
        storage.write_json(storage.join(staging, "manifest.json"), {})
    assert everything(tmp_path) == ["runs/product/adapter/weights", "runs/product/manifest.json"]


def test_what_is_copied_in_place_of_a_rename_is_whole_or_not_there(
    tmp_path: Path, no_rename: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[str] = []

    def copy(source: str, target: str, **_: object) -> None:
        if source.endswith("weights"):
            raise OSError(errno.ENOSPC, "No space left on device")
        copied.append(source)

    final = tmp_path / "product"
    final.mkdir()
    (final / "of-the-image").touch()
    monkeypatch.setattr("pyarrow.fs.copy_files", copy)

    def write() -> None:
        with storage.staged_directory(str(final)) as staging:
            storage.write_json(storage.join(staging, "weights"), 1)
            storage.write_json(storage.join(staging, "manifest.json"), {})

    with pytest.raises(OSError, match="No space"):
        write()
    assert copied == []
    assert everything(tmp_path) == []


def test_a_directory_of_another_process_is_kept(tmp_path: Path, no_rename: None) -> None:
    for text in ("first", "second"):
        (tmp_path / text).mkdir()
        (tmp_path / text / "file").write_text("the same")
        storage.move_new_directory(tmp_path / text, tmp_path / "model")
    assert (tmp_path / "model" / "file").read_text() == "the same"


@pytest.mark.parametrize("name", ["ä b", "a%20b#c?d", "[x]*", "-x", "~x", "x ", "a:b;c", "'\"$HOME"])
def test_paths_are_taken_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    with storage.staged_directory(name) as staging:
        storage.write_parquet(storage.join(staging, "t.parquet"), pa.table({"a": [1]}))
    place = storage.absolute(name)
    assert place == f"{tmp_path}/{name}"
    assert storage.list_files(place) == [f"{place}/t.parquet"]
    assert storage.num_rows(f"{place}/t.parquet") == len(storage.read_parquet(f"{place}/t.parquet")) == 1
    with storage.local_copy(name) as folder:
        assert (folder / "t.parquet").is_file()
    storage.remove(name)
    assert list(tmp_path.iterdir()) == []


def test_home_is_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As in `--home=~/leader`, which no shell expands."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert storage.absolute("~/leader") == f"{tmp_path}/leader"


@pytest.mark.parametrize("part", ["", "runs/new"])
def test_a_place_that_cannot_be_written_names_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    storage.require_writable(str(tmp_path / part))
    storage.require_writable("s3://bucket/run")
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    with pytest.raises(UserError, match=r"cannot be written \(Permission denied\); .*--home or LEADER_HOME"):
        storage.require_writable(str(tmp_path / part))


def test_an_arrow_stream_is_read_back_whatever_dictionaries_its_parts_had(tmp_path: Path) -> None:
    schema = pa.schema([("code", pa.dictionary(pa.int32(), pa.string()))])
    path = str(tmp_path / "events" / "part.arrow")
    with storage.table_writer(path, schema) as writer:
        for codes in (["b", "a"], ["c", "a", "c"]):
            writer.write_table(pa.table({"code": pa.array(codes).dictionary_encode()}, schema=schema))
    assert storage.read_stream(path)["code"].to_pylist() == ["b", "a", "c", "a", "c"]


def test_a_kill_between_the_two_renames_loses_nothing(tmp_path: Path) -> None:
    """The old directory lies beside its place; the next run puts it back before it begins, and then may fail."""
    with storage.staged_directory(str(tmp_path / "d[1]")) as staging:
        storage.write_json(storage.join(staging, "manifest.json"), "old")
    os.replace(tmp_path / "d[1]", tmp_path / "d[1].retired-0a1b2c3d")
    (tmp_path / "d[1].unfinished-0a1b2c3d").mkdir()
    with pytest.raises(ZeroDivisionError), storage.staged_directory(str(tmp_path / "d[1]")):
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == ["d[1]"]
    assert storage.read_json(str(tmp_path / "d[1]/manifest.json")) == "old"


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "data").symlink_to(tmp_path / "disk" / "data")
    for value in ("first", "second"):
        with storage.staged_directory(str(tmp_path / "data")) as staging:
            storage.write_json(storage.join(staging, "manifest.json"), value)
    assert (tmp_path / "data").is_symlink()
    assert storage.read_json(str(tmp_path / "disk/data/manifest.json")) == "second"
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["data"]


def test_what_went_wrong_is_told_whatever_cleaning_up_meets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: str) -> None:
        raise OSError("Cannot delete directory")

    monkeypatch.setattr(storage, "remove", fail)
    with pytest.raises(UserError, match="a sentence"), storage.staged_directory(str(tmp_path / "data")):
        raise UserError("a sentence")


@pytest.mark.parametrize(
    "cause",
    [*(OSError(number, "full") for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)), OutOfDiskError("no spilling")],
)
def test_a_full_disk_names_the_place(cause: Exception) -> None:
    with pytest.raises(UserError, match="no room left for /d/data"), storage.room_for("/d/data"):
        raise RuntimeError("a task failed") from cause


def test_other_failures_are_not_called_a_full_disk() -> None:
    with pytest.raises(PermissionError), storage.room_for("/d/data"):
        raise PermissionError(errno.EACCES, "denied")
