"""Four ways to name the folders of a data set, each with what may stand where.

The name of a class or of a split may stand only where its convention has it. Everywhere else it is a mistake: if real
images were read as a generator's, a model would learn the opposite of the truth.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from worker.datasets.class_words import insists_on_class, names_no_generator, says_fake, says_real, says_split
from worker.datasets.formats import SPLIT_WORDS, UNKNOWN_GENERATOR, Split

Parts = tuple[str, ...]
"""The names that lead to a folder, from the data set's folder or its `images` on."""

_CLASSES = {"reals": False, "fakes": True}
_NUMBERED = {"0_real": False, "1_fake": True}
_NATURE = {"nature": False, "ai": True}


class MisplacedError(ValueError):
    """A folder cannot be read where it stands. `depth`: which of its names is wrong; the message says why."""

    def __init__(self, depth: int, told: str) -> None:
        self.depth = depth
        super().__init__(told)


@dataclass(frozen=True)
class Place:
    """What a folder's place says about its images. `depth`: how many of its names say so."""

    fake: bool
    generator: str
    split: Split | None
    depth: int


@dataclass(frozen=True)
class Convention:
    """How folders are named, from the data set's folder or its `images` on.

    `claims`: tells whether a folder must be of this convention. `place`: takes a folder and all folders that exist;
    returns what the folder's place says, or None if images do not belong there; raises MisplacedError.
    """

    pattern: str
    claims: Callable[[Parts], bool]
    place: Callable[[Parts, Collection[Parts]], Place | None]


def _own_place(parts: Parts, _: Collection[Parts]) -> Place | None:
    if parts[:1] and parts[0] in _CLASSES:
        fake = _CLASSES[parts[0]]
        named = fake and len(parts) > 1
        if named and names_no_generator(parts[1]):
            raise MisplacedError(1, "would be a generator's: name the generator, or move what is real to reals")
        _check_below(parts, 1 + named, fake)
        generator = parts[1] if named else UNKNOWN_GENERATOR
        return Place(fake, generator if fake else "", None, 1 + named)
    return None


def _forensics_place(parts: Parts, known: Collection[Parts]) -> Place | None:
    if len(parts) < 3 or parts[0] not in SPLIT_WORDS:
        return None
    split, subject, maker = parts[:3]
    fake = maker != "real"
    class_like = says_real(subject) or says_fake(subject)
    if insists_on_class(subject) or says_split(subject) or (class_like and (split, subject, "real") not in known):
        raise MisplacedError(1, "would be a subject's: bring the folders into the order SUBJECT/{real,GENERATOR}")
    if fake and names_no_generator(maker):
        only_real = says_real(maker) and not says_fake(maker)
        raise MisplacedError(2, f"would be a generator's: {'rename it to real' if only_real else 'name the generator'}")
    _check_below(parts, 3, fake)
    return Place(fake, maker if fake else "", SPLIT_WORDS[split], 3)


def _numbered_place(parts: Parts, _: Collection[Parts]) -> Place | None:
    """Below a split, one folder is a class of pictures; of two, the first is a generator. Without a split one is."""
    fake = _class_at_the_end(parts, _NUMBERED)
    if fake is None:
        return None
    split = SPLIT_WORDS.get(parts[0])
    first = 0 if split is None else 1
    named = len(parts) - 1 - first
    if named > 2:
        raise MisplacedError(len(parts) - 1, "lies too deep: above it is room for a split, a generator and a class")
    generator = parts[first] if named == 2 or (named == 1 and split is None) else None
    _check_above(parts, range(first, len(parts) - 1), first if generator else None, fake=fake)
    return Place(fake, (generator or UNKNOWN_GENERATOR) if fake else "", split, len(parts))


def _nature_place(parts: Parts, _: Collection[Parts]) -> Place | None:
    """The generator is above the split; a folder such as `imagenet_midjourney` may lie between them."""
    fake = _class_at_the_end(parts, _NATURE)
    if fake is None or len(parts) < 2 or parts[-2] not in SPLIT_WORDS:
        return None
    above = parts[:-2]
    if len(above) > 2 or (len(above) == 2 and not above[1].startswith("imagenet")):
        raise MisplacedError(len(above) - 1, "stands where the split is expected: give it the folder of its generator")
    _check_above(parts, range(len(above)), 0 if above else None, fake=fake)
    generator = above[0] if above else UNKNOWN_GENERATOR
    return Place(fake, generator if fake else "", SPLIT_WORDS[parts[-2]], len(parts))


def _class_at_the_end(parts: Parts, classes: dict[str, bool]) -> bool | None:
    """Return whether the folder is of fakes; None if it is of no class. Raises MisplacedError if it lies in a class."""
    for depth, name in enumerate(parts[:-1]):
        if name in classes:
            raise MisplacedError(depth + 1, f"lies in {name}, which has no folders here: move its images up")
    return classes.get(parts[-1]) if parts else None


def _check_above(parts: Parts, names: range, generator: int | None, *, fake: bool) -> None:
    """Raise MisplacedError where a name above the class is one that contradicts it, or is no generator's."""
    for depth in names:
        name, contradicts = parts[depth], says_real if fake else says_fake
        if says_split(name):
            raise MisplacedError(depth, "is a split where none is read: move it to where this layout has it")
        if contradicts(name) and (depth == generator or insists_on_class(name)):
            raise MisplacedError(depth, f"contradicts {parts[-1]}, which lies in it: rename one of them")
        if fake and depth == generator and names_no_generator(name):
            raise MisplacedError(depth, "would be a generator's: name the generator")


def _check_below(parts: Parts, first: int, fake: bool) -> None:
    """Raise MisplacedError where a name below the class's contradicts it, or is a split that would not be read."""
    for depth in range(first, len(parts)):
        if says_split(parts[depth]):
            raise MisplacedError(depth, "is a split where none is read: move it up, or state splits in a CSV file")
        if (says_real if fake else says_fake)(parts[depth]):
            raise MisplacedError(depth, f"contradicts {parts[depth - 1]}, in which it lies: move it, or rename it")


OWN = Convention(
    "{fakes,reals}",
    lambda parts: parts[:1] in {("reals",), ("fakes",)},
    _own_place,
)
DIFFUSION_FORENSICS = Convention(
    "{train,val,test}/SUBJECT/{real,GENERATOR}",
    lambda parts: len(parts) > 2 and parts[0] in SPLIT_WORDS and parts[2] == "real",
    _forensics_place,
)
UNIVERSAL_FAKE_DETECT = Convention(
    "[{train,val,test}/][GENERATOR/][CLASS/]{0_real,1_fake}",
    lambda parts: _unclaimed(parts) and parts[-1] in _NUMBERED,
    _numbered_place,
)
GEN_IMAGE = Convention(
    "GENERATOR/{train,val}/{nature,ai}",
    lambda parts: _unclaimed(parts) and parts[-1] in _NATURE and len(parts) > 1 and parts[-2] in SPLIT_WORDS,
    _nature_place,
)
CONVENTIONS = (OWN, DIFFUSION_FORENSICS, UNIVERSAL_FAKE_DETECT, GEN_IMAGE)


def _unclaimed(parts: Parts) -> bool:
    """Tell whether a folder is there, and of neither of the first two conventions."""
    return parts != () and not OWN.claims(parts) and not DIFFUSION_FORENSICS.claims(parts)
