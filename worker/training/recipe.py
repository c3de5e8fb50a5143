"""All options of a training, as data: a TOML file that lists the differences from one of the recipes shipped here.

`corrected` is the recommended recipe, `published` reproduces the paper's code with its quirks, and `demonstration` is
the recipe of the model that comes with the package. A field that a file omits has the value of the file's `base`, which
is `corrected` unless the file says otherwise.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError, model_validator

from shared.errors import DistildireError
from worker.model.cards.schema import Format, StudentConfig

FOLDER = Path(__file__).parent / "recipes"
BASES = ("corrected", "published", "demonstration")

Probability = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0, le=1)]
Quality = Annotated[int, Field(ge=1, le=100)]
NotNegative = Annotated[float, Field(ge=0)]
Seed = Annotated[int, Field(ge=0)]


class RecipeError(DistildireError):
    """The recipe cannot be used."""


class Options(BaseModel):
    """One section of a recipe. It is immutable, and unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Augmentation(Options):
    """The changes to an image before preprocessing, in this order; by default none.

    `crop_probability`: how often a part is cut out; each of its sides is a share from `crop_sides` of the image's.
    `resize_probability`: how often both sides are multiplied by a factor from `resize_factors`.
    `flip_probability`: how often the image is mirrored. `jpeg_probability`: how often it is saved as JPEG with a
    quality from `jpeg_qualities`, both ends included. `clean_eps`: the noise map is computed from the unchanged image,
    a pair that the service never sees. It allows only `jpeg_probability`, because the other changes would move the
    image relative to its noise map.
    """

    crop_probability: Probability = 0
    crop_sides: tuple[Share, Share] = (0.6, 1.0)
    resize_probability: Probability = 0
    resize_factors: tuple[PositiveFloat, PositiveFloat] = (0.5, 2.0)
    flip_probability: Probability = 0
    jpeg_probability: Probability = 0
    jpeg_qualities: tuple[Quality, Quality] = (30, 95)
    clean_eps: bool = False

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        for name in ("crop_sides", "resize_factors", "jpeg_qualities"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} must ascend")
        if self.clean_eps and (self.crop_probability or self.resize_probability or self.flip_probability):
            raise ValueError("clean_eps allows no crop_probability, resize_probability or flip_probability")
        return self


class PairOptions(Options):
    """Stage 1: image and noise map.

    `variants`: the number of versions of each training image, each with its own augmentation. `seed` determines them.
    `precision`: number format of the U-Net; "auto" is the card's format, or else the device's fastest.
    """

    variants: PositiveInt
    seed: Seed
    precision: Literal["auto"] | Format


class StudentOptions(StudentConfig):
    """The student, as in a model card, and its initial weights.

    `input_size`: the side to which the pair is resized; by default it keeps the noise map's size. `weights`: a file of
    torchvision's weights for this backbone to start from; by default training starts from random weights.
    `noise_channels`: if there is such a file, the start of the first layer's weights for the noise: `random` numbers,
    or the weights for the image (`pretrained`).
    """

    weights: Path | None = None
    noise_channels: Literal["random", "pretrained"] = "random"

    @model_validator(mode="after")
    def _starts_from_what_there_is(self) -> Self:
        if self.noise_channels == "pretrained" and self.weights is None:
            raise ValueError('noise_channels = "pretrained" needs a file: name it in weights, or leave both out')
        return self


class TeacherOptions(Options):
    """The frozen network whose features the student imitates.

    `weight`: λ, the weight of the mean squared error of the features in the loss; 0 for no teacher. `backbone`: a
    classifier of torchvision, or `efficientnet_lite0`. If its features have another shape than the student's, a 1×1
    convolution maps the student's features; it is not kept. `weights`: the file of its weights. `sees`: the image, or
    the DIRE image (40 passes of the U-Net for each). `normalised`: whether its input is normalised as in its own
    training, rather than in [-1, 1].
    """

    weight: NotNegative
    backbone: str
    weights: Path | None = None
    sees: Literal["image", "dire"]
    normalised: bool


class StudentPlan(Options):
    """Stage 2: how the student is trained.

    `epochs`: passes over all pairs of the training split. `batch_size`: pairs for each step, over all processes.
    `sampling`: `balanced` draws as many real images as fakes for each batch, with replacement; `shuffled` takes every
    pair once an epoch, except those that fill no batch. `pos_weight`: the weight of a fake in the cross-entropy,
    relative to a real image. `optimizer`, `learning_rate`, `beta1`, `weight_decay`: Adam's. `warmup_steps`: the
    learning rate rises over this many steps; then it falls to zero along a cosine, or stays (`schedule`).
    `cutmix_probability`: how often CutMix is applied to a batch. `cutmix`: each image gets a box of another image
    (`pairs`), or all get a box of the first (`first`). `precision`: number format of the student and the teacher in
    training; weights are float32. `recalibrate`: whether the statistics of batch normalisation are computed again
    before each validation, because the running statistics lag behind. `seed` determines weights, batches and boxes.
    `checkpoint_seconds`: how many seconds of work a crash may cost; it changes no result.
    """

    epochs: PositiveInt
    batch_size: Annotated[int, Field(ge=2, multiple_of=2)]
    sampling: Literal["balanced", "shuffled"] = "balanced"
    pos_weight: PositiveFloat = 1.0
    optimizer: Literal["adam", "adamw"] = "adamw"
    learning_rate: PositiveFloat = 2e-3
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: NotNegative = 1e-2
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    schedule: Literal["cosine", "constant"] = "cosine"
    cutmix_probability: Probability = 0
    cutmix: Literal["pairs", "first"] = "pairs"
    precision: Format = "fp32"
    recalibrate: bool = True
    seed: Seed = 0
    checkpoint_seconds: NotNegative = 60


class CardOptions(Options):
    """Options of the model card. They do not change the training.

    `demonstration`: every result says that the model must not be relied on. `notice`: a sentence for readers of the
    card. `stored`: number format of the student's weights file. With `fp16`, matrices and kernels are rounded, and
    everything that is measured afterwards uses the rounded weights.
    """

    demonstration: bool = False
    notice: str | None = None
    stored: Literal["fp32", "fp16"] = "fp32"


class Recipe(Options):
    """Everything that determines a training besides data and ADM. `name` is for readers."""

    name: str
    augmentation: Augmentation
    pairs: PairOptions
    student: StudentOptions
    teacher: TeacherOptions
    training: StudentPlan
    card: CardOptions = CardOptions()

    @property
    def reads_dire(self) -> bool:
        """Whether the student reads DIRE images."""
        return self.student.inputs == "dire"

    @property
    def needs_dire(self) -> bool:
        """Whether training needs DIRE images."""
        return self.reads_dire or (self.teacher.weight > 0 and self.teacher.sees == "dire")


def read_recipe(named: str) -> Recipe:
    """Read a recipe: `corrected`, `published`, or the path of a TOML file; paths in it are relative to its folder.

    Raises:
        RecipeError: there is no such recipe, or fields are missing, wrong or unknown; the message names all of them.
    """
    path = FOLDER / f"{named}.toml" if named in BASES else Path(named)
    fields = {"name": path.stem} | _read(path)
    base = fields.pop("base", named if named in BASES else "corrected")
    if base not in BASES:
        raise RecipeError(f"{path}: base is {base!r}: use one of {', '.join(BASES)}.")
    try:
        recipe = Recipe.model_validate(_merged(_read(FOLDER / f"{base}.toml"), fields))
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise RecipeError(f"The recipe {path} is wrong: {faults}. Correct these fields.") from error
    return _with_paths_below(recipe, path.parent)


def changed(recipe: Recipe, section: str, **fields: object) -> Recipe:
    """Return the recipe with some fields of a section replaced; they must be valid."""
    return recipe.model_copy(update={section: getattr(recipe, section).model_copy(update=fields)})


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RecipeError(f"There is no recipe {path}: name a TOML file, or one of {', '.join(BASES)}.") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(f"The recipe {path} cannot be read: {error}. Correct it.") from error


def _merged(base: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the base with `fields` replaced; sections are merged."""
    merged = dict(base)
    for name, value in fields.items():
        below = merged.get(name)
        merged[name] = _merged(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def _with_paths_below(recipe: Recipe, folder: Path) -> Recipe:
    for section in ("student", "teacher"):
        weights = getattr(recipe, section).weights
        if weights is not None:
            recipe = changed(recipe, section, weights=folder / weights)
    return recipe
