"""Downloads from a server on the loopback that serves the open data in place, and fails on demand."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from support.http_files import Fault, FileServer, serving

from leader_platform.data.download import Retry
from leader_platform.data.fetch import COLLECTIONS, fetch
from leader_platform.errors import RunError, UserError
from leader_platform.progress import LineProgress, Progress

TERMINOLOGY, MIMIC4, MIMIC3 = COLLECTIONS["terminology"], COLLECTIONS["mimic4-demo"], COLLECTIONS["mimic3-demo"]
TABLE = "atc_coding.csv.gz"  # 54,717 bytes
TABLES = ["mimic_drug_to_atc.csv.gz", "gsn_atc_ndc_mapping.csv.gz", TABLE, "ddi_atc3.csv"]
MIMIC3_FILES = {
    "LICENSE.txt": "Use it well.\n",
    "README.md": "# Demo\n",
    "PATIENTS.csv": "row_id,subject_id,gender,dob\n1,10006,F,2094-03-05 00:00:00\n",
    "ADMISSIONS.csv": "row_id,subject_id,hadm_id,admittime\n1,10006,142345,2164-10-23 21:09:00\n",
    "DIAGNOSES_ICD.csv": "row_id,subject_id,hadm_id,seq_num,icd9_code\n1,10006,142345,1,99591\n",
    "PROCEDURES_ICD.csv": "row_id,subject_id,hadm_id,seq_num,icd9_code\n1,10006,142345,1,9749\n",
    "PRESCRIPTIONS.csv": "row_id,subject_id,hadm_id,startdate,drug_type,drug\n",
    "D_ICD_DIAGNOSES.csv": "row_id,icd9_code,short_title,long_title\n1,99591,Sepsis,Sepsis\n",
    "D_ICD_PROCEDURES.csv": "row_id,icd9_code,short_title,long_title\n1,9749,Remove,Removal of device\n",
    "NOTEEVENTS.csv": "row_id,text\n",
}


def _patience(delays: list[float], num_attempts: int = 4) -> Retry:
    """Retries whose waits are written down instead of waited for."""
    return Retry(num_attempts=num_attempts, first_delay_s=1.0, max_delay_s=60.0, sleep=delays.append)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def server(terminology: Path) -> Iterator[FileServer]:
    with serving(terminology=terminology) as server:
        yield server


def _fetch_terminology(server: FileServer, out: Path, **options: object) -> list[str]:
    """The names of the files that were downloaded."""
    files = fetch(TERMINOLOGY, out, f"{server.url}/terminology", **{"retry": _patience([]), **options})
    return [file.name for file in files if file.downloaded]


def _same(out: Path, original: Path, names: list[str]) -> bool:
    return all((out / name).read_bytes() == (original / name).read_bytes() for name in names)


def _partials(out: Path) -> list[str]:
    return [path.name for path in out.rglob("*.partial")]


def _mimic3_demo(folder: Path) -> Path:
    sums = ""
    for name, text in MIMIC3_FILES.items():
        (folder / name).write_text(text)
        sums += f"{hashlib.sha256(text.encode()).hexdigest()} {name}\n"
    (folder / "SHA256SUMS.txt").write_text(sums)
    return folder


def test_the_terminology_arrives_as_it_is_published(server: FileServer, terminology: Path, tmp_path: Path) -> None:
    assert _fetch_terminology(server, tmp_path / "out") == TABLES
    assert _same(tmp_path / "out", terminology, TABLES)
    assert sorted(os.listdir(tmp_path / "out")) == sorted(TABLES)


def test_what_is_there_and_right_is_not_downloaded_again(server: FileServer, tmp_path: Path) -> None:
    _fetch_terminology(server, tmp_path)
    (tmp_path / TABLE).unlink()
    server.requests.clear()
    assert _fetch_terminology(server, tmp_path) == [TABLE]
    assert server.requests == [(f"/terminology/{TABLE}", None)]


def test_the_mimic4_demo_is_verified_by_its_own_checksum_file(mimic4_demo: Path, tmp_path: Path) -> None:
    names = [str(path.relative_to(mimic4_demo)) for path in mimic4_demo.rglob("*") if path.is_file()]
    with serving(demo=mimic4_demo) as server:
        files = fetch(MIMIC4, tmp_path, f"{server.url}/demo/")
        assert {file.name for file in files} == {*names} - {"SHA256SUMS.txt"}
        assert _same(tmp_path, mimic4_demo, names)
        assert _partials(tmp_path) == []
        server.requests.clear()
        again = fetch(MIMIC4, tmp_path, f"{server.url}/demo/")
        assert not any(file.downloaded for file in again)
        assert [path for path, _ in server.requests] == ["/demo/SHA256SUMS.txt"]


def test_the_mimic3_demo_brings_seven_tables_and_its_documents(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    with serving(demo=_mimic3_demo(tmp_path / "demo")) as server:
        files = fetch(MIMIC3, tmp_path / "out", f"{server.url}/demo")
    names = [name for name in MIMIC3_FILES if name != "NOTEEVENTS.csv"]
    assert {file.name for file in files} == set(names)
    assert _same(tmp_path / "out", tmp_path / "demo", [*names, "SHA256SUMS.txt"])


def test_a_checksum_file_of_other_data_is_refused_before_anything_is_fetched(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    demo = _mimic3_demo(tmp_path / "demo")
    sums = (demo / "SHA256SUMS.txt").read_text()
    (demo / "SHA256SUMS.txt").write_text(sums.replace(" PRESCRIPTIONS.csv", " PRESCRIPTIONS.csv.gz"))
    with serving(demo=demo) as server, pytest.raises(UserError, match=r"no digest of PRESCRIPTIONS\.csv"):
        fetch(MIMIC3, tmp_path / "out", f"{server.url}/demo")
    assert os.listdir(tmp_path / "out") == ["SHA256SUMS.txt.partial"]


def test_a_demo_without_its_right_tables_gets_no_checksum_file(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    demo = _mimic3_demo(tmp_path / "demo")
    (demo / "PATIENTS.csv").write_text("changed since the checksums were made\n")
    with serving(demo=demo) as server, pytest.raises(RunError, match=r"PATIENTS\.csv has SHA-256"):
        fetch(MIMIC3, tmp_path / "out", f"{server.url}/demo")
    assert not (tmp_path / "out/SHA256SUMS.txt").exists()
    assert not (tmp_path / "out/PATIENTS.csv").exists()


def test_a_cut_download_goes_on_where_it_stopped(server: FileServer, terminology: Path, tmp_path: Path) -> None:
    path = f"/terminology/{TABLE}"
    server.faults[path] = [Fault(cut_after=20_000), Fault(cut_after=10_000)]
    delays: list[float] = []
    _fetch_terminology(server, tmp_path, retry=_patience(delays))
    assert server.ranges(path) == [None, "bytes=20000-", "bytes=30000-"]
    assert delays == [1.0, 2.0]
    assert _same(tmp_path, terminology, TABLES)


def test_a_server_that_ignores_ranges_sends_the_file_from_its_start(
    server: FileServer, terminology: Path, tmp_path: Path
) -> None:
    path = f"/terminology/{TABLE}"
    server.faults[path] = [Fault(cut_after=20_000), Fault(ignore_range=True)]
    _fetch_terminology(server, tmp_path)
    assert server.ranges(path) == [None, "bytes=20000-"]
    assert _same(tmp_path, terminology, TABLES)


def test_a_later_call_goes_on_from_what_a_failed_one_left(
    server: FileServer, terminology: Path, tmp_path: Path
) -> None:
    path = f"/terminology/{TABLE}"
    server.faults[path] = [Fault(cut_after=20_000), *[Fault(status=502)] * 3]
    with pytest.raises(RunError, match=r"in 4 attempts \(the server answers 502 Bad Gateway\).*run the command again"):
        _fetch_terminology(server, tmp_path)
    assert _partials(tmp_path) == [f"{TABLE}.partial"]
    server.requests.clear()
    assert _fetch_terminology(server, tmp_path) == [TABLE, "ddi_atc3.csv"]
    assert server.ranges(path) == ["bytes=20000-"]
    assert _same(tmp_path, terminology, TABLES)


def test_a_partial_file_that_is_whole_gets_its_name(server: FileServer, terminology: Path, tmp_path: Path) -> None:
    (tmp_path / f"{TABLE}.partial").write_bytes((terminology / TABLE).read_bytes())
    _fetch_terminology(server, tmp_path)
    assert server.ranges(f"/terminology/{TABLE}") == ["bytes=54717-"]
    assert _same(tmp_path, terminology, TABLES)
    assert _partials(tmp_path) == []


@pytest.mark.parametrize("num_bytes", [20_000, 60_000])
def test_a_partial_file_of_other_content_is_found_out_and_fetched_anew(
    num_bytes: int, server: FileServer, terminology: Path, tmp_path: Path
) -> None:
    (tmp_path / f"{TABLE}.partial").write_bytes(b"x" * num_bytes)
    _fetch_terminology(server, tmp_path)
    assert server.ranges(f"/terminology/{TABLE}") == [f"bytes={num_bytes}-", None]
    assert _same(tmp_path, terminology, TABLES)


def test_a_file_corrupted_once_is_fetched_once_more(server: FileServer, terminology: Path, tmp_path: Path) -> None:
    path = f"/terminology/{TABLE}"
    server.faults[path] = [Fault(corrupt=True)]
    notices: list[str] = []
    _fetch_terminology(server, tmp_path, progress=LineProgress(notices.append))
    assert server.ranges(path) == [None, None]
    assert "fetching it once more" in notices[1]
    assert _same(tmp_path, terminology, TABLES)


def test_a_file_that_stays_corrupt_is_refused_with_both_digests(
    server: FileServer, terminology: Path, tmp_path: Path
) -> None:
    server.faults[f"/terminology/{TABLE}"] = [Fault(corrupt=True)] * 2
    content = (terminology / TABLE).read_bytes()
    expected = hashlib.sha256(content).hexdigest()
    found = hashlib.sha256(bytes([content[0] ^ 1]) + content[1:]).hexdigest()
    with pytest.raises(RunError, match=f"{TABLE} has SHA-256 {found} and not {expected}.*--base-url"):
        _fetch_terminology(server, tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted(TABLES[:2])


def test_a_busy_server_is_asked_again_when_it_wishes(server: FileServer, tmp_path: Path) -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    server.faults[f"/terminology/{TABLE}"] = [
        Fault(status=503, headers={"Retry-After": "7"}),
        Fault(status=429, headers={"Retry-After": "86400"}),
        Fault(status=503, headers={"Retry-After": soon}),
        Fault(status=503, headers={"Retry-After": "after lunch"}),
        Fault(status=500),
    ]
    delays: list[float] = []
    _fetch_terminology(server, tmp_path, retry=_patience(delays, num_attempts=6))
    assert delays == pytest.approx([7.0, 60.0, 30.0, 8.0, 16.0], abs=3.0)


def test_a_server_that_cannot_be_reached_is_named_with_the_reason(tmp_path: Path) -> None:
    with serving() as server:
        url = server.url
    with pytest.raises(RunError, match=f"{url}/{TABLES[0]} could not be downloaded in 2 attempts .*refused"):
        fetch(TERMINOLOGY, tmp_path / "out", url, retry=_patience([], num_attempts=2))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_is_not_asked_for_again(status: int, server: FileServer, tmp_path: Path) -> None:
    server.faults[f"/terminology/{TABLES[0]}"] = [Fault(status=status)]
    with pytest.raises(UserError, match=rf"{TABLES[0]} .*{status}.*--base-url"):
        _fetch_terminology(server, tmp_path)
    assert len(server.requests) == 1


def test_redirects_are_followed(server: FileServer, terminology: Path, tmp_path: Path) -> None:
    server.folders["mirror"] = terminology
    server.faults[f"/terminology/{TABLE}"] = [Fault(status=302, headers={"Location": f"/mirror/{TABLE}"})]
    _fetch_terminology(server, tmp_path)
    assert server.ranges(f"/mirror/{TABLE}") == [None]
    assert _same(tmp_path, terminology, TABLES)


def test_class_pairs_that_no_server_has_are_left_to_the_user(
    server: FileServer, terminology: Path, tmp_path: Path
) -> None:
    server.faults["/terminology/ddi_atc3.csv"] = [Fault(status=404)]
    notices: list[str] = []
    assert _fetch_terminology(server, tmp_path, progress=LineProgress(notices.append)) == TABLES[:3]
    assert "ddi_atc3.csv" in notices[-1]
    assert "put your own" in notices[-1]
    (tmp_path / "ddi_atc3.csv").write_text("atc3_a,atc3_b\nA01A,B03B\n")
    assert _fetch_terminology(server, tmp_path) == []
    assert (tmp_path / "ddi_atc3.csv").read_text() == "atc3_a,atc3_b\nA01A,B03B\n"


def test_the_public_homes_have_every_file_but_the_class_pairs() -> None:
    urls = {file.name: file.url for collection in COLLECTIONS.values() for file in collection.files}
    assert urls["hosp/patients.csv.gz"] == "https://physionet.org/files/mimic-iv-demo/2.2/hosp/patients.csv.gz"
    assert urls["PRESCRIPTIONS.csv"] == "https://physionet.org/files/mimiciii-demo/1.4/PRESCRIPTIONS.csv"
    assert urls[TABLE].startswith("https://raw.githubusercontent.com/ipolharvard/ethos-paper/")
    assert [name for name, url in urls.items() if url is None] == ["ddi_atc3.csv"]


def test_other_data_in_the_folder_is_never_touched(mimic4_demo: Path, tmp_path: Path) -> None:
    (tmp_path / "hosp").mkdir()
    (tmp_path / "hosp/patients.csv.gz").write_text("the whole of MIMIC-IV")
    with serving(demo=mimic4_demo) as server:
        with pytest.raises(UserError, match=r"hosp/patients\.csv\.gz is another file.*another --out"):
            fetch(MIMIC4, tmp_path, f"{server.url}/demo")
        assert [path for path, _ in server.requests] == ["/demo/SHA256SUMS.txt"]
    assert (tmp_path / "hosp/patients.csv.gz").read_text() == "the whole of MIMIC-IV"


def test_an_out_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(UserError, match="out is a file, and --out must be a folder"):
        fetch(TERMINOLOGY, tmp_path / "out")


@pytest.mark.parametrize("base_url", ["ftp://127.0.0.1/x", "127.0.0.1:80", "http://", "", "https://x:port/"])
def test_a_base_url_that_is_no_web_address_is_named(base_url: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"--base-url {base_url} "):
        fetch(TERMINOLOGY, tmp_path, base_url)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full is Linux's")
def test_a_full_disk_ends_in_one_sentence(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / f"{TABLE}.partial").symlink_to("/dev/full")
    with pytest.raises(RunError, match=f"{TABLE}.partial cannot be written .No space left on device.; make room"):
        _fetch_terminology(server, tmp_path)
    assert not (tmp_path / TABLE).exists()


def test_progress_hears_of_every_file_to_its_last_byte(server: FileServer, terminology: Path, tmp_path: Path) -> None:
    server.faults[f"/terminology/{TABLE}"] = [Fault(cut_after=20_000)]
    progress = Progress()
    _fetch_terminology(server, tmp_path, progress=progress)
    sizes = {name: (terminology / name).stat().st_size for name in TABLES}
    ended = {status.name: (status.done, status.total) for status in progress.ended if status.name in TABLES}
    assert ended == {name: (sizes[name],) * 2 for name in TABLES}


def test_the_licence_is_told_before_the_first_byte_is_asked_for(server: FileServer, tmp_path: Path) -> None:
    notices: list[tuple[str, int]] = []
    _fetch_terminology(
        server, tmp_path, progress=LineProgress(lambda sentence: notices.append((sentence, len(server.requests))))
    )
    assert notices == [
        (
            "ETHOS drug terminology: MIT (https://github.com/ipolharvard/ethos-paper/blob/HEAD/LICENSE), which asks to "
            "keep the copyright notice and the licence text with every copy.",
            0,
        )
    ]
