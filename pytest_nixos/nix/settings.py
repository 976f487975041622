"""Nix's settings as far as they can change what an evaluation gives: read as Nix reads them, without starting it.

Source: the Nix manual, nix.conf(5): the system's file, the user's files, then NIX_CONFIG; `include` and `!include`.
"""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

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
_VARIABLES = ("NIX_STORE_DIR", "NIX_STORE", "NIX_REMOTE", "NIX_PATH", "NIX_ABORT_ON_WARN")


def digest(env: Mapping[str, str] = os.environ) -> str:
    """A hash of the settings that count; two environments with the same hash evaluate alike."""
    lines = [f"{name}={env[name]}" for name in _VARIABLES if name in env]
    for file in files(env):
        lines += _lines(file, ())
    lines += _relevant(env.get("NIX_CONFIG", ""), Path("/"), ())
    lines.append(_text(_trusted_settings(env)))  # which settings of a flake's own nixConfig the user has agreed to
    return hashlib.sha256("\0".join(lines).encode()).hexdigest()


def files(env: Mapping[str, str]) -> list[Path]:
    """The configuration files, in the order in which Nix reads them: a later one wins."""
    home = Path(env.get("HOME") or "~").expanduser()
    user = env.get("NIX_USER_CONF_FILES")
    if user is None:
        folders = [
            env.get("XDG_CONFIG_HOME") or str(home / ".config"),
            *(env.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":"),
        ]
        user = ":".join(f"{folder}/nix/nix.conf" for folder in folders)
    own = [Path(name) for name in user.split(":") if name]
    return [Path(env.get("NIX_CONF_DIR") or "/etc/nix") / "nix.conf", *reversed(own)]


def _trusted_settings(env: Mapping[str, str]) -> Path:
    home = Path(env.get("HOME") or "~").expanduser()
    return Path(env.get("XDG_DATA_HOME") or home / ".local" / "share") / "nix" / "trusted-settings.json"


def _lines(file: Path, above: tuple[Path, ...]) -> list[str]:
    return _relevant(_text(file), file.parent, (*above, file))


def _relevant(text: str, folder: Path, above: tuple[Path, ...]) -> list[str]:
    """The lines of a configuration that count, those of the files that it includes among them."""
    found: list[str] = []
    for line in text.splitlines():
        words = line.split("#", 1)[0].split()
        if len(words) == 2 and words[0] in ("include", "!include"):
            included = folder / words[1]
            found += _lines(included, above) if included not in above else []
        elif words and words[0].removeprefix("extra-") not in _HARMLESS:
            found.append(" ".join(words))
    return found


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="surrogateescape").encode("utf-8", "backslashreplace").decode()
    except OSError:
        return ""
