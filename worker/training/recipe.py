"""All options of a training, as data: a TOML file that names what differs from one of the recipes shipped here.

`corrected` is what is recommended, `published` repeats the paper's code with its quirks, and `demonstration` is that of
the model that comes with the package. A field that a file does not
name has the value of its `base`, which is `corrected` unless the file says otherwise.
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
    """One section of a recipe: nothing in it changes, and a field that it does not know is a mistake."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Augmentation(Options):
    """What happens to an image before preprocessing, in this order; by default nothing.

    `crop_probability`: how often a part is cut out, each side of it `crop_sides` of the whole's.
    `resize_probability`: how often both sides are multiplied by a factor from `resize_factors`.
    `flip_probability`: how often it is mirrored. `jpeg_probability`: how often it is saved as JPEG of a quality from
    `jpeg_qualities`, both ends included. `clean_eps`: the noise map is of the image before all this, a pair that a
    service never sees; only with `jpeg_probability` alone, as the others would move the image away from its noise.
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

    `variants`: how many versions of each training image, each augmented in its own way. `seed` decides them.
    `precision`: number format of the U-Net; "auto" takes the card's, or else the fastest of the device.
    """

    variants: PositiveInt
    seed: Seed
    precision: Literal["auto"] | Format


class StudentOptions(StudentConfig):
    """The student, as in a model card, and its initial weights.

    `input_size`: the side to which the pair is resized; by default it stays as large as the noise map. `weights`: a
    file of torchvision's weights of this backbone to start from; by default it starts from random weights.
    `noise_channels`: what the first layer's weights for the noise start from, where there is a file: `random` numbers,
    or those for the image (`pretrained`).
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

    `weight`: λ, that of the mean squared error of the features in the loss; 0 for no teacher. `backbone`: a classifier
    of torchvision, or `efficientnet_lite0`; where its features have another shape than the student's, a 1×1
    convolution, which is not kept, translates. `weights`: the file of its weights. `sees`: the image, or the DIRE image
    (40 passes of the U-Net for each). `normalised`: whether it is shown that as it was in its own training, rather than
    in [-1, 1].
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
    pair once an epoch, but for those that fill no batch. `pos_weight`: how much more a fake weighs in the cross-entropy
    than a real image. `optimizer`, `learning_rate`, `beta1`, `weight_decay`: Adam's. `warmup_steps`: the learning rate
    rises over so many; then it falls to zero along a cosine, or stays (`schedule`). `cutmix_probability`: how often a
    batch gets a box of other images. `cutmix`: each image a box of another one (`pairs`), or all one of the first
    (`first`). `precision`: number format of the student and the teacher in training; weights are float32.
    `recalibrate`: whether the statistics of batch normalisation are computed again before each validation, since the
    running ones lag behind. `seed` decides weights, batches and boxes. `checkpoint_seconds`: how much work a crash may
    cost; it changes no result.
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
    """What the model card says. These options change no training.

    `demonstration`: every result says that the model is no detector to rely on. `notice`: a sentence for whoever reads
    the card. `stored`: number format of the student's weights file; with `fp16` its matrices and kernels are rounded,
    and all that is measured afterwards is of the rounded ones.
    """

    demonstration: bool = False
    notice: str | None = None
    stored: Literal["fp32", "fp16"] = "fp32"


class Recipe(Options):
    """All that determines a training besides data and ADM. `name` is for readers."""

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
        """Whether DIRE images are to be computed for training."""
        return self.reads_dire or (self.teacher.weight > 0 and self.teacher.sees == "dire")


def read_recipe(named: str) -> Recipe:
    """Read a recipe: `corrected`, `published`, or the path of a TOML file; paths in it are relative to its folder.

    Raises:
        RecipeError: there is none such, or fields are missing, wrong or unknown; all of them are named.
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
    """Return the base with the fields in their place; sections are merged."""
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
