"""The body of `POST /v1/jobs`: a multipart form, read as a stream within limits and checked strictly."""

from __future__ import annotations

import errno
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from tempfile import SpooledTemporaryFile, gettempdir
from typing import IO, Any, BinaryIO, NoReturn, cast

import structlog
from flask import Request
from werkzeug.datastructures import FileStorage, Headers, MultiDict
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.formparser import MultiPartParser

from api.problems.table import (
    BODY_TOO_LARGE,
    CORRUPT_IMAGE,
    DECOMPRESSION_BOMB,
    DISK_FULL,
    IMAGE_EMPTY,
    IMAGE_REQUIRED,
    IMAGE_TOO_LARGE,
    MALFORMED_REQUEST,
    MULTIPART_REQUIRED,
    RETRY_AFTER,
    TOO_MANY_IMAGES,
    UNKNOWN_FIELD,
    UNSUPPORTED_MEDIA_TYPE,
    ApiError,
    FieldError,
    field_error,
)
from api.v1.schemas.submission import PICTURE_WORDS, JobFields, read_options
from shared.domain import PICTURES, JobOptions
from shared.errors import ErrorCode, JobError
from shared.images.header import HEAD_BYTES, ImageLimits, check_header
from shared.settings import Settings

IMAGE = "image"
METADATA_BYTES = 8 * 1024
#: The most bytes of the form beside the image: its other fields and its boundaries.
FORM_BYTES = 64 * 1024
#: The most bytes of one field that is no file. The parser also applies this to its read buffer of 64 KiB.
_FIELD_BYTES = 512 * 1024
_MOST_PARTS = 32
#: A larger file is written to disk while it is read.
_IN_MEMORY = 1024 * 1024
_CHUNK = 256 * 1024
_BYTES = "latin-1"

_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
_OPTION_FIELDS = (*JobFields.model_fields, *PICTURES)
_REFUSALS = {
    ErrorCode.UNSUPPORTED_MEDIA_TYPE: UNSUPPORTED_MEDIA_TYPE,
    ErrorCode.IMAGE_TOO_LARGE: IMAGE_TOO_LARGE,
    ErrorCode.DECOMPRESSION_BOMB: DECOMPRESSION_BOMB,
    ErrorCode.CORRUPT_IMAGE: CORRUPT_IMAGE,
}

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Upload:
    """A submitted image, not decoded, and the options of its job."""

    stream: BinaryIO
    """At its beginning."""
    size: int
    sha256: str
    media_type: str
    options: JobOptions


@contextmanager
def read_upload(request: Request, settings: Settings) -> Iterator[Upload]:
    """Read and check the form; its files on disk are deleted when the context ends.

    Raises:
        ApiError: names the field that is wrong. A body beyond the limit is refused by its stated length, or else as
            soon as it passes the limit; the rest is never read.

    """
    with ExitStack() as spool:
        form, files = _parse(request, settings, spool)
        yield _check(form, files, settings)


def _check(form: MultiDict[str, str], files: MultiDict[str, FileStorage], settings: Settings) -> Upload:
    _refuse_unknown(form, files)
    options = read_options(_plain(form), settings)
    image = _image(form, files)
    size, sha256 = _measure(image.stream)
    media_type = _check_image(image.stream, size, settings)
    return Upload(cast("BinaryIO", image.stream), size, sha256, media_type, options)


def _plain(form: MultiDict[str, str]) -> dict[str, Any]:
    """Return the form's options as the plain values of a JSON body; raise `ApiError` where one cannot be read."""
    given = {name: value for name in _OPTION_FIELDS if (value := _single(form, name)) is not None}
    plain = {name: _READERS[name](name, value) if name in _READERS else value for name, value in given.items()}
    chosen = {name: plain.pop(name) for name in PICTURES if name in plain}
    if not chosen:
        return plain
    if "pictures" in plain:
        raise field_error("pictures", f"cannot be combined with {', '.join(chosen)}")
    return plain | {"pictures": [name for name in PICTURES if chosen.get(name, True)]}


def _boolean(name: str, value: str) -> bool:
    if value not in _BOOLEANS:
        raise field_error(name, f"must be one of {', '.join(_BOOLEANS)}")
    return _BOOLEANS[value]


def _integer(name: str, value: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", value):
        raise field_error(name, "must be a whole number")
    return int(value)


def _pictures(_name: str, value: str) -> str | list[str]:
    return value if value in PICTURE_WORDS else value.split(",")


def _metadata(name: str, value: str) -> Any:
    """Return the client's JSON; raise `ApiError` if it is none, or too long to be kept."""
    if len(value.encode(errors="replace")) > METADATA_BYTES:
        raise field_error(name, f"at most {METADATA_BYTES} bytes are kept")
    try:
        return json.loads(value, parse_constant=_not_json)
    except (ValueError, RecursionError):
        raise field_error(name, "must be a JSON object of plain values") from None


#: How the fields whose value is no text are read.
_READERS: Mapping[str, Callable[[str, str], Any]] = {
    "stability": _boolean,
    **dict.fromkeys(PICTURES, _boolean),
    "pictures": _pictures,
    "metadata": _metadata,
    "deadline_seconds": _integer,
}


def _parse(
    request: Request, settings: Settings, spool: ExitStack
) -> tuple[MultiDict[str, str], MultiDict[str, FileStorage]]:
    if request.mimetype != "multipart/form-data":
        raise ApiError(MULTIPART_REQUIRED, headers={"Accept": "multipart/form-data"})
    request.max_content_length = settings.max_upload_bytes + FORM_BYTES
    parser = _Parser(_spooling(spool), max_form_memory_size=_FIELD_BYTES, max_form_parts=_MOST_PARTS)
    try:
        boundary = _boundary(request)
        form, files = parser.parse(request.stream, boundary, request.content_length)
    except RequestEntityTooLarge:
        raise _too_large(settings) from None
    except UnicodeDecodeError:
        raise ApiError(
            MALFORMED_REQUEST, "A name in the form is not UTF-8. Send field names and file names in UTF-8."
        ) from None
    except ValueError:
        raise ApiError(MALFORMED_REQUEST, "The multipart form is incomplete or malformed.") from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        #: An upload did not fit into the API's temporary `folder` and was answered 503 `no_room`. Free space there.
        _log.warning("no_room_for_upload", folder=gettempdir())
        raise ApiError(DISK_FULL, headers={"Retry-After": RETRY_AFTER}) from error
    if None in form or None in files:
        raise ApiError(MALFORMED_REQUEST, "A part of the form has no name. Give each part one: `image`, `metadata`, …")
    return _as_text(form), files


def _boundary(request: Request) -> bytes:
    boundary = request.mimetype_params.get("boundary", "").encode("ascii")
    if not boundary:
        raise ValueError("no boundary")
    return boundary


class _Parser(MultiPartParser):
    """Keeps the values of fields as the bytes that came; werkzeug would replace what is not UTF-8."""

    def get_part_charset(self, _headers: Headers) -> str:
        """Return the character set in which each byte is one character."""
        return _BYTES


def _as_text(form: MultiDict[str, str]) -> MultiDict[str, str]:
    """Decode the values; raise `ApiError` for the first that is not UTF-8."""
    decoded: MultiDict[str, str] = MultiDict()
    for name, value in form.items(multi=True):
        try:
            decoded.add(name, value.encode(_BYTES).decode())
        except UnicodeDecodeError:
            raise field_error(name, "is not UTF-8") from None
    return decoded


def _spooling(spool: ExitStack) -> Callable[..., IO[bytes]]:
    """Return a maker of temporary files for werkzeug; `spool` closes them, also those of a malformed form."""

    def make(*_: object, **__: object) -> IO[bytes]:
        file = cast("IO[bytes]", SpooledTemporaryFile(_IN_MEMORY))  # noqa: SIM115  # the stack closes it
        spool.callback(_discard, file)
        return file

    return make


def _discard(file: IO[bytes]) -> None:
    """Close a file that is no longer needed. On a full disk, closing tries once more to write."""
    with suppress(OSError):
        file.close()


def _too_large(settings: Settings) -> ApiError:
    return ApiError(
        BODY_TOO_LARGE,
        f"An image may have {settings.max_upload_bytes:,} bytes; a form {_MOST_PARTS} parts, and {FORM_BYTES:,} bytes"
        " beside the image.",
    )


def _refuse_unknown(form: Iterable[str], files: Iterable[str]) -> None:
    unknown = sorted({*form, *files} - {IMAGE, *_OPTION_FIELDS})
    if unknown:
        errors = [FieldError(name[:100], "is not known") for name in unknown]
        raise ApiError(UNKNOWN_FIELD, f"The known fields are {', '.join((IMAGE, *_OPTION_FIELDS))}.", errors=errors)
    misplaced = sorted({*files} - {IMAGE})
    if misplaced:
        raise field_error(misplaced[0], "must be a plain value, not a file")


def _single(form: MultiDict[str, str], name: str) -> str | None:
    values = form.getlist(name)
    if len(values) > 1:
        raise field_error(name, "is given more than once")
    return values[0] if values else None


def _image(form: MultiDict[str, str], files: MultiDict[str, FileStorage]) -> FileStorage:
    images = files.getlist(IMAGE)
    if len(images) > 1:
        raise ApiError(TOO_MANY_IMAGES)
    if not images:
        as_text = IMAGE in form
        raise ApiError(IMAGE_REQUIRED, "The field `image` is not a file: give it a file name." if as_text else None)
    return images[0]


def _measure(stream: IO[bytes]) -> tuple[int, str]:
    """Return the size and SHA-256 of a stream. It stands at its beginning before and after."""
    digest, size = hashlib.sha256(), 0
    while chunk := stream.read(_CHUNK):
        digest.update(chunk)
        size += len(chunk)
    stream.seek(0)
    return size, digest.hexdigest()


def _check_image(stream: IO[bytes], size: int, settings: Settings) -> str:
    """Return the media type by the first bytes; refuse an image that they show to be too large. Nothing is decoded."""
    if size == 0:
        raise ApiError(IMAGE_EMPTY)
    if size > settings.max_upload_bytes:
        raise _too_large(settings)
    limits = ImageLimits(max_bytes=settings.max_upload_bytes, max_pixels=settings.max_pixels)
    try:
        return check_header(stream.read(HEAD_BYTES), size, limits, stream)
    except JobError as error:
        raise ApiError(_REFUSALS[error.code], error.message) from None
    finally:
        stream.seek(0)


def _not_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
