"""GitHub's REST API, as much of it as record stores need: one object, pages, files, deletions.

Source: GitHub's docs, "Getting started with the REST API", "Rate limits" and "Using pagination".
"""

import json
import re
import time
import urllib.parse
from collections.abc import Mapping
from itertools import chain
from typing import Any

from pytest_nixos.deadline import Deadline
from pytest_nixos.errors import PytestNixosError, RecordsUnavailable
from pytest_nixos.records.http import Answer, Http, side_by_side
from pytest_nixos.records.stores.base import Kit

_API = "https://api.github.com"
_VERSION = "2022-11-28"
_PAGE = 100
_REPOSITORY = re.compile(r"[A-Za-z0-9._-]{1,100}/[A-Za-z0-9._-]{1,100}")
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class GitHub:
    """One repository by the REST API; safe to use from several threads.

    Every method raises RecordsUnavailable for anything but a whole answer of the promised form, transient when asking
    again later may help. No error text holds the token.
    """

    def __init__(self, kit: Kit, repository: str | None) -> None:
        """repository: OWNER/NAME; None for the one whose workflow runs. Raises PytestNixosError when there is none.

        Without GITHUB_TOKEN or GH_TOKEN it asks as anybody, which is enough for most of what is public.
        """
        self.repository = _checked(repository or kit.env.get("GITHUB_REPOSITORY", ""))
        self._base = (kit.env.get("GITHUB_API_URL") or _API).rstrip("/")
        self._token = (kit.secrets.get("GITHUB_TOKEN") or kit.secrets.get("GH_TOKEN") or "").strip()
        headers = {
            "Accept": "application/vnd.github+json",
            "User-Agent": "pytest-nixos",
            "X-GitHub-Api-Version": _VERSION,
        }
        self._http = Http(headers | ({"Authorization": f"Bearer {self._token}"} if self._token else {}))
        self._elsewhere = Http({"User-Agent": "pytest-nixos"})

    @property
    def authenticated(self) -> bool:
        """Whether there is a token to ask with."""
        return bool(self._token)

    def get(self, path: str, params: Mapping[str, str], deadline: Deadline) -> Any:
        """The JSON at a path such as `/repos/OWNER/NAME`."""
        answer = self._ask("GET", path, params, deadline)
        if answer.status != 200:
            raise self._refused(answer)
        return _json(answer.body)

    def pages(
        self, path: str, params: Mapping[str, str], deadline: Deadline, key: str, limit: int
    ) -> list[dict[str, Any]]:
        """The first `limit` items of a listing that is `{"total_count": …, key: […]}`, all pages but the first at once.

        What changes on the server meanwhile may make an item come twice or not at all.
        """
        size = min(_PAGE, limit)

        def page(number: int) -> tuple[int, list[dict[str, Any]]]:
            asked = {**params, "per_page": str(size), "page": str(number)}
            return _page(self.get(path, asked, deadline), key)

        total, first = page(1)
        last = -(-min(total, limit) // size)
        rest = side_by_side(page, range(2, last + 1)) if first else []
        return list(chain(first, *(items for _, items in rest)))[:limit]

    def download(self, path: str, deadline: Deadline, limit: int) -> bytes:
        """A file, at most `limit` bytes, that GitHub answers itself or by sending us to its storage, without token."""
        answer = self._ask("GET", path, {}, deadline, limit)
        if answer.status in _REDIRECTS:
            answer = self._elsewhere.request("GET", self._target(answer), deadline, limit=limit)
            if answer.status != 200:
                transient = answer.status in {408, 429} or answer.status >= 500
                raise RecordsUnavailable(f"GitHub's storage answers with status {answer.status}", transient=transient)
        if answer.status != 200:
            raise self._refused(answer)
        return answer.body

    def delete(self, path: str, params: Mapping[str, str], deadline: Deadline) -> None:
        """Delete what is there; that it is gone already is as good."""
        answer = self._ask("DELETE", path, params, deadline)
        if answer.status not in {200, 204, 404}:
            raise self._refused(answer)

    def _ask(
        self, method: str, path: str, params: Mapping[str, str], deadline: Deadline, limit: int | None = None
    ) -> Answer:
        url = self._base + path + ("?" + urllib.parse.urlencode(params) if params else "")
        if limit is None:
            return self._http.request(method, url, deadline)
        return self._http.request(method, url, deadline, limit=limit)

    def _target(self, answer: Answer) -> str:
        """Where we are sent to; never from a protected connection to one that is not."""
        target = urllib.parse.urljoin(self._base, answer.headers.get("location", ""))
        allowed = {"https"} if self._base.startswith("https:") else {"https", "http"}
        if urllib.parse.urlsplit(target).scheme not in allowed:
            raise RecordsUnavailable("GitHub sends us to a place that is not https")
        return target

    def _refused(self, answer: Answer) -> RecordsUnavailable:
        said = self._said(answer.body)
        wait = _seconds_to_wait(answer, time.time())
        if wait is not None:
            return RecordsUnavailable(f"GitHub's rate limit is reached; it ends in {wait} s", transient=True)
        message = f"GitHub answers with status {answer.status}{said} for {self.repository}"
        return RecordsUnavailable(message, self._hint(answer.status), transient=answer.status >= 500)

    def _hint(self, status: int) -> str:
        if status in _REDIRECTS:
            return "the repository may have a new name: write that one"
        if status == 401:
            return "the token in GITHUB_TOKEN is not valid, or no longer"
        if status in {403, 404}:
            return (
                "the token lacks a right, such as `permissions: actions: read` in the workflow"
                if self.authenticated
                else "give a token in GITHUB_TOKEN"
            )
        return ""

    def _said(self, body: bytes) -> str:
        """GitHub's own word on an error, if it is one short printable sentence without our token."""
        try:
            said = json.loads(body)["message"]
        except (ValueError, RecursionError, KeyError, TypeError):
            return ""
        shown = isinstance(said, str) and said.isprintable() and len(said) <= 200
        return f" ({said})" if shown and not (self._token and self._token in said) else ""


def _checked(repository: str) -> str:
    if not repository:
        raise PytestNixosError("no GitHub repository is named", "write OWNER/NAME, or set GITHUB_REPOSITORY")
    owner_and_name = repository.split("/")
    if not _REPOSITORY.fullmatch(repository) or {".", ".."} & set(owner_and_name):
        raise PytestNixosError(f"{repository!r} is not the name of a GitHub repository", "write OWNER/NAME")
    return repository


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise RecordsUnavailable("GitHub's answer is not JSON", transient=True) from None


def _page(answer: Any, key: str) -> tuple[int, list[dict[str, Any]]]:
    """How many items there are, and those of this page."""
    total, items = (answer.get("total_count"), answer.get(key)) if isinstance(answer, dict) else (None, None)
    if not isinstance(total, int) or isinstance(total, bool) or not isinstance(items, list):
        raise RecordsUnavailable(f"GitHub's answer is not a list of {key}")
    if not all(isinstance(item, dict) for item in items):
        raise RecordsUnavailable(f"GitHub's list of {key} holds something else")
    return total, items


def _seconds_to_wait(answer: Answer, now: float) -> int | None:
    """Seconds until we may ask again; None when it was not a rate limit that refused us."""
    headers = answer.headers
    after, reset = headers.get("retry-after", ""), headers.get("x-ratelimit-reset", "")
    spent = headers.get("x-ratelimit-remaining") == "0"
    if answer.status != 429 and not (answer.status == 403 and (after or spent)):
        return None
    if _is_number(after):
        return int(after)
    return max(1, int(reset) - int(now)) if spent and _is_number(reset) else 60


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 12
