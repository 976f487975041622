"""Records as refs of a git repository, each pointing to a blob; see `git_refs` for their names.

A look-up is one `git fetch` of our refs into a scratch repository of our own: the user's is not touched, and may be
shallow. What the scratch repository holds is believed only right after a fetch that has succeeded, else a record that
was taken back would live on. A push creates refs and replaces none, save one that is no good (see `_Writing`): two
writers of one record are both content with whichever came first. Needs git 2.29 here, protocol v2 there for speed.
"""

import contextlib
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TypeGuard

from filelock import FileLock, Timeout

from pytest_nixos.deadline import Deadline
from pytest_nixos.errors import RecordsUnavailable
from pytest_nixos.model import Record, Subject, Verdict
from pytest_nixos.records import sealed
from pytest_nixos.records.naming import Wanted, name_of, parse_name
from pytest_nixos.records.places import Place
from pytest_nixos.records.signing import SecretKey, Trusted
from pytest_nixos.records.stores import git_refs
from pytest_nixos.records.stores.base import Found, Kit
from pytest_nixos.records.stores.git_command import Git, Remote, calls_ssh_itself, environment, find_remote
from pytest_nixos.records.stores.git_refs import Layout, Ref

_Wish = tuple[str, str | None]  # a blob for a ref; what that must point to before: "" is nothing, None is anything
_Fetched = tuple[list[Ref], dict[str, Record | None]]

_ARGV_BYTES = 128 << 10  # of refs in one push; each is written twice, and Linux takes 2 MiB
_MOST_PACKS = 50  # one a fetch with news: beyond, a new scratch repository is cheaper than git gc
_ATTEMPTS = 6
_PAUSE_SECONDS = 0.1
_CLOCK_SKEW_SECONDS = 300.0
_MUCH_OLDER_SECONDS = 300.0  # than a record that would take its place; writers of one run are nearer


def open_git(place: Place, kit: Kit) -> "GitStore":
    """The store at `git:LOCATION?prefix=PREFIX`. Raises PytestNixosError; asks no server."""
    layout = git_refs.layout_of(place.options.get("prefix", git_refs.DEFAULT_PREFIX))
    server = kit.env.get("GITHUB_SERVER_URL") or "https://github.com"
    git = Git(name=str(place), env=environment(kit.env, True), server=server, secrets=kit.secrets)
    remote = find_remote(place.location, kit.base, git)
    quiet = environment(kit.env, calls_ssh_itself(kit.base, git))
    key = sha256(f"{remote.fetch}\0{layout.root}".encode()).hexdigest()[:32]
    return GitStore(
        git=Git(name=git.name, env=quiet, server=server, secrets=kit.secrets),
        remote=remote,
        layout=layout,
        scratch=kit.cache / "git" / key,
        trusted=kit.trusted,
        keys=kit.keys,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class GitStore:
    """The records under `layout` in the repository `remote`. scratch: a folder for the refs that are fetched."""

    git: Git
    remote: Remote
    layout: Layout
    scratch: Path
    trusted: Trusted
    keys: tuple[SecretKey, ...]

    @property
    def name(self) -> str:
        """See RecordStore."""
        return self.git.name

    def lookup(self, wanted: Sequence[Subject], deadline: Deadline) -> Found:
        """See RecordStore. One fetch, which brings what is new, then only the records of what is asked for."""
        index = Wanted(wanted)
        return self._found(lambda name: bool(index.near(parse_name(name))), deadline)

    def every(self, deadline: Deadline) -> Found:
        """See RecordStore."""
        return self._found(lambda name: parse_name(name) is not None, deadline)

    def write(self, verdicts: Sequence[Verdict], deadline: Deadline) -> None:
        """See RecordStore. One push for some hundred records; more only when other writers are at the same ones."""
        wanted = {self.layout.ref_of(verdict): verdict for verdict in verdicts}
        if not wanted:
            return
        blobs = [sealed.seal(verdict, self.keys) for verdict in wanted.values()]
        ours = sealed.unseal(blobs[0], self.trusted)
        with self._short_lived(deadline) as repository:
            oids = dict(zip(wanted, self._store(repository, blobs, deadline), strict=True))
            _Writing(self, repository, wanted, oids, frozenset(ours.signers if ours else ()), deadline).run()

    def renew(self, verdicts: Sequence[Verdict], deadline: Deadline) -> None:
        """See RecordStore. Nothing is forgotten here."""

    def remove(self, verdicts: Sequence[Verdict], deadline: Deadline) -> None:
        """See RecordStore. Under whatever check they lie; they are gone when this returns."""
        doomed, reason = {name_of(verdict) for verdict in verdicts}, ""
        for attempt in range(_ATTEMPTS):
            _pause(attempt, deadline)
            with self._fetched(lambda name: name in doomed, deadline) as (refs, _):
                if not refs:
                    return
                results = self.push(self.scratch, {ref.name: ("", None) for ref in refs}, deadline)
            reason = next(filter(None, results.values()), reason)
            if git_refs.is_final(reason):
                break
        final = git_refs.is_final(reason)
        raise RecordsUnavailable(f"{self.name}: records could not be removed: {reason}", transient=not final)

    def push(self, repository: Path, wishes: Mapping[str, _Wish], deadline: Deadline) -> dict[str, str]:
        """What became of each ref ("" when it is as wished) that shall point to a blob ("" for none).

        Raises RecordsUnavailable when the server has not told of each.
        """
        results: dict[str, str] = {}
        for part in git_refs.batches(wishes, _ARGV_BYTES):
            leases = [f"--force-with-lease={ref}:{wishes[ref][1]}" for ref in part if wishes[ref][1] is not None]
            changes = [f"{wishes[ref][0]}:{ref}" for ref in part]
            options = ("push", "--porcelain", "--no-verify", "--no-signed", "--no-atomic", *leases)
            url = self.remote.push
            done = self.git.run(repository, *options, url, *changes, deadline=deadline, remote=url, check=False)
            pushed = git_refs.parse_pushed(done.stdout)
            if not all(ref in pushed for ref in part) or (done.status != 0 and not any(pushed.values())):
                raise self.git.failed(done)
            results |= pushed
        return results

    def read(self, repository: Path, refs: Iterable[Ref], deadline: Deadline) -> dict[str, Record | None]:
        """The record at each ref; None for what is none. What is not a small blob is not even read."""
        known = {ref: parse_name(self.layout.name_in(ref.name)) is not None for ref in refs}
        small = {ref for ref, named in known.items() if named and ref.kind == "blob" and ref.size <= sealed.MAX_BYTES}
        contents = self._contents(repository, {ref.oid for ref in small}, deadline)
        return {ref.name: self._record(ref, contents[ref.oid]) if ref in small else None for ref in known}

    def fetch(self, repository: Path, refspecs: Iterable[str], deadline: Deadline) -> list[Ref]:
        """All refs of the repository after those that `refspecs` match are as the server has them."""
        options = ("fetch", "-q", "--prune", "--no-tags", "--no-write-fetch-head", "--no-auto-gc")
        asked, url = "".join(f"{refspec}\n" for refspec in refspecs).encode(), self.remote.fetch
        more = ("--no-recurse-submodules", "--stdin", url)
        self.git.run(repository, *options, *more, deadline=deadline, stdin=asked, remote=url)
        listed = self.git.run(repository, "for-each-ref", f"--format={git_refs.REF_FORMAT}", deadline=deadline)
        return list(git_refs.parse_refs(listed.stdout))

    def _found(self, matters: Callable[[str], bool], deadline: Deadline) -> Found:
        with self._fetched(matters, deadline) as (_, records):
            damaged = [ref for ref, record in records.items() if record is None]
            found = tuple(dict.fromkeys(record for record in records.values() if record is not None))
        return Found(records=found, warnings=(self._refused(damaged),) if damaged else ())

    def _refused(self, refs: Sequence[str]) -> str:
        if len(refs) == 1:
            return f"record {refs[0]} in {self.name} is damaged and was ignored"
        return f"{len(refs)} records in {self.name} are damaged and were ignored; the first is {refs[0]}"

    @contextlib.contextmanager
    def _fetched(self, matters: Callable[[str], bool], deadline: Deadline) -> Iterator[_Fetched]:
        """The refs whose names matter, and their records, in a scratch repository that is ours for the block."""
        with self._locked(deadline):
            yield self._fresh(matters, deadline)

    def _fresh(self, matters: Callable[[str], bool], deadline: Deadline) -> _Fetched:
        """From the scratch repository that there is; from a new one where there is none, or it is of no use."""

        def attempt() -> _Fetched:
            fetched = self.fetch(self.scratch, [self.layout.refspec], deadline)
            refs = [ref for ref in fetched if matters(self.layout.name_in(ref.name))]
            return refs, self.read(self.scratch, refs, deadline)

        if _is_handy(self.scratch):
            try:
                return attempt()
            except RecordsUnavailable as error:
                if error.transient:
                    raise
        shutil.rmtree(self.scratch, ignore_errors=True)
        self._make(self.scratch, deadline)
        return attempt()

    def _make(self, repository: Path, deadline: Deadline) -> None:
        self.git.run(repository, "init", "-q", "--bare", "--template=", deadline=deadline)

    @contextlib.contextmanager
    def _locked(self, deadline: Deadline) -> Iterator[None]:
        lock = FileLock(self.scratch.with_suffix(".lock"))
        try:
            self.scratch.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=-1 if deadline.remaining is None else deadline.remaining)
        except Timeout:
            raise RecordsUnavailable(f"{self.name} is in use by other sessions", transient=True) from None
        except OSError as error:
            raise RecordsUnavailable(f"{self.scratch.parent} can't be used: {error.strerror}") from None
        try:
            yield
        finally:
            lock.release()

    @contextlib.contextmanager
    def _short_lived(self, deadline: Deadline) -> Iterator[Path]:
        """A repository for one push: writers on one machine need not wait for each other."""
        with tempfile.TemporaryDirectory(prefix="nixos-records-", ignore_cleanup_errors=True) as folder:
            repository = Path(folder) / "push"
            self._make(repository, deadline)
            yield repository

    def _store(self, repository: Path, blobs: Sequence[bytes], deadline: Deadline) -> list[str]:
        """The ids of blobs, which are in the repository then."""
        marks, data = repository / "marks", git_refs.blobs_to_import(blobs)
        self.git.run(repository, "fast-import", "--quiet", f"--export-marks={marks}", deadline=deadline, stdin=data)
        return git_refs.parse_marks(marks.read_text())

    def _contents(self, repository: Path, oids: set[str], deadline: Deadline) -> dict[str, bytes]:
        if not oids:
            return {}
        asked = "".join(f"{oid}\n" for oid in sorted(oids)).encode()
        done = self.git.run(repository, "cat-file", "--batch", deadline=deadline, stdin=asked)
        try:
            contents = git_refs.parse_objects(done.stdout)
        except ValueError:
            contents = {}
        if contents.keys() != oids:
            raise RecordsUnavailable(f"the copy of {self.name} in {repository} is damaged")
        return contents

    def _record(self, ref: Ref, data: bytes) -> Record | None:
        record = sealed.unseal(data, self.trusted)
        return record if record is not None and name_of(record.verdict) == self.layout.name_in(ref.name) else None


@dataclass(slots=True)
class _Writing:
    """One call of `GitStore.write`: push, look at what others have put there meanwhile, push what is left.

    A record that is there is left alone unless nobody will count it (no trusted signature where ours has one, or from
    the future) or it is much older than ours. blobs: by ref; `repository` holds them. signers: trusted ones of ours.
    """

    store: GitStore
    repository: Path
    wanted: dict[str, Verdict]
    blobs: dict[str, str]
    signers: frozenset[str]
    deadline: Deadline

    def run(self) -> None:
        """Raises RecordsUnavailable when there is a ref without a valid record in the end."""
        leases, refused = dict.fromkeys(self.wanted, ""), dict[str, str]()
        for attempt in range(_ATTEMPTS):
            _pause(attempt, self.deadline)
            wishes = {ref: (self.blobs[ref], lease) for ref, lease in leases.items()}
            results = self.store.push(self.repository, wishes, self.deadline)
            refused = {ref: reason for ref, reason in results.items() if reason}
            leases = self._left(refused, replaced={ref for ref, lease in leases.items() if lease})
            if not leases:
                return
            if any(git_refs.is_final(refused[ref]) for ref in leases):
                break
        reason = refused[next(iter(leases))]
        message = f"{self.store.name}: {len(leases)} records could not be written: {reason}"
        raise RecordsUnavailable(message, transient=not git_refs.is_final(reason))

    def _left(self, refused: Mapping[str, str], replaced: set[str]) -> dict[str, str]:
        """What is to be pushed again: ref -> what it points to now, "" for nothing.

        replaced: refs that we have tried to replace; where a server lets nobody, an old record is better than none.
        """
        if not refused:
            return {}
        refspecs = [f"+{ref}*:{ref}*" for ref in refused]  # the star: a ref that is not there is no error
        refs = [ref for ref in self.store.fetch(self.repository, refspecs, self.deadline) if ref.name in refused]
        records = self.store.read(self.repository, refs, self.deadline)
        there = {ref.name: ref.oid for ref in refs}
        return {
            ref: there.get(ref, "")
            for ref in refused
            if not self._counts(record := records.get(ref)) or (ref not in replaced and self._is_old(ref, record))
        }

    def _counts(self, record: Record | None) -> TypeGuard[Record]:
        if record is None or not self.signers <= set(record.signers):
            return False
        return record.verdict.finished_at <= time.time() + _CLOCK_SKEW_SECONDS

    def _is_old(self, ref: str, record: Record) -> bool:
        return record.verdict.finished_at < self.wanted[ref].finished_at - _MUCH_OLDER_SECONDS


def _is_handy(scratch: Path) -> bool:
    try:
        return (scratch / "HEAD").is_file() and len(list((scratch / "objects/pack").glob("*.pack"))) <= _MOST_PACKS
    except OSError:
        return False


def _pause(attempt: int, deadline: Deadline) -> None:
    """Longer from time to time, and never in step with other writers."""
    if attempt:
        time.sleep(deadline.within(_PAUSE_SECONDS * 2**attempt * random.uniform(0.5, 1.0)))
