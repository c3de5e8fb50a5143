"""Fetching published weights over HTTP. A download can be interrupted and resumed; only its digest makes it valid.

`FILE.partial` holds the bytes received so far, and `FILE.partial.json` the URL and the version that they are from. A
later run requests the rest. The server's headers only save time: the file gets its final name once its digests are
those of the card.
"""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path

import httpx

from shared.outbound import OutboundError, by_which_proxy, open_client
from worker.model.cards.registry import ModelError
from worker.model.cards.schema import WeightsFile
from worker.model.weights.digests import PublishedDigests, published_digests, stated_digests
from worker.model.weights.http_ranges import Action, Version, decide, range_headers
from worker.model.weights.installation import appear, require_space

OnProgress = Callable[[int, int | None], object]
"""Called with the number of bytes received so far and, if known, the size of the whole file."""

_PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds to wait after each attempt that received nothing; after one more the fetch ends."""
_TIMEOUT = httpx.Timeout(60, connect=15)
_TRY_LATER = frozenset({408, 425, 429, 500, 502, 503, 504})


class FetchError(ModelError):
    """The weights could not be fetched."""


class _Interrupted(Exception):
    """The response broke off, or another request is needed; an error only if no further attempt is left."""


def fetch(
    stated: WeightsFile,
    target: Path,
    on_progress: OnProgress,
    pause: Callable[[float], object] = time.sleep,
) -> PublishedDigests:
    """Fetch a file from the first of its URLs that has it, and return its digests.

    Args:
        stated: the file as its card describes it; it has at least one URL.
        target: the file's path. It and its record are written once the file is complete and has the stated digests.
        on_progress: called after each received chunk.
        pause: waits so many seconds.

    Raises:
        FetchError: no URL gave the file; the message says why. The bytes received are kept for the next run.
        ModelError: there is not enough disk space.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    reasons = []
    with _Partial.open(target) as partial, _client(stated) as client:
        for url in stated.urls:
            try:
                published = _Download(client, url, stated, partial, on_progress, pause).run()
            except FetchError as error:
                reasons.append(f"{url}{by_which_proxy(url)}: {error.message}")
                continue
            appear(partial.path, target, published)
            partial.forget()
            return published
    raise FetchError("\n".join([f"{stated.weights} could not be fetched.", *reasons]))


def _client(stated: WeightsFile) -> httpx.Client:
    try:
        return open_client(stated.urls[0], timeout=_TIMEOUT, follow_redirects=True)
    except OutboundError as error:
        raise FetchError(error.message) from error


@dataclass(frozen=True)
class _Origin:
    """The URL and the version that the bytes of a partial file are from."""

    url: str
    version: Version


class _Partial:
    """The part of a file that was received, locked by one process at a time."""

    def __init__(self, path: Path, file: FileIO) -> None:
        self.path = path
        self._file = file
        self._notes = path.with_name(path.name + ".json")

    @classmethod
    @contextmanager
    def open(cls, target: Path) -> Iterator[_Partial]:
        path = target.with_name(target.name + ".partial")
        with path.open("ab", buffering=0) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ModelError(f"Another process is fetching {target}. Wait for it, or end it.") from error
            partial = cls(path, file)
            try:
                yield partial
            finally:
                if not partial.size:
                    path.unlink(missing_ok=True)

    @property
    def size(self) -> int:
        """The number of bytes received so far."""
        return self._file.tell()

    @property
    def origin(self) -> _Origin | None:
        """Where the bytes are from; None if that is not known."""
        with suppress(OSError, ValueError, TypeError, KeyError):
            notes = json.loads(self._notes.read_text(encoding="utf-8"))
            return _Origin(notes["url"], Version(**notes["version"]))
        return None

    def begin(self, origin: _Origin) -> None:
        """Discard all bytes and note that the next ones are from `origin`."""
        self.clear()
        self._notes.write_text(json.dumps(asdict(origin)), encoding="utf-8")

    def clear(self) -> None:
        """Discard all bytes and the notes."""
        self._file.truncate(0)
        self._file.seek(0)
        self.forget()

    def forget(self) -> None:
        """Remove the notes."""
        self._notes.unlink(missing_ok=True)

    def write(self, chunk: bytes) -> None:
        """Append bytes. Raise `OSError` if the disk has no space for all of them."""
        left = memoryview(chunk)
        while left:
            left = left[self._file.write(left) :]


class _Download:
    """The download of one URL. It repeats the request, from where the last response broke off, until all bytes came."""

    def __init__(
        self,
        client: httpx.Client,
        url: str,
        stated: WeightsFile,
        partial: _Partial,
        on_progress: OnProgress,
        pause: Callable[[float], object],
    ) -> None:
        self._client, self._url, self._stated, self._partial = client, url, stated, partial
        self._on_progress, self._pause = on_progress, pause
        self._answered = False
        self._in_pieces = False  # the bytes of a single response are of one version

    def run(self) -> PublishedDigests:
        """Download the file and return its digests, which match those stated."""
        if not self._may_go_on():
            self._partial.clear()
        self._bring_all()
        try:
            return self._checked()
        except FetchError:
            if not self._in_pieces:
                raise
        self._bring_all()  # the pieces may have been of two versions and were removed: download the file again
        return self._checked()

    def _may_go_on(self) -> bool:
        """Return whether the server, or in the end the digest, can reveal that the rest is of another version."""
        return bool(stated_digests(self._stated)) or self._version().validator is not None

    def _version(self) -> Version:
        """Return what this URL stated about the version of the partial file; nothing if that is from another URL."""
        origin = self._partial.origin
        return origin.version if origin and origin.url == self._url else Version()

    def _bring_all(self) -> None:
        most, failures = self._partial.size, 0
        while True:
            try:
                return self._ask()
            except (httpx.TooManyRedirects, httpx.InvalidURL) as error:
                raise FetchError(str(error)) from error
            except (_Interrupted, httpx.TransportError) as error:
                reason = str(error) or type(error).__name__
            failures = 0 if self._partial.size > most else failures + 1
            most = max(most, self._partial.size)
            if not self._answered:
                raise FetchError(f"no connection ({reason})")
            if failures > len(_PAUSES):
                raise FetchError(f"it breaks off again and again ({reason}), {most:,} bytes are kept")
            self._pause(_PAUSES[max(0, failures - 1)])

    def _ask(self) -> None:
        """Request the missing bytes and store them; return when the file is complete."""
        version, have = self._version(), self._partial.size
        headers = {"Accept-Encoding": "identity", **range_headers(have, version)}
        with self._client.stream("GET", self._url, headers=headers) as response:
            self._answered = True
            self._accept(response)
            offered = Version.of(response.status_code, response.headers)
            action = decide(response.status_code, response.headers, have, version)
            self._in_pieces = action is not Action.BEGIN
            match action:
                case Action.WHOLE:
                    return
                case Action.ASK_ANEW:
                    self._partial.clear()
                    raise _Interrupted("the rest was refused")
                case Action.BEGIN:
                    self._partial.begin(_Origin(self._url, offered))
                case Action.GO_ON:
                    pass
            self._take(response, offered.total or version.total)

    def _accept(self, response: httpx.Response) -> None:
        """Raise unless the response is the file, a part of it, or the status 416 (no such range)."""
        status = response.status_code
        if status in _TRY_LATER:
            raise _Interrupted(f"status {status}")
        if status not in (200, 206, 416):
            raise FetchError(f"status {status} {response.reason_phrase}".rstrip())
        if self._url.startswith("https:") and response.url.scheme != "https":
            raise FetchError(f"it redirects to {response.url}, which is not encrypted")
        if response.headers.get("content-type", "").startswith("text/html"):
            raise FetchError("the response is a web page instead of weights, as from a proxy or a login portal")

    def _take(self, response: httpx.Response, total: int | None) -> None:
        if total is not None:
            require_space(self._partial.path.parent, total - self._partial.size)
        self._on_progress(self._partial.size, total)
        for chunk in response.iter_raw():
            try:
                self._partial.write(chunk)
            except OSError as error:
                raise ModelError(
                    f"{self._partial.path.parent} cannot be written to: {error.strerror}. The bytes received so far "
                    "are kept. Free disk space, then run the command again."
                ) from error
            self._on_progress(self._partial.size, total)

    def _checked(self) -> PublishedDigests:
        """Compare the digests of the whole file with the card. Remove the file if they differ."""
        found = published_digests(self._partial.path)
        for algorithm, expected in stated_digests(self._stated).items():
            if (actual := found.model_dump()[algorithm]) != expected:
                size = self._partial.size
                self._partial.clear()
                raise FetchError(
                    f"the {size:,} bytes received are another file: their {algorithm} is {actual}, but the card says "
                    f"{expected}. They were removed"
                )
        return found
