"""Nix's settings as far as they can change what an evaluation gives: read as Nix reads them, without starting it.

Source: the Nix manual, nix.conf(5): the system's file, the user's files, then NIX_CONFIG; `include` and `!include`.
"""

import hashlib
import os
import pwd
import re
from collections.abc import Mapping
from pathlib import Path

_BLANKS = re.compile(r"[ \t\r]+")  # what separates words for Nix; Python knows more of them
# Settings that move store paths, limit work or print, and so can't change a derivation. All others count.
_HARMLESS = frozenset((
    "access-tokens", "allowed-users", "auto-optimise-store", "bash-prompt", "bash-prompt-prefix", "bash-prompt-suffix",
    "build-dir", "build-hook", "build-users-group", "builders", "builders-use-substitutes", "commit-lockfile-summary",
    "compress-build-log", "connect-timeout", "cores", "diff-hook", "download-attempts", "download-buffer-size",
    "eval-cache", "fallback", "flake-registry", "fsync-metadata", "fsync-store-paths", "gc-reserved-space",
    "hashed-mirrors", "http-connections", "http2", "id-count", "ignore-try", "json-log-path", "keep-build-log",
    "keep-derivations", "keep-env-derivations", "keep-failed", "keep-going", "keep-outputs", "log-lines",
    "max-build-log-size", "max-free", "max-jobs", "max-silent-time", "max-substitution-jobs", "min-free",
    "min-free-check-interval", "nar-buffer-size", "narinfo-cache-negative-ttl", "narinfo-cache-positive-ttl",
    "netrc-file", "post-build-hook", "pre-build-hook", "preallocate-contents", "print-missing",
    "require-drop-supplementary-groups", "require-sigs", "run-diff-hook", "sandbox", "sandbox-build-dir",
    "sandbox-dev-shm-size", "sandbox-fallback", "sandbox-paths", "secret-key-files", "show-trace", "ssl-cert-file",
    "stalled-download-timeout", "start-id", "substitute", "substituters", "sync-before-registering", "timeout",
    "trusted-public-keys", "trusted-substituters", "trusted-users", "upgrade-nix-store-path-url", "use-cgroups",
    "use-registries", "use-sqlite-wal", "use-xdg-base-directories", "user-agent-suffix", "warn-dirty",
    "warn-large-path-threshold",
))  # fmt: skip
# With these an evaluation may give what no hash here knows of; it is enough that they are mentioned.
_IMPURE = frozenset(("plugin-files", "allow-unsafe-native-code-during-evaluation", "impure-derivations"))
_VARIABLES = (
    "NIX_STORE_DIR", "NIX_STORE", "NIX_STATE_DIR", "NIX_DATA_DIR", "NIX_REMOTE", "NIX_PATH", "NIX_ABORT_ON_WARN",
    "NIX_ALLOW_EVAL", "NIX_IGNORE_SYMLINK_STORE", "_NIX_FORCE_HTTP", "_NIX_IN_TEST",
)  # fmt: skip


def digest(env: Mapping[str, str] = os.environ) -> str:
    """A hash of the settings that count; two environments with the same hash evaluate alike."""
    lines = [f"{name}={env[name]}" for name in _VARIABLES if name in env]
    lines += _all_lines(env)
    lines += map(_text, _trusted_settings(env))  # which settings of a flake's own nixConfig the user has agreed to
    return hashlib.sha256(os.fsencode("\0".join(lines))).hexdigest()


def are_impure(env: Mapping[str, str] = os.environ) -> bool:
    """Whether some setting lets an evaluation depend on more than its flake, such as a plugin of Nix."""
    return any(word.removeprefix("extra-") in _IMPURE for line in _all_lines(env) for word in line.split(" "))


def files(env: Mapping[str, str]) -> list[Path]:
    """The configuration files that any version of Nix may read, the system's first."""
    system = [Path(folder, "nix.conf") for folder in (env.get("NIX_CONF_DIR") or "/etc/nix", "/usr/local/etc/nix")]
    user = env.get("NIX_USER_CONF_FILES")
    if user is not None:
        return [*system, *(Path(name) for name in user.split(":") if name)]
    folders = [*_user_folders(env, "CONFIG", ".config")]
    folders += [Path(folder, "nix") for folder in (env.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":")]
    return [*system, *(folder / "nix.conf" for folder in folders)]


def _trusted_settings(env: Mapping[str, str]) -> list[Path]:
    return [folder / "trusted-settings.json" for folder in _user_folders(env, "DATA", ".local/share")]


def _user_folders(env: Mapping[str, str], kind: str, default: str) -> list[Path]:
    """Nix's folders of one kind: by variables of which old versions know one only, and below both homes.

    Nix takes the home of the password database where HOME is another user's.
    """
    folders = [Path(env[f"NIX_{kind}_HOME"])] if f"NIX_{kind}_HOME" in env else []
    if f"XDG_{kind}_HOME" in env:
        return [*folders, Path(env[f"XDG_{kind}_HOME"] or "/", "nix")]
    homes = dict.fromkeys([env.get("HOME") or "/", _own_home()])
    return [*folders, *(Path(home, default, "nix") for home in homes)]


def _own_home() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:
        return "/"


def _all_lines(env: Mapping[str, str]) -> list[str]:
    lines = [line for file in files(env) for line in _lines(file, ())]
    return lines + _relevant(env.get("NIX_CONFIG", ""), Path("/"), ())


def _lines(file: Path, above: tuple[Path, ...]) -> list[str]:
    return _relevant(_text(file), file.parent, (*above, file))


def _relevant(text: str, folder: Path, above: tuple[Path, ...]) -> list[str]:
    """The lines of a configuration that count, those of the files that it includes among them."""
    found: list[str] = []
    for line in text.split("\n"):
        words = [word for word in _BLANKS.split(line.split("#", 1)[0]) if word]
        if len(words) == 2 and words[0] in ("include", "!include"):
            included = folder / words[1]
            found += [] if included.exists() else [f"{words[0]} {words[1]}"]  # which may be an error
            found += _lines(included, above) if included not in above else []
        elif words and not (words[0].removeprefix("extra-") in _HARMLESS and words[1:2] == ["="]):
            found.append(" ".join(words))
    return found


def _text(file: Path) -> str:
    try:
        return os.fsdecode(file.read_bytes())
    except OSError:
        return ""
