"""What the name of a folder says: real, fake, or a split. So a folder in the wrong place is recognised."""

from __future__ import annotations

import re
from collections.abc import Sequence

from worker.datasets.formats import SPLIT_WORDS

_REAL_ALWAYS = ("reals", "real", "nonfake", "notfake", "authentic", "genuine", "pristine", "bonafide")
"""These words mean real images in any name, as in `coco_real`."""

_REAL_ALONE = (
    *("nature", "natural", "photographs", "photograph", "photography", "photos", "photo", "originals", "original"),
    *("humans", "human", "camera", "untouched", "unedited", "negatives", "negative", "true"),
)
"""These words may also be part of a generator's name, as in `sdxl_photo`: alone they mean real images."""

_FAKE_ALWAYS = ("fakes", "fake")
_FAKE_ALONE = (
    *("aigc", "ai", "generated", "synthetic", "synthesized", "synthesised", "artificial", "manipulated", "forged"),
    *("positives", "positive", "false"),
)
_SAYS_NOTHING = (
    *("images", "image", "imgs", "img", "pictures", "picture", "pics", "pic", "files", "file", "data", "sets", "set"),
    *("class", "label", "folder", "faces", "face", "samples", "sample", "world", "made", "by", "the", "of", "all"),
    *("only", "new", "old", "other", "more", "jpeg", "jpg", "png"),
)
_SPLITS = {
    *SPLIT_WORDS,
    *("training", "trainset", "testing", "tests", "testset", "dev", "devel", "development", "eval", "evaluation"),
    *("holdout", "hold-out", "hold_out", "heldout", "held-out", "held_out", "validate", "vals"),
}


def says_real(name: str) -> bool:
    """Tell whether a folder of this name would be taken to hold real images."""
    return _has_word(name, _REAL_ALWAYS) or _consists_of(name, (*_REAL_ALWAYS, *_REAL_ALONE))


def says_fake(name: str) -> bool:
    """Tell whether a folder of this name would be taken to hold fakes, whoever made them."""
    return _has_word(name, _FAKE_ALWAYS) or _consists_of(name, (*_FAKE_ALWAYS, *_FAKE_ALONE))


def insists_on_class(name: str) -> bool:
    """Tell whether the name can only mean a class, as `real` does; `nature` may be a subject of pictures."""
    always = (*_REAL_ALWAYS, *_FAKE_ALWAYS)
    return _has_word(name, always) or _consists_of(name, always)


def says_split(name: str) -> bool:
    """Tell whether a folder of this name would be taken for a split."""
    return name.casefold() in _SPLITS


def names_no_generator(name: str) -> bool:
    """Tell whether no generator has this name: it is a class, a split, or says nothing, as `0` and `images` do."""
    return says_real(name) or says_fake(name) or says_split(name) or not _says_something(name)


def _words(name: str) -> list[str]:
    """Return the runs of letters: of `0_Real-Images` they are real and images."""
    return re.findall(r"[^\W\d_]+", name.casefold())


def _has_word(name: str, words: Sequence[str]) -> bool:
    return not set(words).isdisjoint(_words(name))


def _consists_of(name: str, words: Sequence[str]) -> bool:
    """Tell whether a name has one of these words, and besides only words that say nothing; they may run together."""
    said, nothing = "|".join(words), "|".join(_SAYS_NOTHING)
    return re.fullmatch(rf"(?:{nothing})*(?:{said})(?:{said}|{nothing})*", "".join(_words(name))) is not None


def _says_something(name: str) -> bool:
    """Tell whether a name says more than digits and the words that say nothing."""
    return re.fullmatch(rf"(?:{'|'.join(_SAYS_NOTHING)})*", "".join(_words(name))) is None
