import pytest

from pytest_nixos.nix.limits import Limits

GIB = 1 << 30


@pytest.mark.parametrize(
    ("asked", "cores", "free", "workers"),
    [
        (None, 2, 24 * GIB, 2),
        (None, 64, 8 * GIB, 8),
        (None, 4, GIB // 2, 1),
        (None, 4, 0, 1),
        (3, 1, GIB, 3),
    ],
)
def test_as_many_workers_as_cores_and_memory_allow(asked: int | None, cores: int, free: int, workers: int) -> None:
    assert Limits.of(asked, cores, free).workers == workers


def test_what_a_worker_may_hold() -> None:
    much, little = Limits.of(None, 2, 64 * GIB), Limits.of(2, 2, 2 * GIB)
    assert much.replace_bytes == GIB
    assert much.heap_bytes * 2 <= 64 * GIB
    assert little.replace_bytes < GIB
    assert little.replace_bytes <= little.heap_bytes
    assert much.alone().workers == 1
    assert much.alone().heap_bytes == 2 * much.heap_bytes
    assert much.env["GC_MAXIMUM_HEAP_SIZE"] == str(much.heap_bytes)
