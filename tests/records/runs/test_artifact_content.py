"""Artifacts as zip files of foreign make: damaged, huge, forged."""

import contextlib
import io
import json
import zipfile

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pytest_nixos.model import Outcome, Record
from pytest_nixos.records import sealed
from pytest_nixos.records.artifacts import ArtifactUnreadable, read_zip
from pytest_nixos.records.naming import name_of
from pytest_nixos.records.signing import Trusted
from tests.records.fake_runs import (
    DB,
    GOOD_ZIP,
    RECORD,
    REPOSITORY,
    WEB,
    FakeRuns,
    folder_of,
    found,
    look_up,
    nothing,
    zipped,
)
from tests.records.making import subject, verdict

MANY = 1000


def encrypted(data: bytes) -> bytes:
    """The zip file with the flag of encryption in both of its headers."""
    at, listed = data.index(b"PK\x03\x04") + 6, data.index(b"PK\x01\x02") + 8
    changed = bytearray(data)
    changed[at] |= 1
    changed[listed] |= 1
    return bytes(changed)


def bomb() -> bytes:
    """A record's name with 50 MB behind it, in 50 kB."""
    return zipped({f"{name_of(WEB)}.json": sealed.seal(WEB) + b"\n" * 50_000_000})


def lying_bomb() -> bytes:
    """As `bomb`, but its list of contents says that it is small."""
    data = bytearray(bomb())
    at = data.index(b"PK\x01\x02") + 24
    data[at : at + 4] = (1000).to_bytes(4, "little")
    return bytes(data)


def other_method() -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_LZMA) as file:
        file.writestr(f"{name_of(WEB)}.json", sealed.seal(WEB))
    return data.getvalue()


def of_the_future() -> bytes:
    return json.dumps({**json.loads(sealed.seal(WEB)), "v": 99}).encode() + b"\n"


DAMAGED: dict[str, bytes] = {
    "empty": b"",
    "not a zip": b"<html>",
    "truncated": GOOD_ZIP[:-10],
    "half": GOOD_ZIP[: len(GOOD_ZIP) // 2],
    "its end only": GOOD_ZIP[-22:] + b"x",
    "bomb": bomb(),
    "lying bomb": lying_bomb(),
    "many bombs": zipped({f"{n}": b"\0" * 9_000_000 for n in range(8)} | folder_of([WEB])),
    "too many files": zipped({str(n): b"" for n in range(20_001)} | folder_of([WEB])),
    "encrypted": encrypted(GOOD_ZIP),
    "another method": other_method(),
    "foreign record": zipped({RECORD: sealed.seal(DB)}),
    "failure under the name of a pass": zipped({RECORD: sealed.seal(verdict("web", outcome=Outcome.FAILED))}),
    "flagged result under a name without": zipped({RECORD: sealed.seal(verdict("web", flags=("tcg",)))}),
    "future schema": zipped({RECORD: of_the_future()}),
    "truncated record": zipped({RECORD: sealed.seal(WEB)[:-1]}),
    "record without a newline before a signature": zipped({RECORD: sealed.seal(WEB) + b"x"}),
    "nothing in it": zipped({RECORD: b""}),
}


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_artifacts(repository: FakeRuns, data: bytes) -> None:
    """One warning, and what other artifacts say still counts."""
    run = repository.run()
    repository.upload(run, data)
    assert nothing(repository).count("\n") == 0
    assert nothing(repository)
    repository.upload(run, folder_of([verdict("web", by="good")]))
    assert [v.by for v in found(repository)] == ["good"]


FOREIGN_NAMES = ["x.json", RECORD.upper(), f"{RECORD}.bak", RECORD.removesuffix(".json"), f"{name_of(DB)}.json", "a\0b"]


@pytest.mark.parametrize("name", FOREIGN_NAMES)
def test_other_files_are_of_no_interest(repository: FakeRuns, name: str) -> None:
    repository.upload(repository.run(), {name: sealed.seal(WEB)})
    assert nothing(repository) == ""


@pytest.mark.parametrize("folder", ["", "records/", "../../", "/etc/", "C:\\x/"])
def test_folders_are_of_no_interest(repository: FakeRuns, folder: str) -> None:
    repository.upload(repository.run(), {f"{folder}{RECORD}": sealed.seal(WEB)})
    assert found(repository) == [WEB]


def test_a_thousand_damaged_records_are_one_warning(repository: FakeRuns) -> None:
    names = [f"c{number}" for number in range(MANY)]
    repository.upload(repository.run(), dict.fromkeys(folder_of(map(verdict, names)), b"x"))
    answer = look_up(repository, wanted=list(map(subject, names)))
    assert answer.records == ()
    assert answer.warnings == (f"github-runs:{REPOSITORY}: 1000 records are damaged and were ignored",)


@given(data=st.binary(max_size=300))
@example(data=GOOD_ZIP)
def test_any_bytes_as_zip(data: bytes) -> None:
    """Whole, and with a good zip file behind them, which is how a zip file may begin."""
    for whole in (data, data + GOOD_ZIP, GOOD_ZIP + data):
        with contextlib.suppress(ArtifactUnreadable):
            assert set(read_zip(whole, Trusted(), lambda _: True).records) <= {Record(verdict=WEB)}


@settings(max_examples=300)
@given(at=st.integers(0, len(GOOD_ZIP) - 1), new=st.binary(max_size=4), gone=st.integers(0, 8))
def test_any_change_of_a_zip(at: int, new: bytes, gone: int) -> None:
    changed = GOOD_ZIP[:at] + new + GOOD_ZIP[at + gone :]
    with contextlib.suppress(ArtifactUnreadable):
        assert set(read_zip(changed, Trusted(), lambda _: True).records) <= {Record(verdict=WEB)}
