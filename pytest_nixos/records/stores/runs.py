"""Records of past workflow runs of a GitHub repository, `github-runs:OWNER/NAME`; read-only.

Two forms, both only of runs that code from the default branch has made (see `workflows`), whatever the run's colour:

**Artifacts.** Each run uploads its folder of records, a `dir:` store, as an artifact:

    - if: always()
      uses: actions/upload-artifact@…
      with: {name: nixos-verified, path: records}        # pytest --nixos-records dir:records

Parameters: `name` (nixos-verified; `name=nixos-verified*` for a matrix, whose jobs must not upload under one name),
`branch` (the default branch), `workflow` (its file, as `ci.yml`; any), `runs` (how many of the newest are read, 5).
upload-artifact leaves out hidden files: a folder below `.cache` is uploaded empty. An artifact is downloaded once.

**Green jobs**, `job=test ({check})` or `job=test ({check}, {system})`: a check is verified when the job of exactly that
name has passed on exactly the commit that we test. This is coarse, with traps that no program can see:

- A green job may have run less than its name says: steps behind an `if:`, a matrix that chose, `continue-on-error`,
  a test that was skipped for want of KVM. That is why nothing is believed without a template, and why a run's own
  success says nothing. Name the workflow (`workflow=ci.yml`), or any workflow's job of that name counts.
- The job's time is not the check's: a job that skips what is already verified makes old proofs look new.
- No flag is known of such a result (retried, TCG …), and it has no signature.
- A template without {system} is believed for x86_64-linux only; do not use one where such jobs run on other machines.
- It needs PYTEST_NIXOS_COMMIT in the kit's environment: the commit of a clean tree, evaluated pure, of one flake whose
  checks have these names.

In both forms the run's commit must be in the branch's history. GitHub gives a tag's name as the run's branch, so who
may push a tag named like the branch could otherwise make a run of any commit look like one of the branch. And a merge
queue's runs count as soon as their commit has become the branch's.

The token needs `actions: read` and `contents: read`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from pytest_nixos.deadline import Deadline
from pytest_nixos.errors import PytestNixosError, RecordsUnavailable
from pytest_nixos.model import Record, Subject, Verdict
from pytest_nixos.records import artifacts, workflows
from pytest_nixos.records.artifacts import ArtifactUnreadable, Content
from pytest_nixos.records.github import GitHub
from pytest_nixos.records.history import History, tried
from pytest_nixos.records.http import side_by_side
from pytest_nixos.records.kept import Kept
from pytest_nixos.records.naming import Name, Wanted
from pytest_nixos.records.places import Place
from pytest_nixos.records.signing import Trusted
from pytest_nixos.records.stores.base import Found, Kit
from pytest_nixos.records.workflows import Artifact, Run

T = TypeVar("T")
_NAME = "nixos-verified"
_RUNS, _MOST_RUNS = 5, 20
_MOST_ROWS, _MOST_ROWS_BY_PREFIX = 300, 1000
_MOST_ARTIFACTS = 256
_MOST_JOBS = 1000
_COMMIT = "PYTEST_NIXOS_COMMIT"


def open_runs(place: Place, kit: Kit) -> "ArtifactStore | JobStore":
    """The store at a place. Raises PytestNixosError for options that make no sense."""
    options = place.options
    events = workflows.OF_COMMIT if "job" in options else workflows.REVIEWED
    history = History(
        github=GitHub(kit, place.location or None),
        branch=options.get("branch", ""),
        workflow=options.get("workflow", ""),
        events=events,
        runs=_how_many(options.get("runs", str(_RUNS))),
    )
    if "job" in options:
        return JobStore(history=history, template=_template(options), env=kit.env)
    name = _artifact_name(options.get("name", _NAME))
    return ArtifactStore(history=history, artifact=name, trusted=kit.trusted, kept=Kept(kit.cache / "artifacts"))


class _ReadOnly:
    """The half of RecordStore that past runs do not have."""

    def write(self, verdicts: Sequence[Verdict], deadline: Deadline) -> None:
        """See RecordStore. Raises RecordsUnavailable: an artifact is made by its run's workflow."""
        self._refuse()

    def renew(self, verdicts: Sequence[Verdict], deadline: Deadline) -> None:
        """See RecordStore. GitHub forgets runs and artifacts by their age alone."""

    def remove(self, verdicts: Sequence[Verdict], deadline: Deadline) -> None:
        """See RecordStore. Raises RecordsUnavailable."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        hint = "upload the folder of records with actions/upload-artifact"
        raise RecordsUnavailable("github-runs: is read-only", hint)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactStore(_ReadOnly):
    """The records in the artifacts of believed runs; a name that ends in `*` stands for all that begin like it."""

    history: History
    artifact: str
    trusted: Trusted
    kept: Kept

    @property
    def name(self) -> str:
        """See RecordStore."""
        return self.history.name

    def lookup(self, wanted: Sequence[Subject], deadline: Deadline) -> Found:
        """See RecordStore. Its round trips do not depend on how many checks there are, but on runs and artifacts."""
        return self._read_all(Wanted(wanted).near, deadline) if wanted else Found()

    def every(self, deadline: Deadline) -> Found:
        """See RecordStore."""
        return self._read_all(lambda _: True, deadline)

    def _read_all(self, wanted: Callable[[Name], object], deadline: Deadline) -> Found:
        trust, rows = _both(lambda: self.history.trust(deadline), lambda: self._rows(deadline))
        newest = sorted({a for row in rows if (a := trust.artifact(row)) and self._is_named(a.name)}, key=_age)
        ids = list(dict.fromkeys(artifact.run for artifact in newest))
        runs, uncheckable = self.history.believed(trust, ids, deadline)
        chosen = [artifact for artifact in newest if artifact.run in runs][:_MOST_ARTIFACTS]
        lost: list[str] = []
        contents = [c for c in tried(lambda a: self._read(a, wanted, deadline), chosen, lost) if c is not None]
        self.kept.forget()
        return Found(
            records=_records(contents),
            warnings=(
                *_warning(len(uncheckable), "runs could not be checked", self.name, uncheckable),
                *_warning(len(lost), "artifacts could not be read", self.name, lost),
                *_warning(sum(c.damaged for c in contents), "records are damaged and were ignored", self.name),
            ),
        )

    def _rows(self, deadline: Deadline) -> list[dict[str, Any]]:
        by_name = {} if self.artifact.endswith("*") else {"name": self.artifact}
        most = _MOST_ROWS if by_name else _MOST_ROWS_BY_PREFIX
        path = f"{self.history.base}/actions/artifacts"
        return self.history.github.pages(path, by_name, deadline, "artifacts", most)

    def _is_named(self, name: str) -> bool:
        prefix, star, _ = self.artifact.partition("*")
        return name.startswith(prefix) if star else name == self.artifact

    def _read(self, artifact: Artifact, wanted: Callable[[Name], object], deadline: Deadline) -> Content:
        if artifact.size > artifacts.MAX_BYTES:
            raise ArtifactUnreadable(f"it is larger than {artifacts.MAX_BYTES >> 20} MiB")
        data = self.kept.get(artifact.digest) or self._download(artifact, deadline)
        return artifacts.read_zip(data, self.trusted, wanted)

    def _download(self, artifact: Artifact, deadline: Deadline) -> bytes:
        path = f"{self.history.base}/actions/artifacts/{artifact.id}/zip"
        data = self.history.github.download(path, deadline, artifacts.MAX_BYTES)
        artifacts.check_digest(data, artifact.digest)
        self.kept.put(artifact.digest, data)
        return data


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStore(_ReadOnly):
    """What the green jobs of believed runs of our very commit say; see the module's text for what that is worth."""

    history: History
    template: str
    env: Mapping[str, str]

    @property
    def name(self) -> str:
        """See RecordStore."""
        return self.history.name

    def lookup(self, wanted: Sequence[Subject], deadline: Deadline) -> Found:
        """See RecordStore. Nothing is found, and nobody asked, where our commit is not known."""
        commit = self.env.get(_COMMIT, "")
        if not wanted or not workflows.is_commit(commit):
            return Found()
        trust, rows = _both(lambda: self.history.trust(deadline), lambda: self._rows(commit, deadline))
        green = {run for row in rows if (run := trust.run(row)) and run.green and run.commit == commit}
        runs = sorted(green, key=_age)[: self.history.runs]
        errors: list[str] = []
        if not runs or not self.history.in_history(self.history.tip(trust, deadline), {commit}, deadline, errors):
            return Found(warnings=_warning(len(errors), "commits could not be checked", self.name, errors))
        verdicts = tried(lambda run: self._verdicts(run, wanted, deadline), runs, errors)
        return Found(
            records=tuple(Record(verdict=verdict) for found in verdicts for verdict in found or ()),
            warnings=_warning(len(errors), "runs could not be read", self.name, errors),
        )

    def every(self, deadline: Deadline) -> Found:
        """See RecordStore. A job says nothing but to who asks for its check."""
        return Found()

    def _rows(self, commit: str, deadline: Deadline) -> list[dict[str, Any]]:
        asked = {"head_sha": commit, "status": "success", "exclude_pull_requests": "true"}
        return self.history.github.pages(f"{self.history.base}/actions/runs", asked, deadline, "workflow_runs", 100)

    def _verdicts(self, run: Run, wanted: Sequence[Subject], deadline: Deadline) -> list[Verdict]:
        path = f"{self.history.base}/actions/runs/{run.id}/jobs"
        jobs = self.history.github.pages(path, {"filter": "latest"}, deadline, "jobs", _MOST_JOBS)
        return workflows.verdicts_by_jobs(jobs, run, self.template, wanted)


def _both(first: Callable[[], Any], second: Callable[[], Any]) -> list[Any]:
    return side_by_side(lambda ask: ask(), (first, second))


def _records(contents: Iterable[Content]) -> tuple[Record, ...]:
    return tuple(dict.fromkeys(record for content in contents for record in content.records))


def _warning(number: int, what: str, where: str, reasons: Sequence[str] = ()) -> tuple[str, ...]:
    """One warning for all of a kind, with the first reason."""
    first = f": {reasons[0]}" if reasons else ""
    return (f"{where}: {number} {what}{first}",) if number else ()


def _age(entry: Artifact | Run) -> int:
    """Orders the newest first: GitHub's numbers grow."""
    return -entry.id


def _how_many(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= _MOST_RUNS:
        raise PytestNixosError(f"github-runs: runs={text} makes no sense", f"write a number from 1 to {_MOST_RUNS}")
    return int(text)


def _artifact_name(name: str) -> str:
    if not name.rstrip("*") or "*" in name[:-1]:
        hint = "write an artifact's name, or the begin of one with * behind it"
        raise PytestNixosError(f"github-runs: name={name} makes no sense", hint)
    return name


def _template(options: Mapping[str, str]) -> str:
    template = options["job"]
    if "{check}" not in template:
        hint = "write job=NAME with {check} where the check's name is"
        raise PytestNixosError(f"github-runs: job={template} would mean every check", hint)
    if "name" in options:
        raise PytestNixosError("github-runs: job= and name= are two forms of the store", "name two stores")
    return template
