"""Hosts on one machine: each has a network address, processes and an SSH server of its own, as separate machines do.

Linux namespaces make them: for the network, joined by a bridge; for processes, so that `ray stop` on one host leaves
the other alone; and for names, so that each knows its own address. They share the disk, but not a home folder.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

NETWORK = "10.77.31"
PROGRAMS = {"ip": "iproute2", "sshd": "openssh-server", "ssh-keygen": "openssh-client", "rsync": "rsync"}


def why_not() -> str | None:
    """Why no hosts can be made here, or None."""
    if os.geteuid() != 0:
        return "namespaces need root"
    missing = [f"{name} (Debian: {package})" for name, package in PROGRAMS.items() if shutil.which(name) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    tried = subprocess.run(["unshare", "--net", "--pid", "--fork", "--mount-proc", "true"], capture_output=True)
    return None if tried.returncode == 0 else "namespaces are not allowed here"


@dataclass(frozen=True)
class Host:
    """A host by its address; `home` is its user's folder, `cable` what joins it to the bridge."""

    address: str
    home: Path
    cable: str

    def cut_off(self) -> None:
        run("ip", "link", "set", self.cable, "down")

    def join_again(self) -> None:
        run("ip", "link", "set", self.cable, "up")


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@contextmanager
def hosts(names: Sequence[str], folder: Path) -> Iterator[tuple[list[Host], Path]]:
    """Hosts that take the SSH key whose path comes with them; all is gone after the block. This machine has an address
    in their network too."""
    key = folder / "key"
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key))
    bridge = f"lbr{os.getpid()}"
    with ExitStack() as undo:
        run("ip", "link", "add", bridge, "type", "bridge")
        undo.callback(_quietly, "ip", "link", "del", bridge)
        run("ip", "address", "add", f"{NETWORK}.254/24", "dev", bridge)
        run("ip", "link", "set", bridge, "up")
        made = [undo.enter_context(_host(name, number, bridge, folder)) for number, name in enumerate(names, 1)]
        yield made, key


@contextmanager
def _host(name: str, number: int, bridge: str, folder: Path) -> Iterator[Host]:
    space, cable = f"leader-{name}-{os.getpid()}", f"lv{os.getpid()}{number}"
    host = Host(f"{NETWORK}.{number}", folder / name, cable)
    host.home.mkdir()
    with ExitStack() as undo:
        run("ip", "netns", "add", space)
        undo.callback(_quietly, "ip", "netns", "del", space)
        run("ip", "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", space)
        undo.callback(_quietly, "ip", "link", "del", cable)
        run("ip", "link", "set", cable, "master", bridge, "up")
        run("ip", "-n", space, "address", "add", f"{host.address}/24", "dev", "eth0")
        for device in ("eth0", "lo"):
            run("ip", "-n", space, "link", "set", device, "up")
        # Ray takes a host's address from its way to the world outside, or else takes loopback's.
        run("ip", "-n", space, "route", "add", "default", "via", f"{NETWORK}.254")
        server = _ssh_server(space, host, folder)
        undo.callback(_end, server)
        yield host


def _ssh_server(space: str, host: Host, folder: Path) -> subprocess.Popen[bytes]:
    host_key, config = host.home / ".host_key", host.home / ".sshd_config"
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(host_key))
    config.write_text(
        f"""ListenAddress {host.address}
HostKey {host_key}
AuthorizedKeysFile {folder / "key.pub"}
PermitRootLogin yes
StrictModes no
UsePAM no
PidFile none
"""
    )
    Path("/run/sshd").mkdir(exist_ok=True)
    users, names = host.home / ".passwd", host.home / ".hosts"
    others = re.sub(r"^root:.*\n", "", Path("/etc/passwd").read_text(), flags=re.MULTILINE)
    users.write_text(f"root:x:0:0:root:{host.home}:/bin/bash\n" + others)
    names.write_text(f"127.0.0.1 localhost\n{host.address} {host.home.name}\n")
    inside = " && ".join(
        [
            f"mount --bind {users} /etc/passwd",
            f"mount --bind {names} /etc/hosts",
            f"echo {host.home.name} > /proc/sys/kernel/hostname",
            f"exec {shutil.which('sshd')} -D -e -f {config}",
        ]
    )
    own = ["unshare", "--uts", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", inside]
    with (host.home / ".sshd.log").open("wb") as log:
        server = subprocess.Popen(["ip", "netns", "exec", space, *own], stdout=log, stderr=log)
    deadline = time.monotonic() + 20
    while subprocess.run(["ssh-keyscan", "-T", "1", host.address], capture_output=True).stdout == b"":
        assert time.monotonic() < deadline, (host.home / ".sshd.log").read_text()
        time.sleep(0.2)
    return server


def _end(server: subprocess.Popen[bytes]) -> None:
    """The first process of a namespace takes all others with it, and `--kill-child` takes that one."""
    server.kill()
    server.wait()


def _quietly(*command: str) -> None:
    subprocess.run(command, capture_output=True, check=False)
