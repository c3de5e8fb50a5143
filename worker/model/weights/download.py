"""Fetching published weights over HTTP: cut off and gone on with any number of times, and believed only by digest.

What has come lies in `FILE.partial`, and `FILE.partial.json` says from which version of which URL. A later run asks for
the rest. What a server says about itself only saves time: a file gets its name when it has the digests of its card.
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
"""Told how many bytes are there, and of how many, where that is known."""

_PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds between tries that brought nothing; after the last one the fetch ends."""
_TIMEOUT = httpx.Timeout(60, connect=15)
_TRY_LATER = frozenset({408, 425, 429, 500, 502, 503, 504})


class FetchError(ModelError):
    """The weights could not be fetched."""


class _Interrupted(Exception):
    """The answer broke off, or another one is needed: no error as long as another try may follow."""


def fetch(
    stated: WeightsFile,
    target: Path,
    on_progress: OnProgress,
    pause: Callable[[float], object] = time.sleep,
) -> PublishedDigests:
    """Fetch a file from the first of its URLs that has it, and return its digests.

    Args:
        stated: as its card describes it; it has at least one URL.
        target: where it appears, with its record, once it is whole and has the stated digests.
        on_progress: called with every piece that came.
        pause: waits so many seconds.

    Raises:
        FetchError: no URL gave the file; the message says why. What came of it is kept for the next time.
        ModelError: there is no space for it.
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
    """Whose bytes a partial file holds."""

    url: str
    version: Version


class _Partial:
    """The part of a file that has come, held by one process at a time."""

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
        """Bytes that are there."""
        return self._file.tell()

    @property
    def origin(self) -> _Origin | None:
        """Whose they are; None where that is not known."""
        with suppress(OSError, ValueError, TypeError, KeyError):
            notes = json.loads(self._notes.read_text(encoding="utf-8"))
            return _Origin(notes["url"], Version(**notes["version"]))
        return None

    def begin(self, origin: _Origin) -> None:
        """Drop what is there: now come the bytes of `origin`."""
        self.clear()
        self._notes.write_text(json.dumps(asdict(origin)), encoding="utf-8")

    def clear(self) -> None:
        """Drop what is there."""
        self._file.truncate(0)
        self._file.seek(0)
        self.forget()

    def forget(self) -> None:
        """Drop the notes."""
        self._notes.unlink(missing_ok=True)

    def write(self, chunk: bytes) -> None:
        """Add bytes; raise `OSError` where the disk cannot take them all."""
        left = memoryview(chunk)
        while left:
            left = left[self._file.write(left) :]


class _Download:
    """One URL's file: asked for again, from where the last answer broke off, until it is whole."""

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
        self._in_pieces = False  # as long as all is of one answer, it is of one version

    def run(self) -> PublishedDigests:
        """Return the digests of the whole file, which are those stated."""
        if not self._may_go_on():
            self._partial.clear()
        self._bring_all()
        try:
            return self._checked()
        except FetchError:
            if not self._in_pieces:
                raise
        self._bring_all()  # they were of two versions, perhaps, and were removed: this begins anew
        return self._checked()

    def _may_go_on(self) -> bool:
        """Whether the rest can be told from the rest of another version: by the server, or at last by the digest."""
        return bool(stated_digests(self._stated)) or self._version().validator is not None

    def _version(self) -> Version:
        """What this URL said of the version that is there in part; nothing if that is another's."""
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
        """Ask for what is missing and take it; return when the file is whole."""
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
        """Raise where the answer is neither the file, nor a part of it, nor that the part does not exist."""
        status = response.status_code
        if status in _TRY_LATER:
            raise _Interrupted(f"status {status}")
        if status not in (200, 206, 416):
            raise FetchError(f"status {status} {response.reason_phrase}".rstrip())
        if self._url.startswith("https:") and response.url.scheme != "https":
            raise FetchError(f"it leads to {response.url}, which is not encrypted")
        if response.headers.get("content-type", "").startswith("text/html"):
            raise FetchError("a web page came instead of weights, as from a proxy or a portal that wants a login")

    def _take(self, response: httpx.Response, total: int | None) -> None:
        if total is not None:
            require_space(self._partial.path.parent, total - self._partial.size)
        self._on_progress(self._partial.size, total)
        for chunk in response.iter_raw():
            try:
                self._partial.write(chunk)
            except OSError as error:
                raise ModelError(
                    f"{self._partial.path.parent} takes no more: {error.strerror}. What came is kept. Free space, and "
                    "run the command again."
                ) from error
            self._on_progress(self._partial.size, total)

    def _checked(self) -> PublishedDigests:
        """Compare the whole file with its card; where it is another one it is removed."""
        found = published_digests(self._partial.path)
        for algorithm, expected in stated_digests(self._stated).items():
            if (actual := found.model_dump()[algorithm]) != expected:
                size = self._partial.size
                self._partial.clear()
                raise FetchError(
                    f"the {size:,} bytes that came are another file: their {algorithm} is {actual}, but the card says "
                    f"{expected}. They were removed"
                )
        return found
