"""What is asked of a server when a part of a file is there, and what its answer means."""

from __future__ import annotations

import pytest

from worker.model.weights.http_ranges import Action, Version, decide, range_headers

V1 = Version('"one"', 100)
ETAG = {"etag": '"one"'}


@pytest.mark.parametrize(
    ("have", "version", "headers"),
    [
        (0, V1, {}),
        (40, V1, {"Range": "bytes=40-", "If-Range": '"one"'}),
        (40, Version(None, 100), {"Range": "bytes=40-"}),
    ],
)
def test_what_is_asked(have: int, version: Version, headers: dict[str, str]):
    assert range_headers(have, version) == headers


@pytest.mark.parametrize(
    ("status", "headers", "action"),
    [
        (200, {"content-length": "100"} | ETAG, Action.BEGIN),
        (206, {"content-range": "bytes 40-99/100"} | ETAG, Action.GO_ON),
        (206, {"content-range": "bytes 40-99/100"}, Action.GO_ON),
        (206, {"content-range": "bytes 40-99/*"} | ETAG, Action.GO_ON),
        (206, {"content-range": "bytes 0-99/100"} | ETAG, Action.ASK_ANEW),
        (206, {"content-range": "bytes 41-99/100"} | ETAG, Action.ASK_ANEW),
        (206, {"content-range": "bytes 40-109/110"} | ETAG, Action.ASK_ANEW),
        (206, {"content-range": "bytes 40-99/100", "etag": '"two"'}, Action.ASK_ANEW),
        (206, {"content-range": "40-99"} | ETAG, Action.ASK_ANEW),
        (206, ETAG, Action.ASK_ANEW),
        (416, {"content-range": "bytes */40"}, Action.WHOLE),
        (416, {"content-range": "bytes */100"}, Action.ASK_ANEW),
        (416, {}, Action.ASK_ANEW),
    ],
)
def test_what_an_answer_means_for_40_bytes_of_100(status: int, headers: dict[str, str], action: Action):
    assert decide(status, headers, 40, V1) is action


def test_no_answer_makes_an_empty_file_whole():
    assert decide(416, {"content-range": "bytes */0"}, 0, Version()) is Action.ASK_ANEW


@pytest.mark.parametrize(
    ("headers", "version"),
    [
        ({"etag": '"a"', "last-modified": "then", "content-length": "7"}, Version('"a"', 7)),
        ({"etag": 'W/"a"', "last-modified": "then"}, Version("then", None)),  # a weak one may name two files
        ({"etag": 'W/"a"', "content-length": "many"}, Version(None, None)),
    ],
)
def test_what_a_server_says_of_a_version(headers: dict[str, str], version: Version):
    assert Version.of(200, headers) == version
