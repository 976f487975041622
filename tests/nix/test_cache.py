"""The cache is only ever a shortcut: what is not whole is not there, and nothing it meets is an error."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_nixos.nix import cache as module
from pytest_nixos.nix.cache import Cache

VALUE = {"names": ["a", "ü", "\udcff"], "more": [1, None, True]}


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def entry(cache: Cache, tmp_path: Path, key: str = "key") -> Path:
    """The file of a value that is kept."""
    before = set((tmp_path / "cache").glob("*"))
    cache.put("kind", key, VALUE)
    (place,) = set((tmp_path / "cache").glob("*")) - before
    return place


def test_a_value_comes_back(cache: Cache, tmp_path: Path) -> None:
    assert cache.get("kind", "key") is None
    cache.put("kind", "key", VALUE)
    assert cache.get("kind", "key") == VALUE
    assert Cache(tmp_path / "cache").get("kind", "key") == VALUE
    assert cache.get("kind", "other") is None
    assert cache.get("other", "key") is None
    cache.put("kind", "key", 2)
    assert cache.get("kind", "key") == 2
    cache.drop("kind", "key")
    cache.drop("kind", "key")
    assert cache.get("kind", "key") is None
    assert cache.warnings == []


def test_a_key_may_be_any_text(cache: Cache) -> None:
    cache.put("kind", os.fsdecode(b"/\xff"), 1)
    assert cache.get("kind", os.fsdecode(b"/\xff")) == 1


DAMAGE: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("empty", lambda text: b""),
    ("cut short", lambda text: text[:-1]),
    ("head only", lambda text: text.split(b"\n")[0]),
    ("grown", lambda text: text + b" "),
    ("another value", lambda text: text.replace(b'"a"', b'"b"')),
    ("another version", lambda text: text.replace(b"cache 1", b"cache 0")),
    ("foreign", lambda text: b'{"names": []}\n'),
    ("binary", lambda text: b"\x00\xff\n" * 100),
    ("zeroes", lambda text: b"\0" * len(text)),
]


@pytest.mark.parametrize("damage", [damage for _, damage in DAMAGE], ids=[name for name, _ in DAMAGE])
def test_a_damaged_entry_is_none(cache: Cache, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    place = entry(cache, tmp_path)
    place.write_bytes(damage(place.read_bytes()))
    assert cache.get("kind", "key") is None
    assert cache.get("kind", "key") is None
    (warning,) = cache.warnings
    assert str(place) in warning
    cache.put("kind", "key", VALUE)
    assert cache.get("kind", "key") == VALUE


def test_an_entry_of_another_key_is_none(cache: Cache, tmp_path: Path) -> None:
    own, other = entry(cache, tmp_path, "key"), entry(cache, tmp_path, "other")
    own.write_bytes(other.read_bytes())
    assert cache.get("kind", "key") is None
    assert len(cache.warnings) == 1


def test_an_entry_too_large_to_be_one_is_not_read(cache: Cache, tmp_path: Path) -> None:
    place = entry(cache, tmp_path)
    with place.open("r+b") as file:
        file.truncate(1 << 40)  # a sparse file; reading it would take all memory
    assert cache.get("kind", "key") is None
    assert len(cache.warnings) == 1


def make_fifo(place: Path) -> None:
    place.unlink()
    os.mkfifo(place)


def make_folder(place: Path) -> None:
    place.unlink()
    place.mkdir()


@pytest.mark.parametrize("make", [make_fifo, make_folder])
def test_an_entry_that_is_no_file_is_none(cache: Cache, tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(entry(cache, tmp_path))
    assert cache.get("kind", "key") is None
    assert len(cache.warnings) == 1


def test_a_folder_that_cannot_be_written_costs_one_warning(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = Cache(tmp_path / "file" / "cache")
    cache.put("kind", "key", 1)
    cache.put("kind", "key", 1)
    assert cache.get("kind", "key") is None
    cache.drop("kind", "key")
    (warning,) = cache.warnings
    assert "can't be written" in warning


def test_a_missing_folder_that_is_a_file_is_no_damage(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = Cache(tmp_path / "file")
    assert cache.get("kind", "key") is None
    assert cache.warnings == []


def test_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    cache = Cache(tmp_path, limit=1000)
    for number in range(3):
        cache.put("kind", str(number), "x" * 200)
    for at, place in enumerate(sorted(tmp_path.iterdir(), key=lambda place: place.stat().st_mtime)):
        os.utime(place, (at, at))
    used = cache.get("kind", "0")
    for number in range(3, 5):
        cache.put("kind", str(number), "x" * 200)
    assert used is not None
    assert cache.get("kind", "0") == used
    assert cache.get("kind", "1") is None
    assert cache.get("kind", "4") is not None
    assert sum(place.stat().st_size for place in tmp_path.iterdir()) <= 1000


def test_a_value_beyond_the_limit_is_kept_alone(tmp_path: Path) -> None:
    cache = Cache(tmp_path, limit=1000)
    cache.put("kind", "small", 1)
    os.utime(next(tmp_path.iterdir()), (1, 1))
    cache.put("kind", "large", "x" * 2000)
    assert cache.get("kind", "large") == "x" * 2000
    assert cache.get("kind", "small") is None
    assert cache.warnings == []


def test_the_number_of_entries_is_bounded(cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LIMIT_ENTRIES", 5)
    for number in range(20):
        cache.put("kind", str(number), number)
    assert len(list((tmp_path / "cache").iterdir())) == 5


def test_a_dead_writer_s_half_is_removed_and_a_living_one_s_is_not(tmp_path: Path) -> None:
    cache = Cache(tmp_path, limit=100)
    for name, age in (("dead.new", 1), ("living.new", None)):
        (tmp_path / name).write_text("x" * 200)
        os.utime(tmp_path / name, None if age is None else (age, age))
    (tmp_path / "README").write_text("x" * 200)
    cache.put("kind", "key", 1)
    assert {place.name for place in tmp_path.iterdir() if place.suffix != ".json"} == {"living.new", "README"}


WRITER = """
import sys
from pathlib import Path
from pytest_nixos.nix.cache import Cache
cache = Cache(Path(sys.argv[1]), limit=20_000)
for number in range(150):
    value = cache.get("kind", str(number % 3))
    assert value is None or value == [number % 3] * len(value), value
    cache.put("kind", str(number % 3), [number % 3] * (int(sys.argv[2]) * 700))
print(cache.warnings)
"""


def test_writers_at_the_same_time_leave_whole_entries(tmp_path: Path) -> None:
    argv = (sys.executable, "-c", WRITER, str(tmp_path))
    writers = [subprocess.Popen((*argv, str(size)), stdout=subprocess.PIPE) for size in range(1, 5)]
    assert [writer.communicate(timeout=60)[0] for writer in writers] == [b"[]\n"] * 4
    assert [writer.returncode for writer in writers] == [0] * 4
    assert {place.suffix for place in tmp_path.iterdir()} == {".json"}
