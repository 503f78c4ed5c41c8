"""Files by path or URI (`s3://`, `gs://`, local), always through `pyarrow.fs`, and always whole: a reader never meets
half a file or half a directory.

Local files are written beside their place and renamed onto it. An object store shows an object only when its upload
ended; one whose writer failed is deleted. A directory there is whole when its manifest, copied last, is there; so it is
on a file system that cannot rename it.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout
from pyarrow import fs as pafs

from leader_platform.errors import UserError, find_cause

_UNFINISHED, _RETIRED = ".unfinished-", ".retired-"
_MANIFEST = "manifest.json"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# A directory from a layer of a container's image, an AFS volume, another quota's project; file systems by FUSE.
_NO_RENAME = (errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP)
# Lustre without `flock`, NFS without its lock daemon, file systems by FUSE.
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
_LOCK, _HOLDER = ".lock", ".holder"
_RECOVERY_PATIENCE_S = 30.0


def is_remote(uri: str) -> bool:
    """Whether `uri` names another store than this machine's files."""
    return "://" in uri and not uri.startswith("file://")


def absolute(uri: str) -> str:
    """A URI as it is; a local path made absolute, so that it means the same in every process; `~/` is the home."""
    if is_remote(uri):
        return uri.rstrip("/")
    return str(Path(os.path.expanduser(uri.removeprefix("file://"))).absolute())


def join(uri: str, *parts: str) -> str:
    return "/".join([uri.rstrip("/"), *parts])


def filesystem(uri: str) -> tuple[pafs.FileSystem, str]:
    """The file system of `uri` and the path within it. Raises `UserError` for a scheme that pyarrow does not know."""
    try:
        return pafs.FileSystem.from_uri(uri) if is_remote(uri) else (pafs.LocalFileSystem(), absolute(uri))
    except (pa.ArrowInvalid, ValueError) as error:
        raise UserError(
            f"{uri} is not a path or URI that can be opened ({error}); use a path, s3:// or gs://."
        ) from None


def exists(uri: str) -> bool:
    file_system, path = filesystem(uri)
    return file_system.get_file_info(path).type != pafs.FileType.NotFound


def is_file(uri: str) -> bool:
    file_system, path = filesystem(uri)
    return file_system.get_file_info(path).type == pafs.FileType.File


def list_files(uri: str, suffix: str = "", recursive: bool = False) -> list[str]:
    """The files below a directory as full paths or URIs, sorted; empty when there is no such directory."""
    file_system, path = filesystem(uri)
    infos = file_system.get_file_info(pafs.FileSelector(path, allow_not_found=True, recursive=recursive))
    prefix = uri[: uri.index("://") + 3] if is_remote(uri) else ""
    return sorted(prefix + i.path for i in infos if i.type == pafs.FileType.File and i.path.endswith(suffix))


def read_bytes(uri: str) -> bytes:
    """The file as it lies there; pyarrow alone would unpack what is called `.gz`."""
    file_system, path = filesystem(uri)
    with file_system.open_input_stream(path, compression=None) as stream:
        return stream.read()


def read_json(uri: str) -> Any:
    return json.loads(read_bytes(uri))


def sha256(uri: str) -> str:
    """The checksum of a file as it lies there (of the compressed bytes, as PhysioNet publishes it)."""
    file_system, path = filesystem(uri)
    digest = hashlib.sha256()
    with file_system.open_input_stream(path, compression=None) as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def num_rows(uri: str) -> int:
    """Of a Parquet file, by its footer alone."""
    file_system, path = filesystem(uri)
    return int(pq.read_metadata(path, filesystem=file_system).num_rows)


def read_parquet(uri: str, columns: list[str] | None = None) -> pa.Table:
    file_system, path = filesystem(uri)
    return pq.read_table(path, columns=columns, filesystem=file_system)


@contextmanager
def _whole_file(uri: str) -> Iterator[tuple[pafs.FileSystem, str]]:
    """Where to write a file so that it appears at `uri` only once it is whole."""
    file_system, path = filesystem(uri)
    if is_remote(uri):
        try:
            yield file_system, path
        except BaseException:
            # Closing the stream has ended the upload, of half an object perhaps.
            with suppress(OSError):
                file_system.delete_file(path)
            raise
        return
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    unfinished = f"{path}.{uuid.uuid4().hex[:8]}.unfinished"
    try:
        yield file_system, unfinished
        move_file(unfinished, path)
    finally:
        Path(unfinished).unlink(missing_ok=True)


def write_bytes(uri: str, data: bytes) -> None:
    with _whole_file(uri) as (file_system, path), file_system.open_output_stream(path) as stream:
        stream.write(data)


def write_json(uri: str, value: Any) -> None:
    write_bytes(uri, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def write_parquet(uri: str, table: pa.Table) -> None:
    with _whole_file(uri) as (file_system, path):
        pq.write_table(table, path, filesystem=file_system, compression="zstd")


@contextmanager
def table_writer(uri: str, schema: pa.Schema) -> Iterator[pa.RecordBatchWriter]:
    """A writer of an Arrow stream, for passing tables between stages within a staged directory: several times as fast
    as Parquet to write and to read, and not written beside its place first. Packed only for a network's sake."""
    file_system, path = filesystem(uri)
    if not is_remote(uri):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    options = pa.ipc.IpcWriteOptions(compression="lz4" if is_remote(uri) else None)
    with file_system.open_output_stream(path) as sink, pa.ipc.new_stream(sink, schema, options=options) as writer:
        yield writer


def read_stream(uri: str) -> pa.Table:
    """The table that a `table_writer` wrote."""
    file_system, path = filesystem(uri)
    with file_system.open_input_stream(path, compression=None) as source, pa.ipc.open_stream(source) as reader:
        return reader.read_all()


def remove(uri: str) -> None:
    """Delete a file or a directory with all in it, if it is there."""
    file_system, path = filesystem(uri)
    kind = file_system.get_file_info(path).type
    if kind == pafs.FileType.Directory:
        file_system.delete_dir(path)
    elif kind == pafs.FileType.File:
        file_system.delete_file(path)


def publish(staging: str, final: str) -> None:
    """Put the finished directory `staging` in the place of `final`.

    A failure leaves the old one; a kill between the two renames leaves it beside its place, where the next
    `staged_directory` finds it. Where directories cannot be renamed, as in object storage, the old one goes first, and
    the manifest, without which there is no product, comes last.
    """
    if not is_remote(final):
        try:
            _rename_in_place(staging, final)
            return
        except OSError as error:
            if error.errno not in _NO_RENAME:
                raise
    remove(final)
    try:
        _copy(staging, final)
    except BaseException:
        with suppress(OSError):
            remove(final)
        raise
    remove(staging)


def _rename_in_place(staging: str, final: str) -> None:
    retired = Path(f"{final}{_RETIRED}{uuid.uuid4().hex[:8]}")
    Path(final).parent.mkdir(parents=True, exist_ok=True)
    if Path(final).exists():
        os.replace(final, retired)
    try:
        os.replace(staging, final)
    except OSError:
        if retired.exists():
            os.replace(retired, final)
        raise
    shutil.rmtree(retired, ignore_errors=True)


def move_file(source: str | Path, target: str | Path) -> None:
    """Rename a file onto `target`; copied there where the file system cannot rename."""
    try:
        os.replace(source, target)
    except OSError as error:
        if error.errno not in _NO_RENAME:
            raise
        shutil.copyfile(source, target)
        os.unlink(source)


def move_new_directory(source: Path, target: Path, last: str = "") -> None:
    """Rename a directory to `target`, or leave what another process has put there first; where the file system cannot
    rename, its files are copied, and that called `last` at the end."""
    try:
        source.rename(target)
    except OSError as error:
        if error.errno not in _NO_RENAME:
            if not target.is_dir():
                raise
            return
        for file in sorted(source.rglob("*"), key=lambda file: file.name == last):
            if file.is_file():
                (target / file.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
                move_file(file, target / file.relative_to(source))


def _copy(source: str, target: str) -> None:
    """Copy a directory's files, its manifest last."""
    source_system, source_path = filesystem(source)
    target_system, target_path = filesystem(target)
    files = [info.path for info in source_system.get_file_info(pafs.FileSelector(source_path, recursive=True))
             if info.type == pafs.FileType.File]  # fmt: skip
    for file in sorted(files, key=lambda file: file.endswith(_MANIFEST)):
        copied = target_path + file.removeprefix(source_path)
        if not is_remote(target):
            Path(copied).parent.mkdir(parents=True, exist_ok=True)
        pafs.copy_files(file, copied, source_filesystem=source_system, destination_filesystem=target_system)


def _make_directory(staging: str, final: str) -> BaseFileLock:
    """Make the directory `staging` and return the lock that says that it is being written."""
    if os.path.ismount(final):
        raise UserError(f"{final} is a mount point and cannot be replaced; choose a folder in it.")
    try:
        Path(staging).parent.mkdir(parents=True, exist_ok=True)
        _recover(final)
        # Before the directory, which `_recover` of another process would remove without it; that may hold it for once.
        lock = claim(staging + _LOCK, _RECOVERY_PATIENCE_S)
        assert lock is not None
        Path(staging).mkdir()
    except OSError as error:
        raise unwritable(final, error) from None
    return lock


def unwritable(folder: str | Path, error: OSError) -> UserError:
    """The sentence for a folder in which nothing can be written."""
    return UserError(
        f"{folder} cannot be written ({error.strerror or error}); choose another folder "
        "(of the workspace: --home or LEADER_HOME)."
    )


def require_writable(uri: str) -> None:
    """`UserError` where this process may not write to a local directory, or make it; before hours of work for it."""
    if is_remote(uri):
        return
    nearest = Path(os.path.realpath(absolute(uri)))
    while not os.path.exists(nearest):  # not `Path.exists`, which raises where a folder above may not be entered
        nearest = nearest.parent
    if nearest.is_dir() and not os.access(nearest, os.W_OK | os.X_OK):
        read_only = os.statvfs(nearest).f_flag & os.ST_RDONLY
        number = errno.EROFS if read_only else errno.EACCES
        raise unwritable(uri, OSError(number, os.strerror(number)))


@contextmanager
def room_for(uri: str) -> Iterator[None]:
    """What is written in the block lies at `uri`; a full disk, met here or by a task, becomes a `UserError`."""
    try:
        yield
    except Exception as error:
        if full_disk(error) is None:
            raise
        raise UserError(
            f"There is no room left for {uri}, or for temporary files; free some or choose another place."
        ) from error


def full_disk(error: BaseException) -> BaseException | None:
    """What a full disk raised, in the chain of causes of `error`: ours, or one to which Ray's object store had nowhere
    left to spill. None where it has another cause."""
    from ray.exceptions import OutOfDiskError  # here, since most that writes needs no Ray

    cause = find_cause(error, (OSError, OutOfDiskError))
    return None if isinstance(cause, OSError) and cause.errno not in _FULL else cause


def claim(path: str, patience_s: float = 0.0) -> BaseFileLock | None:
    """Hold the lock file `path` until it is released or this process dies; None if another process holds it for longer
    than `patience_s`. Where a file system has no locks, a file beside it names the holder."""
    lock: BaseFileLock = FileLock(path, timeout=patience_s, thread_local=False, fallback_to_soft=False)
    try:
        try:
            lock.acquire()
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            lock = SoftFileLock(path + _HOLDER, timeout=patience_s, thread_local=False)
            lock.acquire()
    except Timeout:
        return None
    return lock


def _give_back(lock: BaseFileLock, path: str) -> None:
    """Release a lock that nobody will ask for again, and remove its file."""
    Path(path).unlink(missing_ok=True)
    lock.release()


def _recover(final: str) -> None:
    """Put back what a killed process took away from `final`, and delete what it left half done beside it; what a living
    one is writing stays."""
    beside = glob.escape(final)
    for retired in glob.glob(f"{beside}{_RETIRED}*"):
        if Path(final).exists():
            shutil.rmtree(retired, ignore_errors=True)
        else:
            os.replace(retired, final)
    left = {name.removesuffix(_HOLDER).removesuffix(_LOCK) for name in glob.glob(f"{beside}{_UNFINISHED}*")}
    for directory in left:
        lock = claim(directory + _LOCK)
        if lock is not None:
            shutil.rmtree(directory, ignore_errors=True)
            _give_back(lock, directory + _LOCK)


@contextmanager
def staged_directory(final: str) -> Iterator[str]:
    """A fresh directory to fill, which takes the place of `final` when the block ends well and is removed when not.

    Beside a local `final`, what a killed process left is put right first.
    """
    final = final if is_remote(final) else os.path.realpath(absolute(final))
    staging = f"{final}{_UNFINISHED}{uuid.uuid4().hex[:8]}"
    lock = None if is_remote(final) else _make_directory(staging, final)
    try:
        yield staging
        publish(staging, final)
    except BaseException:
        with suppress(OSError):  # a worker that still writes there must not hide what went wrong
            remove(staging)
        raise
    finally:
        if lock is not None:
            _give_back(lock, staging + _LOCK)


@contextmanager
def local_copy(uri: str) -> Iterator[Path]:
    """A directory as local files, for libraries that read only those; a download when `uri` is remote."""
    if not is_remote(uri):
        yield Path(absolute(uri))
        return
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        download(uri, Path(folder))
        yield Path(folder)


def download(uri: str, folder: Path) -> None:
    """The files of a directory into a local `folder`."""
    file_system, path = filesystem(uri)
    folder.mkdir(parents=True, exist_ok=True)
    pafs.copy_files(path, str(folder), source_filesystem=file_system, destination_filesystem=pafs.LocalFileSystem())
