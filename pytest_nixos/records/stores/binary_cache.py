"""Records in Nix's binary caches, which most users have anyway: `nix:URL?evidence=marker|output|output,marker&via=...`.

Two things in a cache are evidence of a check, both only with a trusted key's signature over the store path:

- a *marker* (records.marker): to look for it is to ask for one narinfo; nobody need download it. The signature is over
  path and content, so over all that it says. Its key should sign records only: a key that signs whatever is uploaded
  signs what anybody's flake makes, markers too.
- the check's own *output*, for checks that are built: it is only there when the test has passed in a build, if the
  key's owner signs what was built. Not so where the output is fixed by a hash, or content-addressed, or where it is not
  that of the derivation, whatever the flake says.
"""

import time
import urllib.parse
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from pytest_nixos.deadline import Deadline
from pytest_nixos.errors import PytestNixosError, RecordsUnavailable
from pytest_nixos.model import Outcome, Record, Subject, Verdict
from pytest_nixos.records import marker as markers
from pytest_nixos.records import narinfo
from pytest_nixos.records.marker import Marker
from pytest_nixos.records.narinfo import PathInfo
from pytest_nixos.records.places import Place
from pytest_nixos.records.signing import Trusted
from pytest_nixos.records.stores.base import Found, Kit
from pytest_nixos.records.stores.cache_access import CacheAccess, Reply, Unknown, open_access
from pytest_nixos.records.stores.cache_writing import Upload, open_upload

_EVIDENCE = frozenset({"marker", "output"})
_PATIENCE_SECONDS = (0.5, 1.5)  # caches behind a delivery network need a moment
_FORGED = "something else is in its place"
_UNSIGNED = "no trusted key has signed it"
_NOT_ITS_OUTPUT = "the derivation is not in the store, or its output is another one than the flake says"


@dataclass(frozen=True, slots=True)
class Claim:
    """What is looked for: a store path that proves a subject. marker is what it must be, None for an output."""

    subject: Subject
    flags: tuple[str, ...]
    path: str
    marker: PathInfo | None


class BinaryCacheStore:
    """Records in a binary cache. patience: seconds to wait before each further look for what was written."""

    def __init__(self, place: Place, access: CacheAccess, upload: Upload, kit: Kit) -> None:
        self._terms, self._kit = place.terms, kit
        self._access, self._upload = access, upload
        self._evidence = evidence_of(place)
        self._name = name_of(place.location)
        self.patience: Sequence[float] = _PATIENCE_SECONDS

    @property
    def name(self) -> str:
        """The cache, without parameters."""
        return self._name

    def lookup(self, wanted: Sequence[Subject], deadline: Deadline) -> Found:
        """See RecordStore. One request for each kind of evidence of a subject, many side by side.

        Markers with flags are asked for when the others have been, and only of what these have not proven.
        """
        plain = [claim for subject in wanted for claim in self._claims(subject)]
        records, refused = self._ask(plain, deadline)
        proven = {(record.verdict.drv_path, record.verdict.driver) for record in records}
        left = [subject for subject in wanted if (subject.derivation.drv_path, subject.driver) not in proven]
        flagged = [claim for subject in left for claim in self._flagged_claims(subject)]
        warnings = self._warnings(refused, len(plain))
        try:
            more, refused = self._ask(flagged, deadline)
        except RecordsUnavailable as error:
            return Found(records=tuple(records), warnings=(*warnings, error.message))
        return Found(records=(*records, *more), warnings=(*warnings, *self._warnings(refused, len(flagged))))

    def write(self, verdicts: Sequence[Verdict], deadline: Deadline) -> None:
        """See RecordStore. What has not passed is no marker. Each is read back, and must then be believed."""
        if "marker" not in self._evidence:
            raise RecordsUnavailable(
                f"{self.name} is asked for outputs only, so records are not written to it",
                "say evidence=output,marker to write markers there, or push=no",
            )
        files = _files(verdicts)
        if not files:
            return
        self._upload.copy(list(files.values()), deadline)
        missing = self._missing(files, deadline)
        unsigned = [files[path] for path, reason in missing.items() if reason.why == _UNSIGNED]
        if unsigned and self._upload.add_signatures(unsigned, deadline):
            missing = self._missing({path: files[path] for path in missing}, deadline)
        if missing:
            reason = next(iter(missing.values()))
            raise RecordsUnavailable(
                f"{self.name} does not give back {len(missing)} of {len(files)} records as written: {reason.why}",
                "the token may not be good for writing, or the key that signs there is not among the trusted ones",
                transient=reason.transient,
            )

    def renew(self, verdicts: Sequence[Verdict], deadline: Deadline) -> None:
        """See RecordStore. What is downloaded is in use."""
        if "marker" in self._evidence:
            self._access.touch(list(_files(verdicts)), deadline)

    def every(self, deadline: Deadline) -> Found:
        """See RecordStore. Not possible here."""
        raise RecordsUnavailable(f"{self.name} is a binary cache, which can't be listed")

    def remove(self, verdicts: Sequence[Verdict], deadline: Deadline) -> None:
        """See RecordStore. Not possible here."""
        hint = "no longer trust the key that signed it"
        raise RecordsUnavailable(f"{self.name} is a binary cache, from which nothing can be removed", hint)

    def _claims(self, subject: Subject) -> list[Claim]:
        out = output_of(subject) if "output" in self._evidence else None
        claims = [Claim(subject, (), out, None)] if out else []
        return [*claims, *([_marker_claim(subject, ())] if "marker" in self._evidence else [])]

    def _flagged_claims(self, subject: Subject) -> list[Claim]:
        if "marker" not in self._evidence:
            return []
        return [
            _marker_claim(subject, flags)
            for flags in markers.flag_sets(markers.FLAGS if self._terms.allow is None else self._terms.allow)
        ]

    def _ask(self, claims: Sequence[Claim], deadline: Deadline) -> tuple[list[Record], Counter[str]]:
        """The records, and by reason how many answers are none though something was there, or could have been.

        Raises RecordsUnavailable when there was no answer to anything.
        """
        paths = list(dict.fromkeys(claim.path for claim in claims))
        replies = self._access.infos(paths, deadline) if paths else {}
        unknown = [reply for reply in replies.values() if isinstance(reply, Unknown)]
        if replies and len(unknown) == len(replies):
            why = Counter(reply.why for reply in unknown).most_common(1)[0][0]
            transient = any(reply.transient for reply in unknown)
            raise RecordsUnavailable(f"{self.name} can't be read: {why}", transient=transient)
        judged = [self._judge(claim, replies[claim.path]) for claim in claims]
        records = [entry for entry in judged if isinstance(entry, Record)]
        return records, Counter(entry for entry in judged if isinstance(entry, str) and entry)

    def _judge(self, claim: Claim, reply: Reply) -> Record | str:
        """The record, or why there is none; "" where there is just nothing."""
        if reply is None:
            return ""
        if isinstance(reply, Unknown):
            return reply.why
        if claim.marker is not None:
            signers, refusal = self._marker_signers(reply, claim.marker)
        else:
            signers, refusal = self._output_signers(reply, claim)
        return refusal or Record(verdict=_verdict(claim, self.name), signers=signers)

    def _marker_signers(self, info: PathInfo, marker: PathInfo) -> tuple[tuple[str, ...], str]:
        """Who has signed a marker, and why it is none, "" when it is one."""
        if not markers.is_it(info, marker):
            return (), _FORGED
        signers = self._kit.trusted.signers(narinfo.fingerprint(info), info.signatures)
        return signers, "" if signers or not self._terms.signed else _UNSIGNED

    def _output_signers(self, info: PathInfo, claim: Claim) -> tuple[tuple[str, ...], str]:
        """Who has signed an output, and why it proves nothing, "" when it does."""
        if info.path != claim.path or info.ca is not None:
            return (), _FORGED
        signers = self._output_keys.signers(narinfo.fingerprint(info), info.signatures)
        if signers and not self._kit.is_own_output(claim.subject.derivation):
            return (), _NOT_ITS_OUTPUT
        return signers, "" if signers else _UNSIGNED

    @cached_property
    def _output_keys(self) -> Trusted:
        return self._kit.output_keys()

    def _missing(self, files: Mapping[str, Marker], deadline: Deadline) -> dict[str, Unknown]:
        """Those of our files that the cache does not give back as we would believe them, and why."""
        missing: dict[str, Unknown] = {}
        paths = list(files)
        for pause in (*self.patience, None):
            replies = self._access.infos(paths, deadline)
            missing = {path: why for path in paths if (why := self._why_not(files[path], replies[path]))}
            paths = list(missing)
            if pause is None or deadline.expired or not any(replies[path] is None for path in paths):
                break
            time.sleep(deadline.within(pause))
        return missing

    def _why_not(self, file: Marker, reply: Reply) -> Unknown | None:
        if isinstance(reply, Unknown):
            return reply
        refusal = "it is not there" if reply is None else self._marker_signers(reply, file.info)[1]
        return Unknown(why=refusal) if refusal else None

    def _warnings(self, refused: Counter[str], asked: int) -> tuple[str, ...]:
        return tuple(f"{n} of {asked} look-ups in {self.name} have no result: {why}" for why, n in refused.items())


def open_binary_cache(place: Place, kit: Kit) -> BinaryCacheStore:
    """See opening. Raises PytestNixosError for a location or an option that has no meaning."""
    parts = urllib.parse.urlsplit(place.location)
    if not parts.scheme or "://" not in place.location:
        raise PytestNixosError(f"{place} is no URL of a Nix store", "write nix:https://…, nix:file:///… or nix:s3://…")
    if "@" in parts.netloc and parts.scheme in ("http", "https"):
        raise PytestNixosError(f"others would see the password in the URL of {place}", "put it into Nix's netrc-file")
    evidence = evidence_of(place)
    if not evidence or not evidence <= _EVIDENCE:
        hint = "write evidence=marker, evidence=output or evidence=output,marker"
        raise PytestNixosError(f"{place}: evidence={place.options['evidence']} makes no sense", hint)
    return BinaryCacheStore(place, open_access(place.location, kit), open_upload(place, kit), kit)


def evidence_of(place: Place) -> frozenset[str]:
    """What counts in the cache."""
    return frozenset(filter(None, place.options.get("evidence", "marker").split(",")))


def name_of(location: str) -> str:
    """A cache for people: the host of one on HTTP, else the URL without parameters."""
    parts = urllib.parse.urlsplit(location)
    host, path = parts.netloc.rpartition("@")[2], parts.path.rstrip("/")
    return f"{host}{path}" if parts.scheme in ("http", "https") else f"{parts.scheme}://{host}{path}"


def output_of(subject: Subject) -> str | None:
    """The store path that is there only if the subject's test has passed in a build; None where there is none such."""
    derivation = subject.derivation
    return None if subject.driver is not None or derivation.fixed else derivation.out_path


def _files(verdicts: Iterable[Verdict]) -> dict[str, Marker]:
    """The markers of the verdicts that have passed, by store path."""
    made = [markers.of_verdict(verdict) for verdict in verdicts if verdict.outcome is Outcome.PASSED]
    return {file.info.path: file for file in made}


def _marker_claim(subject: Subject, flags: tuple[str, ...]) -> Claim:
    info = markers.of_subject(subject, flags).info
    return Claim(subject, flags, info.path, info)


def _verdict(claim: Claim, store: str) -> Verdict:
    by = f"{'marker' if claim.marker else 'output'} in {store}"
    return Verdict.of(claim.subject, Outcome.PASSED, by=by, flags=claim.flags)
