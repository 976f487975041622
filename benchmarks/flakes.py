"""Flakes to measure evaluation with: many trivial checks, or some that each need a large part of the machine's memory.

    python benchmarks/flakes.py trivial 1000 DIR     1,000 checks whose evaluation costs next to nothing
    python benchmarks/flakes.py heavy 50 DIR         50 checks, each 0.5 to 1 GB and some seconds of evaluator

Each folder becomes a git repository with a README and a lock file, as a flake of hosts is one. Building a check
needs a static busybox (/bin/busybox of Debian's busybox-static, or what BUSYBOX names).
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

_COMMON = """
      busybox = builtins.path { name = "tools"; path = ./tools; } + "/busybox";
      check = name: text: derivation {
        inherit name;
        system = "x86_64-linux";
        builder = busybox;
        args = [ "sh" "-c" "echo ${text} > $out" ];
      };
      numbered = count: f: builtins.listToAttrs (builtins.genList
        (i: let name = "host${toString i}"; in { inherit name; value = f name i; }) count);
"""

_TRIVIAL = """
      checks = numbered @COUNT@ (name: i: check name name);
"""

# As in NixOS a host is a set of options that many layers refine, and stays alive as an attribute of its check, as
# the configuration of a test's nodes does. A layer is about 4 MB.
_HEAVY = """
      names = builtins.genList (i: "services.unit${toString i}.enable") 10000;
      layer = host: depth: builtins.listToAttrs (map (name: {
        inherit name;
        value = { value = "${name}=${host}/${toString depth}"; priority = depth; defined = [ host depth ]; };
      }) names);
      host = name: depth:
        let
          config = builtins.genList (layer name) depth;
          options = builtins.foldl' (sum: one: sum + builtins.length (builtins.attrNames one)) 0
            (builtins.deepSeq config config);
        in check name (toString options) // { inherit config; };
      checks = numbered @COUNT@ (name: i: host name (@LAYERS@ + 40 * (i - 4 * (i / 4))));
"""


def flake(kind: str, count: int) -> str:
    """The text of flake.nix."""
    body = {"trivial": _TRIVIAL, "heavy": _HEAVY}[kind].replace("@COUNT@", str(count)).replace("@LAYERS@", "130")
    return f"{{\n  outputs = {{ self }}:\n    let{_COMMON}{body}    in {{ checks.x86_64-linux = checks; }};\n}}\n"


def write(kind: str, count: int, folder: Path) -> Path:
    """Make `folder` a git repository with such a flake, and return it."""
    tools = folder / "tools"
    tools.mkdir(parents=True)
    shutil.copy(os.environ.get("BUSYBOX") or shutil.which("busybox") or "/bin/busybox", tools / "busybox")
    (folder / "flake.nix").write_text(flake(kind, count))
    (folder / "flake.lock").write_text('{"nodes": {"root": {}}, "root": "root", "version": 7}\n')
    (folder / "README.md").write_text(f"# {count} {kind} checks\n")
    commit(folder, "init")
    return folder


def commit(folder: Path, message: str) -> None:
    """Commit all that is in `folder`, which becomes a repository if it is none."""
    who = ("-c", "user.name=benchmark", "-c", "user.email=benchmark@localhost")
    for words in (("init", "--quiet"), ("add", "--all"), (*who, "commit", "--quiet", "--message", message)):
        subprocess.run(("git", *words), cwd=folder, check=True)


if __name__ == "__main__":
    write(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
