"""Homes that cannot be used, and terminals that lack letters."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import pytest

from leader_platform import surroundings
from leader_platform.errors import RunError
from leader_platform.models import backbone

LEADER = [sys.executable, "-c", "from leader_cli.main import main; main()"]
CACHES = ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR", "VLLM_CONFIG_ROOT", "TRITON_HOME", "HF_HOME")


@pytest.fixture(autouse=True)
def private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The private folder, in a temporary directory of the test's own."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)
    for name in CACHES:
        monkeypatch.delenv(name, raising=False)
    return temporary / f"leader-{os.getuid()}"


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder that can be read and not written, for root too."""
    access, folder = os.access, tmp_path / "read-only"
    folder.mkdir()

    def refuse(path: str | Path, mode: int) -> bool:
        return access(path, mode) and not (mode & os.W_OK and Path(path).is_relative_to(folder))

    monkeypatch.setattr(os, "access", refuse)
    return folder


def test_a_home_that_can_be_used_stays(tmp_path: Path, private: Path) -> None:
    assert surroundings.environment({}, tmp_path) == {}
    assert not private.exists()


@pytest.mark.parametrize("name", ["nowhere", "file", "."])
def test_a_home_that_is_none_is_replaced(tmp_path: Path, private: Path, name: str) -> None:
    (tmp_path / "file").touch()
    home = Path(name) if name == "." else tmp_path / name
    assert surroundings.environment({}, home) == {"HOME": f"{private}/home"}
    assert surroundings.environment({}, None) == {"HOME": f"{private}/home"}
    assert private.stat().st_mode & 0o777 == 0o700


def test_a_home_that_can_only_be_read_stays_and_caches_move(read_only: Path, private: Path) -> None:
    """It may hold credentials."""
    changed = surroundings.environment({}, read_only)
    assert changed == {name: f"{private}/{name.lower()}" for name in CACHES if name != "XDG_CONFIG_HOME"}
    assert surroundings.environment(changed, read_only) == {}, "what this process starts is content"


def test_models_in_a_home_that_can_only_be_read_are_read_there(read_only: Path) -> None:
    models = read_only / ".cache" / "huggingface"
    models.mkdir(parents=True)
    assert surroundings.environment({}, read_only)["HF_HOME"] == str(models)


def test_a_cache_of_the_users_own_stays(read_only: Path, tmp_path: Path) -> None:
    """`~/.cache` that root made, and a variable that points elsewhere."""
    own = {"XDG_CACHE_HOME": str(tmp_path / "scratch"), "XDG_CONFIG_HOME": str(tmp_path / "scratch")}
    assert set(surroundings.environment(own, read_only)) == {"TRITON_HOME"}


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a folder to another user needs root")
def test_another_users_folder_is_not_used(private: Path) -> None:
    private.mkdir()
    os.chown(private, 12345, 12345)
    with pytest.raises(RunError, match="belongs to another user"):
        surroundings.private_folder()


def test_a_link_is_not_followed(private: Path, tmp_path: Path) -> None:
    private.symlink_to(tmp_path)
    with pytest.raises(RunError, match="belongs to another user"):
        surroundings.private_folder()


def test_a_folder_that_others_could_enter_is_closed(private: Path) -> None:
    private.mkdir(mode=0o755)
    assert surroundings.private_folder().stat().st_mode & 0o777 == 0o700


def run(arguments: list[str], **environment: str | None) -> subprocess.CompletedProcess[str]:
    """`leader ARGUMENTS` with these variables; None unsets one."""
    merged = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment}
    given = {name: value for name, value in merged.items() if value is not None}
    encoding = given.get("PYTHONIOENCODING", "utf-8")
    return subprocess.run([*LEADER, *arguments], capture_output=True, encoding=encoding, env=given, check=False)


@pytest.mark.parametrize("home", ["/nonexistent", "/dev/null", ""])
def test_a_command_works_without_a_home_and_says_so_once(tmp_path: Path, private: Path, home: str) -> None:
    workspace = str(tmp_path / "ä work")
    done = run(["--home", workspace, "--json", "cluster", "down"], HOME=home)
    assert json.loads(done.stdout) == {"stopped": False}, done.stderr
    if home:
        assert done.stderr == (
            f"Folders of the home {home} cannot be written, so caches lie in {private}; "
            "to keep them elsewhere, set HOME.\n"
        )


@pytest.mark.parametrize("place", ["Ärzte Daten", "a'b$c", "plain"])
def test_an_environment_below_any_path_runs_by_a_plain_one(tmp_path: Path, private: Path, place: str) -> None:
    """Ray starts workers by `bash -c "exec PYTHON ..."`, without quotes."""
    venv.create(tmp_path / place)
    own = tmp_path / place / "bin" / "python"
    code = "import sys; from leader_platform.surroundings import run_plainly; run_plainly()\n"
    code += "import shlex; print(shlex.quote(sys.executable), sys.prefix, sys.argv[1:], sep='|')"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([own, "-c", code, "ä b"], capture_output=True, text=True, env=environment, check=True)
    executable, prefix, arguments = done.stdout.strip().split("|")
    assert Path(executable).samefile(own)
    assert Path(prefix).samefile(tmp_path / place)
    assert arguments == "['ä b']"
    assert private.exists() == (place != "plain")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
@pytest.mark.parametrize("locale", ["C", "POSIX"])
def test_a_terminal_without_letters_shows_what_it_can(tmp_path: Path, encoding: str, locale: str) -> None:
    """The table has a title and a frame; the home has letters and an arrow."""
    home = tmp_path / "ärzte → 病院"
    done = run(["--home", str(home), "cluster", "down"], PYTHONIOENCODING=encoding, LC_ALL=locale, LANG=locale)
    assert done.returncode == 0, done.stderr
    assert "none ran for" in done.stdout
    assert f"{'ä' if encoding == 'latin-1' else '?'}rzte ? ??" in done.stdout.replace("\n", "")


def test_a_workspace_that_cannot_be_made_names_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "workspace").touch()
    done = run(["cluster", "up"], LEADER_HOME=str(tmp_path / "workspace" / "of mine"))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        f"Error: {tmp_path}/workspace/of mine cannot be written (Not a directory); "
        "choose another folder (of the workspace: --home or LEADER_HOME)."
    )


# --- the embedded language model's place -----------------------------------------------------------------------------


@pytest.fixture
def packed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Path]:
    """A packed model that is converted in no time; the folders that it was converted to."""
    file, made = tmp_path / "small.gguf", list[Path]()
    file.write_bytes(b"12345")

    def convert(_: Path, folder: Path) -> None:
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").touch()
        made.append(folder)

    monkeypatch.setattr(backbone, "_embedded_file", lambda: file)
    monkeypatch.setattr(backbone, "_convert", convert)
    return made


def whole(folder: str) -> bool:
    return sorted(os.listdir(folder)) == ["config.json", "model.safetensors"]


def test_the_embedded_model_is_converted_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, packed: list) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    folders = {backbone.model_folder("smollm2") for _ in range(2)}
    assert folders == {f"{tmp_path}/.cache/leader-platform/small-5"}
    assert len(packed) == 1


def test_without_a_home_it_lies_in_the_private_folder(
    monkeypatch: pytest.MonkeyPatch, private: Path, packed: list[Path]
) -> None:
    monkeypatch.setenv("HOME", "/nonexistent")
    folder = backbone.model_folder("smollm2")
    assert folder.startswith(f"{private}/")
    assert whole(folder)


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EOPNOTSUPP])
def test_it_is_whole_where_no_rename_works(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, packed: list[Path], number: int
) -> None:
    def refuse(source: str | Path, target: str | Path) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(os, "replace", refuse)
    monkeypatch.setattr(os, "rename", refuse)
    folders = {backbone.model_folder("smollm2") for _ in range(2)}
    assert len(folders) == len(packed) == 1
    assert whole(folders.pop())


def test_a_full_quota_moves_it_to_the_private_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, private: Path, packed: list[Path]
) -> None:
    make = Path.mkdir

    def refuse(folder: Path, *arguments: object, **options: object) -> None:
        if folder.is_relative_to(tmp_path / ".cache"):
            raise OSError(errno.EDQUOT, "Disk quota exceeded")
        make(folder, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(Path, "mkdir", refuse)
    folders = {backbone.model_folder("smollm2") for _ in range(2)}
    assert len(packed) == 1
    assert all(folder.startswith(f"{private}/") and whole(folder) for folder in folders)


@pytest.mark.parametrize("name", ["~nobody-of-this-name/model", "~/model"])
def test_a_tilde_that_means_nothing_is_a_sentence(name: str) -> None:
    with pytest.raises(ValueError, match="is not a folder"):
        backbone.model_folder(name)
