"""What every kind of record store can do."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pytest_nixos.deadline import Deadline
from pytest_nixos.model import Derivation, Record, Subject, Verdict
from pytest_nixos.records.signing import SecretKey, Trusted


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """An answer to a look-up: the records that may speak of what was asked, and what could not be read.

    complete: whether the store was asked and has answered at all.
    """

    records: tuple[Record, ...] = ()
    warnings: tuple[str, ...] = ()
    complete: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Kit:
    """What stores are opened with.

    trusted, keys: whose signatures count, and what we sign with. base: what relative folders are seen from. cache: a
    folder for what a store keeps between sessions. env: the surroundings, without secrets. secrets: the values of
    secret variables by name, which no process but the one that needs one may see. nix: argv of a `nix` command.
    is_own_output: whether a derivation's own file names its output, since a flake may say of any derivation that its
    output lies elsewhere. output_keys: whose signatures count on outputs in binary caches.
    """

    trusted: Trusted
    keys: tuple[SecretKey, ...]
    base: Path
    cache: Path
    env: Mapping[str, str]
    secrets: Mapping[str, str] = field(repr=False)
    nix: Callable[..., tuple[str, ...]]
    is_own_output: Callable[[Derivation], bool] = lambda derivation: False
    output_keys: Callable[[], Trusted] = Trusted


class RecordStore(Protocol):
    """A place that keeps records. It carries them; whether one is believed, `policy` says.

    Every method may raise RecordsUnavailable (and any error at all is taken as that): for a look-up it means that
    nothing was found. A deadline bounds all that a call does, subprocesses and requests included.
    """

    @property
    def name(self) -> str:
        """The store for people, as in "verified by <name>"; short, and without any secret."""

    def lookup(self, wanted: Sequence[Subject], deadline: Deadline) -> Found:
        """All records that may speak of any of `wanted`, in as few round trips as the store allows."""

    def write(self, verdicts: Sequence[Verdict], deadline: Deadline) -> None:
        """Keep these verdicts; a record that is there already is as good as written. All or none may be kept."""

    def renew(self, verdicts: Sequence[Verdict], deadline: Deadline) -> None:
        """Tell a store that forgets what nobody asks for that these are still in use; nothing to do for others."""

    def every(self, deadline: Deadline) -> Found:
        """All records, for people who list, copy and prune."""

    def remove(self, verdicts: Sequence[Verdict], deadline: Deadline) -> None:
        """Forget these."""
