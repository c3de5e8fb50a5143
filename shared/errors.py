"""The errors that both the API and the workers raise; the class docstring is the default message."""

from __future__ import annotations

import inspect
from enum import StrEnum


class DistildireError(Exception):
    """Something went wrong."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or inspect.cleandoc(type(self).__doc__ or type(self).__name__))

    @property
    def message(self) -> str:
        """The message for people."""
        return str(self.args[0])


class ErrorCode(StrEnum):
    """The closed list of reasons why a job fails."""

    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    CORRUPT_IMAGE = "corrupt_image"
    IMAGE_TOO_LARGE = "image_too_large"
    DECOMPRESSION_BOMB = "decompression_bomb"
    DECODE_CRASHED = "decode_crashed"
    FETCH_BLOCKED = "fetch_blocked"
    FETCH_FAILED = "fetch_failed"
    OUT_OF_MEMORY = "out_of_memory"
    MODEL_UNAVAILABLE = "model_unavailable"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    ATTEMPTS_EXHAUSTED = "attempts_exhausted"
    INTERNAL = "internal"


#: The messages for failures without a more exact one. Each ends with the remedy.
_DEFAULT_MESSAGES = {
    ErrorCode.UNSUPPORTED_MEDIA_TYPE: "The file is not a JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF image. Convert it.",
    ErrorCode.CORRUPT_IMAGE: "The image cannot be decoded: it is damaged or incomplete. Upload it again.",
    ErrorCode.IMAGE_TOO_LARGE: "The image has more bytes, pixels or a longer side than is accepted. Scale it down.",
    ErrorCode.DECOMPRESSION_BOMB: "The file would unpack to far more than an image of its size should. It was refused.",
    ErrorCode.DECODE_CRASHED: "The decoder crashed or ran past its limits on this file. Re-encode the image.",
    ErrorCode.FETCH_BLOCKED: "The address may not be fetched from here. Upload the image instead.",
    ErrorCode.FETCH_FAILED: "The image could not be fetched. Submit it again later.",
    ErrorCode.OUT_OF_MEMORY: "The image needed more memory than a job may use. Scale it down.",
    ErrorCode.MODEL_UNAVAILABLE: "The model or policy asked for is not served here. Ask the operator, or leave it out.",
    ErrorCode.DEADLINE_EXCEEDED: "The job was not finished before its deadline. Submit it again.",
    ErrorCode.ATTEMPTS_EXHAUSTED: "The worker died each time it ran this job. Tell the operator.",
    ErrorCode.INTERNAL: "An unexpected error in the service. Submit it again; tell the operator if it stays.",
}

#: The codes after which the same submission may succeed later, unchanged.
_RETRYABLE = frozenset(
    {ErrorCode.FETCH_FAILED, ErrorCode.MODEL_UNAVAILABLE, ErrorCode.DEADLINE_EXCEEDED, ErrorCode.INTERNAL}
)


class JobError(DistildireError):
    """The reason why a job fails, as its owner sees it."""

    def __init__(self, code: ErrorCode, message: str | None = None) -> None:
        super().__init__(message or _DEFAULT_MESSAGES[code])
        self.code = code

    @property
    def retryable(self) -> bool:
        """Whether the same image may succeed when it is submitted again."""
        return self.code in _RETRYABLE

    def __reduce__(self) -> tuple[type[JobError], tuple[ErrorCode, str]]:
        return type(self), (self.code, self.message)


class StoreUnavailableError(DistildireError):
    """The object store does not answer. Try again in a few seconds."""


class ObjectMissingError(DistildireError):
    """The object is not in the store."""


class DatabaseUnavailableError(DistildireError):
    """The database does not answer. Try again in a few seconds."""


class LeaseLostError(DistildireError):
    """Another attempt owns the job now; this one may write nothing more."""


class KeyTakenError(DistildireError):
    """The tenant has a job with this idempotency key already."""
