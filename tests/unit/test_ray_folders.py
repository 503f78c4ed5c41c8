"""Where a Ray of ours keeps its files: short enough for its sockets, and gone with it however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from leader_platform import cluster, cluster_processes, ray_folders
from leader_platform.errors import RunError, UserError
from leader_platform.ray_environment import serve_environment
from leader_platform.ray_folders import owned_folder


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which folders of Ray are made, apart from the machine's."""
    monkeypatch.setattr(ray_folders, "root", lambda: (tmp_path, None))
    return tmp_path


def use_tmpdir(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)


def longest_root() -> Path:
    return Path("/" + "r" * (ray_folders._LONGEST_ROOT - 1))


def test_all_sockets_fit_below_the_longest_folder_that_is_taken() -> None:
    folder = longest_root() / f"{ray_folders.PREFIX}12345678"
    session = "session_2026-11-29_12-43-45_898239_4194304"  # Linux has pids up to 4194304
    rays = ray_folders.ray_folder(folder) / session / "sockets" / "dash_TaskEventsHead"
    assert len(str(rays)) <= (107 if sys.platform == "linux" else 103)
    for name, value in serve_environment(folder, lambda: 1).items():
        if name.endswith("_SOCKET_PATH"):
            path = Path(value)
            assert len(str(path.parent / ("n" * 56) / path.name)) <= 97, "Serve adds the node's id"
    vllm = folder / "t" / "12345678-1234-1234-1234-123456789abc"
    pythons = folder / "t" / "pymp-12345678" / "listener-12345678"
    assert max(len(str(vllm)), len(str(pythons))) <= 103


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere temporary folders have long names")
def test_a_temporary_folder_in_which_sockets_fit_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(prefix="s", dir="/tmp") as name:
        use_tmpdir(monkeypatch, Path(name))
        assert ray_folders.root() == (Path(name), None)


@pytest.mark.parametrize("name", ["x" * 90, "é" * 8])
def test_another_is_taken_in_place_of_a_long_one_and_that_is_said(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    use_tmpdir(monkeypatch, Path(tempfile.gettempdir()) / f"leader_test_{os.getpid()}" / name)
    try:
        folder = ray_folders.root_said()
        assert folder in (Path("/tmp"), Path("/var/tmp"))
        (line,) = caplog.messages
        assert os.environ["TMPDIR"] in line
        assert f"use {folder} in its place" in line
        assert cluster.temp_dir_of(tmp_path).parent == folder, "a cluster's folder follows the same rule"
    finally:
        Path(os.environ["TMPDIR"]).rmdir()
        Path(os.environ["TMPDIR"]).parent.rmdir()


def test_where_no_folder_is_short_enough_the_way_out_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use_tmpdir(monkeypatch, tmp_path / ("x" * 90))
    monkeypatch.setattr(ray_folders, "_SHORT_ROOTS", (str(tmp_path / "missing"),))
    with pytest.raises(UserError, match=r"has \d+ characters.*Set TMPDIR to a folder with a shorter path"):
        ray_folders.root()


def test_after_a_good_end_nothing_is_left(base: Path) -> None:
    with owned_folder() as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
        ray_folders.make_inner(folder)
    assert list(base.iterdir()) == []


def in_use(folder: Path) -> None:
    """As Ray leaves it: a session with logs and samples, and a worker's temporary files."""
    logs = ray_folders.ray_folder(folder) / "session_2026" / "logs"
    logs.mkdir(parents=True)
    (logs / "worker.err").write_text("why")
    (logs.parent / "spilled").write_text("samples")
    (logs.parents[1] / "session_latest").symlink_to(logs.parent)
    (Path(ray_folders.make_inner(folder)["TMPDIR"]) / "model").write_text("weights")


def fail_in_use(error: BaseException) -> None:
    with owned_folder() as folder:
        in_use(folder)
        raise error


@pytest.mark.parametrize(
    "error", [UserError("x"), RunError("x"), KeyboardInterrupt(), SystemExit(143), OSError(28, "full")]
)
def test_after_an_error_that_is_explained_or_an_interruption_nothing_is_left(base: Path, error: BaseException) -> None:
    with pytest.raises(type(error)):
        fail_in_use(error)
    assert list(base.iterdir()) == []


def test_an_unforeseen_error_leaves_the_logs_and_names_them_until_the_next_command(base: Path) -> None:
    with pytest.raises(KeyError) as raised:
        fail_in_use(KeyError("a bug"))
    (folder,) = base.iterdir()
    assert [path.name for path in folder.rglob("*") if path.is_file() and path.name != "owner"] == ["worker.err"]
    assert str(folder / "logs") in raised.value.__notes__[0]
    with owned_folder():
        assert not folder.exists()
    assert list(base.iterdir()) == []


def test_an_unforeseen_error_before_ray_has_logs_leaves_nothing(base: Path) -> None:
    with pytest.raises(KeyError), owned_folder():
        raise KeyError("a bug")
    assert list(base.iterdir()) == []


OWNER = """
import subprocess, sys, time
from pathlib import Path
from leader_platform import ray_folders

ray_folders.root = lambda: (Path(sys.argv[1]), None)
with ray_folders.owned_folder() as folder:
    variables = ray_folders.make_inner(folder)
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    child = subprocess.Popen(command, env=variables, start_new_session=True)
    print(folder, child.pid, flush=True)
    time.sleep(60)
"""


def test_what_a_killed_command_left_is_removed_by_the_next_and_what_a_living_one_has_is_not(base: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", OWNER, str(base)], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        name, pid = owner.stdout.readline().split()
        folder, child = Path(name), int(pid)
        with owned_folder():
            assert folder.exists(), "its owner lives"
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        with owned_folder():
            assert not folder.exists()
        assert cluster_processes.start_time(child) is None, "Ray's processes end with the folder"
    assert list(base.iterdir()) == []


def test_folders_of_clusters_and_of_others_are_spared(base: Path) -> None:
    (base / "leader-0" / "model-1").mkdir(parents=True)
    (base / "leader-12345678").mkdir()  # a cluster's: it outlives the command that started it
    target = base / "elsewhere"
    target.mkdir()
    (target / "owner").touch()
    (base / "leader-link").symlink_to(target)
    ray_folders.remove_abandoned(base)
    assert {path.name for path in base.iterdir()} == {"leader-0", "leader-12345678", "elsewhere", "leader-link"}


def test_a_folder_in_which_something_still_writes_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / "leader-busy"
    folder.mkdir()
    code = (
        "import sys, time, pathlib\nfor n in range(50):\n pathlib.Path(sys.argv[1], str(n)).touch(); time.sleep(0.01)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(folder)], stderr=subprocess.DEVNULL):
        while not any(folder.iterdir()):
            pass
        ray_folders.remove(folder)
    assert not folder.exists()
