"""Every form of TIFF that is accepted is decoded to the pixels that another decoder reads; all others are named."""

from __future__ import annotations

import io
import itertools
import struct
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from shared.errors import ErrorCode, JobError
from shared.images.header import ImageLimits
from tests.support.bad_images import photograph, saved
from worker.imaging.decoding import decode

WIDTH, HEIGHT = 53, 37
LIMITS = ImageLimits()


def levels(channels: int, bits: int = 8) -> np.ndarray:
    """(height, width, channels) of whole numbers that fill the range of `bits`."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    full = np.stack([(x * 4 + y * 3 + 40 * channel) % 256 for channel in range(channels)], axis=-1)
    return full >> (8 - bits) if bits < 8 else full * 257 if bits == 16 else full


def written(samples: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, samples.squeeze(), **options)
    return file.getvalue()


def written_with_few_colours(samples: np.ndarray, bits: int, byteorder: str) -> bytes:
    """A palette of less than 256 colours, which tifffile does not write: as grey, whose meaning is then changed."""
    colormap = (320, 3, 3 * 2**bits, _colormap(2**bits).ravel().tolist(), True)
    grey = written(samples, photometric="minisblack", bitspersample=bits, byteorder=byteorder, extratags=[colormap])
    entry = struct.pack(f"{byteorder}HHI", 262, 3, 1)
    assert grey.count(entry + struct.pack(f"{byteorder}H", 1)) == 1
    return grey.replace(entry + struct.pack(f"{byteorder}H", 1), entry + struct.pack(f"{byteorder}H", 3))


def expected(file: bytes, photometric: str) -> np.ndarray:
    """8-bit RGB by tifffile's samples; its own arithmetic, none of Pillow's."""
    with tifffile.TiffFile(io.BytesIO(file)) as tiff:
        page = tiff.pages.first
        samples = page.asarray()
        if page.planarconfig == 2 and samples.ndim == 3:
            samples = np.moveaxis(samples, 0, -1)
        if samples.ndim == 2:
            samples = samples[..., None]
        return _as_rgb(samples.astype(int), page.bitspersample, photometric, page.colormap).astype(np.uint8)


def _as_rgb(samples: np.ndarray, bits: int, photometric: str, colormap: Any) -> np.ndarray:
    rgb: np.ndarray
    if photometric == "palette":
        rgb = (np.asarray(colormap) >> 8).T[samples[..., 0]]
        return rgb
    rgb = samples >> 8 if bits == 16 else samples * 255 // (2**bits - 1)
    if photometric == "miniswhite":
        rgb = 255 - rgb
    if photometric == "separated":
        rgb = np.round((255 - rgb[..., :3]) * (255 - rgb[..., 3:]) / 255)
    return np.repeat(rgb[..., :1], 3, axis=-1) if rgb.shape[-1] < 3 else rgb[..., :3]


def forms() -> list[dict[str, Any]]:
    """What is accepted: photometric interpretation, bits, samples, planes, byte order, compression, tiles."""
    found: list[dict[str, Any]] = []
    storages = itertools.product(("<", ">"), (None, "zlib", "lzw", "packbits"), (None, (16, 16)))
    for byteorder, compression, tile in storages:
        storage: dict[str, Any] = {"byteorder": byteorder, "compression": compression, "tile": tile}
        predictors = [False, True] if compression in {"zlib", "lzw"} else [False]
        for bits, predictor in itertools.product((8, 16), predictors):
            deep = {**storage, "bits": bits, "predictor": predictor}
            found.append({**deep, "photometric": "minisblack", "channels": 1})
            for planarconfig in ("contig", "separate"):
                if planarconfig == "separate" and bits == 16 and compression is None:
                    continue  # refused
                planes = {**deep, "planarconfig": planarconfig}
                found.append({**planes, "photometric": "rgb", "channels": 3})
                found.append({**planes, "photometric": "rgb", "channels": 4, "extrasamples": ["unassalpha"]})
                found.append({**planes, "photometric": "separated", "channels": 4})
        found.append({**storage, "photometric": "miniswhite", "channels": 1})
        found.append({**storage, "photometric": "palette", "channels": 1, "colormap": _colormap(256)})
        alpha = {"photometric": "minisblack", "planarconfig": "contig", "extrasamples": ["unassalpha"]}
        found.append({**storage, **alpha, "channels": 2})
    for bits, photometric, byteorder in itertools.product((1, 2, 4), ("minisblack", "miniswhite"), ("<", ">")):
        found.append({"photometric": photometric, "channels": 1, "bits": bits, "byteorder": byteorder})
    return found


def _colormap(colours: int) -> np.ndarray:
    return np.random.default_rng(colours).integers(0, 256, (3, colours)).astype(np.uint16) * 257


def _name(form: dict[str, Any]) -> str:
    return " ".join(str(value) for key, value in form.items() if value is not None and key != "colormap")


@pytest.mark.parametrize("form", forms(), ids=_name)
def test_an_accepted_form_has_the_pixels_that_another_decoder_reads(form: dict[str, Any]):
    options = dict(form)
    bits, channels = options.pop("bits", 8), options.pop("channels")
    samples = levels(channels, bits).astype(np.uint16 if bits == 16 else np.uint8)
    if options.get("planarconfig") == "separate":
        samples = np.ascontiguousarray(np.moveaxis(samples, -1, 0))
    file = written(samples, **options, **({"bitspersample": bits} if bits < 8 else {}))
    pixels = np.asarray(decode(file, LIMITS).image).astype(int)
    difference = np.abs(pixels - expected(file, form["photometric"]))
    assert difference.max() <= (1 if form["photometric"] == "separated" else 0)  # of CMYK, by rounding


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_palettes_of_few_colours_are_read(bits: int, byteorder: str):
    file = written_with_few_colours(levels(1, bits).astype(np.uint8), bits, byteorder)
    np.testing.assert_array_equal(np.asarray(decode(file, LIMITS).image), expected(file, "palette"))


@pytest.mark.parametrize("photometric", ["rgb", "ycbcr", "minisblack"])
@pytest.mark.parametrize("tile", [None, (64, 64)])
def test_jpeg_compressed_strips_have_the_pixels_that_another_decoder_reads(photometric: str, tile: Any):
    image = np.asarray(photograph(160, 120).convert("L" if photometric == "minisblack" else "RGB"))
    options = {} if photometric == "minisblack" else {"subsampling": (2, 2)}
    file = written(image, photometric=photometric, compression="jpeg", tile=tile, **options)
    theirs = tifffile.imread(io.BytesIO(file))
    pixels = np.asarray(decode(file, LIMITS).image)
    np.testing.assert_array_equal(pixels, theirs if theirs.ndim == 3 else np.stack([theirs] * 3, axis=-1))


def test_cielab_has_the_colours_that_its_formula_gives():
    grey = levels(1)[..., 0]
    lab = np.stack([grey // 2 + 80, grey // 8 - 16, np.full((HEIGHT, WIDTH), 12)], axis=-1)  # colours that sRGB has
    file = written(lab.astype(np.uint8), photometric="cielab")
    lightness, a, b = (lab % 256).astype(np.uint8).transpose(2, 0, 1)
    y = (lightness * (100 / 255) + 16) / 116
    steps = np.stack([y + a.astype(np.int8) / 500, y, y - b.astype(np.int8) / 200], axis=-1)
    xyz = np.where(steps > 6 / 29, steps**3, 3 * (6 / 29) ** 2 * (steps - 4 / 29)) * [0.9642, 1, 0.8249]  # D50
    linear = xyz @ np.array(
        [[3.1338561, -0.9787684, 0.0719453], [-1.6168667, 1.9161415, -0.2289914], [-0.4906146, 0.0334540, 1.4052427]]
    )
    clipped = np.clip(linear, 0, 1)
    srgb = np.where(clipped <= 0.0031308, 12.92 * clipped, 1.055 * clipped ** (1 / 2.4) - 0.055) * 255
    assert np.abs(np.asarray(decode(file, LIMITS).image) - srgb).max() <= 2


def _grey(dtype: str, **options: Any) -> bytes:
    return written((levels(1) * (257 if dtype == "u2" else 1)).astype(dtype), **{"photometric": "minisblack"} | options)


UNREAD = {
    "16-bit planes, uncompressed": lambda: written(
        np.ascontiguousarray(np.moveaxis(levels(3, 16), -1, 0)).astype("u2"), photometric="rgb", planarconfig="separate"
    ),
    "16-bit planes of CMYK, uncompressed": lambda: written(
        np.ascontiguousarray(np.moveaxis(levels(4, 16), -1, 0)).astype("u2"),
        photometric="separated",
        planarconfig="separate",
    ),
    "white is zero, 16 bits": lambda: _grey("u2", photometric="miniswhite"),
    "10 bits": lambda: _grey("u2", bitspersample=10),
    "12 bits": lambda: _grey("u2", bitspersample=12),
    "14 bits": lambda: _grey("u2", bitspersample=14),
    "32 bits": lambda: _grey("u4"),
    "32 bits, big-endian": lambda: _grey("u4", byteorder=">"),
    "signed 8 bits": lambda: _grey("i1"),
    "signed 16 bits": lambda: _grey("i2"),
    "signed 32 bits": lambda: _grey("i4"),
    "half floats": lambda: _grey("f2"),
    "floats": lambda: _grey("f4"),
    "doubles": lambda: _grey("f8"),
    "complex": lambda: _grey("c8"),
    "RGB of 32 bits": lambda: written(levels(3).astype("u4"), photometric="rgb"),
    "RGB of floats": lambda: written(levels(3).astype("f4"), photometric="rgb"),
    "signed RGB": lambda: written(levels(3).astype("i1"), photometric="rgb"),
    "YCbCr without JPEG": lambda: written(levels(3).astype("u1"), photometric="ycbcr"),
    "a colour filter array": lambda: written(levels(1).astype("u1"), photometric="cfa"),
    "a transparency mask": lambda: written(levels(1).astype("u1"), photometric="mask"),
    "LogLuv": lambda: written(levels(1).astype("u2"), photometric="logl"),
    "grey of 16 bits with alpha": lambda: written(
        levels(2, 16).astype("u2"), photometric="minisblack", planarconfig="contig", extrasamples=["unassalpha"]
    ),
    "grey with associated alpha": lambda: written(
        levels(2).astype("u1"), photometric="minisblack", planarconfig="contig", extrasamples=["assocalpha"]
    ),
    "Zstandard": lambda: written(levels(3).astype("u1"), photometric="rgb", compression="zstd"),
    "LZMA": lambda: written(levels(3).astype("u1"), photometric="rgb", compression="lzma"),
    "JPEG 2000": lambda: written(levels(3).astype("u1"), photometric="rgb", compression="jpeg2000"),
    "WebP in TIFF": lambda: written(levels(3).astype("u1"), photometric="rgb", compression="webp"),
    "fax": lambda: saved(photograph().convert("1"), "TIFF", compression="group4"),
    "floating-point predictor": lambda: written(
        levels(1).astype("f4"), photometric="minisblack", compression="zlib", predictor=3
    ),
    "big-endian BigTIFF": lambda: written(levels(3).astype("u1"), photometric="rgb", bigtiff=True, byteorder=">"),
}


@pytest.mark.parametrize("name", UNREAD)
def test_a_form_that_is_not_read_is_named_and_not_called_damaged(name: str):
    with pytest.raises(JobError, match="Convert it") as refused:
        decode(UNREAD[name](), LIMITS)
    assert refused.value.code == ErrorCode.UNSUPPORTED_MEDIA_TYPE


@pytest.mark.parametrize("compression", ["zlib", "jpeg", "lzw"])
def test_a_damaged_strip_is_noticed(compression: str):
    samples = np.asarray(photograph(320, 240))
    file = written(samples, photometric="rgb", compression=compression, rowsperstrip=40)
    with tifffile.TiffFile(io.BytesIO(file)) as tiff:
        page = tiff.pages.first
        strips = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    for offset, length in strips:
        for share in (0.3, 0.6, 0.9):
            at = offset + int(length * share)
            damaged = file[:at] + bytes(offset + length - at) + file[offset + length :]
            with pytest.raises(JobError) as refused:
                decode(damaged, LIMITS)
            assert refused.value.code == ErrorCode.CORRUPT_IMAGE


@pytest.mark.parametrize("tile", [None, (64, 64)])
def test_a_tiff_that_lists_less_strips_than_it_has_rows_is_damaged(tile: Any):
    samples = np.asarray(photograph(320, 240))
    file = bytearray(written(samples, photometric="rgb", tile=tile, **({} if tile else {"rowsperstrip": 40})))
    pairs = [(324, 325), (273, 279)][tile is None]
    with tifffile.TiffFile(io.BytesIO(file)) as tiff:
        entries = [tiff.pages.first.tags[tag] for tag in pairs]
    for entry in entries:
        struct.pack_into("<I", file, entry.offset + 4, entry.count - 1)
    with pytest.raises(JobError) as refused:
        decode(bytes(file), LIMITS)
    assert refused.value.code == ErrorCode.CORRUPT_IMAGE


def test_a_sound_tiff_of_pillow_is_read():
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"):
        file = saved(photograph(), "TIFF", compression=compression)
        np.testing.assert_array_equal(np.asarray(decode(file, LIMITS).image), np.asarray(photograph()))
    assert Image.open(io.BytesIO(saved(photograph(), "TIFF"))).format == "TIFF"
