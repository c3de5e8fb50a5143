"""What is generated, in the sandbox that a worker has: each file ends as it should, and soon enough."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from shared.errors import ErrorCode, JobError
from tests.hostile.corpora import HostileFile
from tests.hostile.generated import BOMBS, POLYGLOTS
from tests.hostile.mutations import examples
from tests.hostile.refusals import default_sandbox
from tests.hostile.run import MOST_SECONDS, Ending
from tests.support.bad_images import OddImage
from worker.sandbox.sandbox import Sandbox

_DECODED = {
    None,
    ErrorCode.UNSUPPORTED_MEDIA_TYPE,
    ErrorCode.CORRUPT_IMAGE,
    ErrorCode.IMAGE_TOO_LARGE,
    ErrorCode.DECOMPRESSION_BOMB,
}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with default_sandbox(Sandbox) as started:
        yield started


def code_of(sandbox: Sandbox, data: bytes) -> ErrorCode | None:
    try:
        sandbox.open(data, 64).close()
    except JobError as error:
        return error.code
    return None


@pytest.mark.parametrize("bomb", BOMBS, ids=lambda bomb: bomb.name)
def test_a_bomb_is_refused(bomb: OddImage, sandbox: Sandbox):
    assert code_of(sandbox, bomb.data) == bomb.code


@pytest.mark.parametrize("polyglot", POLYGLOTS, ids=lambda polyglot: polyglot.name)
def test_a_file_that_is_two_things_is_what_it_begins_as(polyglot: OddImage, sandbox: Sandbox):
    assert code_of(sandbox, polyglot.data) == polyglot.code
    if polyglot.code is None:
        with sandbox.open(polyglot.data, 64) as image:
            assert image.facts.media_type == polyglot.media_type


def test_a_mutated_file_is_decoded_or_refused(sandbox: Sandbox):
    codes = [code_of(sandbox, file.data) for file in examples(200)]
    assert set(codes) <= _DECODED, "no decoder crashed or ran on"
    assert min(codes.count(None), codes.count(ErrorCode.CORRUPT_IMAGE)) > 20, (
        "they are neither all whole nor all broken"
    )


def test_the_mutated_files_are_always_the_same():
    again = examples.__wrapped__(20)
    assert [file.data for file in again] == [file.data for file in examples.__wrapped__(20)]


@pytest.mark.parametrize(
    ("refused", "code", "seconds", "attempts", "broken"),
    [
        (True, "unsupported_media_type", 0.1, 0, ""),
        (False, "succeeded", 0.1, 1, ""),
        (False, "decode_crashed", 9.9, 1, ""),
        (True, "<Response [500]>", 0.1, 0, "ended as <Response [500]>"),
        (True, "succeeded", 0.1, 0, "ended as succeeded"),
        (False, "internal", 0.1, 1, "ended as internal"),
        (False, "attempts_exhausted", 0.1, 3, "ended as attempts_exhausted"),
        (False, "stuck", 60.0, 1, "ended as stuck"),
        (False, "succeeded", 0.1, 2, "needed 2 attempts"),
        (False, "succeeded", MOST_SECONDS + 0.1, 1, "took 10.1 s"),
    ],
)
def test_a_broken_promise_is_seen(refused: bool, code: str, seconds: float, attempts: int, broken: str):
    ending = Ending(HostileFile("here", "file", b""), refused, code, seconds, "", attempts)
    assert (ending.broken or ending.slow).partition(":")[0] == broken
