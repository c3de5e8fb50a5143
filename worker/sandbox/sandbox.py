"""Decodes and draws in disposable child processes: an image that kills its decoder fails one job and nothing else.

The children come from a small fork server of our own (worker.sandbox.child) over a Unix socket. multiprocessing's
forkserver, and pebble on top of it, would import the worker's main module (and with it torch) into every child, hand
down its environment with the secrets, and unpickle what a child sends. This one is a plain subprocess: it may be
started at any time, also anew after it died, whatever threads run here.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Collection, Sequence
from types import TracebackType
from typing import Any, ClassVar, Self

import numpy as np
import structlog
from numpy.typing import NDArray

from shared.domain import PICTURES
from shared.errors import ErrorCode, JobError
from shared.images.header import HEAD_BYTES, check_header, check_size
from worker.imaging.content import Content
from worker.imaging.decoding import FORMATS, Caveat, ImageFacts, ImageLimits
from worker.imaging.perturbations import PERTURBATIONS
from worker.sandbox import seccomp
from worker.sandbox.child import ChildLimits
from worker.sandbox.client import Child, SandboxError, Server, ServerDiedError, UntrueAnswerError, untrue_answer

__all__ = ["OpenedImage", "Sandbox", "SandboxError"]

#: In decoding and in drawing a child may do nothing for so many times its processor time. While it computes, or waits
#: for a processor, that does not count: on a crowded machine a sound image must not fail for it.
_PATIENCE = 3
#: What the measures of an image's content can be at most.
_MOST = {"entropy": 16, "relief": 255, "distinct_share": 1}
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

_log = structlog.get_logger(__name__)


class Sandbox:
    """Gives every job a child process of its own. `open` may be called from many threads.

    `memory_bytes` and `cpu_seconds` bound one child over its life. `idle_seconds` bound how long it may do nothing in
    each of its two phases: three times the processor time if they are not given.
    """

    #: The arguments to Python that start the fork server.
    _entry: ClassVar[tuple[str, ...]] = ("-m", "worker.sandbox.child")

    def __init__(
        self,
        limits: ImageLimits | None = None,
        *,
        memory_bytes: int = 1 << 30,
        cpu_seconds: int = 8,
        idle_seconds: float | None = None,
    ) -> None:
        self._limits = limits or ImageLimits()
        self._child_limits = ChildLimits(self._limits, memory_bytes, cpu_seconds)
        self._idle_seconds = idle_seconds or _PATIENCE * cpu_seconds
        self._lock = threading.Lock()
        self._server: Server | None = None
        self._closed = False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start the fork server and wait until it is ready, so that the first job need not. Raises SandboxError."""
        with self._lock:
            if self._server is None:
                self._server = self._new_server()
        if not seccomp.can_stand():
            #: This kernel or machine has no seccomp filter for decoders. Their limits of memory and time still hold.
            _log.warning("sandbox_without_wall", reason="no seccomp filter for this machine or in its kernel")

    def close(self) -> None:
        """End the fork server and every child; jobs that still run get a SandboxError."""
        with self._lock:
            self._closed = True
            if self._server is not None:
                self._server.stop()
                self._server = None

    def open(self, data: bytes, size: int, *, probe: bool = False) -> OpenedImage:
        """Decode an image in a child of its own, for a network that reads size × size pixels.

        With `probe`, also make what the network is to read of the image's perturbations.

        Raises JobError: what `worker.imaging.decoding.decode` raises; decode_crashed where the child crashed or passed
        a limit; out_of_memory; internal where the fork server died twice. Raises SandboxError where it cannot be
        started again.
        """
        media_type = check_header(data[:HEAD_BYTES], len(data), self._limits)
        try:
            return self._open(data, media_type, size, probe=probe)
        except ServerDiedError:  # no fault of this image's
            try:
                return self._open(data, media_type, size, probe=probe)
            except ServerDiedError as error:
                raise JobError(ErrorCode.INTERNAL) from error

    def _open(self, data: bytes, media_type: str, size: int, *, probe: bool = False) -> OpenedImage:
        child = self._child()
        try:
            squares = 1 + len(PERTURBATIONS) if probe else 1
            return OpenedImage(child, data, media_type, (squares, 3, size, size), self._limits)
        except BaseException as error:
            child.close()
            _note(error)
            raise

    def _new_server(self) -> Server:
        return Server(self._entry, self._child_limits, _note_words)

    def _child(self) -> Child:
        """A new child; the fork server is started where it does not run any more."""
        with self._lock:
            if self._closed:
                raise SandboxError("The sandbox was closed.")
            if self._server is not None:
                try:
                    return Child(self._server, self._idle_seconds)
                except OSError:
                    self._server.stop()
                    self._server = None
            self._server = self._new_server()
            return Child(self._server, self._idle_seconds)


class OpenedImage:
    """A decoded image, whose pixels wait in its child until `close` or the end of the `with` block."""

    x: NDArray[np.float32]  #: (3, S, S) in [−1, 1]: what the network reads
    perturbed: NDArray[np.float32]  #: (P, 3, S, S), the same of each of the image's perturbations; P is 0 unless asked
    facts: ImageFacts

    def __init__(
        self, child: Child, data: bytes, media_type: str, shape: tuple[int, int, int, int], limits: ImageLimits
    ) -> None:
        count, size = shape[0], shape[-1]
        expected = 4 * math.prod(shape)
        facts, payload = child.ask({"size": size, "probe": count > 1}, data, max_payload=expected)
        if len(payload) != expected:
            raise untrue_answer()
        squares = np.frombuffer(payload, np.float32).reshape(shape)
        if not np.abs(squares).max() <= 1.001:  # also where it is not a number
            raise untrue_answer()
        self.x, self.perturbed = squares[0], squares[1:]
        self.facts = _image_facts(facts, media_type)
        try:
            check_size(self.facts.width, self.facts.height, len(data), limits)
        except JobError as error:
            raise untrue_answer() from error
        self._child = child

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the child. May be called again."""
        self._child.close()

    def render(
        self, eps: NDArray[np.float32], feature_mean: NDArray[np.float32], wanted: Collection[str]
    ) -> dict[str, bytes]:
        """PNG files of those of `shared.domain.PICTURES` that are wanted; once for an image.

        `eps` is (3, S, S), `feature_mean` (h, w). Raises JobError as `Sandbox.open` does.
        """
        if not wanted:
            return {}
        names = [name for name in PICTURES if name in wanted]
        request = {"shapes": [eps.shape, feature_mean.shape], "wanted": names}
        arrays = (np.ascontiguousarray(array, np.float32).tobytes() for array in (eps, feature_mean))
        # Three bytes a pixel, and what deflate and the file's frame may add to noise.
        most = len(names) * (4 * max(self.facts.width * self.facts.height, eps[0].size) + (1 << 16))
        try:
            reply, payload = self._child.ask(request, *arrays, max_payload=most)
            return _pictures(reply, payload, names)
        except ServerDiedError as error:
            raise JobError(ErrorCode.INTERNAL) from error
        except JobError as error:
            _note(error)
            raise


def _image_facts(told: dict[str, Any], media_type: str) -> ImageFacts:
    """The facts as a child tells them. JSON knows infinities and true, and a number may be a text."""
    width, height, caveats = (told.get(name) for name in ("width", "height", "caveats"))
    file_format, quality = told.get("file_format"), told.get("jpeg_quality")
    if not (type(width) is type(height) is int and isinstance(caveats, list)):
        raise untrue_answer()
    if told.get("media_type") != media_type or file_format not in FORMATS[media_type]:
        raise untrue_answer()
    if quality is not None and not (media_type == "image/jpeg" and type(quality) is int and 1 <= quality <= 100):
        raise untrue_answer()
    try:
        known = tuple(map(Caveat, caveats))
    except ValueError as error:
        raise untrue_answer() from error
    if len(set(known)) != len(known):
        raise untrue_answer()
    content = _content(told.get("content"), min(width, height))
    return ImageFacts(width, height, media_type, file_format, quality, known, content=content)


def _content(told: object, side: int) -> Content:
    """How much there is to see, as a child tells it of an image whose shorter side is `side`."""
    if not isinstance(told, dict) or told.keys() != {"side", *_MOST} or type(told["side"]) is not int:
        raise untrue_answer()
    if told["side"] != side or not all(type(told[name]) is float and 0 <= told[name] <= _MOST[name] for name in _MOST):
        raise untrue_answer()
    return Content(**told)


def _pictures(reply: dict[str, Any], payload: bytearray, wanted: list[str]) -> dict[str, bytes]:
    """The payload cut into the files that were asked for."""
    lengths = reply.get("lengths")
    if not isinstance(lengths, dict) or lengths.keys() != set(wanted):
        raise untrue_answer()
    pictures, start = {}, 0
    for name in wanted:
        if type(lengths[name]) is not int or lengths[name] < len(_PNG_SIGNATURE):
            raise untrue_answer()
        end = start + lengths[name]
        pictures[name] = bytes(payload[start:end])
        start = end
    if start != len(payload) or not all(png.startswith(_PNG_SIGNATURE) for png in pictures.values()):
        raise untrue_answer()
    return pictures


def _note_words(lines: Sequence[str], dropped: int) -> None:
    """Tell the log what decoders print, which is a stranger's word where a file has taken one over."""
    #: Decoders, or the process that starts them, wrote `lines` to standard error. What is not printable is escaped; of
    #: more than 50 lines a minute the rest is `dropped`. A crash says where it was. Keep the image that did it.
    _log.warning("decoder_wrote", lines=lines, dropped=dropped)


def _note(error: BaseException) -> None:
    """Tell the log of a decoder that crashed, ran past a limit or lied: the operator should see attempts at that."""
    if isinstance(error, UntrueAnswerError):
        #: A decoder answered what its code would not send, so its file may have taken it over; the job fails as
        #: `decode_crashed`. If it repeats, look at whose jobs these are.
        _log.warning("decoder_answer_refused", reason=error.message, cause=repr(error.__cause__))
    elif isinstance(error, JobError) and error.code is ErrorCode.DECODE_CRASHED:
        #: A decoder crashed or ran past its limits on a file, and the job fails as `decode_crashed`. If sound images do
        #: so, look at `DECODE_SECONDS` and `DECODE_MEMORY_BYTES`.
        _log.warning("decoder_crashed", reason=error.message, cause=repr(error.__cause__))
