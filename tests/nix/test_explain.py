from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_nixos.nix.command import Nix
from pytest_nixos.nix.difference import Cause, Finding, Kind
from pytest_nixos.nix.explain import Explanation, explain
from pytest_nixos.nix.explain_text import lines
from pytest_nixos.nix.suspects import Suspect, suspicions

REV, OTHER_REV = "9f3c2ab4d5e6f708192a3b4c5d6e7f8091a2b3c4", "12ab2ab4d5e6f708192a3b4c5d6e7f8091a2b3ff"
OLD, NEW = (f"/nix/store/{letter * 32}-vm-test-run-web.drv" for letter in "ab")

HOST = """
{ rev ? "REV", label ? "24.11.20241121.9f3c2ab", conf ? ./nginx.conf, extra ? false, arg ? "one", text ? "a"
, flake ? null }:
let
  plain = { system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" ]; };
  drv = name: attrs: derivation (plain // { inherit name; } // attrs);
  tool = drv "tool-1.0" { args = [ "-c" arg ]; outputs = [ "out" "dev" ]; };
  version = drv "nixos-version" { configurationRevision = rev; };
  nginx = drv "nginx-unit" { inherit conf; dev = tool.dev; };
  etc = drv "etc" ({ inherit version nginx; } // (if extra then { more = drv "extra" { }; } else { }));
  system = drv "nixos-system-web-${label}" { inherit etc text; said = builtins.unsafeDiscardStringContext "${tool}"; };
  driver = drv "nixos-test-driver-web" { __structuredAttrs = true; vms = [ system tool.out ]; };
  script = if flake == null then { } else { script = "${flake}/script.py"; };
in drv "vm-test-run-web" ({ driver = "${driver}/bin/driver"; } // script)
""".replace("REV", REV)
SYSTEM = "nixos-system-web-24.11.20241121.9f3c2ab"


def read(path: str) -> bytes | None:
    try:
        return Path(path).read_bytes()
    except OSError:
        return None


Check = Callable[..., str]


@pytest.fixture
def check(nix: Nix, tmp_path: Path) -> Check:
    """The derivation of a check that looks like a NixOS test's, by the arguments of HOST as Nix expressions."""
    (tmp_path / "host.nix").write_text(HOST)
    (tmp_path / "nginx.conf").write_text("worker 1;\nlisten 80;\nroot /;\n")

    def instantiate(**args: str) -> str:
        given = [word for name, value in args.items() for word in ("--arg", name, value)]
        done = nix.run(("nix-instantiate", str(tmp_path / "host.nix"), *given))
        return done.stdout.decode().split()[0]

    return instantiate


@pytest.mark.nix
def test_the_flakes_own_revision(check: Check) -> None:
    explanation = explain(check(), check(rev=f'"{OTHER_REV}"'), read)
    way = f"vm-test-run-web > nixos-test-driver-web > {SYSTEM} > etc > nixos-version"
    assert lines(explanation, "web") == [
        "web's derivation differs from the one verified:",
        f"  {way}",
        f'    env configurationRevision: "{REV}" -> "{OTHER_REV}"',
        f"the usual suspect: {Suspect.REVISION}",
        "nothing else differs",
    ]


@pytest.mark.nix
def test_a_changed_source_file(check: Check, tmp_path: Path) -> None:
    old = check()
    (tmp_path / "nginx.conf").write_text("worker 1;\nlisten 8080;\nroot /;\n")
    found = lines(explain(old, check(), read))
    assert found[1].endswith("> etc > nginx-unit")
    assert found[2].startswith("    source /nix/store/")
    assert found[2].endswith("…-nginx.conf has changed:")
    assert found[3:] == ["      - listen 80;", "      + listen 8080;"]


@pytest.mark.nix
def test_an_added_input_and_a_changed_argument_of_one_with_several_outputs(check: Check) -> None:
    explanation = explain(check(), check(extra="true", arg='"two"'), read)
    assert [cause.path[-1] for cause in explanation.causes] == ["tool-1.0", "etc"]
    assert [(f.kind, f.what.strip()) for f in explanation.causes[0].findings] == [(Kind.ARGUMENT, "2")]
    assert [(f.kind, f.what) for f in explanation.causes[1].findings] == [(Kind.ENV, "more"), (Kind.INPUT, "extra")]
    assert explanation.suspicions == ()


@pytest.mark.nix
def test_a_version_in_the_name(check: Check) -> None:
    explanation = explain(check(), check(label='"24.11.20241122.12ab2ab"'), read)
    assert [cause.path[-1] for cause in explanation.causes] == ["nixos-system-web-24.11.20241122.12ab2ab"]
    assert [suspicion.suspect for suspicion in explanation.suspicions] == [Suspect.VERSION]


@pytest.mark.nix
def test_a_text_of_several_lines(check: Check) -> None:
    found = lines(explain(check(text="''a\nb\nc''"), check(text="''a\nB\nc''"), read))
    assert found[2:] == ["    env text differs:", "      - b", "      + B"]


@pytest.mark.nix
def test_the_whole_flake_as_an_input(check: Check, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "script.py").write_text("pass")
    old = check(flake=str(tmp_path / "source"))
    (tmp_path / "source" / "README").write_text("new")
    explanation = explain(old, check(flake=str(tmp_path / "source")), read)
    assert explanation.causes[0].findings[0].lines == ("script.py, which is used of it, is the same",)
    assert [suspicion.suspect for suspicion in explanation.suspicions] == [Suspect.TREE]


@pytest.mark.nix
def test_the_very_same(check: Check) -> None:
    explanation = explain(check(), check(), read)
    assert (explanation.same, explanation.causes, explanation.compared) == (True, (), 0)
    assert lines(explanation, "web") == ["web's derivation is the very one that was verified"]


@pytest.mark.parametrize("data", [None, b"", b"Derive(", b"\xff" * 100])
def test_the_one_verified_is_not_there(data: bytes | None) -> None:
    there = {NEW: b'Derive([],[],[],"s","b",[],[])', OLD: data}
    explanation = explain(OLD, NEW, there.get)
    assert explanation.missing == (OLD,)
    found = lines(explanation, "web")
    assert found[0] == f"web's derivation can't be compared: the one verified, {OLD}, is not in this store"
    assert found[-1].endswith(f"nix copy --derivation --from CACHE {OLD}")


def test_a_path_of_a_record_does_nothing_to_a_terminal() -> None:
    explanation = Explanation(old_drv=f"{OLD}\x1b[2J", new_drv=f"{NEW}\r", missing=(f"{OLD}\x1b[2J",))
    assert all(line.isprintable() for line in lines(explanation))


def test_the_new_one_is_not_there() -> None:
    there = {OLD: b'Derive([],[],[],"s","b",[],[])'}
    found = lines(explain(OLD, NEW, there.get))
    assert "evaluate it again" in found[1]
    assert explain(OLD, OLD, lambda path: None).same


@pytest.mark.parametrize(
    ("old", "new", "shown"),
    [
        (b"a", b"b", ("- a", "+ b")),
        (None, b"b", ()),
        (b"a", None, ()),
        (b"a", b"\0", ()),
        (b"\xff", b"b", ()),
        (b"a" * 300_000, b"b", ()),
    ],
)
def test_what_is_no_small_text_is_not_shown(old: bytes | None, new: bytes | None, shown: tuple[str, ...]) -> None:
    sources = [f"/nix/store/{letter * 32}-conf" for letter in "cd"]
    drvs = [f'Derive([],[],["{source}"],"s","b",[],[])'.encode() for source in sources]
    there = dict(zip((OLD, NEW, *sources), (*drvs, old, new), strict=True))
    assert explain(OLD, NEW, there.get).causes[0].findings[0].lines == shown


# Lines.


def explained(*causes: Cause, complete: bool = True) -> Explanation:
    return Explanation(
        old_drv=OLD, new_drv=NEW, causes=causes, compared=9, complete=complete, suspicions=suspicions(causes)
    )


def cause(name: str, *findings: Finding, same_outputs: bool = False) -> Cause:
    return Cause(path=("web", name), old_drv="a", new_drv="b", findings=findings, same_outputs=same_outputs)


def env(number: int, what: str = "x") -> Finding:
    return Finding(kind=Kind.ENV, what=what, old="a", new=str(number))


@pytest.mark.parametrize("limit", [8, 10, 40])
@pytest.mark.parametrize("findings", [1, 5, 50])
@pytest.mark.parametrize("causes", [1, 3, 200])
def test_there_are_never_too_many_lines(limit: int, findings: int, causes: int) -> None:
    many = [cause(f"c{at}", *(env(at, f"x{of}") for of in range(findings))) for at in range(causes)]
    found = lines(explained(*many, complete=False), limit=limit)
    assert len(found) <= limit
    assert found[1] == "  web > c0"
    named = sum(line.startswith("  web > ") for line in found)
    left = [line for line in found if line.endswith("more that differ by themselves")]
    assert left == ([f"  ... and {causes - named} more that differ by themselves"] if named < causes else [])


def test_causes_that_say_the_same_are_one() -> None:
    found = lines(explained(*(cause(f"c{at}", env(1)) for at in range(3)), cause("other", env(2))))
    assert found[1:] == [
        "  web > c0 (and 2 others in the same way)",
        '    env x: "a" -> "1"',
        "  web > other",
        '    env x: "a" -> "2"',
    ]


@pytest.mark.parametrize(
    ("finding", "line"),
    [
        (Finding(kind=Kind.ENV, what="x", new="1"), 'env x is new: "1"'),
        (Finding(kind=Kind.ENV, what="x", old=""), 'env x is gone: ""'),
        (Finding(kind=Kind.INPUT, what="x", new="/x"), "input x is new"),
        (Finding(kind=Kind.SOURCE, what="x", old="/x"), "source x is gone"),
        (Finding(kind=Kind.SOURCE, what="x", old="/x", new="/y"), "source /y has changed"),
        (Finding(kind=Kind.OUTPUT, what="dev", new=":"), "output dev is new"),
        (Finding(kind=Kind.OUTPUT, what="out", old="a", new="b"), 'output out: "a" -> "b"'),
        (Finding(kind=Kind.SYSTEM, old="a", new="b"), 'system: "a" -> "b"'),
        (Finding(kind=Kind.USED, what="x", old="out", new="dev"), 'outputs used of x: "out" -> "dev"'),
        (Finding(kind=Kind.UNREADABLE, what="/x"), "/x is not in the store, or is not readable as a derivation"),
        (Finding(kind=Kind.UNKNOWN), "differs in a way that is not understood; nix-diff may show more"),
        (Finding(kind=Kind.ENV, what="\x1b", old="\x1b[2J", new="\r"), 'env \\x1b: "\\x1b[2J" -> "\\r"'),
    ],
)
def test_a_line_of_each_kind(finding: Finding, line: str) -> None:
    assert lines(explained(cause("x", finding)))[2] == f"    {line}"


def test_what_else_is_said() -> None:
    assert "no cause was found in 9 derivations" in lines(explained())[1]
    assert "only 9 derivations were compared" in lines(explained(cause("x", env(1)), complete=False))[-1]
    spliced = cause("x", Finding(kind=Kind.ENV, what="x", old=REV, new=OTHER_REV))
    assert lines(explained(spliced))[-1] == "nothing else differs"
    assert "nothing else differs" not in lines(explained(spliced, complete=False))
    assert "only how it is fetched differs" in lines(explained(cause("x", env(1), same_outputs=True)))[1]
    far = Cause(path=tuple("abcdefghijkl"), old_drv="a", new_drv="b", findings=(env(1),))
    assert lines(explained(far))[1] == "  a > b > c > d > ... > i > j > k > l"
