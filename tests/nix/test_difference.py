import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_nixos.nix.derivation import DerivationFile, Output
from pytest_nixos.nix.difference import MOST_CAUSES, Cause, Difference, Finding, Kind, difference
from pytest_nixos.nix.matching import placeholder, rewritten
from pytest_nixos.nix.suspects import Suspect, Suspicion, suspect_of, suspicions
from pytest_nixos.nix.textdiff import beginning, printable, text_difference, values

REV, OTHER_REV = "9f3c2ab4d5e6f708192a3b4c5d6e7f8091a2b3c4", "12ab2ab4d5e6f708192a3b4c5d6e7f8091a2b3ff"


def store(number: int, name: str) -> str:
    return f"/nix/store/{number:032}-{name}"


class Tree:
    """Derivations that are made one after the other, each with a store path of its own."""

    def __init__(self) -> None:
        self.drvs: dict[str, DerivationFile] = {}
        self.reads: list[str] = []
        self._count = 0

    def path(self, name: str) -> str:
        self._count += 1
        return store(self._count, name)

    def make(self, name: str, inputs: Mapping[str, tuple[str, ...]] | Sequence[str] = (), **given: Any) -> str:
        """A derivation with env `uses`, which names all outputs it uses; its path."""
        used: dict[str, tuple[str, ...]] = dict.fromkeys(inputs, ("out",))
        if isinstance(inputs, Mapping):
            used.update(inputs)
        outputs = given.pop("outputs", None) or {"out": Output(path=self.path(name))}
        uses = " ".join(self.drvs[path].outputs[name].path for path, names in used.items() for name in names)
        env = {"name": name, "uses": uses, "out": outputs["out"].path, **given.pop("env", {})}
        plain = DerivationFile(
            outputs=outputs, input_drvs=used, input_srcs=(), system="s", builder="b", args=("-c",), env=env
        )
        path = self.path(f"{name}.drv")
        self.drvs[path] = replace(plain, **given)
        return path

    def out(self, path: str) -> str:
        return self.drvs[path].outputs["out"].path

    def read(self, path: str) -> DerivationFile | None:
        self.reads.append(path)
        return self.drvs.get(path)

    def compare(self, old: str, new: str) -> Difference:
        return difference(old, new, self.read)


def only(found: Difference) -> Cause:
    assert len(found.causes) == 1, found.causes
    return found.causes[0]


@pytest.fixture
def tree() -> Tree:
    return Tree()


def chain(tree: Tree, **given: Any) -> str:
    """check > system > etc, where etc is as given."""
    etc = tree.make("etc", **given)
    return tree.make("check", [tree.make("system", [etc])])


def test_the_same_derivation_is_not_read(tree: Tree) -> None:
    assert tree.compare("/nix/store/x.drv", "/nix/store/x.drv") == Difference(causes=(), compared=0)
    assert tree.reads == []


def test_a_variable_far_below(tree: Tree) -> None:
    cause = only(tree.compare(chain(tree, env={"rev": "a"}), chain(tree, env={"rev": "b"})))
    assert cause.path == ("check", "system", "etc")
    assert cause.findings == (Finding(kind=Kind.ENV, what="rev", old="a", new="b"),)
    assert not cause.same_outputs


@pytest.mark.parametrize(
    ("old", "new", "finding"),
    [
        ({"builder": "a"}, {"builder": "b"}, Finding(kind=Kind.BUILDER, old="a", new="b")),
        ({"system": "a"}, {"system": "b"}, Finding(kind=Kind.SYSTEM, old="a", new="b")),
        ({"args": ("x", "a")}, {"args": ("x", "b")}, Finding(kind=Kind.ARGUMENT, what=" 2", old="a", new="b")),
        ({"args": ("x",)}, {"args": ()}, Finding(kind=Kind.ARGUMENT, old='["x"]', new="[]")),
        ({"env": {"x": ""}}, {}, Finding(kind=Kind.ENV, what="x", old="", new=None)),
        ({}, {"env": {"x": ""}}, Finding(kind=Kind.ENV, what="x", old=None, new="")),
    ],
)
def test_what_differs(tree: Tree, old: dict[str, Any], new: dict[str, Any], finding: Finding) -> None:
    assert only(tree.compare(chain(tree, **old), chain(tree, **new))).findings == (finding,)


def test_what_nix_repeats_in_the_environment_is_said_once(tree: Tree) -> None:
    paths = [chain(tree, builder=x, system=x, env={"builder": x, "system": x}) for x in "ab"]
    kinds = [f.kind for f in only(tree.compare(paths[0], paths[1])).findings]
    assert kinds == [Kind.BUILDER, Kind.SYSTEM]


def test_structured_attributes_one_by_one(tree: Tree) -> None:
    env = [{"__json": json.dumps({"a": {"b": x, "c": 1}, "list": [1, 2], "none": {}})} for x in "xy"]
    cause = only(tree.compare(chain(tree, env=env[0]), chain(tree, env=env[1])))
    assert cause.findings == (Finding(kind=Kind.ENV, what="a.b", old="x", new="y"),)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"a":' * 600 + "1" + "}" * 600, "9" * 5000])
def test_what_is_no_json_is_a_text(tree: Tree, text: str) -> None:
    cause = only(tree.compare(chain(tree, env={"__json": text}), chain(tree, env={"__json": text + " x"})))
    assert cause.findings[0].kind is Kind.ENV


def test_paths_of_inputs_are_consequences_wherever_they_stand(tree: Tree) -> None:
    def check(rev: str) -> str:
        outputs = {"out": Output(path=tree.path("lib")), "dev": Output(path=tree.path("lib-dev"))}
        lib = tree.make("lib", env={"rev": rev}, outputs=outputs)
        out, dev = outputs["out"].path, outputs["dev"].path
        digest = out.rsplit("/", 1)[1][:32]
        env = {"text": f"x {dev}/a:{out}:{out[11:]} hash {digest}\n{lib}"}
        return tree.make("check", {lib: ("out", "dev")}, builder=f"{out}/bin/sh", args=(dev,), env=env)

    assert only(tree.compare(check("a"), check("b"))).path == ("check", "lib")


def test_a_path_that_nix_does_not_know_of_is_a_consequence_too(tree: Tree) -> None:
    """As by builtins.unsafeDiscardStringContext: the text names what is no input of this derivation."""

    def check(rev: str) -> str:
        deep = tree.make("deep", env={"rev": rev})
        return tree.make("check", [tree.make("middle", [deep])], env={"said": tree.out(deep)})

    assert only(tree.compare(check("a"), check("b"))).path == ("check", "middle", "deep")


def test_placeholders_of_content_addressed_inputs_are_consequences(tree: Tree) -> None:
    def check(rev: str) -> str:
        lib = tree.make("lib", env={"rev": rev}, outputs={"out": Output(path="", algorithm="r:sha256")})
        return tree.make("check", [lib], env={"lib": f"/{placeholder(lib, 'out')}/bin"})

    assert only(tree.compare(check("a"), check("b"))).path == ("check", "lib")


def test_inputs_with_a_version_in_their_name(tree: Tree) -> None:
    def check(version: str) -> str:
        return tree.make("check", [tree.make(f"nixos-system-web-{version}")])

    cause = only(tree.compare(check("24.11.20241121.9f3c2ab"), check("24.11.20241122.12ab2ab")))
    assert [(f.kind, f.what) for f in cause.findings] == [(Kind.ENV, "name")]


@pytest.mark.parametrize("places", ["ab", "aa"])
def test_several_inputs_of_one_name_are_told_apart_by_where_they_are_used(tree: Tree, places: str) -> None:
    def check(texts: dict[str, str], order: str) -> str:
        paths = {key: tree.make("patch", env={"text": texts[key]}) for key in order}
        used = [tree.out(paths[key]) for key in "ab"]
        env = {"a": used[0], "b": used[1]} if places == "ab" else {"patches": " ".join(used)}
        return tree.make("check", list(paths.values()), env={"uses": "", **env})

    found = tree.compare(check({"a": "one", "b": "two"}, "ab"), check({"a": "uno", "b": "due"}, "ba"))
    texts = {(f.what, f.old, f.new) for each in found.causes for f in each.findings}
    assert texts == {("text", "one", "uno"), ("text", "two", "due")}


def test_the_one_of_a_name_that_has_gone_is_the_one_whose_place_has(tree: Tree) -> None:
    def check(texts: dict[str, str]) -> str:
        paths = {key: tree.make("patch", env={"text": text}) for key, text in texts.items()}
        env = {key: tree.out(path) for key, path in paths.items()}
        return tree.make("check", list(paths.values()), env={"uses": "", **env})

    old = check({"a": "one", "b": "two"})
    findings = [f for each in tree.compare(old, check({"b": "due"})).causes for f in each.findings]
    assert [(f.kind, f.what) for f in findings] == [(Kind.ENV, "a"), (Kind.INPUT, "patch"), (Kind.ENV, "text")]
    assert (findings[2].old, findings[2].new) == ("two", "due")


def test_the_same_content_of_several_of_one_name_is_a_pair(tree: Tree) -> None:
    def check(url: str, order: str) -> str:
        made = {key: {"out": Output(path=store(int(key), "source"), algorithm="r:sha256")} for key in "78"}
        paths = [tree.make("source", env={"url": url}, outputs=made[key]) for key in order]
        return tree.make("check", paths, env={"uses": ""})

    found = tree.compare(check("a", "78"), check("b", "87"))
    assert [each.same_outputs for each in found.causes] == [True, True]


def test_inputs_that_come_and_go(tree: Tree) -> None:
    libs = [tree.make(name) for name in ("kept", "gone", "new")]
    cause = only(tree.compare(tree.make("check", libs[:2]), tree.make("check", [libs[0], libs[2]])))
    inputs = [f for f in cause.findings if f.kind is Kind.INPUT]
    assert [(f.what, f.old, f.new) for f in inputs] == [("gone", libs[1], None), ("new", None, libs[2])]


def test_another_output_of_the_same_input(tree: Tree) -> None:
    outputs = {name: Output(path=tree.path(f"lib-{name}")) for name in ("out", "dev")}
    lib = tree.make("lib", outputs=outputs)
    cause = only(tree.compare(tree.make("check", {lib: ("out",)}), tree.make("check", {lib: ("out", "dev")})))
    assert Finding(kind=Kind.USED, what="lib", old="out", new="out dev") in cause.findings


def test_outputs_of_its_own(tree: Tree) -> None:
    paths = [chain(tree), chain(tree, outputs={n: Output(path=tree.path(f"etc-{n}")) for n in ("out", "man")})]
    cause = only(tree.compare(*paths))
    assert Finding(kind=Kind.OUTPUT, what="man", old=None, new=":") in cause.findings


def test_sources(tree: Tree) -> None:
    def check(*names: str) -> str:
        sources = tuple(tree.path(name) for name in names)
        return chain(tree, input_srcs=sources, env={"conf": f"{sources[0]}/x"})

    found = only(tree.compare(check("a.conf", "old"), check("a.conf", "new"))).findings
    assert [(f.kind, f.what, f.old is None, f.new is None) for f in found] == [
        (Kind.SOURCE, "a.conf", False, False),
        (Kind.SOURCE, "old", False, True),
        (Kind.SOURCE, "new", True, False),
    ]


def test_a_derivation_used_as_a_file_is_compared_as_one(tree: Tree) -> None:
    def check(rev: str) -> str:
        inner = tree.make("inner", env={"rev": rev})
        return tree.make("check", input_srcs=(inner,), env={"graph": inner})

    cause = only(tree.compare(check("a"), check("b")))
    assert (cause.path, cause.findings[0].what) == (("check", "inner"), "rev")


def test_how_a_source_is_fetched_comes_last(tree: Tree) -> None:
    fixed = {"out": Output(path=tree.path("src.tar"), algorithm="sha256", hash="00")}

    def check(url: str, rev: str) -> str:
        return tree.make(
            "check", [tree.make("src.tar", env={"url": url}, outputs=fixed), chain(tree, env={"rev": rev})]
        )

    found = tree.compare(check("a", "a"), check("b", "b"))
    assert [(cause.path[-1], cause.same_outputs) for cause in found.causes] == [("etc", False), ("src.tar", True)]


def test_what_is_not_there_is_said(tree: Tree) -> None:
    lost = tree.make("lost")
    paths = [tree.make("check", [lib]) for lib in (lost, tree.make("lost", env={"rev": "b"}))]
    del tree.drvs[lost]
    found = tree.compare(paths[0], paths[1])
    assert found.causes[-1].findings == (Finding(kind=Kind.UNREADABLE, what=lost),)


def test_a_difference_that_is_not_understood_is_not_hidden(tree: Tree) -> None:
    assert only(tree.compare(tree.make("check"), tree.make("check"))).findings == (Finding(kind=Kind.UNKNOWN),)


def test_a_pair_is_looked_at_once_however_many_ways_lead_to_it(tree: Tree) -> None:
    def ladder(rev: str) -> str:
        step = [tree.make("deep", env={"rev": rev})] * 2
        for level in range(40):  # 2 ** 40 ways
            step = [tree.make(f"{side}{level:02}", sorted(set(step))) for side in ("left", "right")]
        return tree.make("check", step)

    found = tree.compare(ladder("a"), ladder("b"))
    assert found.compared == 82
    assert len(tree.reads) == 164
    assert len(only(found).path) == 42


def test_what_is_equal_is_not_looked_at(tree: Tree) -> None:
    world = tree.make("world", [tree.make(f"package{number}") for number in range(100)])
    paths = [tree.make("check", [world, tree.make("etc", env={"rev": rev})]) for rev in "ab"]
    assert tree.compare(*paths).compared == 2
    assert len(tree.reads) == 4


def test_a_tree_made_to_be_slow_is_left(tree: Tree) -> None:
    paths = [chain(tree, env={"rev": rev}) for rev in "ab"]
    found = difference(paths[0], paths[1], tree.read, most_pairs=2)
    assert (found.complete, found.compared, found.causes) == (False, 2, ())


def test_nobody_reads_on_for_ever(tree: Tree) -> None:
    paths = [tree.make("check", [tree.make(f"p{at}", env={"v": v}) for at in range(MOST_CAUSES + 5)]) for v in "ab"]
    found = tree.compare(paths[0], paths[1])
    assert (len(found.causes), found.complete) == (MOST_CAUSES, False)


def test_a_deep_tree(tree: Tree) -> None:
    def deep(rev: str) -> str:
        path = tree.make("etc", env={"rev": rev})
        for _ in range(3000):
            path = tree.make("on", [path])
        return path

    assert len(only(tree.compare(deep("a"), deep("b"))).path) == 3001


# Texts.


def test_rewritten() -> None:
    old, new = store(1, "lib-1.0")[11:], store(2, "lib-1.1")[11:]
    names = {old[:32]: (old, new)}
    assert (
        rewritten(f"/nix/store/{old}/bin {old[:32]} {old}.drv", names) == f"/nix/store/{new}/bin {new[:32]} {new}.drv"
    )
    assert rewritten(f"x{old} {old[:31]} {store(3, 'lib')}", names) == f"x{old} {old[:31]} {store(3, 'lib')}"


@settings(deadline=None)
@given(st.text("01ab-/ x", max_size=80))
def test_rewritten_leaves_what_it_does_not_know(text: str) -> None:
    assert rewritten(text, {}) == text
    assert rewritten(text, {"z" * 32: ("z" * 32, "y" * 32)}) == text


@pytest.mark.parametrize(
    ("old", "new", "lines"),
    [
        ("a\nb\nc", "a\nx\nc", ["- b", "+ x"]),
        ("a\n", "a", ["- "]),
        ("a\nb\nc\nd", "A\nb\nc\nD", ["- a", "+ A", "- d", "+ D"]),
        ("a\na", "a\na\na", ["+ a"]),
        ("same", "same", []),
    ],
)
def test_text_difference(old: str, new: str, lines: list[str]) -> None:
    assert list(text_difference(old, new)) == lines


def test_long_texts_are_not_compared_line_by_line() -> None:
    old, new = ("\n".join(f"{word} {number}" for number in range(100_000)) for word in ("old", "new"))
    found = list(text_difference(old, new))
    assert found[0] == "- old 0"
    assert found[-1] == "... 100000 lines in all"
    assert len(found) == 9


def test_long_values_are_shown_where_they_begin_to_differ() -> None:
    old, new = values("x" * 200 + "old" + "y" * 200, "x" * 200 + "new" + "y" * 200)
    assert (old[:3], old[-3:]) == ('"…x', 'y…"')
    assert "xoldy" in old
    assert len(new) == len(old) < 80
    assert "xnewy" in new
    assert values("a", "") == ('"a"', '""')
    assert beginning("x" * 100) == "x" * 72 + "…"


@settings(deadline=None)
@given(st.text())
def test_what_is_printed_does_nothing_to_a_terminal(text: str) -> None:
    assert printable(text).isprintable()


def test_printable() -> None:
    assert printable("\x1b[31m\u202e\udcff\n") == "\\x1b[31m\\u202e\\xff\\n"
    assert printable(store(1, "x")) == "/nix/store/0000…-x"


# Usual suspects.


def env(old: str | None, new: str | None, what: str = "x") -> Finding:
    return Finding(kind=Kind.ENV, what=what, old=old, new=new)


@pytest.mark.parametrize(
    ("finding", "suspect"),
    [
        (env(REV, OTHER_REV), Suspect.REVISION),
        (env(f"rev {REV}\n", f"rev {OTHER_REV}-dirty\n"), Suspect.REVISION),
        (env("a-9f3c2ab", "a-12ab2ab"), Suspect.REVISION),
        (env("a-9f3c2ab", "a-12ab2ab-dirty"), Suspect.REVISION),
        (env("9f3c2ab", "12345678"), Suspect.REVISION),
        (env(REV, "dirty"), Suspect.REVISION),
        (env("", REV, "configurationRevision"), Suspect.REVISION),
        (env(REV, None, "configurationRevision"), Suspect.REVISION),
        (env(f'{{"nixpkgsRevision":"{REV}"}}', f'{{"nixpkgsRevision":"{OTHER_REV}"}}'), Suspect.VERSION),
        (env("24.11.20241121.9f3c2ab", "24.11.20241122.12ab2ab"), Suspect.VERSION),
        (env("system-25.05pre20241121.9f3c2ab", "system-25.05pre20241122.dirty"), Suspect.VERSION),
        (env("20241121.9f3c2ab", "20241122.12ab2ab"), Suspect.VERSION),
        (env("built 20241121", "built 20241122"), Suspect.TIME),
        (env("20241121093000", "20241121093001"), Suspect.TIME),
        (env("1732181400", "1732181401"), Suspect.TIME),
        (env(f"{REV} 1732181400", f"{OTHER_REV} 1732181401"), Suspect.REVISION),
        (env("/nix/store/" + "a" * 32 + "-source/x", "/nix/store/" + "b" * 32 + "-source/x"), Suspect.TREE),
        (Finding(kind=Kind.SOURCE, what="source", old="/a", new="/b"), Suspect.TREE),
        (Finding(kind=Kind.SOURCE, what="source", old=None, new="/b"), None),
        (Finding(kind=Kind.SOURCE, what="nginx.conf", old="/a", new="/b"), None),
        (Finding(kind=Kind.ARGUMENT, what="1", old=REV, new=OTHER_REV), Suspect.REVISION),
        (Finding(kind=Kind.BUILDER, old=REV, new=OTHER_REV), None),
        (env(REV, REV), None),
        (env(f"{REV} a", f"{OTHER_REV} b"), None),
        (env(REV, f"{REV} {OTHER_REV}"), None),
        (env("", REV), None),
        (env(None, "x"), None),
        (env("", None), None),
        (env(REV + "0" * 24, OTHER_REV + "0" * 24), None),
        (env("1234567", "1234568"), None),
        (env("12345678", "12345679"), None),
        (env("defaced", "effaced"), None),
        (env("port 80", "port 8080"), None),
    ],
)
def test_suspect_of(finding: Finding, suspect: Suspect | None) -> None:
    assert suspect_of(finding) is suspect


def cause(*findings: Finding, same_outputs: bool = False) -> Cause:
    return Cause(path=("x",), old_drv="a", new_drv="b", findings=findings, same_outputs=same_outputs)


def test_suspicions() -> None:
    spliced, other = cause(env(REV, OTHER_REV)), cause(env("a", "b"))
    assert suspicions([]) == ()
    assert suspicions([other]) == ()
    assert suspicions([spliced, spliced]) == (Suspicion(suspect=Suspect.REVISION, causes=2, alone=True),)
    assert suspicions([spliced, other]) == (Suspicion(suspect=Suspect.REVISION, causes=1, alone=False),)
    assert not suspicions([cause(env(REV, OTHER_REV), env("a", "b"))])[0].alone
    assert [s.suspect for s in suspicions([other] * 100)] == [Suspect.UPDATE]


def test_a_source_fetched_at_another_revision_is_no_accident() -> None:
    fetched = cause(env(REV, OTHER_REV, "rev"), env("sha256-a", "sha256-b", "outputHash"))
    assert suspicions([fetched]) == ()
    assert suspicions([cause(env(REV, OTHER_REV), same_outputs=True)]) == ()


@settings(deadline=None)
@given(st.text("0123456789abcdef-dirty.su/ ", max_size=60), st.text("0123456789abcdef-dirty.su/ ", max_size=60))
def test_no_text_breaks_the_search_for_suspects(old: str, new: str) -> None:
    assert suspect_of(env(old, new)) in {None, *Suspect}
