"""What it costs to ask a record store about many checks, all of them verified there.

    .venv/bin/python benchmarks/records.py [checks] [runs] [milliseconds]

Servers run on this machine, and wait before each answer as a network would (50 ms unless told). They are
git's own http-backend, a plain HTTP server of a binary cache, and the tests' fakes of GitHub. Prints the medians of
seconds, and the requests of one look-up. For the binary cache Nix's own look-up is run beside ours.
"""

import contextlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pytest_nixos.deadline import Deadline
from pytest_nixos.nix.command import find_nix
from pytest_nixos.records import marker
from pytest_nixos.records.places import parse_place
from pytest_nixos.records.signing import Trusted
from pytest_nixos.records.stores.base import Kit, RecordStore
from pytest_nixos.records.stores.opening import open_store
from tests.records.cache_server import cache_server
from tests.records.fake_actions_cache import GITHUB_TOKEN, READ, REPOSITORY, WRITE, FakeActionsCache
from tests.records.fake_runs import FakeRuns, folder_of
from tests.records.git_server import make_repository, serving
from tests.records.making import secret_key, subject, verdict

KEY = secret_key()
MAIN = "refs/heads/main"


@dataclass
class Case:
    """A store that knows all checks, how its requests are counted, and what is asked of it."""

    name: str
    ask: Callable[[], int]
    requests: Callable[[], int]
    prepare: Callable[[], object] = lambda: None
    seconds: list[float] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)

    def run(self, expected: int) -> None:
        """Ask once. Ends the benchmark when not all checks are known."""
        self.prepare()
        before, started = self.requests(), time.perf_counter()
        found = self.ask()
        self.seconds.append(time.perf_counter() - started)
        self.counts.append(self.requests() - before)
        if found != expected:
            raise SystemExit(f"{self.name}: {found} of {expected} found")


class Log(list[Any]):
    """A server's list of requests, at which each of them waits as long as a network would take."""

    delay = 0.0  # seconds; 0 while stores are filled

    def append(self, request: Any) -> None:
        """Note a request."""
        super().append(request)
        time.sleep(Log.delay)


class Bench:
    """The cases, on servers that live as long as the stack."""

    def __init__(self, checks: int, folder: Path, stack: contextlib.ExitStack) -> None:
        self.subjects = [subject(f"host-{n}", driver=False) for n in range(checks)]
        self.verdicts = [verdict(one, finished_at=time.time()) for one in self.subjects]
        self.folder, self.stack, self.nix = folder, stack, find_nix()

    def cases(self) -> Iterator[Case]:
        """One for each kind of store, and rivals behind theirs."""
        yield self._case("dir:", self._store(f"dir:{self.folder}/records"), lambda: 0)
        yield from self._git()
        yield self._actions()
        yield self._runs()
        yield from self._nix()

    def _store(self, uri: str, env: dict[str, str] | None = None, **secrets: str) -> RecordStore:
        kit = Kit(
            trusted=Trusted([KEY.public]), keys=(KEY,), base=self.folder, cache=self.folder / "scratch",
            env=env or {}, secrets=secrets, nix=self.nix.flake,
        )  # fmt: skip
        return open_store(parse_place(uri), kit)

    def _case(self, name: str, store: RecordStore, requests: Callable[[], int], *, write: bool = True) -> Case:
        if write:
            store.write(self.verdicts, Deadline(None))
        return Case(name, lambda: len(store.lookup(self.subjects, Deadline(None)).records), requests)

    def _git(self) -> Iterator[Case]:
        make_repository(self.folder / "git" / "r.git")
        server = self.stack.enter_context(serving(self.folder / "git"))
        store = self._store(f"git:{server.url}/r.git")
        server.requests = log = Log()
        first = self._case("git: for the first time", store, log.__len__)
        first.prepare = lambda: shutil.rmtree(self.folder / "scratch", ignore_errors=True)
        yield first
        yield self._case("git: again", store, log.__len__, write=False)

    def _actions(self) -> Case:
        cache = self.stack.enter_context(FakeActionsCache())
        env = {
            "GITHUB_ACTIONS": "true", "GITHUB_REPOSITORY": REPOSITORY, "GITHUB_API_URL": cache.url,
            "GITHUB_REF": MAIN, "ACTIONS_RESULTS_URL": cache.url, "PYTEST_NIXOS_DEFAULT_BRANCH": "main",
        }  # fmt: skip
        token = cache.token((MAIN, READ | WRITE))
        store = self._store("gha:?bundle=no", env, GITHUB_TOKEN=GITHUB_TOKEN, ACTIONS_RUNTIME_TOKEN=token)
        cache.server.requests = log = Log()
        return self._case("gha:", store, log.__len__)

    def _runs(self) -> Case:
        runs = self.stack.enter_context(FakeRuns())
        runs.upload(runs.run(), folder_of(self.verdicts))
        env = {"GITHUB_REPOSITORY": REPOSITORY, "GITHUB_API_URL": runs.github.url}
        store = self._store("github-runs:", env, GITHUB_TOKEN=GITHUB_TOKEN)
        runs.github.requests, runs.storage.requests = Log(), Log()
        return self._case("github-runs:", store, lambda: runs.round_trips, write=False)

    def _nix(self) -> Iterator[Case]:
        server = self.stack.enter_context(cache_server(self.folder / "cache"))
        (self.folder / "cache").mkdir()
        (self.folder / "cache" / "nix-cache-info").write_text("StoreDir: /nix/store\n")
        store = self._store(f"nix:{server.url}")
        server.requests = log = Log()
        yield self._case("nix:", store, log.__len__)
        paths = [marker.of_verdict(one).info.path for one in self.verdicts]
        yield Case("nix path-info --json --store URL", lambda: self._path_info(server.url, paths), log.__len__)

    def _path_info(self, url: str, paths: list[str]) -> int:
        uncached = ("--option", "narinfo-cache-negative-ttl", "0", "--option", "narinfo-cache-positive-ttl", "0")
        argv = self.nix.flake("path-info", "--json", *uncached, "--store", url, *paths)
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.count("narHash")


def main() -> None:
    checks, runs, milliseconds = (int(text) for text in [*sys.argv[1:], *("1000", "5", "50")[len(sys.argv) - 1 :]])
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        cases = list(Bench(checks, Path(folder), stack).cases())
        Log.delay = milliseconds / 1000
        for _ in range(runs):
            for case in cases:
                case.run(checks)
    print(f"| look-up of {checks} verified checks, {milliseconds} ms to each answer | median s | requests |")
    print("|---|---|---|")
    for case in cases:
        print(f"| {case.name} | {statistics.median(case.seconds):.2f} | {statistics.median(case.counts):.0f} |")


if __name__ == "__main__":
    main()
