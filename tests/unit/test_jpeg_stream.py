"""Whether a JPEG is whole: sound ones of every kind are, damaged ones are not."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from shared.errors import ErrorCode, JobError
from shared.images.header import ImageLimits
from tests.support.bad_images import photograph, saved
from worker.imaging.decoding import Caveat, decode
from worker.imaging.jpeg_stream import Completeness, completeness, read_stream

END = b"\xff\xd9"


def found(data: bytes) -> Completeness:
    try:
        return completeness(read_stream(data))
    except JobError as error:
        return Completeness.DAMAGED if error.code is ErrorCode.CORRUPT_IMAGE else Completeness.NOT_CHECKED


def textured(width: int = 320, height: int = 240) -> Image.Image:
    """Large enough that damage in its middle is not damage to its end."""
    return photograph(width, height)


def jpegs() -> Iterator[tuple[str, bytes]]:
    for mode in ("RGB", "L"):
        for progressive in (False, True):
            for options in ({}, {"optimize": True}, {"subsampling": 0}, {"restart_marker_rows": 1}):
                for quality in (20, 75, 95):
                    name = f"{mode} progressive={progressive} {options} {quality}"
                    options_ = {**options, "quality": quality, "progressive": progressive}
                    yield name, saved(textured().convert(mode), "JPEG", **options_)


SOUND = dict(jpegs())


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_jpeg_is_whole_and_one_without_its_end_lacks_nothing_else(name: str):
    whole = SOUND[name]
    assert found(whole) is Completeness.WHOLE
    assert {found(whole[:-1]), found(whole[:-2]), found(whole[:-2] + bytes(2))} == {Completeness.NO_END}
    assert found(whole[:-2] + bytes(5000)) is Completeness.NO_END, "a file whose end was never written"


@pytest.mark.parametrize("size", [(1, 1), (7, 9), (16, 16), (17, 33), (640, 3)])
@pytest.mark.parametrize("colour", ["black", "white", "grey", (1, 2, 3)])
def test_blank_images_of_any_size_are_whole(size: tuple[int, int], colour: str):
    blank = Image.new("RGB", size, colour)
    for options in ({}, {"optimize": True}, {"progressive": True}, {"progressive": True, "quality": 100}):
        assert found(saved(blank, "JPEG", **options)) is Completeness.WHOLE


def test_black_bars_are_no_zero_filled_data():
    barred = Image.new("RGB", (1600, 1200))
    barred.paste(textured(1600, 200), (0, 500))
    for options in ({"optimize": True}, {"progressive": True}, {"optimize": True, "quality": 30}):
        assert found(saved(barred, "JPEG", **options)) is Completeness.WHOLE


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("name", SOUND)
def test_a_cut_jpeg_is_damaged_whatever_it_is_closed_with(name: str, share: float):
    whole = SOUND[name]
    header = whole.index(b"\xff\xda") + 40
    cut = header + int((len(whole) - header) * share)
    for closing in (b"", END, bytes(len(whole) - cut), bytes(len(whole) - cut) + END):
        assert found(whole[:cut] + closing) is Completeness.DAMAGED


def _zeros(data: bytearray, at: int, length: int, _: np.random.Generator) -> None:
    data[at : at + length] = bytes(length)


def _noise(data: bytearray, at: int, length: int, dice: np.random.Generator) -> None:
    data[at : at + length] = dice.integers(0, 256, length, dtype=np.uint8).tobytes()


def _loss(data: bytearray, at: int, length: int, _: np.random.Generator) -> None:
    del data[at : at + length]


@pytest.mark.parametrize(
    ("damage", "progressive"), [(_zeros, False), (_noise, False), (_loss, False), (_zeros, True), (_noise, True)]
)
def test_damage_in_the_middle_is_noticed(damage: Callable[..., None], progressive: bool):
    """Nearly always: some damage leaves every length as it was, and a progressive scan's length is known to 8 bytes."""
    whole = saved(textured(640, 480), "JPEG", quality=85, progressive=progressive)
    dice, seen = np.random.default_rng(3), Counter[Completeness]()
    for _ in range(60):
        damaged = bytearray(whole)
        damage(damaged, int(dice.integers(len(whole) // 4, len(whole) * 3 // 4)), int(dice.integers(64, 600)), dice)
        seen[found(bytes(damaged))] += 1
    assert seen[Completeness.DAMAGED] >= 55, seen


def test_a_progressive_image_that_ends_between_two_scans_is_damaged():
    whole = saved(textured(), "JPEG", progressive=True)
    starts = [at for at in range(len(whole) - 1) if whole[at : at + 2] in (b"\xff\xc4", b"\xff\xda")]
    assert {found(whole[:at] + END) for at in starts[1:]} == {Completeness.DAMAGED}


def test_a_file_that_breaks_off_at_its_last_blocks_is_nearly_complete():
    whole = saved(textured(), "JPEG", quality=90)
    assert found(whole[:-20]) is Completeness.NEARLY
    assert found(whole[:-20] + END) is Completeness.DAMAGED, "it claims to be whole"
    assert found(whole[: -len(whole) // 20]) is Completeness.DAMAGED


def test_a_byte_too_many_is_said_and_more_are_damage():
    whole = saved(textured(), "JPEG", quality=90)
    assert found(whole[:-2] + b"\x55" + END) is Completeness.LEFT_OVER
    assert found(whole[:-2] + b"\x55" * 12 + END) is Completeness.DAMAGED
    assert found(whole[:-2] + b"\x55" * 500 + END) is Completeness.DAMAGED
    assert found(whole[:-2] + bytes(500) + END) is Completeness.WHOLE, "zeros are padding"


def test_what_follows_the_image_or_lies_in_its_metadata_does_not_matter():
    segments = {"icc_profile": b"\xff\xda" * 500, "comment": b"\xff\xda\xff\xd9" * 50}
    whole = saved(textured(), "JPEG", **segments)
    assert found(whole + b"trailing" * 99) is Completeness.WHOLE
    assert read_stream(whole + b"\xff\xda" * 500).scans == 1
    assert read_stream(saved(textured(), "JPEG", progressive=True, **segments)).scans == 10


def test_samples_that_the_checking_decoder_does_not_read_are_said_to_be_unchecked():
    cmyk = saved(textured().convert("CMYK"), "JPEG", subsampling=2)
    assert found(cmyk) is Completeness.NOT_CHECKED
    assert found(saved(textured().convert("CMYK"), "JPEG", subsampling=0)) is Completeness.WHOLE
    assert Caveat.NOT_CHECKED in decode(cmyk, ImageLimits()).facts.caveats


@pytest.mark.parametrize(("at", "value"), [(1, 0xC3), (1, 0xC9), (4, 12), (9, 2)], ids=str)
def test_other_processes_are_named_not_called_damaged(at: int, value: int):
    whole = bytearray(saved(textured(), "JPEG"))
    whole[whole.index(b"\xff\xc0") + at] = value
    with pytest.raises(JobError, match="Convert it") as refused:
        read_stream(bytes(whole))
    assert refused.value.code == ErrorCode.UNSUPPORTED_MEDIA_TYPE


@given(st.binary(max_size=200), st.binary(max_size=400))
def test_any_bytes_have_an_answer(start: bytes, rest: bytes):
    whole = SOUND["RGB progressive=False {} 20"]
    for data in (b"\xff\xd8" + start + rest, whole[:400] + start + whole[400 + len(start) :]):
        with suppress(JobError):
            stream = read_stream(data)
            assert 0 <= stream.scans <= data.count(b"\xda")
            assert completeness(stream) in Completeness


def test_the_verdict_of_a_file_without_its_end_is_that_of_its_pixels():
    whole = saved(textured(), "JPEG")
    expected = np.asarray(Image.open(io.BytesIO(whole)))
    for cut in (whole[:-1], whole[:-2], whole[:-2] + bytes(700)):
        image = decode(cut, ImageLimits())
        np.testing.assert_array_equal(np.asarray(image.image), expected)
        assert image.facts.caveats == (Caveat.NO_END,)


def test_a_cut_file_is_refused_by_name():
    whole = saved(textured(), "JPEG")
    with pytest.raises(JobError, match="damaged or incomplete") as refused:
        decode(whole[: len(whole) // 2] + END, ImageLimits())
    assert refused.value.code == ErrorCode.CORRUPT_IMAGE


def test_junk_between_segments_is_no_damage():
    whole = saved(textured(), "JPEG")
    at = whole.index(b"\xff\xdb")
    assert found(whole[:at] + b"junk" + whole[at:]) is Completeness.WHOLE
