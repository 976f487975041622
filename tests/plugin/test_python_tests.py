"""Tests in Python with the marker and the fixture `nixos`: their machines, and when they are verified."""

import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.leftovers import assert_none_left
from tests.plugin.conftest import FAKE, Checks
from tests.plugin.test_checks import outcomes, records

pytestmark = pytest.mark.nix

ONE = """
import pytest
from helper import hello

@pytest.mark.nixos("web", record=True, reads=["data"])
def test_one(nixos, request):
    [web] = nixos.machines
    assert web.succeed(f"echo {hello()}") == "hi\\n"
"""
SHARED = """
import pytest
pytestmark = pytest.mark.nixos("web", scope="module", record=True)

@pytest.mark.parametrize("number", [1, 2, 3])
def test_counts(nixos, number):
    [web] = nixos.machines
    assert int(web.succeed("echo x >> $TMPDIR/count; wc -l < $TMPDIR/count")) == number

@pytest.mark.skip
def test_none(nixos): pass
"""


@pytest.fixture
def project(pytester: pytest.Pytester, checks: Checks, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose one test in Python passes."""
    for name in ("QEMU_OPTS", "QEMU_NET_OPTS"):
        monkeypatch.delenv(name, raising=False)
    checks.add("web")
    pytester.makeini("[pytest]\nnixos_flake = flake\n")
    folder = pytester.path
    for name, text in {
        "tests/conftest.py": "",
        "tests/test_one.py": ONE,
        "tests/helper.py": "def hello():\n    import deep.deeper\n    return deep.deeper.WORD\n",
        "tests/deep/__init__.py": "",
        "tests/deep/deeper.py": "from . import word\nWORD = word.WORD\n",
        "tests/deep/word.py": "WORD = 'hi'\n",
        "data/a.txt": "a",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


Run = Callable[..., dict[str, int]]


@pytest.fixture
def run(pytester: pytest.Pytester, project: Path) -> Run:
    """Runs the project's tests in a process of their own: what a test imports stays imported."""

    def run(*args: str, of: str = "tests") -> dict[str, int]:
        time.sleep(0.02)  # when a process has begun is known to a hundredth of a second
        result = pytester.runpytest_subprocess(of, "-rs", *args)
        assert_none_left(project)
        return outcomes(result)

    return run


PASSED, VERIFIED = {"passed": 1}, {"verified": 1}


def edit(path: Path, text: str = "\n# nothing\n") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(text)


def test_a_pass_is_recorded_and_verifies_the_next_run(run: Run, pytester: pytest.Pytester) -> None:
    assert run() == PASSED
    [record] = records(pytester)
    assert re.search(r'"check":"tests/test_one.py::test_one"', record.read_text())
    assert re.search(r'"flags":\["python","tcg"\]', record.read_text())
    assert run() == VERIFIED
    assert run("-v", "--tb=short", "--lf") == VERIFIED
    assert run("--nixos-rerun-verified") == PASSED
    assert run("--nixos-max-age=0s") == PASSED


@pytest.mark.xdist
def test_alone_and_by_workers_is_the_same(run: Run) -> None:
    assert run("-n2") == PASSED
    assert run() == VERIFIED
    assert run("-n2") == VERIFIED


EDITS = [
    *("tests/test_one.py", "tests/conftest.py", "tests/helper.py", "tests/deep/deeper.py", "tests/another.py"),
    *("tests/deep/__init__.py", "data/a.txt", "data/deep/new.txt", "tox.ini", "conftest.py"),
]


def test_whatever_it_is_made_of_counts(run: Run, project: Path) -> None:
    assert run() == PASSED
    for name in EDITS:
        edit(project / name)
        assert run() == PASSED, name
    assert run() == VERIFIED


def test_what_it_is_not_made_of_does_not(run: Run, project: Path) -> None:
    assert run() == PASSED
    edit(project / "elsewhere" / "other.py")
    edit(project / "elsewhere" / "conftest.py")
    edit(project / "README")
    assert run() == VERIFIED


def test_another_plugin_of_the_project_counts(run: Run, project: Path) -> None:
    edit(project / "tests/conftest.py", "pytest_plugins = ['house']\n")
    edit(project / "tests/house.py", "import rooms\n")
    edit(project / "tests/rooms.py")
    assert run("-p", "no:cacheprovider") == PASSED
    edit(project / "tests/rooms.py")
    assert run("-p", "no:cacheprovider") == PASSED
    assert run() == PASSED  # other options
    assert run() == VERIFIED


def test_the_machines_count(run: Run, checks: Checks, project: Path) -> None:
    assert run() == PASSED
    (project / "more").mkdir()
    shutil.copy(project / "run-web-vm", project / "more")
    checks.move("web", project / "more" / "run-web-vm")
    assert run() == PASSED
    assert run() == VERIFIED


@pytest.mark.parametrize(("args", "variable"), [(("--nixos-network",), None), ((), "QEMU_OPTS"), ((), "QEMU_NET_OPTS")])
def test_what_a_machine_gets_beside_its_derivation_is_no_proof(
    run: Run, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...], variable: str | None
) -> None:
    if variable:
        monkeypatch.setenv(variable, "")
    assert run(*args)["passed"] == 1
    assert records(pytester) == []


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("record=True, ", "", ""),
        ("[web] =", "request.getfixturevalue('nixos_boot')\n    [web] =", "this session uses nixos_boot, "),
        ("[web] =", "import sys; sys.path += ['src']; import lib\n    [web] =", "src/lib.py is loaded, which is not "),
        ("[web] =", "open('data/b.txt', 'w').close()\n    [web] =", "its files have been edited meanwhile"),
        ("[web] =", "open('data/a.txt', 'w').write('a')\n    [web] =", "its files have been edited meanwhile"),
        ("[web] =", "import os; os.utime('tests/helper.py')\n    [web] =", "its files have been edited meanwhile"),
        ("[web] =", "import os; os.rename('data', 'd'); os.rename('d', 'data')\n    [web] =", "its files have been"),
        ('reads=["data"]', 'reads=["none"]', "there is no 'none' in "),
        ('reads=["data"]', 'reads=["/etc/passwd"]', "there is no '/etc/passwd' in "),
        ("record=True", 'record=True, scope="session"', "its machines are shared by the whole session"),
        ("nixos, request", "nixos, lasting", "the fixture lasting may be shared with tests of other files"),
        ("[web] =", "request.getfixturevalue('lasting')\n    [web] =", "the fixture lasting may be shared with"),
    ],
)
def test_what_is_not_sure_is_not_recorded(
    pytester: pytest.Pytester, project: Path, old: str, new: str, words: str
) -> None:
    edit(project / "src/lib.py")
    edit(project / "conftest.py", "import pytest\n@pytest.fixture(scope='session')\ndef lasting(): pass\n")
    (project / "tests/test_one.py").write_text(ONE.replace(old, new))
    time.sleep(0.02)
    result = pytester.runpytest_subprocess("tests")
    result.assert_outcomes(passed=1, warnings=1 if words else 0)
    if words:
        result.stdout.fnmatch_lines([f"*PytestWarning: test_one.py is not recorded: {words}*"])
    assert records(pytester) == []


def test_what_it_reads_may_lie_anywhere_below(run: Run, project: Path) -> None:
    edit(project / "src/lib.py")
    (project / "tests/test_one.py").write_text(
        "import sys\nsys.path += ['src']\nimport lib" + ONE.replace("data", "src")
    )
    assert run() == PASSED
    assert run() == VERIFIED
    edit(project / "src/lib.py")
    assert run() == PASSED


def test_a_check_that_opts_out_has_tests_that_run_every_time(
    run: Run, checks: Checks, pytester: pytest.Pytester
) -> None:
    checks.extend("web", "{ pytestNixos.record = false; }")
    assert run()["passed"] == 1
    assert records(pytester) == []


FAIL = "import os\n    assert not os.path.exists('broken')\n    "


@pytest.mark.parametrize("how", [FAIL, FAIL.replace("assert not ", "").replace("')\n", "') and os._exit(3)\n")])
@pytest.mark.xdist
def test_a_newer_failure_takes_the_proof_away(run: Run, project: Path, how: str) -> None:
    (project / "tests/test_one.py").write_text(ONE.replace("[web] =", f"{how}[web] ="))
    assert run("-n1") == PASSED
    (project / "broken").touch()
    assert run("-n1", "--nixos-rerun-verified")["failed"] == 1
    (project / "broken").unlink()
    assert run("-n1") == PASSED
    assert run("-n1") == VERIFIED


@pytest.mark.parametrize("how", ["record=True", "record=True, reads=['data']"])
def test_a_failure_among_fewer_tests_takes_the_proof_away(run: Run, project: Path, how: str) -> None:
    two = "\n@pytest.mark.nixos('web', record=True)\ndef test_two(nixos):\n    import os\n    "
    one = ONE.replace("record=True", how).replace(', reads=["data"]', "")
    (project / "tests/test_one.py").write_text(f"{one}{two}assert not os.path.exists('broken')\n")
    assert run() == {"passed": 2}
    (project / "broken").touch()
    assert run("-k", "two") == {"failed": 1, "deselected": 1}
    (project / "broken").unlink()
    assert run() == {"passed": 2}
    assert run() == {"verified": 2}
    (project / "broken").touch()
    assert run("-k", "not two") == {"passed": 1, "deselected": 1}
    assert run() == {"verified": 2}


@pytest.mark.parametrize("how", ["-s", "tests/sub/test_sub.py", "tests/test_one.py tests/sub/test_sub.py::test_one"])
def test_a_failure_takes_the_proof_away_however_it_came(run: Run, project: Path, how: str) -> None:
    one = ONE.replace('"data"', '"tests"').replace("from helper import hello", "hello = lambda: 'hi'")
    for name in ("conftest.py", "test_sub.py"):
        (project / "tests/sub" / name).parent.mkdir(exist_ok=True)
        (project / "tests/sub" / name).write_text("")
    (project / "tests/sub/test_sub.py").write_text(
        one.replace("[web] =", f"{FAIL}[web] =") + "\ndef test_two(): pass\n"
    )
    assert run() == {"passed": 3}
    assert run() == {"verified": 2, "passed": 1}
    (project / "broken").touch()
    more = ["tests/sub/test_sub.py::test_two"] if "::" in how else []
    of, *others = how.split() if how != "-s" else ["tests", "-s"]
    if "::" in how:  # its tests run among those of another file
        of, others = others[0], [of, *more, "-p", "no:cacheprovider"]
    assert run(*others, "--nixos-rerun-verified", of=of)["failed"] == 1
    (project / "broken").unlink()
    assert run() == {"passed": 2, "verified": 1}


@pytest.mark.parametrize(
    "load",
    [
        "import runpy; word = runpy.run_path('lib/word.py')['WORD']",
        "from importlib.util import *; s = spec_from_file_location('w', 'lib/word.py'); m = module_from_spec(s); "
        "s.loader.exec_module(m); word = m.WORD",
        "sys.path.append('lib'); import word as w; word = w.WORD; del sys.modules['word']",
    ],
)
@pytest.mark.parametrize("where", ["tests/conftest.py", "tests/test_one.py"])
def test_code_that_is_no_module_is_seen(run: Run, project: Path, load: str, where: str) -> None:
    (project / "lib").mkdir()
    (project / "lib/word.py").write_text("WORD = 'hi'\n")
    with (project / where).open("a") as file:
        file.write(f"\nimport sys\n{load}\n")
    assert run() == {"passed": 1, "warning": 1}
    assert run() == {"passed": 1, "warning": 1}


@pytest.mark.parametrize("args", [["-q"], ["-o", "nixos_flake=flake"], ["-v", "--tb=short"]])
def test_what_only_shows_does_not_count(run: Run, args: list[str]) -> None:
    assert run() == PASSED
    assert run(*args) == VERIFIED


def test_its_records_are_listed_forgotten_and_pruned_like_others(
    run: Run, project: Path, checks: Checks, pytester: pytest.Pytester
) -> None:
    def asked(request: str, *args: str) -> str:
        return pytester.runpytest_subprocess("tests", f"--nixos-records-{request}", *args).stdout.str()

    two = "\n@pytest.mark.nixos('web')\ndef test_two(nixos): pass\n"
    (project / "tests/test_one.py").write_text(ONE + two)
    assert "test_one.py::test_one: to run: no record of this derivation" in asked("list")
    assert run() == {"passed": 2}
    listed = asked("list")
    assert "test_one.py::test_one: verified by" in listed
    assert "flagged python, tcg" in listed
    assert "test_one.py::test_two: to run: nothing is recorded of it" in listed
    assert "0 records removed" in asked("prune=0s")
    edit(project / "data/a.txt")
    assert "test_one.py::test_one: to run: what it is made of, an option, or" in asked("list")
    assert run("-k", "one") == {"passed": 2}
    (project / "tests/test_three.py").write_text(ONE.replace("test_one", "test_three"))
    assert run(of="tests/test_three.py") == PASSED
    assert "2 records removed" in asked("forget", "--deselect=tests/test_three.py")
    assert run(of="tests/test_one.py") == {"passed": 2}
    assert run(of="tests/test_three.py") == VERIFIED
    checks.move("web", Path(shutil.copy(FAKE, project / "run-other-vm")))
    assert "2 records removed" in asked("prune=0s")


def test_when_a_conftest_is_loaded_counts(run: Run, project: Path) -> None:
    """A conftest.py below the folder that is asked for comes too late for hooks of the session."""
    edit(project / "deeper/below/conftest.py", "def pytest_sessionstart(): open('ready', 'w').close()\n")
    text = ONE.replace("[web] =", "assert open('ready')\n    [web] =").replace("from helper import hello", "")
    (project / "deeper/below/test_it.py").write_text(text.replace("hello()", "'hi'"))
    assert run(of="deeper/below") == PASSED
    (project / "ready").unlink()
    assert run(of="deeper")["failed"] == 1


def test_what_python_may_have_compiled_before_an_edit_is_not_recorded(
    pytester: pytest.Pytester, run: Run, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    word = project / "tests/deep/word.py"
    os.utime(word, (1e9, 1e9))
    assert run() == PASSED
    word.write_text(word.read_text().replace("hi", "ho"))
    os.utime(word, (1e9, 1e9))
    time.sleep(0.02)
    result = pytester.runpytest_subprocess("tests")
    result.assert_outcomes(passed=1, warnings=1)  # by the old code
    result.stdout.fnmatch_lines(["*not recorded: tests/deep/word.py may differ from what is in its __pycache__*"])
    shutil.rmtree(word.parent / "__pycache__")
    assert run()["failed"] == 1


def test_files_that_run_among_each_other_are_not_recorded(run: Run, project: Path, pytester: pytest.Pytester) -> None:
    fixture = "import pytest\n@pytest.fixture(scope='session', params=[1, 2])\ndef number(request): pass\n"
    edit(project / "tests/conftest.py", fixture)
    for name in ("test_one.py", "test_two.py"):
        (project / "tests" / name).write_text(ONE.replace("nixos, request", "nixos, number"))
    assert run() == {"passed": 4, "warnings": 2}
    assert records(pytester) == []


@pytest.mark.parametrize("phase", ["setup", "teardown"])
def test_a_failure_around_it_is_one(run: Run, project: Path, phase: str, pytester: pytest.Pytester) -> None:
    body = "assert 0; yield" if phase == "setup" else "yield; assert 0"
    edit(project / "tests/conftest.py", f"import pytest\n@pytest.fixture(autouse=True)\ndef around():\n    {body}\n")
    run()
    assert records(pytester) == []


@pytest.mark.xdist
def test_the_tests_of_a_file_are_verified_together(run: Run, project: Path) -> None:
    shared = "tests/test_shared.py"
    (project / shared).write_text(SHARED)
    assert run(of=shared) == {"passed": 3, "skipped": 1}
    assert run(of=shared) == {"verified": 3, "skipped": 1}
    assert run("-n2", "--dist=loadfile", of=shared) == {"verified": 3, "skipped": 1}
    # Alone it has machines that nobody has used before: another thing, which has not been tried, and fails.
    assert run("-k", "counts[2]", of=shared)["failed"] == 1
    assert run(of=shared) == {"passed": 3, "skipped": 1}
    # Divided among processes they share nothing: that fails, and takes the proof away.
    assert run("-n2", of=shared)["failed"] > 0
    assert run(of=shared) == {"passed": 3, "skipped": 1}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("assert not os.path.exists('broken')", "pass"),
        ("os.path.exists('broken') and pytest.skip()", "pass"),
        ("os.path.exists('broken') and pytest.xfail()", "pass"),
        ("pass", "assert not os.path.exists('broken')"),
    ],
)
def test_a_failure_in_the_file_is_that_of_all(run: Run, project: Path, first: str, second: str) -> None:
    (project / "tests/test_one.py").write_text(f"""
import os, pytest

@pytest.fixture(scope="module", autouse=True)
def around():
    yield
    {second}

def test_zero():
    {first}

@pytest.mark.nixos("web", record=True)
def test_one(nixos):
    pass

def test_two():
    pass
""")
    (project / "broken").touch()
    run()
    (project / "broken").unlink()
    assert run() == {"passed": 3}
    assert run() == {"passed": 2, "verified": 1}


def test_machines_last_as_long_as_their_scope(run: Run, project: Path) -> None:
    (project / "tests/test_one.py").write_text("""
import pytest
pids = set()

class TestIt:
    pytestmark = pytest.mark.nixos("web", scope="class")

    def test_a(self, nixos):
        nixos.start_all()
        pids.add(nixos.machines[0].pid)

    test_b = test_a

@pytest.mark.nixos("web", scope="session")
def test_c(nixos):
    nixos.start_all()
    assert len(pids) == 1 and nixos.machines[0].pid not in pids

@pytest.mark.nixos("web")
@pytest.mark.usefixtures("nixos")
def test_d(request):
    nixos = request.getfixturevalue("nixos")
    nixos.start_all()
    pids.add(nixos.machines[0].pid)
    assert len(pids) == 2
""")
    assert run() == {"passed": 4}


@pytest.mark.parametrize(
    ("marker", "words"),
    [
        ('"zebra"', "there is no check 'zebra'"),
        ("", "the marker nixos of test_it can't be used: missing 1 required positional argument: 'name'"),
        ('"web", foo=1', "the marker nixos of test_it can't be used: got an unexpected keyword argument 'foo'"),
        ('"web", reads="data"', "the check's name and the scope are text, and reads= is a list of patterns"),
        ('"web", reads=(x for x in "a")', "and reads= is a list of patterns"),
        ('"web", scope=["class"]', "the check's name and the scope are text"),
        ('"web", scope="week"', "has an unknown scope: 'week'"),
    ],
)
def test_a_marker_that_makes_no_sense_is_one_sentence(
    pytester: pytest.Pytester, project: Path, marker: str, words: str
) -> None:
    (project / "tests/test_one.py").write_text(
        f"import pytest\n@pytest.mark.nixos({marker})\ndef test_it(nixos): pass\ndef test_bare(nixos): pass\n"
    )
    result = pytester.runpytest_subprocess("tests", "--tb=short")
    result.assert_outcomes(errors=2)
    text = result.stdout.str()
    assert words in text
    assert "test_bare does not say whose machines it wants" in text
    assert 'hint: mark it: @pytest.mark.nixos("CHECK")' in text


def test_what_the_machines_of_a_failed_test_say_is_shown(pytester: pytest.Pytester, project: Path) -> None:
    (project / "tests/test_one.py").write_text(ONE.replace("hello()", "'nothing'"))
    result = pytester.runpytest_subprocess("tests")
    result.stdout.fnmatch_lines(["*the console's last lines of web*", "*fake guest boots*", "*artifacts*"])
    [transcript] = (project / "cache").rglob("web.console.log")
    assert "fake guest boots" in transcript.read_text()


def test_a_test_of_its_own_needs_a_flake(pytester: pytest.Pytester, project: Path) -> None:
    (project / "tox.ini").unlink()
    result = pytester.runpytest_subprocess("tests")
    result.assert_outcomes(skipped=1)
