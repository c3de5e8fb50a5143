"""What a client may choose for a job, and what becomes of it."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from shared.domain import PICTURES
from tests.support.api_world import ApiWorld, png


def shown(api: ApiWorld, job_id: str) -> dict[str, Any]:
    return dict(api.one.get(f"/v1/jobs/{job_id}").json)


def stored(api: ApiWorld, job_id: str) -> dict[str, Any]:
    with api.around.database.begin() as session:
        row = session.execute(text("SELECT * FROM jobs WHERE id = :id"), {"id": job_id}).one()
        return dict(row._mapping)


@pytest.mark.parametrize("reference", ["a", "upload/4711?x=1&y", "ключ ☂ 😀", "x" * 128])
def test_the_clients_own_id_comes_back_with_the_job(api: ApiWorld, reference: str) -> None:
    job_id = api.one.submit(client_ref=reference)
    assert shown(api, job_id)["client_ref"] == reference
    api.succeed_next()
    assert shown(api, job_id)["client_ref"] == reference


@pytest.mark.parametrize("declared", ["real", "generated", "edited"])
def test_what_the_uploader_says_comes_back_with_the_job(api: ApiWorld, declared: str) -> None:
    assert shown(api, api.one.submit(declared=declared))["declared"] == declared


def test_what_is_not_chosen_is_null(api: ApiWorld) -> None:
    job = shown(api, api.one.submit())
    assert (job["client_ref"], job["declared"]) == (None, None)


@pytest.mark.parametrize("seconds", [1, 90, 604_800])
def test_the_client_says_when_its_job_expires(api: ApiWorld, seconds: int) -> None:
    job = shown(api, api.one.submit(deadline_seconds=str(seconds)))
    created, deadline = (datetime.fromisoformat(job[name]) for name in ("created_at", "deadline_at"))
    assert deadline - created == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("pictures", "names", "flagged_only"),
    [
        ("all", [*PICTURES], False),
        ("flagged", [*PICTURES], True),
        ("none", [], False),
        ("overlay", ["overlay"], False),
        ("preview,dire_map", ["dire_map", "preview"], False),
        ("overlay,overlay", ["overlay"], False),
    ],
)
def test_pictures_are_chosen_by_a_word_or_by_names(
    api: ApiWorld, pictures: str, names: list[str], flagged_only: bool
) -> None:
    row = stored(api, api.one.submit(pictures=pictures))
    assert (row["pictures"], row["flagged_only"]) == (names, flagged_only)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("client_ref", value) for value in ("", "x" * 129, " a", "a ", "a\nb", "a\0b", "a\u200b")],
        *[("declared", value) for value in ("", "fake", "REAL")],
        *[("deadline_seconds", value) for value in ("0", "604801", "1.5", "-1", "1e3", "", " 7", "٣", "9" * 40)],
        *[
            ("pictures", value)
            for value in ("", "ALL", "heatmaps", "heatmap,", "heatmap, overlay", "all,heatmap", "source")
        ],
    ],
)
def test_a_wrong_value_is_refused_by_the_name_of_its_field(api: ApiWorld, field: str, value: str) -> None:
    refused = api.one.post_form(png(), **{field: value})
    assert (refused.status_code, refused.json["code"]) == (422, "invalid_field")
    assert [error["field"] for error in refused.json["errors"]] == [field]


def test_pictures_and_the_switch_of_one_cannot_be_combined(api: ApiWorld) -> None:
    refused = api.one.post_form(png(), pictures="all", overlay="false")
    assert (refused.status_code, refused.json["errors"][0]["field"]) == (422, "pictures")
    assert "overlay" in refused.json["detail"]


def test_every_wrong_field_is_named_at_once(api: ApiWorld) -> None:
    refused = api.one.post_form(png(), declared="fake", client_ref="")
    assert {error["field"] for error in refused.json["errors"]} == {"declared", "client_ref"}


@pytest.mark.parametrize(
    "other",
    [{"client_ref": "b"}, {"declared": "edited"}, {"deadline_seconds": "8"}, {"pictures": "flagged"}],
    ids=lambda other: next(iter(other)),
)
def test_an_idempotency_key_belongs_to_all_that_was_chosen(api: ApiWorld, other: dict[str, str]) -> None:
    chosen: dict[str, Any] = {"client_ref": "a", "declared": "real", "deadline_seconds": "7", "pictures": "all"}
    api.one.headers["Idempotency-Key"] = "once"
    first = api.one.submit(**chosen)
    assert api.one.submit(**chosen) == first
    refused = api.one.post_form(png(), **chosen | other)
    assert (refused.status_code, refused.json["code"]) == (422, "idempotency_key_reused")


def test_a_replay_has_the_same_choices(api: ApiWorld) -> None:
    chosen: dict[str, Any] = {"client_ref": "a", "declared": "real", "deadline_seconds": "600", "pictures": "flagged"}
    old = api.one.submit(**chosen)
    api.fail_next()
    new = api.one.post(f"/v1/jobs/{old}/replay").json["id"]
    columns = ("client_ref", "declared", "deadline_seconds", "flagged_only", "pictures")
    before, after = stored(api, old), stored(api, new)
    assert {name: after[name] for name in columns} == {name: before[name] for name in columns}


def test_webhooks_tell_what_the_client_chose(api: ApiWorld) -> None:
    api.one.add_endpoint()
    api.one.submit(client_ref="upload-7", declared="real")
    api.succeed_next()
    with api.around.database.begin() as session:
        [body] = session.scalars(text("SELECT body FROM webhook_deliveries")).all()
    job = json.loads(body)["data"]
    assert (job["client_ref"], job["declared"]) == ("upload-7", "real")
