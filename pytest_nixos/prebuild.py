"""Selected checks -> their drivers, built or failed, and a store that holds the drivers' closure only."""

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_nixos.model import Bootable, Built, Check, Closure, Package, Prebuilt
from pytest_nixos.nix import build, store
from pytest_nixos.nix.command import Nix
from pytest_nixos.nix.target import Target
from pytest_nixos.vm import accelerator, isolate

Progress = Callable[[str], None]
NOTHING_PREBUILT = Prebuilt(drivers={}, store=None, isolated=False, accelerator="")


@dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """What a prebuild needs.

    closure: store paths -> their closure. folder: the session's. cache: the plugin's. accelerator: as asked for.
    """

    nix: Nix
    closure: Callable[[Sequence[str]], Closure]
    folder: Path
    cache: Path
    accelerator: str
    progress: Progress


def prebuild(shop: Workshop, checks: Sequence[Check]) -> Prebuilt:
    """Build all drivers in one go, copy their closure into the session's store, find out what VMs can use.

    A driver that does not build is a value in the result. Raises StoreError when the copy has no room.
    """
    drivers = {check.driver.drv_path: check.driver for check in checks if check.driver is not None}
    if not drivers:
        return NOTHING_PREBUILT
    started = time.monotonic()
    shop.progress(f"building {len(drivers)} test driver{'s' if len(drivers) > 1 else ''}")
    results = build.realise(shop.nix, list(drivers.values()), shop.folder / "gcroots", shop.progress)
    outs = [result.out_path for result in results.values() if isinstance(result, Built)]
    built_at = time.monotonic()
    isolated = isolate.isolation_works()
    wanted = shop.closure([*outs, *_host_shell(shop.nix.store_dir)] if outs else [])
    session_store = _session_store(shop, wanted) if isolated else None
    return Prebuilt(
        drivers=results,
        store=session_store,
        isolated=isolated,
        accelerator=_accelerator(shop, wanted),
        paths=len(wanted.paths),
        nar_bytes=wanted.nar_bytes,
        build_seconds=built_at - started,
        copy_seconds=time.monotonic() - built_at,
    )


def bootable(shop: Workshop, check: Check) -> Bootable:
    """Build one check's driver, to be used on the host's store."""
    assert check.driver is not None
    result = build.realise(
        shop.nix, [check.driver], shop.folder / "gcroots" / Path(check.driver.drv_path).name, shop.progress
    )
    driver = result[check.driver.drv_path]
    outs = [driver.out_path] if isinstance(driver, Built) else []
    return Bootable(driver=driver, accelerator=_accelerator(shop, shop.closure(outs)))


def package(shop: Workshop, target: Target) -> Package:
    """Build a package of VMs, to be used on the host's store. Raises CheckFailed when it does not evaluate or build."""
    name = f"{target.ref.label}#{target.attr}"
    shop.progress(f"building {name}")
    path = build.package(target, shop.folder / "gcroots" / hashlib.sha256(name.encode()).hexdigest()[:16])
    return Package(path=path, accelerator=_accelerator(shop, shop.closure([path])))


def _session_store(shop: Workshop, wanted: Closure) -> str:
    root = shop.folder / "store"
    size = f"{wanted.nar_bytes >> 20} MiB"
    store.copy_closure(
        shop.nix, wanted, root, lambda done, total: shop.progress(f"copying {done}/{total} store paths, {size}")
    )
    return str(root)


def _host_shell(store_dir: str) -> list[str]:
    """The store path of /bin/sh, where that is in the store: test drivers start machines through it."""
    real = os.path.realpath("/bin/sh")
    if not real.startswith(f"{store_dir}/"):
        return []
    return [f"{store_dir}/{real.removeprefix(store_dir).lstrip('/').split('/', 1)[0]}"]


def _accelerator(shop: Workshop, wanted: Closure) -> str:
    if shop.accelerator != "auto":
        return shop.accelerator
    return accelerator.choose(shop.cache, wanted.paths, shop.progress).name if wanted.paths else "tcg"
