"""Every option and ini key, and the one frozen object they become."""

import argparse
import os
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from pytest_nixos.errors import PytestNixosError

DEFAULT_TIMEOUT_SECONDS = 3600.0
BOOTING = "nixos-booting"  # the plugin that has the machines of tests in Python
FIRST = pytest.StashKey[frozenset[str]]()  # the names of the plugins, conftest files among them, before collection
OURS: set[str] = set()  # the names that our options have in pytest's namespace
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw]?)")
_SESSIONS = "pytest-nixos-sessions"  # a folder of our own: what dead sessions left in it is deleted
_UNIT_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the user asked for. Times are in seconds; see `add_options` for the meaning of each."""

    flakes: tuple[str, ...]
    named_on_command_line: bool
    base: Path
    system: str | None
    attr: str
    overrides: tuple[tuple[str, str], ...]
    impure: bool
    eval_workers: int | None
    eval_cache: bool
    unread: tuple[str, ...]
    rerun_verified: bool
    max_age: float | None
    timeout: float | None
    mode: str
    keep_going: bool
    network: bool
    accelerator: str
    records: tuple[str, ...]
    records_base: Path
    records_seconds: float
    trusted_keys: tuple[str, ...]
    secret_key_file: Path | None
    tier: str | None
    push_strict: bool
    request: str
    copy_to: str | None
    interactive: str | None
    prune_age: float | None
    folder: Path
    artifacts: Path | None
    stream: bool
    debugs: bool

    @classmethod
    def from_config(cls, config: pytest.Config) -> "Options":
        """Raises pytest.UsageError for a value that makes no sense."""
        try:
            return cls._read(config)
        except (PytestNixosError, RuntimeError) as error:  # RuntimeError: `~nobody` has no home
            raise pytest.UsageError(str(error)) from None

    @classmethod
    def _read(cls, config: pytest.Config) -> "Options":
        given = config.option
        if given.nixos_keep_going and given.nixos_mode != "native" and not given.usepdb:
            raise PytestNixosError("--nixos-keep-going is for native runs", "add --nixos-mode native")
        age = given.nixos_max_age or config.getini("nixos_max_age")
        timeout = given.nixos_timeout or config.getini("nixos_timeout")
        key_file = given.nixos_secret_key_file or os.environ.get("PYTEST_NIXOS_SECRET_KEY_FILE")
        invoked = Path(config.invocation_params.dir)
        base = invoked if given.nixos_flake else _ini_folder(config)
        return cls(
            flakes=tuple(given.nixos_flake or config.getini("nixos_flake")),
            named_on_command_line=bool(given.nixos_flake),
            base=base,
            system=given.nixos_system or config.getini("nixos_system") or None,
            attr=given.nixos_attr or config.getini("nixos_attr"),
            overrides=(*map(_override, config.getini("nixos_override_input")), *map(tuple, given.nixos_override_input)),
            impure=given.nixos_impure,
            eval_workers=given.nixos_eval_workers,
            eval_cache=not given.nixos_no_eval_cache,
            unread=(*config.getini("nixos_unread"), *given.nixos_unread),
            rerun_verified=given.nixos_rerun_verified,
            max_age=seconds(age) if age else None,
            timeout=seconds(timeout) if timeout else None,
            mode=given.nixos_mode,
            keep_going=given.nixos_keep_going,
            network=given.nixos_network,
            accelerator=given.nixos_accel,
            records=tuple(given.nixos_records or config.getini("nixos_records")),
            records_base=invoked if given.nixos_records else _ini_folder(config),
            records_seconds=seconds(given.nixos_records_timeout),
            trusted_keys=(*config.getini("nixos_trusted_keys"), *given.nixos_trusted_key),
            secret_key_file=invoked / Path(key_file).expanduser() if key_file else None,
            tier=given.nixos_tier or os.environ.get("PYTEST_NIXOS_TIER") or None,
            push_strict=given.nixos_push_strict,
            request=requested(given),
            copy_to=given.nixos_records_copy,
            interactive=given.nixos_interactive,
            prune_age=seconds(prune) if (prune := given.nixos_records_prune) is not None else None,
            folder=_folder(given.nixos_dir, invoked, "") / _SESSIONS,
            artifacts=invoked / given.nixos_artifacts if given.nixos_artifacts else None,
            stream=given.capture == "no",
            debugs=bool(given.usepdb),
        )


def requested(given: argparse.Namespace) -> str:
    """What is asked for in place of a test run: list, verify, explain, prune, copy, interactive; "" for a test run."""
    asked = list(dict.fromkeys(given.nixos_request))
    asked += ["prune"] if given.nixos_records_prune is not None else []
    asked += ["copy"] if given.nixos_records_copy is not None else []
    asked += ["interactive"] if given.nixos_interactive is not None else []
    if len(asked) > 1:
        raise pytest.UsageError(f"one thing at a time: {' and '.join(asked)} are asked for")
    return str(asked[0]) if asked else ""


def cache_home() -> Path:
    """The plugin's cache folder, by the XDG base directory specification. Raises PytestNixosError without a home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pytest-nixos"
    except RuntimeError:
        raise PytestNixosError("this user has no home directory", "set HOME or XDG_CACHE_HOME") from None


def seconds(text: str) -> float:
    """A duration such as 90, 90s, 15m, 12h, 7d or 2w in seconds. Raises PytestNixosError."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise PytestNixosError(f"{text!r} is not a duration", "write for instance 90s, 15m, 12h, 7d or 2w")
    return float(match[1]) * _UNIT_SECONDS[match[2]]


def _ini_folder(config: pytest.Config) -> Path:
    return config.inipath.parent if config.inipath else config.rootpath


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def _override(line: str) -> tuple[str, str]:
    words = line.split()
    if len(words) != 2:
        raise PytestNixosError(f"nixos_override_input: {line!r} is not `INPUT FLAKE`", "write one pair on each line")
    return words[0], words[1]


def _folder(given: str | None, base: Path, default: str) -> Path:
    return base / Path(given).expanduser() if given else cache_home() / default


def add_options(parser: pytest.Parser) -> None:
    """Declare every option and ini key."""
    group = parser.getgroup("nixos", "checks of Nix flakes")
    add = group.addoption
    add(
        "--nixos-flake",
        action="append",
        default=[],
        metavar="REF",
        help="run the checks of this flake: a folder, or any flake reference (repeatable)",
    )
    add("--nixos-system", metavar="SYSTEM", help="system whose checks are run (default: this machine's)")
    add("--nixos-attr", metavar="ATTR", help="attribute set of the checks (default: checks.{system})")
    add(
        "--nixos-override-input",
        action="append",
        nargs=2,
        default=[],
        metavar=("INPUT", "REF"),
        help="override an input of the flakes, as in Nix (repeatable)",
    )
    add("--nixos-impure", action="store_true", help="evaluate with --impure, as in Nix; such evaluations are not kept")
    add(
        "--nixos-eval-workers",
        type=_positive,
        metavar="N",
        help="evaluate in at most N processes (default: as many as cores and free memory allow)",
    )
    add("--nixos-no-eval-cache", action="store_true", help="evaluate even what has not changed, and keep no evaluation")
    add(
        "--nixos-unread",
        action="append",
        default=[],
        metavar="PATTERN",
        help="files of the flake that no check depends on, such as README.md or 'docs/*': "
        "tried once, then their changes alone need no evaluation (repeatable)",
    )
    add("--nixos-rerun-verified", action="store_true", help="run checks that are recorded as verified, too")
    add("--nixos-max-age", metavar="DURATION", help="records older than this prove nothing (e.g. 7d, 12h)")
    add(
        "--nixos-timeout",
        metavar="DURATION",
        help="limit for each check (default: the check's own limit, else 1h)",
    )
    add(
        "--nixos-mode",
        choices=("auto", "driver", "build", "native"),
        default="auto",
        help="driver: run VM checks by their test driver (auto does so); build: in the Nix sandbox; "
        "native: by our own driver in this process, with nothing recorded",
    )
    add("--nixos-keep-going", action="store_true", help="natively: go on behind a subtest that has failed")
    add("--nixos-network", action="store_true", help="let tests reach the network; such runs are not recorded")
    add(
        "--nixos-accel",
        choices=("auto", "kvm", "tcg"),
        default="auto",
        help="accelerator of the VMs; auto runs a small guest to see whether KVM works",
    )
    add(
        "--nixos-records",
        action="append",
        default=[],
        metavar="URI",
        help="where records of verified checks lie: a folder, or git:, gha:, github-runs:, nix: (repeatable)",
    )
    add(
        "--nixos-records-timeout",
        default="20s",
        metavar="DURATION",
        help="limit for reading records in all stores (20s); what has not answered then has nothing",
    )
    add(
        "--nixos-trusted-key",
        action="append",
        default=[],
        metavar="NAME:KEY",
        help="public key, in Nix's format, whose signature makes a record count (repeatable)",
    )
    add("--nixos-secret-key-file", metavar="FILE", help="secret key, in Nix's format, that signs records")
    add("--nixos-tier", choices=("cloud", "desktop", "laptop"), help="what this machine is: a laptop only reads")
    add("--nixos-push-strict", action="store_true", help="records that can't be pushed are an error")
    asks = {
        "--nixos-records-list": "show what is recorded of the selected checks, and why each is verified or not",
        "--nixos-records-verify": "show whether every record of the stores is whole, and signed where it must be",
        "--nixos-records-forget": "remove the records of the selected checks from the stores that are written here",
        "--nixos-explain": "show why the selected checks are not verified: what has changed in their derivations since",
    }
    for option, help_ in asks.items():
        request = option.rsplit("-", 1)[-1]
        add(
            option,
            dest="nixos_request",
            action="append_const",
            const=request,
            default=[],
            help=f"run nothing, and {help_}",
        )
    add(
        "--nixos-records-prune",
        metavar="AGE",
        help="run nothing, and remove records older than this that verify nothing now",
    )
    add(
        "--nixos-records-copy",
        metavar="URI",
        help="run nothing, and copy what proves the selected checks to this store",
    )
    add(
        "--nixos-interactive",
        metavar="CHECK",
        help="run nothing, and open a Python prompt with the machines of this check",
    )
    add("--nixos-dir", metavar="DIR", help="folder for the sessions' stores, on the file system of the Nix store")
    add("--nixos-artifacts", metavar="DIR", help="keep transcripts and files of every check here")
    parser.addini("nixos_flake", "flakes whose checks are run by plain pytest", type="linelist", default=[])
    parser.addini("nixos_system", "see --nixos-system", default="")
    parser.addini("nixos_attr", "see --nixos-attr", default="checks.{system}")
    parser.addini("nixos_unread", "see --nixos-unread, one on each line", type="linelist", default=[])
    parser.addini("nixos_override_input", "INPUT FLAKE, one pair on each line", type="linelist", default=[])
    parser.addini("nixos_max_age", "see --nixos-max-age", default="")
    parser.addini("nixos_timeout", "see --nixos-timeout", default="")
    parser.addini("nixos_records", "see --nixos-records, one on each line", type="linelist", default=[])
    parser.addini("nixos_trusted_keys", "see --nixos-trusted-key, one on each line", type="linelist", default=[])
    OURS.update(option.dest for option in group.options)
