"""Writing small files to binary caches: by Nix with our signatures, or by the program of a cache that signs itself."""

import json
import tempfile
import urllib.parse
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from pytest_nixos.deadline import Deadline
from pytest_nixos.errors import CommandFailed, PytestNixosError, RecordsUnavailable
from pytest_nixos.records import narinfo
from pytest_nixos.records.marker import Marker
from pytest_nixos.records.places import Place
from pytest_nixos.records.stores.base import Kit
from pytest_nixos.records.stores.cache_access import NIX_OPTIONS, environment, run, why_failed


class Upload(Protocol):
    """How files come into a cache."""

    def copy(self, files: Sequence[Marker], deadline: Deadline) -> None:
        """Send them. Raises RecordsUnavailable, ToolMissing."""

    def add_signatures(self, files: Sequence[Marker], deadline: Deadline) -> bool:
        """Sign what is there already, without our signature; whether that is possible."""


def open_upload(place: Place, kit: Kit) -> Upload:
    """The way to write there. Raises PytestNixosError for one that there is not."""
    match place.options.get("via"):
        case None:
            return ByNix(place.location, kit, signed=place.terms.signed)
        case "cachix":
            return ByProgram(cachix(place.location), kit)
        case "attic":
            return ByProgram(attic(place.location, bool(kit.secrets.get("ATTIC_TOKEN"))), kit)
        case other:
            raise PytestNixosError(f"{place}: via={other} makes no sense", "write via=cachix or via=attic")


@dataclass(frozen=True, slots=True)
class ByNix:
    """`nix copy` from a small cache of ours, in a folder, with our signatures: so Nix needs no key."""

    location: str
    kit: Kit
    signed: bool

    def copy(self, files: Sequence[Marker], deadline: Deadline) -> None:
        """See Upload."""
        self._nix(("copy", "--to", self.location, "--from"), files, deadline)

    def add_signatures(self, files: Sequence[Marker], deadline: Deadline) -> bool:
        """See Upload. A file that someone has sent before is not sent again, and its signatures are theirs."""
        self._nix(("store", "copy-sigs", "--store", self.location, "--substituter"), files, deadline)
        return True

    def _nix(
        self,
        command: tuple[str, ...],
        files: Sequence[Marker],
        deadline: Deadline,
    ) -> None:
        own_key = "secret-key" in self.location.partition("?")[2]  # with which Nix signs
        if self.signed and not self.kit.keys and not own_key:
            raise RecordsUnavailable(
                f"there is no secret key to sign records for {self.location.partition('?')[0]} with",
                "make one with `nix key generate-secret`, or say via=cachix where the cache signs itself",
            )
        with tempfile.TemporaryDirectory(prefix="pytest-nixos-") as scratch:
            cache = Path(scratch) / "cache"
            write_cache(cache, [_signed(file, self.kit) for file in files])
            argv = (*self.kit.nix(*command, f"file://{cache}", *NIX_OPTIONS), *_paths(files))
            with _failures():
                run(argv, environment(self.kit, Path(scratch)), deadline)


@dataclass(frozen=True, slots=True)
class Program:
    """A program that sends store paths: its argv before them, the secrets it reads from its environment.

    config: text of a configuration of its own below `$XDG_CONFIG_HOME`, by file; stdin: the secret that it is given so.
    """

    argv: tuple[str, ...]
    secrets: tuple[str, ...] = ()
    config: tuple[tuple[str, str], ...] = ()
    stdin: str = ""


@dataclass(frozen=True, slots=True)
class ByProgram:
    """The files are put into this machine's store, from where the cache's own program sends them."""

    program: Program
    kit: Kit

    def copy(self, files: Sequence[Marker], deadline: Deadline) -> None:
        """See Upload."""
        with tempfile.TemporaryDirectory(prefix="pytest-nixos-") as scratch, _failures():
            cache = Path(scratch) / "cache"
            write_cache(cache, files)
            argv = (*self.kit.nix("copy", "--from", f"file://{cache}", *NIX_OPTIONS), *_paths(files))
            run(argv, environment(self.kit, Path(scratch)), deadline)
            env = environment(self.kit, Path(scratch), self.program.secrets)
            for file, text in self.program.config:
                place = Path(scratch) / "config" / file
                place.parent.mkdir(parents=True)
                place.write_text(text)
                env["XDG_CONFIG_HOME"] = str(Path(scratch) / "config")
            run(
                (*self.program.argv, *_paths(files)),
                env,
                deadline,
                self.kit.secrets.get(self.program.stdin, "").encode(),
            )

    def add_signatures(self, files: Sequence[Marker], deadline: Deadline) -> bool:
        """See Upload. The cache signs, or does not."""
        return False


def cachix(location: str) -> Program:
    """Cachix's program; its caches are named by their host."""
    name = (urllib.parse.urlsplit(location).hostname or "").partition(".")[0]
    return Program(("cachix", "push", name), ("CACHIX_AUTH_TOKEN", "CACHIX_SIGNING_KEY"))


def attic(location: str, has_token: bool) -> Program:
    """Attic's program, as the user has logged in, or with a token that it reads from its stdin.

    It takes a token from no variable, but from a file that its configuration names.
    """
    parts = urllib.parse.urlsplit(location)
    before, _, name = parts.path.rstrip("/").rpartition("/")
    if not has_token:
        return Program(("attic", "push", name))
    endpoint = json.dumps(f"{parts.scheme}://{parts.netloc}{before}/")
    config = f'[servers.records]\nendpoint = {endpoint}\ntoken-file = "/dev/stdin"\n'
    return Program(("attic", "push", f"records:{name}"), (), (("attic/config.toml", config),), "ATTIC_TOKEN")


def write_cache(folder: Path, files: Iterable[Marker]) -> None:
    """A binary cache of these files in a folder, as `nix copy --to file://…` makes one."""
    (folder / "nar").mkdir(parents=True)
    for file in files:
        url = f"nar/{narinfo.base32(file.info.nar_hash)}.nar"
        (folder / url).write_bytes(narinfo.nar_of_file(file.content))
        about = narinfo.write(replace(file.info, url=url))
        (folder / f"{narinfo.hash_part(file.info.path)}.narinfo").write_bytes(about)
        (folder / "nix-cache-info").write_text(f"StoreDir: {file.info.path.rpartition('/')[0]}\n")


def _signed(file: Marker, kit: Kit) -> Marker:
    signatures = tuple(key.sign(narinfo.fingerprint(file.info)) for key in kit.keys)
    return replace(file, info=replace(file.info, signatures=signatures))


def _paths(files: Iterable[Marker]) -> list[str]:
    return [file.info.path for file in files]


@contextmanager
def _failures() -> Iterator[None]:
    """A program that fails to write is a cache that can't be written, at the moment at least."""
    try:
        yield
    except CommandFailed as error:
        raise RecordsUnavailable(
            f"`{error.argv[0]}` could not write records: {why_failed(error)}", transient=True
        ) from None
