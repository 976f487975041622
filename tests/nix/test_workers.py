"""The engine of evaluations with a real Nix: several processes, their ends and deaths, and whose failure is whose."""

import contextlib
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_nixos.errors import CommandFailed
from pytest_nixos.nix import evaluate as engine
from pytest_nixos.nix.attrs import resolve
from pytest_nixos.nix.command import Nix
from pytest_nixos.nix.describe import parse_check
from pytest_nixos.nix.evaluate import Evaluated, evaluate
from pytest_nixos.nix.limits import Limits
from pytest_nixos.nix.message import nix_message
from pytest_nixos.nix.target import Target
from pytest_nixos.proc import Stream
from tests.leftovers import assert_none_left, processes_of, wait_until

pytestmark = pytest.mark.nix

MIB = 1 << 20
ROOMY = 2000 * MIB
COMMON = r"""
  check = name: derivation { name = "check-${name}"; system = "x86_64-linux"; builder = "/bin/sh"; };
  number = i: toString (builtins.substring 1 3 (toString (1000 + i)));
  many = count: f: builtins.listToAttrs (builtins.genList (i: { name = "c${number i}"; value = f i; }) count);
  # Work without memory: about MILLIONS / 5 seconds.
  work = millions: builtins.foldl' (sum: i: builtins.foldl' (a: b: a + b) sum thousand) 0
    (numbers (1000 * millions));
  numbers = builtins.genList (i: i);
  harmless = builtins.trace "error: only said; out of memory";
  thousand = numbers 1000;
  # Memory that stays as long as the value does.
  held = mib: builtins.foldl' (all: i: all ++ [ (builtins.genList (j: i * j) 25000) ]) [ ] (numbers mib);
  heavy = mib: name: let memory = builtins.deepSeq hold hold; hold = held mib;
    in builtins.seq memory (check name) // { inherit memory; };
"""
Flake = Callable[[str], Target]


@pytest.fixture
def flake(nix: Nix, tmp_path: Path) -> Flake:
    """Writes a flake whose checks are this Nix expression."""
    folder = tmp_path / "flake"
    folder.mkdir()

    def write(checks: str) -> Target:
        (folder / "flake.nix").write_text(
            f"{{ outputs = {{ self }}: let {COMMON} in {{ checks.x86_64-linux = {checks}; }}; }}"
        )
        return Target(nix=nix, ref=resolve(str(folder), folder), attr="checks.x86_64-linux")

    return write


@pytest.fixture
def helpers_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Further workers do not wait whether they are needed."""
    monkeypatch.setattr(engine, "_ALONE_SECONDS", 0)


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[Stream]:
    """The processes that were started."""
    started: list[Stream] = []

    class Counted(Stream):
        def __init__(self, *args: object, **kwargs: object) -> None:
            super().__init__(*args, **kwargs)  # type: ignore[arg-type]
            started.append(self)

    monkeypatch.setattr(engine, "Stream", Counted)
    return started


def limits(workers: int = 1, replace: int = ROOMY, heap: int = ROOMY) -> Limits:
    return Limits(workers=workers, replace_bytes=replace, heap_bytes=heap)


def cause(result: Evaluated, name: str) -> str:
    return result.failed[name].splitlines()[0]


def wrong(result: Evaluated) -> dict[str, str]:
    """The answers that belong to another check."""
    drvs = {name: answer["derivation"]["drv_path"] for name, answer in result.answers.items()}
    return {name: drv for name, drv in drvs.items() if not drv.endswith(f"-check-{name}.drv")}


@pytest.mark.usefixtures("helpers_at_once")
def test_each_failure_is_its_own_and_the_rest_has_answers(flake: Flake) -> None:
    target = flake(
        r"""many 24 (i: check "c${number i}") // {
          c003 = abort "not today";
          c004 = { }.foo;
          c007 = let deep = n: 1 + deep (n + 1); in check (toString (deep 0));
          c008 = let x = x; in x;
          c011 = 1 + "x";
          c012 = import (derivation { name = "broken"; system = "x86_64-linux"; builder = "/bin/false"; });
          c013 = harmless (check "c013"); # a message shows lines around its place: out of memory
          c014 = assert false; check "c014";
          c022 = { a = 1; };
        }"""
    )
    calls: list[tuple[int, int]] = []
    result = evaluate(target, limits(workers=3), progress=lambda done, total: calls.append((done, total)))
    assert result.names == [f"c{at:03}" for at in range(24)]
    found = {name: re.split("; max-call|;$| \\(possible", cause(result, name))[0] for name in sorted(result.failed)}
    # What Nix says first of a build that fails differs by version, but names it or its builder.
    assert re.search("broken|/bin/false", found.pop("c012"))
    assert found == {
        "c003": "error: evaluation aborted with the following error message: 'not today'",
        "c004": "error: attribute 'foo' missing",
        "c007": "error: stack overflow",
        "c008": "error: infinite recursion encountered",
        "c011": "error: cannot add a string to an integer",
        "c014": "error: assertion 'false' failed",
    }
    assert result.answers.pop("c022")["error"] == "the attribute is not a derivation, but a set"
    assert set(result.names) == {*result.answers, *result.failed, "c022"}
    assert wrong(result) == {}
    assert sorted(calls) == [(done, 24) for done in range(1, 25)]


def test_what_one_check_says_is_no_part_of_anothers_failure(flake: Flake) -> None:
    target = flake(
        r"""{
          a = harmless (check "a");
          b = builtins.trace "said by b" (throw "b is wrong");
        }"""
    )
    result = evaluate(target, limits())
    assert cause(result, "b") == "error: b is wrong"
    assert "only said" not in result.failed["b"]


def test_of_what_is_said_the_error_is_kept_and_the_newest_lines() -> None:
    said = engine._Said()
    said.add(b"GC Warning: of a check that got its answer\n")
    said.clear()
    for at in range(1000):
        said.add(b"trace: %d\n" % at)
    assert said.text.splitlines() == [f"trace: {at}" for at in range(800, 1000)]
    said.add(b"error: the cause\n")
    for at in range(1000):
        said.add(b"place %d\n" % at)
    lines = said.text.splitlines()
    assert (lines[:2], lines[-1], len(lines)) == (["error: the cause", "place 0"], "place 999", 400)


def test_any_name_will_do(flake: Flake) -> None:
    names = ['a "q" b', "${x}", "a.b c", "é\nü", "", "'", "\\", "a$b", "trace: x"]
    quoted = ['"a \\"q\\" b"', '"\\${x}"', '"a.b c"', '"é\\nü"', '""', '"\'"', '"\\\\"', '"a$b"', '"trace: x"']
    target = flake("{ " + " ".join(f'{name} = check "x";' for name in quoted) + " }")
    result = evaluate(target, limits())
    assert sorted(result.answers) == sorted(names) == sorted(result.names)
    again = evaluate(target, limits(), only=[result.names.index("${x}")])
    assert list(again.answers) == ["${x}"]


@pytest.mark.usefixtures("helpers_at_once")
@pytest.mark.parametrize("workers", [1, 3])
def test_only_some(flake: Flake, workers: int) -> None:
    target = flake('many 12 (i: if i == 5 then throw "no" else check "c${number i}")')
    wanted = [1, 2, 5, 8, 9, 10]
    result = evaluate(target, limits(workers=workers), only=wanted)
    assert len(result.names) == 12
    assert sorted(result.answers) == ["c001", "c002", "c008", "c009", "c010"]
    assert list(result.failed) == ["c005"]
    assert wrong(result) == {}
    assert evaluate(target, limits(workers=workers), only=[]) == Evaluated(result.names)


def test_more_positions_than_a_command_line_holds(flake: Flake) -> None:
    target = flake('many 3 (i: check "c${number i}")')
    result = evaluate(target, limits(), only=[0, 2] * 4000)
    assert set(result.answers) >= {"c000", "c002"}


def test_positions_of_a_flake_that_has_shrunk(flake: Flake) -> None:
    target = flake('many 3 (i: check "c${number i}")')
    with pytest.raises(CommandFailed, match="its checks have changed meanwhile"):
        evaluate(target, limits(), only=[1, 7])


def test_a_flake_that_changes_while_it_is_evaluated(flake: Flake) -> None:
    """A process that starts later must not take other checks for those that its positions were."""
    before = '// { c002 = builtins.trace "reached" (throw "no"); }'
    target = flake(f'many 6 (i: check "c${{number i}}") {before}')

    def change(done: int, total: int) -> None:
        if done == 1:
            flake(f'many 6 (i: check "c${{number i}}") {before} // {{ a-new-one = check "new"; }}')

    with pytest.raises(CommandFailed, match="its checks have changed meanwhile"):
        evaluate(target, limits(), progress=change)


@pytest.mark.parametrize(
    ("checks", "message"),
    [
        ('throw "nothing here"', "error: nothing here"),
        ("{ }.foo", "error: attribute 'foo' missing"),
        ("builtins.deepSeq (held 400) { }", "error: out of memory"),
    ],
)
def test_names_that_do_not_evaluate_are_the_flakes_failure(flake: Flake, checks: str, message: str) -> None:
    with pytest.raises(CommandFailed) as caught:
        evaluate(flake(checks), limits(workers=2, heap=64 * MIB))
    assert nix_message(caught.value.output).splitlines()[0] == message


def test_no_checks(flake: Flake) -> None:
    assert evaluate(flake("{ }"), limits(workers=2)) == Evaluated([])


def test_a_worker_that_is_not_needed_is_not_waited_for(flake: Flake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_ALONE_SECONDS", 30)
    started = time.monotonic()
    evaluate(flake('many 6 (i: check "c${number i}")'), limits(workers=4))
    assert time.monotonic() - started < 15


@pytest.mark.usefixtures("helpers_at_once")
def test_all_workers_take_part(flake: Flake, starts: list[Stream]) -> None:
    target = flake('many 9 (i: builtins.seq (work 1) (check "c${number i}"))')
    result = evaluate(target, limits(workers=3))
    assert len(result.answers) == 9
    assert len(starts) >= 3


def test_a_process_that_holds_too_much_is_replaced(flake: Flake, starts: list[Stream]) -> None:
    target = flake('many 4 (i: heavy (if i == 1 then 70 else 1) "c${number i}")')
    assert len(evaluate(target, limits(replace=90 * MIB)).answers) == 4
    assert len(starts) == 2
    starts.clear()
    assert len(evaluate(target, limits()).answers) == 4
    assert len(starts) == 1


@pytest.mark.usefixtures("helpers_at_once")
def test_a_check_that_is_too_large_fails_alone_and_quickly(flake: Flake) -> None:
    target = flake('many 4 (i: heavy (if i == 1 then 100000 else 1) "c${number i}")')
    result = evaluate(target, limits(workers=2, heap=100 * MIB))
    assert cause(result, "c001") == "its evaluation needs more than 200 MiB: error: out of memory"
    assert sorted(result.answers) == ["c000", "c002", "c003"]


def test_a_check_that_was_short_of_memory_beside_others_has_the_memory_of_all(flake: Flake) -> None:
    target = flake('many 3 (i: heavy (if i == 1 then 50 else 1) "c${number i}")')
    result = evaluate(target, limits(workers=5, heap=25 * MIB))
    assert sorted(result.answers) == ["c000", "c001", "c002"]


def test_memory_that_earlier_checks_took_is_not_held_against_the_next(flake: Flake, starts: list[Stream]) -> None:
    """One worker, which has the memory of all already: only a new process has room for what comes after some."""
    target = flake('many 6 (i: heavy 50 "c${number i}")')
    assert len(evaluate(target, limits(heap=90 * MIB)).answers) == 6
    assert len(starts) > 1


@pytest.mark.usefixtures("helpers_at_once")
def test_an_evaluator_that_is_killed_costs_nothing_but_time(flake: Flake, starts: list[Stream], tmp_path: Path) -> None:
    target = flake('many 8 (i: builtins.seq (work 1) (check "c${number i}"))')

    def kill(done: int, total: int) -> None:
        if done in (2, 5):
            for process in processes_of(tmp_path):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)

    result = evaluate(target, limits(workers=2), progress=kill)
    assert len(result.answers) == 8
    assert wrong(result) == {}
    assert len(starts) > 2


def test_an_evaluator_that_is_always_killed_fails_its_check(flake: Flake, tmp_path: Path) -> None:
    """As the kernel does where memory runs out."""
    target = flake('{ a = check "a"; b = builtins.seq (work 1000) (check "b"); c = check "c"; }')
    ended = threading.Event()

    def kill() -> None:
        while not ended.wait(0.3):
            for process in processes_of(tmp_path):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    try:
        result = evaluate(target, limits(workers=2), lambda done, total: killer.start() if done == 1 else None, [0, 1])
    finally:
        ended.set()
        killer.join()
    assert list(result.answers) == ["a"]
    assert cause(result, "b") == "the evaluator was ended by SIGKILL, as where memory is short"


def test_a_flake_that_says_megabytes(flake: Flake) -> None:
    target = flake(
        r"""let long = builtins.concatStringsSep "" (builtins.genList (i: "0123456789") 500000); in {
          a = builtins.trace long (check "a");
          b = builtins.foldl' (drv: i: builtins.trace "line ${toString i}" drv) (check "b") (numbers 30000);
          c = builtins.trace long (builtins.trace long (throw long));
          d = check "d";
        }"""
    )
    result = evaluate(target, limits())
    assert sorted(result.answers) == ["a", "b", "d"]
    assert cause(result, "c").startswith("error: 0123456789")
    assert len(result.failed["c"]) < 100_000


class Boom(Exception):
    pass


@pytest.mark.usefixtures("helpers_at_once")
@pytest.mark.parametrize("where", ["lead", "helper"])
def test_an_error_in_any_thread_ends_it_all_at_once(flake: Flake, tmp_path: Path, where: str) -> None:
    target = flake('many 8 (i: builtins.seq (work (if i == 0 || i == 7 then 1 else 1000)) (check "c${number i}"))')

    def fail(done: int, total: int) -> None:
        if (threading.current_thread() is threading.main_thread()) == (where == "lead"):
            raise Boom

    started = time.monotonic()
    with pytest.raises(Boom):
        evaluate(target, limits(workers=2), progress=fail)
    assert time.monotonic() - started < 20
    assert_none_left(tmp_path, 0)


@pytest.fixture
def interrupt_later(tmp_path: Path) -> Iterator[Callable[[int], None]]:
    """Sends this process SIGINT, as Ctrl-C does, when so many evaluators of the flake run."""
    threads: list[threading.Thread] = []
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)

    def start(count: int) -> None:
        def send() -> None:
            wait_until(lambda: len(processes_of(tmp_path)) >= count, 30)
            os.kill(os.getpid(), signal.SIGINT)

        threads.append(threading.Thread(target=send))
        threads[-1].start()

    yield start
    for thread in threads:
        thread.join()
    signal.signal(signal.SIGINT, previous)


@pytest.mark.usefixtures("helpers_at_once")
def test_ctrl_c_ends_the_evaluators_though_they_heed_no_signal(
    flake: Flake, tmp_path: Path, interrupt_later: Callable[[int], None]
) -> None:
    target = flake('many 8 (i: builtins.seq (work (if i == 0 then 0 else 1000)) (check "c${number i}"))')
    interrupt_later(2)
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        evaluate(target, limits(workers=2))
    assert time.monotonic() - started < 20
    assert_none_left(tmp_path, 0)


def test_a_builder_that_the_evaluation_waits_for_ends_with_it(
    flake: Flake, tmp_path: Path, busybox: Path, interrupt_later: Callable[[int], None]
) -> None:
    """Nix 2.8 in a sandbox leaves its builder behind when it is killed; asked, it ends it."""
    seconds = f"9{os.getpid()}"
    target = flake(
        f"""{{ a = import (derivation {{
          name = "sleeper-{tmp_path.name}"; system = "x86_64-linux"; args = [ "sleep" "{seconds}" ];
          builder = builtins.path {{ name = "tools"; path = ./tools; }} + "/busybox";
        }}); }}"""
    )
    (tmp_path / "flake" / "tools").mkdir()
    (tmp_path / "flake" / "tools" / "busybox").write_bytes(busybox.read_bytes())
    (tmp_path / "flake" / "tools" / "busybox").chmod(0o755)

    def sleepers() -> list[Path]:
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if seconds.encode() in (entry / "cmdline").read_bytes().split(b"\0"):
                    found.append(entry)
        return found

    def send() -> None:
        wait_until(lambda: bool(sleepers()), 30)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            evaluate(target, limits())
    finally:
        thread.join()
    wait_until(lambda: not sleepers(), 5)


def test_an_answer_of_a_vm_check(flake: Flake) -> None:
    target = flake('{ a = check "a" // { driver = check "d"; nodes.web.virtualisation.memorySize = 512; }; }')
    check = parse_check(evaluate(target, limits()).answers["a"])
    assert getattr(check, "nodes", None)
    assert limits(workers=3).alone() == limits(workers=1, heap=3 * ROOMY)
