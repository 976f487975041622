"""How a record store runs git: without questions and hooks, bounded by a deadline, its errors as one sentence."""

import base64
import shutil
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pytest_nixos import proc
from pytest_nixos.deadline import Deadline
from pytest_nixos.errors import CommandFailed, CommandTimedOut, PytestNixosError, RecordsUnavailable
from pytest_nixos.records.places import without_credentials
from pytest_nixos.records.stores.git_refs import is_transient, sentence

_KEPT = (
    "HOME", "PATH", "TMPDIR", "USER", "LOGNAME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR",
    "SSH_AUTH_SOCK", "GIT_SSH", "GIT_SSH_COMMAND", "GIT_SSH_VARIANT", "GIT_EXEC_PATH", "GIT_ALLOW_PROTOCOL",
    "GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_CONFIG_NOSYSTEM", "GIT_SSL_CAINFO", "GIT_SSL_CAPATH",
    "GIT_SSL_CERT", "GIT_SSL_KEY", "GIT_SSL_NO_VERIFY", "SSL_CERT_FILE", "SSL_CERT_DIR", "NIX_SSL_CERT_FILE",
    "CURL_CA_BUNDLE", "KRB5CCNAME", "http_proxy", "https_proxy", "all_proxy", "no_proxy", "HTTPS_PROXY", "ALL_PROXY",
    "NO_PROXY",
)  # fmt: skip
_NEVER_ASK = {
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "",  # set, but to nothing: neither core.askPass nor SSH_ASKPASS is tried
    "GCM_INTERACTIVE": "never",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "LANG": "C",
    "LC_ALL": "C",
}
# What a user's own configuration may say, and must not say here.
_CONFIG = (
    "core.hooksPath=/dev/null", "core.fsync=none", "gc.auto=0", "maintenance.auto=false", "protocol.version=2",
    "transfer.unpackLimit=1", "fastimport.unpackLimit=1", "fetch.negotiationAlgorithm=noop",
    "fetch.writeCommitGraph=false", "push.gpgSign=false", "push.followTags=false", "push.recurseSubmodules=no",
    "push.negotiate=false", "push.pushOption=",
)  # fmt: skip
_LONGEST_SECONDS = 86400.0
_DOOR_HINT = "git asks nobody here: it needs a token, a credential helper or an ssh key that works by itself"


@dataclass(frozen=True, slots=True, kw_only=True)
class Git:
    """Runs git for the store of that name. env: see environment(). secrets: by name; see login()."""

    name: str
    env: Mapping[str, str]
    server: str = "https://github.com"
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)

    def run(
        self, folder: Path, *args: str, deadline: Deadline, stdin: bytes = b"", remote: str = "", check: bool = True
    ) -> proc.Completed:
        """Run `git ARGS` on the git directory `folder`; remote: the URL that it talks to, if any.

        Raises RecordsUnavailable at the deadline, and for any exit status but 0 when `check` is true.
        """
        settings = [part for setting in _CONFIG for part in ("-c", setting)]
        argv = [*self._group(deadline), "git", *settings, f"--git-dir={folder}", *args]
        env = {**self.env, **login(remote, self.server, self.secrets, self.env)}
        if deadline.expired:
            raise self._late()
        try:
            done = proc.run(argv, timeout=deadline.remaining, env=env, cwd=folder.parent, stdin=stdin, check=False)
        except CommandTimedOut:
            raise self._late() from None
        except CommandFailed as error:
            raise RecordsUnavailable(f"git could not be started: {error.output}") from None
        if check and done.status != 0:
            raise self.failed(done)
        return done

    def failed(self, done: proc.Completed) -> RecordsUnavailable:
        """The error that a git which has failed stands for."""
        reason, text = sentence(done.stderr_tail), done.stderr_tail.lower()
        closed = any(word in text for word in ("prompts disabled", "authentication", "permission", "error: 40"))
        hint = _DOOR_HINT if closed else ""
        return RecordsUnavailable(f"{self.name}: {reason}", hint, transient=is_transient(done.stderr_tail))

    def _late(self) -> RecordsUnavailable:
        return RecordsUnavailable(f"{self.name} has not answered in time", transient=True)

    def _group(self, deadline: Deadline) -> list[str]:
        """What hands the signal that ends git on to its helpers, which live on without it: coreutils' timeout(1).

        It has a little more time than we have, so that it is we who end git.
        """
        program = shutil.which("timeout", path=self.env.get("PATH"))
        seconds = _LONGEST_SECONDS if deadline.remaining is None else deadline.remaining + 5
        return [program, "-k", "1", f"{seconds:.0f}"] if program else []


def environment(given: Mapping[str, str], asks_itself: bool) -> dict[str, str]:
    """The environment of git: what it needs of ours, and that it never asks.

    asks_itself: the user has configured how ssh is called; else it is told to ask nothing.
    """
    numbered = ("GIT_CONFIG_COUNT", "GIT_CONFIG_KEY_", "GIT_CONFIG_VALUE_")
    env = {name: value for name, value in given.items() if name in _KEPT or name.startswith(numbered)}
    if not asks_itself and "GIT_SSH" not in env:
        env.setdefault("GIT_SSH_COMMAND", "ssh -o BatchMode=yes")
    return env | _NEVER_ASK


def login(url: str, server: str, secrets: Mapping[str, str], env: Mapping[str, str]) -> dict[str, str]:
    """The variables that give GitHub's token to git, for a URL of that very server; they replace the user's header.

    Protocol: git-config(1), GIT_CONFIG_COUNT and http.extraHeader; GitHub takes the user x-access-token.
    """
    token = secrets.get("GITHUB_TOKEN") or secrets.get("GH_TOKEN", "")
    ours, theirs = urllib.parse.urlsplit(server), urllib.parse.urlsplit(url)
    if not token or theirs.scheme != "https" or theirs.netloc.lower() != ours.netloc.lower():  # nor with a user
        return {}
    basic = base64.b64encode(f"x-access-token:{token}".encode()).decode()
    count, key = env.get("GIT_CONFIG_COUNT", "0"), f"http.https://{theirs.netloc}/.extraheader"
    first = int(count) if count.isascii() and count.isdigit() else 0
    variables = {"GIT_CONFIG_COUNT": str(first + 2)}
    for number, value in enumerate(("", f"Authorization: Basic {basic}"), first):  # "" drops all before it
        variables |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    return variables


@dataclass(frozen=True, slots=True)
class Remote:
    """A repository's URLs, as git takes them; most have one for both."""

    fetch: str = field(repr=False)
    push: str = field(repr=False)


def find_remote(location: str, base: Path, git: Git) -> Remote:
    """The repository that a user names: a URL, host:path, a path seen from `base`, a remote of the repository there.

    Raises PytestNixosError for what is none of these, or would be taken for an option.
    """
    if not location or location.startswith("-") or not location.isprintable():
        raise PytestNixosError(f"git:{without_credentials(location)!r} names no repository")
    if "://" in location or ":" in location.partition("/")[0]:
        return Remote(location, location)
    path = base / Path(location).expanduser()
    if not location.startswith((".", "~", "/")) and (known := _configured(location, base, git)) is not None:
        return known
    if location.startswith((".", "~", "/")) or path.exists():
        return Remote(str(path), str(path))
    raise PytestNixosError(
        f"git:{location}: the repository at {base} has no remote of that name, and there is no such folder",
        "write git:URL, git:./FOLDER, or a name that `git remote` lists",
    )


def _configured(name: str, base: Path, git: Git) -> Remote | None:
    urls = [_ask(base, git, "remote", "get-url", *option, name) for option in ((), ("--push",))]
    if not all(urls):
        return None
    if any(url.startswith("-") for url in urls):
        raise PytestNixosError(f"the remote {name} has a URL that git would take for an option")
    fetch, push = (str((base / url).resolve()) if url.startswith(("./", "../")) else url for url in urls)
    return Remote(fetch, push)


def calls_ssh_itself(base: Path, git: Git) -> bool:
    """Whether the user has configured another ssh than the usual."""
    return bool(_ask(base, git, "config", "--get", "core.sshCommand"))


def _ask(base: Path, git: Git, *args: str) -> str:
    """What git says of the repository in which `base` lies, "" when it can't; local, so it takes milliseconds."""
    done = proc.run(["git", "-C", str(base), *args], timeout=10, env=git.env, check=False)
    return done.stdout.decode(errors="replace").partition("\n")[0] if done.status == 0 else ""
