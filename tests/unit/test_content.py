"""What counts as an image without content: blank and nearly blank ones do, photographs do not, however dark or pale."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageFont

from tests.support.bad_images import photograph, saved
from worker.imaging.content import MIN_SIDE, Content, lacks_content, measure

_SAMPLES = sorted(path for path in Path("deploy/samples").iterdir() if path.suffix in {".jpg", ".png"})
_SIZES = [(32, 32), (64, 64), (96, 128), (256, 256), (1280, 720)]
_GREY = (200, 190, 180)


def sample(path: Path) -> Image.Image:
    return Image.open(path).convert("RGB")


def as_jpeg(image: Image.Image, quality: int = 75) -> Image.Image:
    return Image.open(io.BytesIO(saved(image, "JPEG", quality=quality))).convert("RGB")


def of_levels(levels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.clip(np.rint(levels), 0, 255).astype(np.uint8))


def noisy(size: tuple[int, int], deviation: float) -> Image.Image:
    dice = np.random.default_rng(3)
    return of_levels(np.array(_GREY) + dice.normal(0, deviation, (size[1], size[0], 3)))


def dithered(size: tuple[int, int]) -> Image.Image:
    dots = np.random.default_rng(4).integers(0, 2, (size[1], size[0], 1))
    return of_levels(100 + dots.repeat(3, axis=2))


def gradient(size: tuple[int, int], direction: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Image.Image:
    down, right = np.meshgrid(np.linspace(0, 1, size[1]), np.linspace(0, 1, size[0]), indexing="ij")
    low, high = np.array([90, 140, 210]), np.array([200, 220, 240])
    return of_levels(low + (high - low) * direction(down, right)[..., None])


def drawn(size: tuple[int, int], draw: Callable[[ImageDraw.ImageDraw], object], ground: str = "white") -> Image.Image:
    image = Image.new("RGB", size, ground)
    draw(ImageDraw.Draw(image))
    return image


def line_of_text(size: tuple[int, int]) -> Image.Image:
    return drawn(size, lambda pen: pen.text((10, 10), "One line of text on a page", fill="black"))


def watermark(size: tuple[int, int]) -> Image.Image:
    font = ImageFont.load_default(16)
    return drawn(size, lambda pen: pen.text((20, 40), "© 2026", fill="#dddddd", font=font), "#eeeeee")


def line_drawing(size: tuple[int, int]) -> Image.Image:
    def scribble(pen: ImageDraw.ImageDraw) -> None:
        for ends in np.random.default_rng(1).random((30, 2, 2)) * size:
            pen.line([*map(tuple, ends)], fill="black", width=2)

    return drawn(size, scribble)


def checkerboard(size: tuple[int, int], side: int) -> Image.Image:
    down, right = np.mgrid[: size[1], : size[0]]
    return of_levels(((down // side + right // side) % 2 * 255)[..., None].repeat(3, axis=2))


def of_one_brightness(size: tuple[int, int]) -> Image.Image:
    waves = np.sin(np.linspace(0, 20, size[0]))[None] * np.sin(np.linspace(0, 20, size[1]))[:, None]
    colour = Image.fromarray((128 + 10 * waves).astype(np.uint8))
    return Image.merge("YCbCr", (Image.new("L", size, 120), colour, colour)).convert("RGB")


def night(size: tuple[int, int]) -> Image.Image:
    """Dark houses with a few lit windows before a sky that is lighter above a lamp; no level above 60 but for those."""
    dice = np.random.default_rng(5)
    down, right = np.mgrid[: size[1], : size[0]]
    light = 2 + 40 * np.exp(-np.hypot(down - size[1], right - size[0] / 3) / size[1]) + dice.normal(0, 1.5, down.shape)
    for left in range(0, size[0], 80):
        roof = int(dice.integers(size[1] // 3, size[1]))
        light[roof:, left : left + 70] = dice.normal(dice.uniform(1, 8), 1, light[roof:, left : left + 70].shape)
        light[roof + 10 : roof + 16, left + 10 : left + 60 : 12] = 160
    return of_levels(light[..., None].repeat(3, axis=2))


def clear_sky(size: tuple[int, int]) -> Image.Image:
    dice = np.random.default_rng(6)
    height = np.linspace(0, 1, size[1])[:, None, None] ** 1.7
    sky = np.array([70, 120, 190]) * (1 - height) + np.array([175, 205, 230]) * height
    return of_levels(sky + dice.normal(0, 1.5, (size[1], size[0], 3)))


BLANK: dict[str, Callable[[tuple[int, int]], Image.Image]] = {
    "white": lambda size: Image.new("RGB", size, "white"),
    "black": lambda size: Image.new("RGB", size, "black"),
    "a colour": lambda size: Image.new("RGB", size, "#3a78c2"),
    "a colour in jpeg": lambda size: as_jpeg(Image.new("RGB", size, "#7f8081"), 30),
    "faint noise": lambda size: noisy(size, 1),
    "noise": lambda size: noisy(size, 2),
    "noise in jpeg": lambda size: as_jpeg(noisy(size, 2)),
    "dithering": dithered,
    "one dot": lambda size: drawn(size, lambda pen: pen.point((size[0] // 2, size[1] // 2), fill="black")),
    "one dot in jpeg": lambda size: as_jpeg(drawn(size, lambda pen: pen.point((5, 5), fill="black"))),
    "one line": lambda size: drawn(size, lambda pen: pen.line((0, 9, size[0], 9), fill="#c0c0c0")),
    "a gradient across": lambda size: gradient(size, lambda _, right: right),
    "a gradient down": lambda size: gradient(size, lambda down, _: down),
    "a gradient aslant": lambda size: gradient(size, lambda down, right: (down + right) / 2),
}

DRAWN: dict[str, Image.Image] = {
    "a photograph": photograph(256, 256),
    "a drawing of many lines": line_drawing((512, 512)),
    "a checkerboard": checkerboard((256, 256), 32),
    "a fine checkerboard": checkerboard((256, 256), 3),
    "noise of all levels": of_levels(np.random.default_rng(8).integers(0, 256, (128, 128, 3))),
    "colours of one brightness": of_one_brightness((256, 256)),
    "a night": night((640, 480)),
    "a clear sky": clear_sky((640, 480)),
    "a clear sky in jpeg": as_jpeg(clear_sky((640, 480))),
}


@pytest.mark.parametrize("size", _SIZES, ids="{0[0]}x{0[1]}".format)
@pytest.mark.parametrize("name", BLANK)
def test_blank_and_nearly_blank_images_lack_content(name: str, size: tuple[int, int]):
    content = measure(BLANK[name](size))
    assert lacks_content(content) is not None, content


@pytest.mark.parametrize("make", [line_of_text, watermark])
@pytest.mark.parametrize("quality", [None, 75])
@pytest.mark.parametrize("size", [(256, 256), (1240, 1754)])
def test_a_line_of_text_is_no_content(
    make: Callable[[tuple[int, int]], Image.Image], quality: int | None, size: tuple[int, int]
):
    page = make(size)
    content = measure(page if quality is None else as_jpeg(page, quality))
    assert lacks_content(content) is not None, content


@pytest.mark.parametrize("path", _SAMPLES, ids=lambda path: path.name)
@pytest.mark.parametrize("share", [1.0, 0.3, 0.1])
def test_the_samples_have_content_however_dark_or_pale(path: Path, share: float):
    image = sample(path)
    for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        content = measure(change(image).enhance(share))
        assert lacks_content(content) is None, (change, content)
    assert lacks_content(measure(as_jpeg(image, 10))) is None
    assert lacks_content(measure(image.convert("1").convert("RGB"))) is None
    assert lacks_content(measure(image.resize((48, 48)))) is None


@pytest.mark.parametrize("name", ["china.jpg", "flower.jpg"])
def test_photographs_nobody_here_chose_have_content(name: str):
    with as_file(files("sklearn.datasets") / "images" / name) as path:
        image = sample(path)
    for share in (1.0, 0.3, 0.1):
        assert lacks_content(measure(ImageEnhance.Brightness(image).enhance(share))) is None
    if name == "china.jpg":
        sky = image.crop((0, 0, 640, 100))
        assert lacks_content(measure(sky)) is None, "a clear sky, all that the network would see"


@pytest.mark.parametrize("name", DRAWN)
def test_what_is_drawn_has_content_where_there_is_much_of_it(name: str):
    content = measure(DRAWN[name])
    assert lacks_content(content) is None, content


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (8, 8), (16, 16), (31, 31), (1, 32), (31, 900)])
def test_an_image_of_few_pixels_lacks_content_whatever_it_shows(size: tuple[int, int]):
    image = sample(_SAMPLES[0]).resize(size)
    reason = lacks_content(measure(image))
    assert reason is not None
    assert reason.startswith(f"its shorter side has {min(size)} pixel"), reason
    assert lacks_content(measure(sample(_SAMPLES[0]).resize((MIN_SIDE, MIN_SIDE)))) is None


def test_only_the_middle_counts_which_is_what_the_network_sees():
    image = Image.new("RGB", (900, 300), "white")
    image.paste(photograph(300, 300), (0, 0))
    image.paste(photograph(300, 300), (600, 0))
    assert lacks_content(measure(image)) is not None
    image.paste(photograph(300, 300), (300, 0))
    assert lacks_content(measure(image)) is None


def test_what_is_measured_is_what_the_fields_say():
    flat = measure(Image.new("RGB", (300, 200), "red"))
    assert flat.relief < 1e-6
    assert replace(flat, relief=0.0) == Content(side=200, entropy=0.0, relief=0.0, distinct_share=0.0)
    halves = Image.new("RGB", (256, 256), (100, 100, 100))
    halves.paste((140, 140, 140), (0, 0, 128, 128))
    halves.paste((140, 140, 140), (128, 128, 256, 256))
    content = measure(halves)
    assert content.distinct_share == 1.0, "the plane lies between the two tones, 20 levels from either"
    assert content.relief == pytest.approx(20, rel=0.1)
    two_tones = of_levels(100 + 4 * np.random.default_rng(2).integers(0, 2, (256, 256, 1)).repeat(3, axis=2))
    assert measure(two_tones).entropy == pytest.approx(1, abs=0.001), "as many of one as of the other: a bit"


def test_each_limit_counts():
    blank = Content(side=64, entropy=3.2, relief=0.49, distinct_share=0.12)
    assert "entropy of 3.2 bits" in str(lacks_content(blank))
    assert lacks_content(Content(side=64, entropy=3.25, relief=0.49, distinct_share=0.12)) is None
    assert lacks_content(Content(side=64, entropy=3.2, relief=0.5, distinct_share=0.12)) is None
    assert lacks_content(Content(side=64, entropy=3.2, relief=0.49, distinct_share=0.125)) is None
    assert lacks_content(Content(side=32, entropy=8.0, relief=30.0, distinct_share=0.9)) is None
    assert "has 1 pixel," in str(lacks_content(Content(side=1, entropy=8.0, relief=30.0, distinct_share=0.9)))
