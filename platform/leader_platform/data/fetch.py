"""What `leader data fetch` downloads: the open MIMIC demos and the drug terminology, with their homes and licences.

Each file is verified by SHA-256: a demo's against the checksum file that comes with it, the terminology's against the
digests written here. A file that already lies in the folder and is right is not downloaded again; one that is not the
expected file is the user's, and is never touched.

`ddi_atc3.csv` (class pairs, columns atc3_a,atc3_b: the literature's "GAMENet matrix") has no public home: SafeDrug
publishes the matrix as a pickle, which is never loaded here, and no plain-text copy is known to be equal to it. A
server named as base URL may have it; else the user supplies it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import httpx

from leader_platform.data.download import PATIENT, Downloader, MissingError, Retry, partial_of, sha256_of
from leader_platform.errors import UserError
from leader_platform.progress import SILENT, Progress
from leader_platform.storage import move_file
from leader_platform.web import http_client


@dataclass(frozen=True)
class Licence:
    """Under what terms a collection is published, and in one line what they ask."""

    name: str
    url: str
    asks: str


@dataclass(frozen=True)
class RemoteFile:
    """A file by its name below the folder, and below a base URL.

    `url` is its public home, None where it has none: then `absence` is what to say when a base URL lacks it too.
    `sha256` is None where the collection's checksum file tells it.
    """

    name: str
    url: str | None
    sha256: str | None = None
    absence: str = ""


@dataclass(frozen=True)
class Collection:
    """Files that are published together; `checksums` is their own list of SHA-256 digests, where there is one."""

    title: str
    licence: Licence
    files: tuple[RemoteFile, ...]
    checksums: RemoteFile | None = None


@dataclass(frozen=True)
class FetchedFile:
    """A verified file in the folder, and whether this call downloaded it."""

    name: str
    num_bytes: int
    downloaded: bool


_ODBL = Licence(
    "Open Data Commons Open Database License 1.0",
    "https://opendatacommons.org/licenses/odbl/1-0/",
    "name the source, keep the notices, and share databases adapted from it under the same terms",
)
_MIT = Licence(
    "MIT",
    "https://github.com/ipolharvard/ethos-paper/blob/HEAD/LICENSE",
    "keep the copyright notice and the licence text with every copy",
)
# A demo's documents are brought as far as its checksum file lists them: their names differ between the demos.
_DOCUMENTS = ("LICENSE.txt", "README.txt", "README.md")


def _physionet(title: str, path: str, names: tuple[str, ...]) -> Collection:
    home = f"https://physionet.org/files/{path}"
    files = (RemoteFile(name, f"{home}/{name}") for name in (*_DOCUMENTS, *names))
    return Collection(title, _ODBL, tuple(files), RemoteFile("SHA256SUMS.txt", f"{home}/SHA256SUMS.txt"))


def _ethos(name: str, commit: str, sha256: str) -> RemoteFile:
    """A table of the ETHOS repository, at the commit that brought it."""
    url = f"https://raw.githubusercontent.com/ipolharvard/ethos-paper/{commit}/ethos/data/{name}"
    return RemoteFile(name, url, sha256)


COLLECTIONS = {
    "mimic4-demo": _physionet(
        "MIMIC-IV Clinical Database Demo 2.2",
        "mimic-iv-demo/2.2",
        (
            "demo_subject_id.csv",
            "hosp/patients.csv.gz",
            "hosp/admissions.csv.gz",
            "hosp/diagnoses_icd.csv.gz",
            "hosp/procedures_icd.csv.gz",
            "hosp/prescriptions.csv.gz",
            "hosp/d_icd_diagnoses.csv.gz",
            "hosp/d_icd_procedures.csv.gz",
        ),
    ),
    "mimic3-demo": _physionet(
        "MIMIC-III Clinical Database Demo 1.4",
        "mimiciii-demo/1.4",
        (
            "PATIENTS.csv",
            "ADMISSIONS.csv",
            "DIAGNOSES_ICD.csv",
            "PROCEDURES_ICD.csv",
            "PRESCRIPTIONS.csv",
            "D_ICD_DIAGNOSES.csv",
            "D_ICD_PROCEDURES.csv",
        ),
    ),
    "terminology": Collection(
        "ETHOS drug terminology",
        _MIT,
        (
            _ethos(
                "mimic_drug_to_atc.csv.gz",
                "e00954cdf364498d9c62705119faf4566ae571e3",
                "7c6fa2908ad3bcab4d462c2a08d37b480980d34f30368a573517697bad2dca24",
            ),
            _ethos(
                "gsn_atc_ndc_mapping.csv.gz",
                "1d46291ccd87d8e55b32e881608f93a2310e401e",
                "50ad9fdd0ff2724a95a1baac7da24270524826bb2274d96849c95afb2ded0e94",
            ),
            _ethos(
                "atc_coding.csv.gz",
                "1d46291ccd87d8e55b32e881608f93a2310e401e",
                "736f70eb271bd2b5989c903b7c736fb4c55d798e75fc86b70ebe500dee816fc1",
            ),
            RemoteFile(
                "ddi_atc3.csv",
                None,
                "a77eaa9eb204e8f9d2d45c4e478aedd79c4bb22cf27a6196c92a98c381fefff8",
                "ddi_atc3.csv (interacting class pairs, columns atc3_a,atc3_b) has no public home as plain text; "
                "put your own beside the other tables if you have it.",
            ),
        ),
    ),
}


def fetch(
    collection: Collection,
    out: Path,
    base_url: str | None = None,
    *,
    progress: Progress = SILENT,
    retry: Retry = PATIENT,
) -> list[FetchedFile]:
    """Bring the files of `collection` into the folder `out`, from their public homes or from below `base_url`.

    `progress` shows the bytes of each file; the licence, what is tried again and what no server has are logged.
    Raises `UserError` for an address or a folder that cannot be right, and `RunError` for a server that
    does not deliver or a disk that takes no more: what has arrived stays, and the next call goes on from there.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file, and --out must be a folder; name another.")
    base_url = None if base_url is None else _checked(base_url)
    licence = collection.licence
    progress.log(f"{collection.title}: {licence.name} ({licence.url}), which asks to {licence.asks}.")
    with (
        progress.task(collection.title),
        http_client(base_url, follow_redirects=True, timeout=httpx.Timeout(60.0, connect=15.0)) as client,
    ):
        downloader = Downloader(client, retry, progress)
        files = _with_digests(collection, downloader, out, base_url)
        missing = [file for file in files if not _is_there(file, out)]
        for file in missing:
            _bring(file, downloader, out, base_url)
    if collection.checksums:
        move_file(partial_of(out / collection.checksums.name), out / collection.checksums.name)
    return [
        FetchedFile(file.name, path.stat().st_size, file in missing)
        for file in files
        if (path := out / file.name).exists()
    ]


def _checked(base_url: str) -> str:
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL:
        url = httpx.URL()
    if url.scheme not in ("http", "https") or not url.host:
        raise UserError(f"--base-url {base_url} is not an address of a server; give one that begins with https://.")
    return base_url.rstrip("/")


def _url(file: RemoteFile, base_url: str | None) -> str | None:
    return f"{base_url}/{file.name}" if base_url else file.url


def _with_digests(collection: Collection, downloader: Downloader, out: Path, base_url: str | None) -> list[RemoteFile]:
    """The files to bring, each with its digest.

    A checksum file is fetched anew by every call, so that other data of the same names is found out; it gets its name
    only when all files are verified against it.
    """
    checksums = collection.checksums
    if checksums is None:
        return list(collection.files)
    url = _url(checksums, base_url)
    assert url is not None
    target = out / checksums.name
    partial_of(target).unlink(missing_ok=True)
    downloader.partial(checksums.name, url, target)
    _is_there(replace(checksums, sha256=sha256_of(partial_of(target))), out)
    text = partial_of(target).read_text(errors="replace")
    lines = re.findall(r"^([0-9a-f]{64})\s+(\S+)\s*$", text, re.MULTILINE)
    digests = {name: digest for digest, name in lines}
    for file in collection.files:
        if file.name not in digests and file.name not in _DOCUMENTS:
            raise UserError(
                f"{url} lists no digest of {file.name}, so it is not of the {collection.title}; check --base-url."
            )
    return [replace(file, sha256=digests[file.name]) for file in collection.files if file.name in digests]


def _is_there(file: RemoteFile, out: Path) -> bool:
    """Whether the folder has the file already. Raises `UserError` for another file of that name, which is the user's.

    A file without a public home may be the user's own table, and stays as it is.
    """
    path = out / file.name
    if not path.exists():
        return False
    if file.url and (found := sha256_of(path)) != file.sha256:
        raise UserError(
            f"{path} is another file than the one to fetch (SHA-256 {found}, not {file.sha256}); "
            "move it away or name another --out."
        )
    return True


def _bring(file: RemoteFile, downloader: Downloader, out: Path, base_url: str | None) -> None:
    """Download the file, or say that no server has it if that is to be expected."""
    url = _url(file, base_url)
    if url is None:
        downloader.progress.log(file.absence)
        return
    assert file.sha256 is not None
    try:
        downloader.verified(file.name, url, out / file.name, file.sha256)
    except MissingError:
        if not file.absence:
            raise
        downloader.progress.log(file.absence)
