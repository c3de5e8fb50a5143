"""Bad input that the API itself answers: each has one status and one stable code, and leaves nothing behind."""

from __future__ import annotations

import json
import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from sqlalchemy import func, select

from api.v1 import submission_form
from shared.database.tables import JobRow
from tests.support.api_world import ApiWorld, png

BOUNDARY = {"Content-Type": "multipart/form-data; boundary=b"}


def _png_that_claims(width: int, height: int) -> bytes:
    """A PNG's header for an image of any size, without the image."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))


def _tiff_that_claims(width: int, height: int) -> bytes:
    """A TIFF's header and directory for an image of any size, without the image."""
    return b"II*\0" + struct.pack("<LHHHLLHHLL", 8, 2, 256, 4, 1, width, 257, 4, 1, height)


def _avif_that_claims(width: int, height: int) -> bytes:
    """A small AVIF whose header states another size."""
    small = BytesIO()
    Image.new("RGB", (64, 48)).save(small, "AVIF")
    stated = struct.pack(">II", 64, 48)
    assert small.getvalue().count(stated) == 1
    return small.getvalue().replace(stated, struct.pack(">II", width, height))


def _job_count(api: ApiWorld) -> int:
    with api.around.database.begin() as session:
        return session.scalar(select(func.count()).select_from(JobRow)) or 0


@pytest.mark.parametrize(
    ("image", "status", "code"),
    [
        (None, 422, "image_required"),
        (b"", 422, "image_empty"),
        (b"plain words, no image", 415, "unsupported_media_type"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'></svg>", 415, "unsupported_media_type"),
        (b"%PDF-1.7", 415, "unsupported_media_type"),
        (_png_that_claims(40_000, 40_000), 422, "decompression_bomb"),
        (_png_that_claims(40_000, 40_000) + bytes(2_000_000), 422, "image_too_large"),
        (_png_that_claims(1, 60_000), 422, "image_too_large"),
        (_png_that_claims(0, 5), 422, "corrupt_image"),
        (_tiff_that_claims(40_000, 40_000), 422, "decompression_bomb"),
        (_tiff_that_claims(40_000, 40_000) + bytes(2_000_000), 422, "image_too_large"),
        (_avif_that_claims(40_000, 40_000), 422, "decompression_bomb"),
        (_avif_that_claims(40_000, 40_000) + bytes(2_000_000), 422, "image_too_large"),
    ],
    ids=[
        *("none", "empty", "text", "svg", "pdf", "bomb", "40000x40000", "1x60000", "no pixels"),
        *("tiff bomb", "tiff of 40000x40000", "avif bomb", "avif of 40000x40000"),
    ],
)
def test_an_image_that_cannot_be_taken_is_refused(api: ApiWorld, image: bytes | None, status: int, code: str) -> None:
    response = api.one.post_form(image)
    assert (response.status_code, response.json["code"]) == (status, code)
    assert response.mimetype == "application/problem+json"
    assert response.json["remedy"]
    assert _job_count(api) == 0


def test_an_upload_for_which_the_disk_has_no_room_is_refused_for_now(
    api: ApiWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = Path("/dev/full")
    monkeypatch.setattr(submission_form, "SpooledTemporaryFile", lambda _: full.open("r+b"))  # the API closes it
    response = api.one.post_form(png() + bytes(2_000_000))
    assert (response.status_code, response.json["code"]) == (503, "no_room")
    assert int(response.headers["Retry-After"]) >= 1
    assert _job_count(api) == 0


def test_the_content_decides_and_neither_name_nor_declared_type_does(api: ApiWorld) -> None:
    disguised = (BytesIO(png()), "../../etc/passwd.html", "text/html")
    response = api.one.post("/v1/jobs", data={"image": disguised})
    assert response.status_code == 202
    job = api.one.get(response.json["links"]["self"])
    assert job.json["artifacts"]["source"]["media_type"] == "image/png"
    assert "passwd" not in job.text


@pytest.mark.parametrize(
    ("fields", "code", "field"),
    [
        ({"heatmaps": "true"}, "unknown_field", "heatmaps"),
        ({"file": (BytesIO(b"x"), "x.png")}, "unknown_field", "file"),
        ({"heatmap": (BytesIO(b"true"), "x.txt")}, "invalid_field", "heatmap"),
        ({"heatmap": "yes"}, "invalid_field", "heatmap"),
        ({"overlay": ""}, "invalid_field", "overlay"),
        ({"overlay": ["true", "false"]}, "invalid_field", "overlay"),
        ({"metadata": "[1]"}, "invalid_field", "metadata"),
        ({"metadata": "{"}, "invalid_field", "metadata"),
        ({"metadata": '{"a": NaN}'}, "invalid_field", "metadata"),
        ({"metadata": '{"a": 1e999}'}, "invalid_field", "metadata"),
        ({"metadata": '{"a": "\\u0000"}'}, "invalid_field", "metadata"),
        ({"metadata": '{"\\ud800": 1}'}, "invalid_field", "metadata"),
        ({"metadata": '{"a": ' + "9" * 5000 + "}"}, "invalid_field", "metadata"),
        ({"metadata": "[" * 4000}, "invalid_field", "metadata"),
        ({"metadata": '{"a":' * 40 + "1" + "}" * 40}, "invalid_field", "metadata"),
        ({"metadata": json.dumps({"a": "x" * 8192})}, "invalid_field", "metadata"),
    ],
)
def test_a_wrong_option_is_named(api: ApiWorld, fields: dict[str, Any], code: str, field: str) -> None:
    response = api.one.post_form(png(), **fields)
    assert (response.status_code, response.json["code"]) == (422, code)
    assert [error["field"] for error in response.json["errors"]] == [field]
    assert _job_count(api) == 0


def test_metadata_comes_back_as_it_was(api: ApiWorld) -> None:
    metadata = {"ключ": "é☂😀", "n": -0.25, "big": 2**60, "deep": [[{"a": None}]], "empty": {}}
    job_id = api.one.submit(metadata=json.dumps(metadata))
    assert api.one.get(f"/v1/jobs/{job_id}").json["metadata"] == metadata


def test_two_images_are_one_too_many(api: ApiWorld) -> None:
    response = api.one.post("/v1/jobs", data={"image": [(BytesIO(png()), "a.png"), (BytesIO(png()), "b.png")]})
    assert (response.status_code, response.json["code"]) == (422, "too_many_images")


def test_an_image_sent_as_text_is_no_file(api: ApiWorld) -> None:
    response = api.one.post_form(None, image="not a file")
    assert (response.status_code, response.json["code"]) == (422, "image_required")
    assert "file name" in response.json["detail"]


@pytest.mark.parametrize("content_type", ["application/json", "image/png", "application/x-www-form-urlencoded", ""])
def test_a_body_that_is_no_multipart_form_is_refused(api: ApiWorld, content_type: str) -> None:
    response = api.one.post("/v1/jobs", data=png(), headers={"Content-Type": content_type})
    assert (response.status_code, response.json["code"]) == (415, "multipart_required")


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (BOUNDARY, b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\nhalf an im'),
        (BOUNDARY, b"no boundary at all"),
        (BOUNDARY, b"--b\r\nnonsense\r\n\r\nx\r\n--b--\r\n"),
        ({"Content-Type": "multipart/form-data"}, b"--b--"),
        ({"Content-Type": "multipart/form-data; boundary=é"}, b"--b--"),
    ],
    ids=["cut off", "no parts", "no headers", "boundary missing", "boundary not ascii"],
)
def test_a_malformed_form_is_refused(api: ApiWorld, headers: dict[str, str], body: bytes) -> None:
    response = api.one.post("/v1/jobs", data=body, headers=headers)
    assert response.status_code in (400, 422)
    assert response.json["code"] in ("malformed_request", "image_required", "unknown_field")
    assert _job_count(api) == 0


def test_more_parts_than_there_are_fields_are_refused(api: ApiWorld) -> None:
    response = api.one.post_form(png(), metadata=["{}"] * 100)
    assert (response.status_code, response.json["code"]) == (413, "body_too_large")


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer ", "Basic ZGRfOng=", "Bearer wrong", "Bearer dd_" + "x" * 43, "Bearer dd_é", "dd_x"],
)
def test_without_a_valid_key_nothing_is_shown(api: ApiWorld, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    response = api.anonymous.get("/v1/jobs", headers=headers)
    assert response.status_code == 401
    assert response.json["code"] in ("key_missing", "key_invalid")
    assert response.headers["WWW-Authenticate"].startswith("Bearer")


def test_a_bad_key_is_refused_before_the_body_is_looked_at(api: ApiWorld) -> None:
    response = api.anonymous.post("/v1/jobs", data=b"anything", headers={"Authorization": "Bearer dd_wrong"})
    assert response.status_code == 401


def _part(disposition: bytes, body: bytes) -> bytes:
    return b"--b\r\nContent-Disposition: form-data; " + disposition + b"\r\n\r\n" + body + b"\r\n"


@pytest.mark.parametrize(
    "nameless", [b"x=1", b'filename="a.png"', b"filename*=UTF-8''a.png", b'NAME2="image"'], ids=range(4)
)
def test_a_part_without_a_name_is_named_as_the_fault(api: ApiWorld, nameless: bytes) -> None:
    body = _part(b'name="image"; filename="a"', png()) + _part(nameless, b"abc") + b"--b--"
    refused = api.one.post("/v1/jobs", data=body, headers=BOUNDARY)
    assert (refused.status_code, refused.json["code"]) == (400, "malformed_request")
    assert "has no name" in refused.json["detail"]
    assert _job_count(api) == 0


@pytest.mark.parametrize(
    "disposition", [b'name="image"; filename="caf\xe9.png"', b'name="im\xe9"; filename="a.png"'], ids=["file", "field"]
)
def test_names_that_are_not_utf_8_are_named_as_the_fault(api: ApiWorld, disposition: bytes) -> None:
    refused = api.one.post("/v1/jobs", data=_part(disposition, png()) + b"--b--", headers=BOUNDARY)
    assert (refused.status_code, refused.json["code"]) == (400, "malformed_request")
    assert "is not UTF-8" in refused.json["detail"]


@pytest.mark.parametrize(
    ("field", "value"),
    [("metadata", b'{"a":"\xff"}'), ("metadata", b"\xe9"), ("policy", b"\xff"), ("heatmap", b"\x80")],
)
def test_a_value_that_is_not_utf_8_is_refused_not_changed(api: ApiWorld, field: str, value: bytes) -> None:
    body = _part(f'name="{field}"'.encode(), value) + _part(b'name="image"; filename="a"', png()) + b"--b--"
    refused = api.one.post("/v1/jobs", data=body, headers=BOUNDARY)
    assert (refused.status_code, refused.json["code"]) == (422, "invalid_field")
    assert refused.json["errors"] == [{"field": field, "message": "is not UTF-8"}]
    assert _job_count(api) == 0


def test_metadata_keeps_every_character_that_was_sent(api: ApiWorld) -> None:
    sent = {"name": "Grüße, 世界 \ufffd"}
    job_id = api.one.submit(metadata=json.dumps(sent, ensure_ascii=False))
    assert api.one.get(f"/v1/jobs/{job_id}").json["metadata"] == sent


def test_a_form_without_a_boundary_is_refused(api: ApiWorld) -> None:
    refused = api.one.post("/v1/jobs", data=b"--b--", headers={"Content-Type": "multipart/form-data"})
    assert (refused.status_code, refused.json["code"]) == (400, "malformed_request")
