"""An artifact of GitHub Actions as a folder of records: a zip file of foreign make, read with bounds. Pure.

What is in it is a `dir:` store: files `<name>.json`, see `naming`. Folders in the zip are of no interest, no path is
ever used, and no more is unpacked than a record may be long.
"""

import hashlib
import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass

from pytest_nixos.model import Record
from pytest_nixos.records import sealed
from pytest_nixos.records.naming import Name, name_of, parse_name
from pytest_nixos.records.signing import Trusted

MAX_BYTES = 8 << 20  # of a zip file; 10,000 records need half of it
_MAX_ENTRIES = 20_000
_MAX_UNPACKED_BYTES = 64 << 20
_SUFFIX = ".json"
_ENTRY = b"PK\x01\x02"  # begins each entry of a zip file's list of contents
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
_ENCRYPTED = 0x1


class ArtifactUnreadable(ValueError):
    """An artifact is not a zip file as GitHub makes it; the text says why in a few words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """The records of an artifact, and how many files have a record's name but are none."""

    records: tuple[Record, ...]
    damaged: int


def check_digest(data: bytes, digest: str) -> None:
    """Raises ArtifactUnreadable for data that is not what GitHub has written down as `sha256:HEX`; "" is no digest."""
    if digest and digest != f"sha256:{hashlib.sha256(data).hexdigest()}":
        raise ArtifactUnreadable("its content is not what its digest says")


def read_zip(data: bytes, trusted: Trusted, wanted: Callable[[Name], object]) -> Content:
    """The records whose names are `wanted`. Raises ArtifactUnreadable."""
    if data.count(_ENTRY) > _MAX_ENTRIES:  # counted before anything is made of them
        raise ArtifactUnreadable(f"it has more than {_MAX_ENTRIES} files")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            entries = file.infolist()
            if sum(entry.file_size for entry in entries) > _MAX_UNPACKED_BYTES:
                raise ArtifactUnreadable(f"it would be more than {_MAX_UNPACKED_BYTES >> 20} MiB")
            found = [_record(file, entry, name, trusted) for entry in entries if (name := _name(entry, wanted))]
    except ArtifactUnreadable:
        raise
    except Exception as error:  # zipfile raises half a dozen kinds for data that is no zip file
        raise ArtifactUnreadable(f"it is no zip file ({type(error).__name__})") from None
    return Content(records=tuple(filter(None, found)), damaged=found.count(None))


def _name(entry: zipfile.ZipInfo, wanted: Callable[[Name], object]) -> str:
    """The name of the record that an entry should be; "" for anything else."""
    file = entry.filename.rpartition("/")[2]
    name = file.removesuffix(_SUFFIX)
    said = parse_name(name) if file.endswith(_SUFFIX) else None
    return name if said is not None and wanted(said) else ""


def _record(file: zipfile.ZipFile, entry: zipfile.ZipInfo, name: str, trusted: Trusted) -> Record | None:
    """The record in an entry; None when it is none, or is another than its name says."""
    if entry.file_size > sealed.MAX_BYTES or entry.compress_type not in _METHODS or entry.flag_bits & _ENCRYPTED:
        return None
    try:
        with file.open(entry) as content:
            data = content.read(sealed.MAX_BYTES + 1)  # its checksum is compared when the end is reached
    except Exception:  # the others may still be whole
        return None
    record = sealed.unseal(data, trusted)
    return record if record is not None and name_of(record.verdict) == name else None
