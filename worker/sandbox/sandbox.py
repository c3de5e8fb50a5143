"""Decodes and draws in disposable child processes: an image that crashes its decoder fails only its own job.

A small fork server of our own (worker.sandbox.child) forks the children; a Unix socket connects the worker with it.
multiprocessing's forkserver, and pebble on top of it, would import the worker's main module (and torch with it) into
every child, pass on the environment with its secrets, and unpickle what a child sends. Ours is a plain subprocess: it
can be started at any time, and again after it died, whatever threads run in the worker.
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

from shared.domain import PICTURES, PREVIEW
from shared.errors import ErrorCode, JobError
from shared.images.header import HEAD_BYTES, check_header, check_size
from worker.imaging.content import Content
from worker.imaging.decoding import FORMATS, Caveat, ImageFacts, ImageLimits
from worker.imaging.perturbations import PERTURBATIONS
from worker.sandbox import seccomp
from worker.sandbox.child import ChildLimits
from worker.sandbox.client import (
    Child,
    ForkServerClient,
    ForkServerDiedError,
    SandboxError,
    UntrueAnswerError,
    untrue_answer,
)

__all__ = ["OpenedImage", "Sandbox", "SandboxError"]

#: While it decodes, and again while it draws, a child may be idle for so many times its processor time. The time in
#: which it computes, or waits for a processor, does not count: a sound image must not fail on a busy machine.
_IDLE_FACTOR = 3
#: The largest values that the measures of an image's content can have.
_MOST = {"entropy": 16, "relief": 255, "distinct_share": 1}
#: What the file of a picture begins with.
_PNG_SIGNATURE, _JPEG_SIGNATURE = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"

_log = structlog.get_logger(__name__)


class Sandbox:
    """Opens each image in a child process of its own. Many threads may call `open`.

    `memory_bytes` and `cpu_seconds` limit one child over its life. `idle_seconds` limits how long it may be idle in
    each of its two phases; by default three times `cpu_seconds`.
    """

    #: The arguments to Python that start the fork server.
    entry: ClassVar[tuple[str, ...]] = ("-m", "worker.sandbox.child")

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
        self._idle_seconds = idle_seconds or _IDLE_FACTOR * cpu_seconds
        self._lock = threading.Lock()
        self._server: ForkServerClient | None = None
        self._closed = False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def server_pid(self) -> int | None:
        """The process id of the fork server, None before it is started."""
        return None if self._server is None else self._server.pid

    def start(self) -> None:
        """Start the fork server and wait until it is ready; raise `SandboxError` if it does not start."""
        with self._lock:
            if self._server is None:
                self._server = self._new_server()
        if not seccomp.is_supported():
            #: This kernel or machine has no seccomp filter for decoders. Their limits of memory and time still hold.
            _log.warning("sandbox_without_wall", reason="no seccomp filter for this machine or in its kernel")

    def close(self) -> None:
        """End the fork server and every child. Opening an image later raises `SandboxError`."""
        with self._lock:
            self._closed = True
            if self._server is not None:
                self._server.stop()
                self._server = None

    def open(self, data: bytes, size: int, *, probe: bool = False) -> OpenedImage:
        """Decode an image in a child of its own, for a network that reads size × size pixels.

        With `probe`, also make the network's input for each of the image's perturbations.

        Raises:
            JobError: what `worker.imaging.decoding.decode` raises; decode_crashed: the child crashed or ran past a
                limit; out_of_memory; internal: the fork server died twice.
            SandboxError: the fork server died and cannot be started again.

        """
        media_type = check_header(data[:HEAD_BYTES], len(data), self._limits)
        try:
            return self._open(data, media_type, size, probe=probe)
        except ForkServerDiedError:  # not this image's fault
            try:
                return self._open(data, media_type, size, probe=probe)
            except ForkServerDiedError as error:
                raise JobError(ErrorCode.INTERNAL) from error

    def _open(self, data: bytes, media_type: str, size: int, *, probe: bool = False) -> OpenedImage:
        child = self._child()
        try:
            squares = 1 + len(PERTURBATIONS) if probe else 1
            return OpenedImage(child, data, media_type, (squares, 3, size, size), self._limits)
        except BaseException as error:
            child.close()
            _log_crash(error)
            raise

    def _new_server(self) -> ForkServerClient:
        return ForkServerClient(self.entry, self._child_limits, _log_lines)

    def _child(self) -> Child:
        """Return a new child; start the fork server again if it has died."""
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

    x: NDArray[np.float32]  #: (3, S, S) in [−1, 1]: the network's input
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
        """Return the files of the wanted ones of `shared.domain.PICTURES`. Call it only once for an image.

        `eps` is (3, S, S), `feature_mean` (h, w). Raises `JobError` as `Sandbox.open` does.
        """
        if not wanted:
            return {}
        names = [name for name in PICTURES if name in wanted]
        request = {"shapes": [eps.shape, feature_mean.shape], "wanted": names}
        arrays = (np.ascontiguousarray(array, np.float32).tobytes() for array in (eps, feature_mean))
        # Three bytes a pixel, and what deflate and the file's structure may add to incompressible pixels.
        most = len(names) * (4 * max(self.facts.width * self.facts.height, eps[0].size) + (1 << 16))
        try:
            reply, payload = self._child.ask(request, *arrays, max_payload=most)
            return _pictures(reply, payload, names)
        except ForkServerDiedError as error:
            raise JobError(ErrorCode.INTERNAL) from error
        except JobError as error:
            _log_crash(error)
            raise


def _image_facts(told: dict[str, Any], media_type: str) -> ImageFacts:
    """Check and return the facts that a child reports. Its JSON may hold infinities, booleans and text for numbers."""
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
    """Check and return the content measures that a child reports for an image whose shorter side is `side`."""
    if not isinstance(told, dict) or told.keys() != {"side", *_MOST} or type(told["side"]) is not int:
        raise untrue_answer()
    if told["side"] != side or not all(type(told[name]) is float and 0 <= told[name] <= _MOST[name] for name in _MOST):
        raise untrue_answer()
    return Content(**told)


def _pictures(reply: dict[str, Any], payload: bytearray, wanted: list[str]) -> dict[str, bytes]:
    """Check the payload and return the files that were requested."""
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
    if start != len(payload) or not all(file.startswith(_signature(name)) for name, file in pictures.items()):
        raise untrue_answer()
    return pictures


def _signature(name: str) -> bytes:
    return _JPEG_SIGNATURE if name == PREVIEW else _PNG_SIGNATURE


def _log_lines(lines: Sequence[str], dropped: int) -> None:
    """Log what decoders print. If a file has taken a decoder over, its author wrote these lines."""
    #: Decoders, or the process that starts them, wrote `lines` to standard error. What is not printable is escaped; of
    #: more than 50 lines a minute the rest is `dropped`. A crash writes its stack. Keep the image that caused it.
    _log.warning("decoder_wrote", lines=lines, dropped=dropped)


def _log_crash(error: BaseException) -> None:
    """Log a decoder that crashed, ran past a limit or sent a false answer, so that the operator sees attacks."""
    if isinstance(error, UntrueAnswerError):
        #: A decoder sent an answer that its code never sends, so its file may have taken it over. The job fails as
        #: `decode_crashed`. If this repeats, find out whose jobs these are.
        _log.warning("decoder_answer_refused", reason=error.message, cause=repr(error.__cause__))
    elif isinstance(error, JobError) and error.code is ErrorCode.DECODE_CRASHED:
        #: A decoder crashed or ran past its limits on a file, and the job fails as `decode_crashed`. If this happens
        #: with sound images, raise `DECODE_SECONDS` or `DECODE_MEMORY_BYTES`.
        _log.warning("decoder_crashed", reason=error.message, cause=repr(error.__cause__))
