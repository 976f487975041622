"""A repository on GitHub with runs, artifacts and jobs, behind a FakeGitHub and a second one as its storage."""

import copy
import hashlib
import io
import os
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import pytest

from pytest_nixos.deadline import Deadline
from pytest_nixos.errors import RecordsUnavailable
from pytest_nixos.model import Subject, Verdict
from pytest_nixos.records import sealed
from pytest_nixos.records.naming import name_of
from pytest_nixos.records.places import parse_place
from pytest_nixos.records.signing import SecretKey, Trusted
from pytest_nixos.records.stores.base import Found, Kit, RecordStore
from pytest_nixos.records.stores.runs import open_runs
from tests.records.fake_github import FakeGitHub, Reply, Request, date_time, page_of
from tests.records.github_openapi import OpenApi
from tests.records.making import NOW, subject, verdict

REPOSITORY = "octo/hosts"
ID = 1296269
FORK = 666
BASE = "/repos/{owner}/{repo}"
REPO, REF = f"GET {BASE}", f"GET {BASE}/git/ref/heads/{{branch}}"
COMPARE = f"GET {BASE}/compare/{{basehead}}"
ARTIFACTS, ZIP = f"GET {BASE}/actions/artifacts", f"GET {BASE}/actions/artifacts/{{id}}/zip"
RUNS, RUN, JOBS = (f"GET {BASE}/actions/runs{rest}" for rest in ("", "/{id}", "/{id}/jobs"))
BLOB = "GET /blobs/{id}"
_OPERATIONS = (
    "/repos/{owner}/{repo}",
    "/repos/{owner}/{repo}/git/ref/{ref}",
    "/repos/{owner}/{repo}/compare/{basehead}",
    "/repos/{owner}/{repo}/actions/artifacts",
    "/repos/{owner}/{repo}/actions/artifacts/{artifact_id}/{archive_format}",
    "/repos/{owner}/{repo}/actions/runs",
    "/repos/{owner}/{repo}/actions/runs/{run_id}",
    "/repos/{owner}/{repo}/actions/runs/{run_id}/jobs",
)


def commit(number: int) -> str:
    """A commit's hash."""
    return f"{number:040x}"


def zipped(files: Mapping[str, bytes]) -> bytes:
    """A zip file as actions/upload-artifact makes it."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in files.items():
            file.writestr(name, content)
    return data.getvalue()


def folder_of(verdicts: Iterable[Verdict], keys: tuple[SecretKey, ...] = ()) -> dict[str, bytes]:
    """The files of a `dir:` store with these records."""
    return {f"{name_of(verdict)}.json": sealed.seal(verdict, keys) for verdict in verdicts}


WEB, DB = verdict("web"), verdict("db")
RECORD = f"{name_of(WEB)}.json"
GOOD_ZIP = zipped(folder_of([WEB]))
GREEN_JOBS = "?job=test ({check})"
STEPS = {"": [REPO, ARTIFACTS, RUN, REF, COMPARE, ZIP, BLOB], GREEN_JOBS: [REPO, RUNS, REF, COMPARE, JOBS]}
EACH_STEP = [pytest.param(query, step, id=f"{query} {step}".strip()) for query in STEPS for step in STEPS[query]]


class RunRules(OpenApi):
    """GitHub's description of the operations that are used here, quick since it knows no others."""

    def __init__(self, description: dict[str, Any]) -> None:
        paths = {path: copy.deepcopy(description["paths"][path]) for path in _OPERATIONS}
        for operations in paths.values():
            answer = operations["get"]["responses"].get("200", {})
            if "content" in answer:  # a comparison can also be had as a diff
                answer["content"] = {"application/json": answer["content"]["application/json"]}
        super().__init__({**description, "paths": paths})

    def _operation(self, request: Request) -> dict[str, Any] | None:
        """A reference has slashes of its own, which the description marks with x-multi-segment."""
        before, ref, after = request.path.partition("/git/ref/")
        path = before + ref + after.replace("/", "%2F")
        return super()._operation(Request(request.method, path, request.params, request.headers, request.body))


class FakeRuns:
    """`with FakeRuns() as repository`: a repository whose default branch has the commits 1 to 9, 9 being the newest.

    Everything may be changed at any time. With GitHub's description, answers are made from its examples, and are
    held against it as requests are.
    """

    def __init__(self, rules: RunRules | None = None) -> None:
        self.branch, self.history = "main", [commit(number) for number in range(1, 10)]
        self.repository: dict[str, Any] = {"id": ID, "default_branch": "main"}
        self.runs: dict[int, dict[str, Any]] = {}
        self.artifacts: list[dict[str, Any]] = []
        self.jobs: dict[int, list[dict[str, Any]]] = {}
        self.blobs: dict[str, bytes] = {}
        self._rules = rules
        self.storage = FakeGitHub({BLOB: lambda request: Reply(content=self.blobs[request.parts["id"]])})
        self.github = FakeGitHub(self._routes(), rules)

    def __enter__(self) -> Self:
        self.storage.__enter__()
        self.github.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.github.stop()
        self.storage.stop()

    @property
    def round_trips(self) -> int:
        """How many requests there were."""
        return len(self.github.requests) + len(self.storage.requests)

    def run(self, head: int = 9, **changes: Any) -> int:
        """A run that ended well, of a push to the default branch with that commit; its number."""
        id_ = 1000 + len(self.runs)
        said = {
            "id": id_,
            "event": "push",
            "head_branch": self.branch,
            "head_sha": commit(head),
            "path": ".github/workflows/ci.yml",
            "status": "completed",
            "conclusion": "success",
            "repository": {**self._example("workflow-run").get("repository", {}), "id": ID},
            "head_repository": {**self._example("workflow-run").get("head_repository", {}), "id": ID},
        }
        self.runs[id_] = {**self._example("workflow-run"), **said, **changes}
        return id_

    def upload(self, run: int, files: Mapping[str, bytes] | bytes, **changes: Any) -> dict[str, Any]:
        """An artifact of the run, with these files or as this zip; GitHub's row of it."""
        id_, of = 1 + len(self.artifacts), self.runs[run]
        data = files if isinstance(files, bytes) else zipped(files)
        self.blobs[str(id_)] = data
        row = {
            **self._example("artifact"),
            "id": id_,
            "name": "nixos-verified",
            "size_in_bytes": len(data),
            "expired": False,
            "digest": f"sha256:{hashlib.sha256(data).hexdigest()}",
            "workflow_run": {
                "id": run,
                "repository_id": ID,
                "head_repository_id": (of["head_repository"] or {}).get("id"),
                "head_branch": of["head_branch"],
                "head_sha": of["head_sha"],
            },
        }
        self.artifacts.append({**row, **changes})
        return self.artifacts[-1]

    def job(self, run: int, name: str, /, **changes: Any) -> None:
        """A job of the run that ended well."""
        said = {
            "run_id": run,
            "head_sha": self.runs[run]["head_sha"],
            "name": name,
            "status": "completed",
            "conclusion": "success",
            "created_at": date_time(NOW - 60),
            "completed_at": date_time(NOW),
        }
        self.jobs.setdefault(run, []).append({**self._example("job"), **said, **changes})

    def _routes(self) -> dict[str, Any]:
        return {
            REPO: self._repo,
            REF: self._ref,
            f"{REF}/{{rest}}": self._ref,
            COMPARE: self._compare,
            ARTIFACTS: lambda request: page_of(request, "artifacts", self._chosen(request, self.artifacts[::-1])),
            ZIP: lambda r: Reply(302, b"", {"Location": f"{self.storage.url}/blobs/{r.parts['id']}?secret=1"}),
            RUNS: lambda request: page_of(
                request, "workflow_runs", self._chosen(request, list(self.runs.values())[::-1])
            ),
            RUN: lambda request: Reply(content=self.runs[int(request.parts["id"])]),
            JOBS: lambda request: page_of(request, "jobs", self.jobs.get(int(request.parts["id"]), [])),
        }

    def _repo(self, _: Request) -> Reply:
        example = self._example("full-repository-default-response")
        for related in ("source", "parent", "template_repository"):  # which are not as described even in the example
            example.pop(related, None)
        return Reply(content={"language": None, **example, **self.repository})

    def _chosen(self, request: Request, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """What GitHub's filters leave; a status may be a conclusion."""
        wanted = {name: request.params[name] for name in ("name", "head_sha", "event") if name in request.params}
        status = request.params.get("status")
        return [
            row
            for row in rows
            if all(row[name] == value for name, value in wanted.items())
            and (status is None or status in (row["status"], row["conclusion"]))
        ]

    def _ref(self, request: Request) -> Reply:
        if "/".join(request.parts[name] for name in ("branch", "rest") if name in request.parts) != self.branch:
            return Reply(404, {"message": "Not Found"})
        example = self._example("git-ref")
        target = {**example.get("object", {}), "type": "commit", "sha": self.history[-1]}
        return Reply(content={**example, "ref": f"refs/heads/{self.branch}", "object": target})

    def _compare(self, request: Request) -> Reply:
        base, _, head = request.parts["basehead"].partition("...")
        common = head if head in self.history else self.history[0]
        status = "identical" if base == head else "behind" if head in self.history else "diverged"
        example = self._example("commit-comparison")
        merged = {**example.get("merge_base_commit", {}), "sha": common}
        return Reply(content={**example, "status": status, "merge_base_commit": merged})

    def _example(self, name: str) -> dict[str, Any]:
        return copy.deepcopy(self._rules.example(name)) if self._rules is not None else {}


def store(
    fake: FakeRuns,
    query: str = "",
    *,
    location: str = REPOSITORY,
    trusted: Trusted | None = None,
    cache: Path = Path(os.devnull),  # where nothing can be kept
    our_commit: str = commit(9),
) -> RecordStore:
    """The store as it is opened, with a token and our commit known."""
    env = {"GITHUB_API_URL": fake.github.url, "GITHUB_REPOSITORY": REPOSITORY, "PYTEST_NIXOS_COMMIT": our_commit}
    kit = Kit(
        trusted=trusted or Trusted(),
        keys=(),
        base=Path(),
        cache=cache,
        env=env,
        secrets={"GITHUB_TOKEN": "very-secret"},
        nix=lambda *_: (),
    )
    return open_runs(parse_place(f"github-runs:{location}{query}"), kit)


def look_up(fake: FakeRuns, query: str = "", wanted: list[Subject] | None = None, seconds: float = 10) -> Found:
    """What is found for the check `web`, or for `wanted`."""
    return store(fake, query).lookup(wanted or [subject("web")], Deadline(seconds))


def found(fake: FakeRuns, query: str = "", wanted: list[Subject] | None = None) -> list[Verdict]:
    """The verdicts that are found."""
    return [record.verdict for record in look_up(fake, query, wanted).records]


def nothing(fake: FakeRuns, query: str = "", seconds: float = 10) -> str:
    """The warnings or the error of a look-up, which has no record."""
    try:
        answer = look_up(fake, query, seconds=seconds)
    except RecordsUnavailable as error:
        return error.message
    assert not answer.records
    return "\n".join(answer.warnings)


def prepared(fake: FakeRuns) -> FakeRuns:
    """A repository in which every step of both forms is needed: our commit is not the newest."""
    fake.history.append(commit(10))
    run = fake.run()
    fake.upload(run, folder_of([WEB]))
    fake.job(run, "test (web)")
    return fake


def route(fake: FakeRuns, step: str, reply: Reply) -> None:
    (fake.storage if step == BLOB else fake.github).routes[step] = reply
