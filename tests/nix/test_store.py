from pathlib import Path

import pytest

from pytest_nixos.errors import StoreError
from pytest_nixos.model import Closure
from pytest_nixos.nix import store
from pytest_nixos.nix.command import Nix


def test_nar_bytes() -> None:
    one = "/nix/store/a\nsha256:00\n100\n\n0\n"
    two = "/nix/store/b\nsha256:00\n23\n/nix/store/b.drv\n2\n/nix/store/a\n/nix/store/b\n"
    assert store.nar_bytes("") == 0
    assert store.nar_bytes(one + two + one) == 223


@pytest.mark.nix
def test_a_closure_becomes_a_store_of_its_own(nix: Nix, tmp_path: Path) -> None:
    source = tmp_path / "dependency"
    source.mkdir()
    (source / "program").write_text("x" * 1000)
    (source / "program").chmod(0o755)
    (source / "link").symlink_to("program")
    needed = nix.run(nix.store("--add", str(source))).stdout.decode().strip()
    wanted = store.closure(nix, [needed])
    store.copy_closure(nix, wanted, tmp_path / "session")
    copied = (tmp_path / "session" / nix.store_dir[1:]).iterdir()
    assert [p.name for p in copied if p.name != ".links"] == [Path(needed).name]
    argv = nix.store("--store", str(tmp_path / "session"), "--verify", "--check-contents")
    assert nix.run(argv).status == 0
    valid = nix.store("--store", str(tmp_path / "session"), "--check-validity", needed)
    assert nix.run(valid).status == 0
    store.remove_tree(tmp_path / "session")
    assert not (tmp_path / "session").exists()


@pytest.mark.nix
def test_no_room_is_found_out_before_the_copy(nix: Nix, tmp_path: Path) -> None:
    wanted = Closure(paths=(str(tmp_path / "nothing"),), nar_bytes=1 << 60, registration="")
    with pytest.raises(StoreError, match="MiB free"):
        store.copy_closure(nix, wanted, tmp_path / "session")
