"""This installation as files for other machines: our wheel, how it is installed, the versions beside it, and the
variables that Ray must find set before it starts."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from leader_platform.errors import RunError, UserError
from leader_platform.ray_environment import direct_hosts_script, ray_environment

INSTALL = ("install.sh", "install.py", "install_tools.py")
CONSTRAINTS, ENVIRONMENT = "constraints.txt", "environment.sh"
_CHECKOUT = Path(__file__).resolve().parents[2]
_NAME = "leader-platform"


def ship(folder: Path) -> Path:
    """Write a wheel of this checkout, `install.sh` and its Python files, `constraints.txt` and `environment.sh` into
    `folder`, in the place of older ones; the wheel's path.

    Raises `UserError` where this is no checkout, and `RunError` where the wheel cannot be built.
    """
    if not (_CHECKOUT / "pyproject.toml").is_file():
        raise UserError(
            "LEADER is not installed from a checkout, so no wheel can be made of it; use the `leader` that "
            "`make install` puts into a checkout's .venv."
        )
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as built:
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", built, str(_CHECKOUT)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(built).glob("*.whl"))
        if done.returncode or not wheels:
            raise RunError(f"The wheel could not be built: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
        for old in folder.glob(f"{_NAME.replace('-', '_')}-*.whl"):
            old.unlink()
        wheel = folder / wheels[0].name
        shutil.move(wheels[0], wheel)
    for name in INSTALL:
        shutil.copyfile(_CHECKOUT / "deploy" / name, folder / name)
    (folder / CONSTRAINTS).write_text("".join(f"{line}\n" for line in installed_versions()))
    (folder / ENVIRONMENT).write_text(environment_script())
    return wheel


def environment_script() -> str:
    """A shell script that sets a node's variables; the same on all nodes. What Serve's proxy keeps lies where only its
    user may enter; not at home, since Ray adds 70 characters and a socket's path may have 97."""
    proxy = {
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": "haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": "admin.sock",
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": "metrics.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": "",
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": "server-state",
    }
    return "\n".join(
        [
            "# Made by `leader cluster up`, and read by the start commands of a cluster file.",
            'leader_proxy="/tmp/leader-$(id -u)"',
            'mkdir -p "$leader_proxy"',
            'test -O "$leader_proxy" && chmod 700 "$leader_proxy" '
            '|| { echo "$leader_proxy belongs to another user; remove it." >&2; exit 1; }',
            "export RAY_AUTH_TOKEN_PATH=$HOME/.leader/ray_token",
            *(f"export {name}={shlex.quote(value)}" for name, value in ray_environment(haproxy=True).items()),
            *(f'export {name}="$leader_proxy/{file}"' for name, file in proxy.items()),
            *direct_hosts_script(),
            "",
        ]
    )


def installed_versions() -> list[str]:
    """What we require and what that requires, as `name==version` of what is installed here, sorted; a build for CPUs or
    GPUs (2.13.0+cpu) is the same release.

    vLLM, an extra of ours, is left to its own pins: its builds for CPUs and GPUs ask for different versions.
    """
    found: dict[str, str] = {}
    seen, ahead = set[tuple[str, str]](), [(_NAME, "")]
    while ahead:
        name, extra = about = ahead.pop()
        if about in seen:
            continue
        seen.add(about)
        try:
            installed = distribution(name)
        except PackageNotFoundError:  # required of other systems, or taken out by install.sh
            continue
        found[canonicalize_name(name)] = installed.version.partition("+")[0]
        for line in installed.requires or ():
            required = Requirement(line)
            if required.marker is None or required.marker.evaluate({"extra": extra}):
                ahead.extend((required.name, each) for each in ("", *required.extras))
    return sorted(f"{name}=={version}" for name, version in found.items() if name != _NAME)
