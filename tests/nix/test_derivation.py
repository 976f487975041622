import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_nixos.nix.command import Nix
from pytest_nixos.nix.derivation import DerivationFile, Output, own_outputs, parse
from pytest_nixos.nix.matching import placeholder

SMALL = (
    b'Derive([("dev","/nix/store/d-x-dev","",""),("out","/nix/store/o-x","","")],'
    b'[("/nix/store/a-in.drv",["dev","out"])],["/nix/store/s-src"],"x86_64-linux","/bin/sh",["-c","a\\n\\"b\\"\\\\\\t"],'
    b'[("empty",""),("name","x")])'
)


def quoted(text: str) -> str:
    for plain, escape in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\r", "\\r"), ("\t", "\\t")):
        text = text.replace(plain, escape)
    return f'"{text}"'


def rows(items: list[str]) -> str:
    return f"[{','.join(items)}]"


def written(drv: DerivationFile) -> bytes:
    """A derivation as Nix writes it."""
    parts = [
        rows([f"({','.join(map(quoted, (n, o.path, o.algorithm, o.hash)))})" for n, o in drv.outputs.items()]),
        rows([f"({quoted(p)},{rows([quoted(n) for n in names])})" for p, names in drv.input_drvs.items()]),
        rows([quoted(path) for path in drv.input_srcs]),
        quoted(drv.system),
        quoted(drv.builder),
        rows([quoted(arg) for arg in drv.args]),
        rows([f"({quoted(key)},{quoted(value)})" for key, value in drv.env.items()]),
    ]
    return f"Derive({','.join(parts)})".encode("utf-8", "surrogateescape")


ANY_TEXT = st.one_of(st.binary(max_size=20), st.text(max_size=20).map(lambda t: t.encode(errors="replace"))).map(
    lambda data: data.decode("utf-8", "surrogateescape")
)
TEXTS = st.lists(ANY_TEXT, max_size=4).map(tuple)
DERIVATIONS = st.builds(
    DerivationFile,
    outputs=st.dictionaries(ANY_TEXT, st.builds(Output, path=ANY_TEXT, algorithm=ANY_TEXT, hash=ANY_TEXT), max_size=3),
    input_drvs=st.dictionaries(ANY_TEXT, TEXTS, max_size=3),
    input_srcs=TEXTS,
    system=ANY_TEXT,
    builder=ANY_TEXT,
    args=TEXTS,
    env=st.dictionaries(ANY_TEXT, ANY_TEXT, max_size=4),
)


def test_every_field() -> None:
    drv = parse(SMALL)
    assert drv == DerivationFile(
        outputs={"dev": Output(path="/nix/store/d-x-dev"), "out": Output(path="/nix/store/o-x")},
        input_drvs={"/nix/store/a-in.drv": ("dev", "out")},
        input_srcs=("/nix/store/s-src",),
        system="x86_64-linux",
        builder="/bin/sh",
        args=("-c", 'a\n"b"\\\t'),
        env={"empty": "", "name": "x"},
    )


def test_outputs_that_only_a_build_can_tell_are_not_stated() -> None:
    text = b'Derive([("out","/nix/store/o-x","r:sha256","00"),("var","","r:sha256","")],[],[],"s","b",[],[])'
    drv = parse(text)
    assert own_outputs(drv) == {"out": "/nix/store/o-x"}
    assert drv.outputs["out"] == Output(path="/nix/store/o-x", algorithm="r:sha256", hash="00")
    assert own_outputs(parse(b'Derive([],[],[],"s","b",[],[])')) == {}


def test_outputs_of_outputs() -> None:
    inner = b'(["out"],[("out",["lib"]),("dev",([],[("x",["y"])]))])'
    text = b'DrvWithVersion("xp-dyn-drv",[],[("/nix/store/a-in.drv",' + inner + b')],[],"s","b",[],[])'
    assert parse(text).input_drvs == {"/nix/store/a-in.drv": ("out", "out^lib", "dev^x^y")}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"Derive(",
        SMALL[:-1],
        SMALL + b"\n",
        SMALL + SMALL,
        SMALL.replace(b"Derive", b"Derived"),
        SMALL.replace(b"Derive(", b'DrvWithVersion("xp-other",'),
        SMALL.replace(b'("empty",""),', b'("name",""),'),
        SMALL.replace(b'("empty",""),', b'("empty",""),,'),
        SMALL.replace(b'("name","x")', b'("name","x"),'),
        SMALL.replace(b'"dev"', b'"out"', 1),
        SMALL.replace(b'("empty","")', b'("empty")'),
        SMALL.replace(b'"x86_64-linux"', b"[]"),
        b'DrvWithVersion("xp-dyn-drv",[],[("/nix/store/a.drv",' + b'([],[("x",' * 100_000,
    ],
)
def test_what_nix_does_not_write(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a derivation"):
        parse(data)


@settings(deadline=None)
@given(DERIVATIONS)
def test_what_is_written_is_read(drv: DerivationFile) -> None:
    assert parse(written(drv)) == drv


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_derivation_or_a_value_error(data: bytes) -> None:
    for text in (data, b"Derive(" + data, b'DrvWithVersion("xp-dyn-drv",' + data):
        with pytest.raises(ValueError, match="not a derivation"):
            parse(text)


@settings(deadline=None)
@given(DERIVATIONS, st.integers(0, 400), st.integers(0, 255))
def test_one_wrong_byte_is_a_derivation_or_a_value_error(drv: DerivationFile, at: int, byte: int) -> None:
    data = bytearray(written(drv))
    data[at % len(data)] = byte
    with contextlib.suppress(ValueError):
        parse(bytes(data))


@settings(deadline=None)
@given(st.integers(0, 64), st.data())
def test_a_shortened_file_is_refused(length: int, data: st.DataObject) -> None:
    whole = written(data.draw(DERIVATIONS))
    with pytest.raises(ValueError, match="not a derivation"):
        parse(whole[: max(0, len(whole) - 1 - length)])


def instantiate(nix: Nix, expression: str) -> str:
    done = nix.run(("nix-instantiate", "--expr", expression))
    return done.stdout.decode().split()[0].split("!")[0]


@pytest.mark.nix
def test_a_real_derivation(nix: Nix) -> None:
    attrs = 'system = "x86_64-linux"; builder = "/bin/sh"; outputs = [ "out" "dev" ];'
    path = instantiate(
        nix,
        f'let a = derivation {{ name = "a"; {attrs} }}; in derivation {{ name = "b"; {attrs} '
        'args = [ "-c" "a\\n\\t\\"\\\\ é" ]; dev2 = a.dev; }',
    )
    data = Path(path).read_bytes()
    drv = parse(data)
    assert written(drv) == data
    stated = nix.run(nix.store("--query", "--outputs", path)).stdout.decode().split()
    assert sorted(own_outputs(drv).values()) == sorted(stated)
    assert drv.args == ("-c", 'a\n\t"\\ é')
    assert list(drv.input_drvs.values()) == [("dev",)]


@pytest.mark.nix
def test_structured_attributes_are_a_json_text(nix: Nix) -> None:
    path = instantiate(
        nix, 'derivation { name = "s"; system = "x"; builder = "b"; __structuredAttrs = true; a.b = [ 1 "x" ]; }'
    )
    drv = parse(Path(path).read_bytes())
    assert json.loads(drv.env["__json"])["a"] == {"b": [1, "x"]}


@pytest.mark.nix
def test_the_placeholder_of_an_output_that_only_a_build_can_tell(nix: Nix) -> None:
    attrs = 'system = "x"; builder = "b"; __contentAddressed = true; outputHashMode = "recursive"; '
    first = f'derivation {{ name = "a"; {attrs} outputHashAlgo = "sha256"; outputs = [ "out" "dev" ]; }}'
    text = f'let a = {first}; in derivation {{ name = "b"; system = "x"; builder = "b"; a = a.out; dev = a.dev; }}'
    done = nix.run(("nix-instantiate", "--extra-experimental-features", "ca-derivations", "--expr", text), check=False)
    if done.status:
        pytest.skip("this Nix has no content-addressed derivations")
    path = done.stdout.decode().split()[0].split("!")[0]
    drv = parse(Path(path).read_bytes())
    used = next(iter(drv.input_drvs))
    assert (drv.env["a"], drv.env["dev"]) == (f"/{placeholder(used, 'out')}", f"/{placeholder(used, 'dev')}")
    assert own_outputs(drv) == {}
