"""Pictures, the upload, links and heatmap numbers over HTTP."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from io import BytesIO
from urllib.parse import parse_qs, urlsplit
from urllib.request import urlopen

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import text

from shared.domain import PICTURES
from shared.images.colormap import ramp
from shared.images.scaling import scaled_down
from shared.images.visualizations import DRAWN_FLAT, heatmap_scores
from tests.support.api_world import FEATURE_MEAN, ApiWorld, picture, png


@pytest.fixture
def job(api: ApiWorld) -> str:
    """The path of a job that succeeded."""
    api.one.submit()
    return f"/v1/jobs/{api.succeed_next()}"


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_streamed_and_can_be_kept(api: ApiWorld, job: str, name: str) -> None:
    response = api.one.get(f"{job}/artifacts/{name}")
    assert response.status_code == 200
    assert response.data == picture(name)
    assert response.mimetype == ("image/jpeg" if name == "preview" else "image/png")
    assert response.content_length == len(picture(name))
    assert response.headers["ETag"] == f'"{hashlib.sha256(picture(name)).hexdigest()}"'
    assert response.headers["Cache-Control"] == "private, max-age=31536000, immutable"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    again = api.one.get(f"{job}/artifacts/{name}", headers={"If-None-Match": response.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")


def test_a_head_request_tells_the_size_alone(api: ApiWorld, job: str) -> None:
    response = api.one.open(f"{job}/artifacts/heatmap", "HEAD")
    assert (response.status_code, response.content_length, response.data) == (200, len(picture("heatmap")), b"")


def test_the_upload_comes_back_as_a_download_under_a_name_of_ours(api: ApiWorld) -> None:
    polyglot = b"GIF89a\x01\x00\x01\x00<script>alert(1)</script>"
    job_id = api.one.submit(polyglot)
    response = api.one.get(f"/v1/jobs/{job_id}/artifacts/source")
    assert response.data == polyglot
    assert response.mimetype == "image/gif"
    assert response.headers["Content-Disposition"] == 'attachment; filename="source.gif"'
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in response.headers["Content-Security-Policy"]


def test_a_link_needs_no_key(api: ApiWorld, job: str) -> None:
    link = api.one.get(f"{job}/artifacts/overlay?link=1").json
    with urlopen(link["url"], timeout=5) as response:
        assert response.read() == picture("overlay")
    assert link["expires_at"].endswith("Z")


def test_a_link_is_signed_for_the_store_as_browsers_reach_it(api_with: Callable[..., ApiWorld]) -> None:
    world = api_with(s3_public_endpoint="https://pictures.example")
    world.one.submit()
    url = urlsplit(world.one.get(f"/v1/jobs/{world.succeed_next()}/artifacts/heatmap?link=1").json["url"])
    assert (url.scheme, url.netloc) == ("https", "pictures.example")
    assert parse_qs(url.query)["X-Amz-Expires"] == ["300"]


def test_what_is_not_there_yet_is_told_from_what_never_will_be(api: ApiWorld) -> None:
    job_id = api.one.submit(overlay="false")
    early = api.one.get(f"/v1/jobs/{job_id}/artifacts/heatmap")
    assert (early.status_code, early.json["code"]) == (409, "job_not_finished")
    assert early.headers["Retry-After"]
    api.succeed_next(pictures=("dire_map", "heatmap"))
    never = api.one.get(f"/v1/jobs/{job_id}/artifacts/overlay")
    assert (never.status_code, never.json["code"]) == (404, "artifact_not_found")
    failed_id = api.one.submit()
    api.fail_next()
    for path in ("artifacts/heatmap", "heatmap"):
        failed = api.one.get(f"/v1/jobs/{failed_id}/{path}")
        assert (failed.status_code, failed.json["code"]) == (404, "artifact_not_found")
    assert api.one.get(f"/v1/jobs/{job_id}/artifacts/secrets").status_code == 404


def test_a_file_that_left_the_store_is_not_found(api: ApiWorld, job: str) -> None:
    with api.around.database.begin() as session:
        keys = session.scalar(text("SELECT artifacts->'heatmap'->>'key' FROM results"))
    api.around.store.delete(str(keys))
    response = api.one.get(f"{job}/artifacts/heatmap")
    assert (response.status_code, response.json["code"]) == (404, "artifact_not_found")


@pytest.mark.parametrize(
    ("query", "width", "height"),
    [
        ("", 8, 6),
        ("?width=31&height=17", 31, 17),
        ("?width=4", 4, 3),
        ("?height=60", 80, 60),
        ("?width=1", 1, 1),
        ("?region=image&width=16", 16, 12),
    ],
)
def test_heatmap_scores_come_at_any_size(api: ApiWorld, job: str, query: str, width: int, height: int) -> None:
    document = api.one.get(f"{job}/heatmap{query}").json
    assert (document["width"], document["height"]) == (width, height)
    assert document["region"] == {"x": 0, "y": 0, "width": 8, "height": 6}
    scores = np.array(document["heatmap_scores"])
    np.testing.assert_allclose(scores, heatmap_scores(FEATURE_MEAN, width, height), atol=6e-5)
    assert scores.min() == 0
    assert scores.max() == (1 if scores.size > 1 else 0)


def test_heatmap_scores_are_part_of_the_job_when_asked_for(api: ApiWorld, job: str) -> None:
    plain, full = api.one.get(job).json, api.one.get(f"{job}?include=heatmap_scores").json
    scores = full["result"].pop("heatmap_scores")
    assert full == plain
    np.testing.assert_allclose(scores, heatmap_scores(FEATURE_MEAN, 8, 6), atol=6e-5)


def test_a_heatmap_that_the_result_says_is_flat_is_drawn_flat_at_any_size(api: ApiWorld, job: str) -> None:
    paths = (f"{job}/heatmap.png?width=40", f"{job}/heatmap?width=40&format=png")
    drawn = [np.asarray(Image.open(BytesIO(api.one.get(path).data)).convert("RGB")) for path in paths]
    with api.around.database.begin() as session:
        session.execute(text("UPDATE results SET caveats = ARRAY[CAST(:said AS text)]"), {"said": DRAWN_FLAT})
    flat = [np.asarray(Image.open(BytesIO(api.one.get(path).data)).convert("RGB")) for path in paths]

    for varied, even in zip(drawn, flat, strict=True):
        assert varied.shape == even.shape == (30, 40, 3)
        assert len(np.unique(varied.reshape(-1, 3), axis=0)) > 20
        assert (even == ramp(255)[0]).all()
    scores = np.array(api.one.get(f"{job}/heatmap").json["heatmap_scores"])
    np.testing.assert_allclose(scores, heatmap_scores(FEATURE_MEAN, 8, 6), atol=6e-5)


def test_a_job_without_a_result_has_no_scores(api: ApiWorld) -> None:
    job_id = api.one.submit()
    assert api.one.get(f"/v1/jobs/{job_id}?include=heatmap_scores").json["result"] is None


def test_a_heatmap_of_many_rows_is_sent_in_bands(api: ApiWorld, job: str) -> None:
    response = api.one.get(f"{job}/heatmap?width=1000&height=2000", buffered=False)
    chunks = list(response.iter_encoded())
    assert len(chunks) > 5
    assert max(map(len, chunks)) < 3_000_000
    assert np.array(json.loads(b"".join(chunks))["heatmap_scores"]).shape == (2000, 1000)


def test_a_heatmap_can_be_a_picture(api: ApiWorld, job: str) -> None:
    response = api.one.get(f"{job}/heatmap?format=png&width=40&height=30")
    assert response.mimetype == "image/png"
    assert Image.open(BytesIO(response.data)).size == (40, 30)


@pytest.mark.parametrize(
    "query", ["width=0", "height=-1", "width=70000", "width=40000&height=40000", "format=gif", "w=1"]
)
def test_a_size_that_is_not_served_is_refused(api: ApiWorld, job: str, query: str) -> None:
    response = api.one.get(f"{job}/heatmap?{query}")
    assert (response.status_code, response.json["code"]) == (422, "invalid_field")


def test_an_upload_of_many_chunks_survives_the_way_there_and_back(api: ApiWorld) -> None:
    image = png() + np.random.default_rng(1).bytes(3_000_000)
    job_id = api.one.submit(image)
    assert api.one.get(f"/v1/jobs/{job_id}/artifacts/source").data == image


@pytest.mark.parametrize(("query", "size"), [("", 6), ("&width=12", 12), ("&height=12", 12)])
def test_the_scores_of_the_analysed_region_are_those_of_the_pictures(
    api: ApiWorld, job: str, query: str, size: int
) -> None:
    document = api.one.get(f"{job}/heatmap?region=analyzed{query}").json
    assert document["region"] == api.one.get(job).json["result"]["analyzed_region"]
    expected = heatmap_scores(FEATURE_MEAN, size, size)
    np.testing.assert_allclose(np.array(document["heatmap_scores"]), expected, atol=6e-5)


def test_each_address_has_one_kind_of_answer(api: ApiWorld, job: str) -> None:
    link = api.one.get(f"{job}/artifacts/overlay/link")
    assert link.mimetype == "application/json"
    with urlopen(link.json["url"], timeout=5) as response:
        assert response.read() == picture("overlay")
    drawn = api.one.get(f"{job}/heatmap.png?width=40")
    assert drawn.mimetype == "image/png"
    assert Image.open(BytesIO(drawn.data)).size == (40, 30)
    assert drawn.data == api.one.get(f"{job}/heatmap?format=png&width=40").data
    for path, operations in api.anonymous.get("/openapi.json").json["paths"].items():
        for method, operation in operations.items():
            answers = operation["responses"].get("200", {}).get("content", {})
            assert len(answers) <= 1 or all(kind.startswith("image/") for kind in answers), (method, path)


def test_the_link_of_another_tenant_is_none(api: ApiWorld, job: str) -> None:
    for path in ("artifacts/overlay/link", "heatmap.png", "heatmap?region=analyzed"):
        assert api.other.get(f"{job}/{path}").status_code == 404


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_scaled_to_the_side_that_is_asked_for(api: ApiWorld, job: str, name: str) -> None:
    whole = api.one.get(f"{job}/artifacts/{name}")
    response = api.one.get(f"{job}/artifacts/{name}?max_side=32")
    assert (response.status_code, response.mimetype) == (200, whole.mimetype)
    with Image.open(BytesIO(response.data)) as scaled:
        assert scaled.size == (32, 16)
    assert response.content_length == len(response.data)
    assert response.headers["Cache-Control"] == "private, max-age=31536000, immutable"
    assert response.headers["ETag"] != whole.headers["ETag"]
    again = api.one.get(f"{job}/artifacts/{name}?max_side=32", headers={"If-None-Match": response.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")
    larger = api.one.get(f"{job}/artifacts/{name}?max_side=96")
    assert larger.data == picture(name)  # never scaled up, nor encoded again


def test_a_palette_is_scaled_as_colours(api: ApiWorld) -> None:
    stripes = Image.new("P", (64, 64))
    stripes.putpalette([255, 0, 0, 0, 0, 255])
    stripes.putdata([column % 2 for _ in range(64) for column in range(64)])
    file = BytesIO()
    stripes.save(file, "PNG")
    with Image.open(BytesIO(scaled_down(file.getvalue(), 16))) as scaled:
        assert scaled.getpixel((8, 8)) == (128, 0, 128)


@pytest.mark.parametrize(
    ("name", "query"),
    [("source", "max_side=64"), ("overlay", "max_side=15"), ("overlay", "max_side=2049"), ("overlay", "max_side=big")],
)
def test_a_side_that_cannot_be_is_refused(api: ApiWorld, job: str, name: str, query: str) -> None:
    response = api.one.get(f"{job}/artifacts/{name}?{query}")
    assert (response.status_code, response.json["code"]) == (422, "invalid_field")
    assert [error["field"] for error in response.json["errors"]] == ["max_side"]
