"""Records that travel, as users see them: several stores, signatures, rights, and what is shown in place of a run."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import SmallFlake
from tests.plugin.test_checks import outcomes, records, run
from tests.records.fake_actions_cache import GITHUB_TOKEN, READ, REPOSITORY, WRITE, FakeActionsCache
from tests.records.making import secret_key

pytestmark = pytest.mark.nix
KEY, STRANGER = secret_key("ci-1"), secret_key("stranger-1")


@pytest.fixture(autouse=True)
def _nobodys_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where these tests themselves run in CI, the sessions in them run nowhere in particular."""
    for name in [name for name in os.environ if name.startswith("GITHUB_") or name == "CI"]:
        monkeypatch.delenv(name)


@pytest.fixture
def key_file(pytester: pytest.Pytester) -> Path:
    """A secret key in Nix's format."""
    return _write_key(pytester.path / "key", "ci-1")


def _write_key(file: Path, name: str) -> Path:
    import base64
    import random

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    seed = random.Random(name).randbytes(32)
    public = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    file.write_text(f"{name}:{base64.b64encode(seed + public).decode()}")
    return file


def forget(pytester: pytest.Pytester) -> None:
    """As on another machine: without local records."""
    for record in (pytester.path / "cache" / "pytest-nixos" / "records").iterdir():
        record.unlink()


def bare_repository(pytester: pytest.Pytester) -> str:
    folder = pytester.path / "remote.git"
    subprocess.run(["git", "init", "--quiet", "--bare", str(folder)], check=True)
    return f"git:{folder}"


@pytest.mark.parametrize("workers", [[], ["-n", "2"]], ids=["alone", "xdist"])
def test_what_one_machine_proves_another_skips(
    pytester: pytest.Pytester, small_flake: SmallFlake, key_file: Path, workers: list[str]
) -> None:
    small_flake.write('a = plain "a" "true"; b = plain "b" "exit 1"; c = plain "c" "true";')
    remote = bare_repository(pytester)
    first = run(
        pytester, f"--nixos-records={remote}", f"--nixos-secret-key-file={key_file}", "--nixos-tier=desktop", *workers
    )
    first.stdout.fnmatch_lines(["nixos: records in git:*: read, written", "nixos: 2 records published to git:*"])
    assert outcomes(first) == {"passed": 2, "failed": 1}
    forget(pytester)
    second = run(pytester, f"--nixos-records={remote}", f"--nixos-trusted-key={KEY.public}", "-v", *workers)
    assert outcomes(second) == {"verified": 2, "failed": 1}
    second.stdout.fnmatch_lines(["nixos: records in git:*not written (laptop*", "VERIFIED *git:*signed by ci-1*"])


def test_a_strangers_signature_or_none_is_worth_nothing(
    pytester: pytest.Pytester, small_flake: SmallFlake, key_file: Path
) -> None:
    small_flake.write('a = plain "a" "true";')
    remote = bare_repository(pytester)
    run(pytester, f"--nixos-records={remote}", f"--nixos-secret-key-file={key_file}", "--nixos-tier=desktop")
    forget(pytester)
    result = run(pytester, f"--nixos-records={remote}", f"--nixos-trusted-key={STRANGER.public}")
    assert outcomes(result) == {"passed": 1}
    result.stdout.fnmatch_lines(["nixos: warning: 1 of the records in git:* do not count: not signed by a trusted key"])
    forget(pytester)
    assert outcomes(run(pytester, f"--nixos-records={remote}?signed=no")) == {"verified": 1}


def test_a_push_that_fails_is_seen_and_can_be_an_error(
    pytester: pytest.Pytester, small_flake: SmallFlake, key_file: Path
) -> None:
    small_flake.write('a = plain "a" "true";')
    gone = f"--nixos-records=git:{pytester.path}/nowhere.git"
    result = run(pytester, gone, f"--nixos-secret-key-file={key_file}", "--nixos-tier=desktop")
    assert outcomes(result) == {"passed": 1}
    result.stdout.fnmatch_lines(["nixos: error: 1 record NOT published to git:*"])
    assert result.ret == 0
    strict = run(pytester, gone, f"--nixos-secret-key-file={key_file}", "--nixos-tier=desktop", "--nixos-push-strict",
                 "--nixos-rerun-verified")  # fmt: skip
    assert strict.ret == 1
    assert len(records(pytester)) == 1


def test_a_laptop_writes_to_nobody(pytester: pytest.Pytester, small_flake: SmallFlake, key_file: Path) -> None:
    small_flake.write('a = plain "a" "true";')
    remote = bare_repository(pytester)
    run(pytester, f"--nixos-records={remote}", f"--nixos-secret-key-file={key_file}")
    forget(pytester)
    assert outcomes(run(pytester, f"--nixos-records={remote}", f"--nixos-trusted-key={KEY.public}")) == {"passed": 1}


def test_no_secret_reaches_a_child(
    pytester: pytest.Pytester, small_flake: SmallFlake, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither workers nor their tests have what the controller has taken."""
    small_flake.write('a = plain "a" "true";')
    monkeypatch.setenv("PYTEST_NIXOS_SECRET_KEY", key_file.read_text())
    monkeypatch.setenv("GITHUB_TOKEN", "hush-hush")
    pytester.makepyfile(
        """
        import os, pathlib, pytest
        @pytest.mark.parametrize("n", range(4))
        def test_environment(n):
            shown = b"".join(pathlib.Path(f"/proc/{who}/environ").read_bytes() for who in ("self", os.getppid()))
            assert "PYTEST_NIXOS_SECRET_KEY" not in os.environ and "GITHUB_TOKEN" not in os.environ
            assert b"hush-hush" not in shown and b"ci-1:" not in shown
        """
    )
    remote = bare_repository(pytester)
    result = run(pytester, f"--nixos-records={remote}", "--nixos-tier=desktop", "-n", "2", ".")
    assert outcomes(result) == {"passed": 5}
    result.stdout.fnmatch_lines(["nixos: 1 record published to git:*"])


def test_mistakes_are_one_sentence(pytester: pytest.Pytester, small_flake: SmallFlake) -> None:
    small_flake.write('a = plain "a" "true";')
    remote = bare_repository(pytester)
    for options, sentence in {
        (f"--nixos-records={remote}",): "*counts signed records only, and no key is trusted*",
        (f"--nixos-records={remote}?sigend=no",): "*sigend is no parameter of git:*",
        ("--nixos-records=shared?signed=yes",): "'shared?signed=yes' is not a place for records*",
        ("--nixos-records=",): "'' is not a place for records*",
        ("--nixos-records=gti:origin",): "'gti:origin' is not a place for records*",
        ("--nixos-records=https://me:pw@x.org/r",): "'https://x.org/r' is not a place for records*",
        ("--nixos-records=git:https://me:pw@x.org/r?a=b",): "git:https://x.org/r?a=b: a is no parameter of git:*",
        ("--nixos-records=nix:https://[::1/x?signed=no",): "'nix:https://?::1/x?signed=no' is no place for records",
        ("--nixos-records-list", "--nixos-explain"): "one thing at a time: list and explain are asked for",
        (f"--nixos-records={remote}", "--nixos-trusted-key=nonsense"): "*the public key is not one of Nix*",
        ("--nixos-secret-key-file=/nonexistent",): "the file that is named for the secret key can't be read*",
    }.items():
        result = run(pytester, *options)
        result.stderr.fnmatch_lines([f"ERROR: {sentence}"])
        assert "pw" not in result.stderr.str()
        assert result.ret == pytest.ExitCode.USAGE_ERROR


def test_the_list_says_what_is_known_and_why(pytester: pytest.Pytester, small_flake: SmallFlake) -> None:
    small_flake.write(
        'a = plain "a" "true"; b = plain "b" "exit 1"; c = plain "c" "true";'
        'd = plain "d" "true" // { pytestNixos.record = false; };'
    )
    run(pytester, "--deselect", "flake/flake.nix::c")
    result = run(pytester, "--nixos-records-list", "-n", "2")
    result.stdout.fnmatch_lines(
        [
            "a: verified by *",
            "    /nix/store/*-a.drv",
            "    passed * UTC (* ago), in *, by *@*, in *records",
            "b: to run: its newest record is a failure",
            "c: to run: no record of this derivation",
            "d: to run: it opts out of records",
        ]
    )
    assert result.ret == 0
    selected = run(pytester, "--nixos-records-list", "-k", "c")
    assert not selected.stdout.str().count("a: verified")
    strict = run(
        pytester, "--nixos-records-list", "--nixos-records=dir:records?signed=no", "--nixos-max-age=0s", "-k", "a"
    )
    strict.stdout.fnmatch_lines(["a: to run: *"])


def test_records_are_verified_forgotten_and_pruned(pytester: pytest.Pytester, small_flake: SmallFlake) -> None:
    small_flake.write('a = plain "a" "true"; b = plain "b" "true";')
    run(pytester)
    whole = run(pytester, "--nixos-records-verify")
    whole.stdout.fnmatch_lines(["*records: 2 records of 2 checks"])
    assert whole.ret == 0
    run(pytester, "--nixos-records-prune", "0s").stdout.fnmatch_lines(["*: 0 records removed"])  # all are in use
    run(pytester, "--nixos-records-forget", "flake/flake.nix::a").stdout.fnmatch_lines(["*: 1 record removed"])
    small_flake.write('a = plain "a" "true"; b = plain "b" "echo 1";')
    run(pytester, "--nixos-records-prune", "1d").stdout.fnmatch_lines(["*: 0 records removed"])
    run(pytester, "--nixos-records-prune", "0s").stdout.fnmatch_lines(["*: 1 record removed"])
    assert records(pytester) == []
    run(pytester)
    records(pytester)[0].write_bytes(b"{")
    broken = run(pytester, "--nixos-records-verify")
    broken.stdout.fnmatch_lines(["    warning: record * is damaged: it was ignored"])
    assert broken.ret == 1


def test_records_are_copied_and_signed_on_the_way(
    pytester: pytest.Pytester, small_flake: SmallFlake, key_file: Path
) -> None:
    small_flake.write('a = plain "a" "true"; b = plain "b" "exit 1";')
    run(pytester)
    remote = bare_repository(pytester)
    key = f"--nixos-secret-key-file={key_file}"
    refused = run(pytester, "--nixos-records-copy", remote, key)
    refused.stderr.fnmatch_lines(["ERROR: git:* is not written here: laptop*"])
    copied = run(pytester, "--nixos-records-copy", remote, key, "--nixos-tier=desktop")
    copied.stdout.fnmatch_lines(["records of 1 of 2 checks copied to git:*", "    1 not verified here"])
    forget(pytester)
    result = run(pytester, f"--nixos-records={remote}", f"--nixos-trusted-key={KEY.public}")
    assert outcomes(result) == {"verified": 1, "failed": 1}


def test_what_has_changed_is_explained(pytester: pytest.Pytester, small_flake: SmallFlake) -> None:
    small_flake.write('a = plain "a" "echo one"; b = plain "b" "true"; c = plain "c" "true";')
    run(pytester, "--deselect", "flake/flake.nix::c")
    small_flake.write('a = plain "a" "echo two"; b = plain "b" "true"; c = plain "c" "true";')
    result = run(pytester, "--nixos-explain")
    result.stdout.fnmatch_lines(["a: to run; its last proof: passed *", "*echo one*echo two*", "b: verified by *"])
    result.stdout.fnmatch_lines(["c: to run: no pass of it that counts is known under this name*"])


def test_a_travelled_record_is_checked_like_any_other(pytester: pytest.Pytester, small_flake: SmallFlake) -> None:
    """A shared folder in which somebody has put a pass of his own making."""
    small_flake.write('a = plain "a" "exit 1"; b = plain "b" "true";')
    shared = pytester.path / "shared"
    run(pytester, "--nixos-records=shared")
    failed = next(path for path in shared.iterdir() if ".failed" in path.name)
    entry = {**json.loads(failed.read_text()), "outcome": "passed", "finished_at": 2e9}
    failed.with_name(failed.name.replace("failed", "passed")).write_text(json.dumps(entry) + "\n")
    result = run(pytester, "--nixos-records=dir:shared?signed=yes", f"--nixos-trusted-key={KEY.public}")
    assert outcomes(result) == {"failed": 1, "passed": 1}


def test_a_flake_that_lies_about_an_output_skips_nothing(pytester: pytest.Pytester, small_flake: SmallFlake) -> None:
    """Its derivation is new, and the output that the flake claims for it is one that was verified."""
    small_flake.write('a = plain "a" "true";')
    assert outcomes(run(pytester)) == {"passed": 1}
    small_flake.write('a = plain "a" "exit 1" // { inherit (plain "a" "true") outPath; };')
    assert outcomes(run(pytester)) == {"failed": 1}


def _on_github(monkeypatch: pytest.MonkeyPatch, folder: Path, cache: FakeActionsCache, event: str, ref: str) -> None:
    """The environment of a step that has been given both tokens."""
    payload = folder / "event.json"
    sides = {"head": {"repo": {"id": 2}}, "base": {"repo": {"id": 1}}}
    payload.write_text(json.dumps({"repository": {"default_branch": "main"}, "pull_request": sides}))
    variables = {
        "GITHUB_ACTIONS": "true",
        "GITHUB_API_URL": cache.url,
        "GITHUB_BASE_REF": "main" if event == "pull_request" else "",
        "GITHUB_EVENT_NAME": event,
        "GITHUB_EVENT_PATH": str(payload),
        "GITHUB_REF": ref,
        "GITHUB_REPOSITORY": REPOSITORY,
        "GITHUB_RUN_ID": "42",
        "GITHUB_TOKEN": GITHUB_TOKEN,
        "ACTIONS_RESULTS_URL": cache.url,
        "ACTIONS_RUNTIME_TOKEN": cache.token((ref, READ | WRITE), ("refs/heads/main", READ)),
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_what_main_has_proven_a_fork_skips_and_never_the_other_way_round(
    pytester: pytest.Pytester, small_flake: SmallFlake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the cache of GitHub Actions, whose fake the official client has judged."""
    main, pull = "refs/heads/main", "refs/pull/7/merge"
    small_flake.write('a = plain "a" "true";')
    with FakeActionsCache() as cache:

        def on(event: str, ref: str) -> pytest.RunResult:
            shutil.rmtree(pytester.path / "cache" / "pytest-nixos" / "records", ignore_errors=True)
            _on_github(monkeypatch, pytester.path, cache, event, ref)
            return run(pytester, "--nixos-records=gha:", f"--nixos-records={remote}?signed=no&push=yes")

        remote = bare_repository(pytester)
        proven = on("push", main)
        assert outcomes(proven) == {"passed": 1}
        proven.stdout.fnmatch_lines(["nixos: 1 record published to gha:*", "nixos: 1 record published to git:*"])
        assert outcomes(on("pull_request", pull)) == {"verified": 1}
        small_flake.write('a = plain "a" "echo changed";')
        fork = on("pull_request", pull)
        assert outcomes(fork) == {"passed": 1}
        fork.stdout.fnmatch_lines(
            ["nixos: records in git:*not written (pull request of a fork)", "*published to gha:*"]
        )
        assert outcomes(on("pull_request", pull)) == {"verified": 1}
        assert outcomes(on("push", main)) == {"passed": 1}
        assert GITHUB_TOKEN not in proven.stdout.str() + fork.stdout.str()


def _disprove(pytester: pytest.Pytester) -> None:
    """Let `a`, which is verified, fail in a way of its own: by a hook that raises before anything came of the run."""
    pytester.makeconftest(
        """
        import os, pytest
        def pytest_collection_modifyitems(items):
            for item in items:
                run = item.role.run
                def broken(check, run=run):
                    if os.environ["HOW"] == "killed":
                        os.kill(os.getpid(), 9)
                    pytest.fail("Timeout, as of a plugin")
                item.role.run = broken
                if os.environ["HOW"] == "expected":
                    item.add_marker(pytest.mark.xfail)
        """
    )


@pytest.mark.parametrize("how", ["timeout", "expected", "killed"])
def test_a_failure_without_a_result_takes_a_proof_away_too(
    pytester: pytest.Pytester, small_flake: SmallFlake, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Another plugin's time limit, an expected failure, a worker that dies."""
    small_flake.write('a = plain "a" "true";')
    run(pytester)
    assert outcomes(run(pytester)) == {"verified": 1}
    monkeypatch.setenv("HOW", how)
    _disprove(pytester)
    args = ["-n", "1", "--max-worker-restart=0"] if how == "killed" else []
    assert outcomes(run(pytester, "--nixos-rerun-verified", *args)) in ({"failed": 1}, {"xfailed": 1})
    (pytester.path / "conftest.py").unlink()
    assert outcomes(run(pytester)) == {"passed": 1}


def test_a_failure_that_is_tried_again_takes_a_proof_away_too(
    pytester: pytest.Pytester, small_flake: SmallFlake
) -> None:
    """As pytest-rerunfailures reports: once `rerun`, then the last outcome."""
    small_flake.write('a = plain "a" "true";')
    run(pytester)
    pytester.makeconftest(
        """
        import pytest
        from _pytest.runner import runtestprotocol
        @pytest.hookimpl(tryfirst=True)
        def pytest_runtest_protocol(item, nextitem):
            run = item.role.run
            for outcome in ("rerun", "passed"):
                item.role.run = (lambda check: pytest.fail("flaky")) if outcome == "rerun" else run
                for report in runtestprotocol(item, nextitem=nextitem, log=False):
                    if outcome == "rerun" and report.failed:
                        report.outcome = "rerun"
                    item.ihook.pytest_runtest_logreport(report=report)
            return True
        """
    )
    run(pytester, "--nixos-rerun-verified")
    (pytester.path / "conftest.py").unlink()
    assert outcomes(run(pytester)) == {"passed": 1}


def test_a_newer_failure_in_another_folder_is_seen(pytester: pytest.Pytester, small_flake: SmallFlake) -> None:
    small_flake.write('a = plain "a" "true";')
    assert outcomes(run(pytester)) == {"passed": 1}
    [proof] = records(pytester)
    entry = {**json.loads(proof.read_text()), "outcome": "failed", "finished_at": time.time()}
    shared = pytester.path / "shared"
    shared.mkdir(exist_ok=True)
    (shared / proof.name.replace("passed", "failed")).write_text(json.dumps(entry, separators=(",", ":")) + "\n")
    assert outcomes(run(pytester, "--nixos-records=dir:shared?push=no")) == {"passed": 1}


def test_a_driver_is_known_by_its_derivation(pytester: pytest.Pytester, small_flake: SmallFlake) -> None:
    """Not by where the flake says that its output lies."""
    small_flake.write('v = vm "v" "true";')
    assert outcomes(run(pytester)) == {"passed": 1}
    small_flake.write(
        'v = vm "v" "true" // { driver = (driver "w" "exit 1") // { inherit (driver "v" "true") outPath out; }; };'
    )
    assert outcomes(run(pytester)) == {"failed": 1}


def test_an_old_record_is_not_made_young_by_copying(
    pytester: pytest.Pytester, small_flake: SmallFlake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry of the Actions cache is as old as itself."""
    small_flake.write('a = plain "a" "true";')
    run(pytester)
    [proof] = records(pytester)
    entry = {**json.loads(proof.read_text()), "finished_at": time.time() - 5000}
    proof.write_text(json.dumps(entry, separators=(",", ":")) + "\n")
    with FakeActionsCache() as cache:
        _on_github(monkeypatch, pytester.path, cache, "push", "refs/heads/main")
        copied = run(pytester, "--nixos-records-copy=gha:")
        copied.stdout.fnmatch_lines(["records of 0 of 1 check copied*", "    1 too old *"])
        assert cache.entries == []


def test_pruning_does_not_bring_a_refuted_proof_back(
    pytester: pytest.Pytester, small_flake: SmallFlake, key_file: Path
) -> None:
    small_flake.write('a = plain "a" "true"; b = plain "b" "true";')
    remote, trust = bare_repository(pytester), f"--nixos-trusted-key={KEY.public}"
    run(pytester, f"--nixos-records={remote}", f"--nixos-secret-key-file={key_file}", "--nixos-tier=desktop")
    small_flake.write('b = plain "b" "true";')
    for proof in records(pytester):
        entry = {**json.loads(proof.read_text().partition("\n")[0]), "outcome": "failed", "finished_at": time.time()}
        refuted = proof.with_name(proof.name.replace("passed", "failed"))
        refuted.write_text(json.dumps(entry, separators=(",", ":")) + "\n")
    pruned = run(pytester, "--nixos-records-prune=0s", f"--nixos-records={remote}", trust)
    pruned.stdout.fnmatch_lines(["*: 1 record removed"])  # the pass of `a`, which is no check any more
    small_flake.write('a = plain "a" "true"; b = plain "b" "true";')
    assert outcomes(run(pytester, f"--nixos-records={remote}", trust)) == {"passed": 2}


def test_what_cannot_be_forgotten_is_said(pytester: pytest.Pytester, small_flake: SmallFlake, key_file: Path) -> None:
    small_flake.write('a = plain "a" "true";')
    remote = bare_repository(pytester)
    run(pytester, f"--nixos-records={remote}", f"--nixos-secret-key-file={key_file}", "--nixos-tier=desktop")
    result = run(pytester, "--nixos-records-forget", f"--nixos-records={remote}?signed=no")
    result.stdout.fnmatch_lines(["*: 1 record removed", "git:*: left as it is: not written here: laptop*"])
    assert result.ret == 1


@pytest.mark.parametrize("options", [["--no-header"], ["-p", "no:terminal"], ["-q"], ["-n", "2", "--no-header"]])
def test_a_wrong_store_is_one_sentence_whatever_is_shown(
    pytester: pytest.Pytester, small_flake: SmallFlake, options: list[str]
) -> None:
    small_flake.write('a = plain "a" "true";')
    result = run(pytester, "--nixos-records=git:/nowhere", *options)
    assert "no key is trusted" in result.stderr.str()
    assert "INTERNALERROR" not in result.stdout.str() + result.stderr.str()
