"""The sections of a model card, which describes a model as data. Nothing here imports torch."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, PositiveInt, field_validator, model_validator

NORM_GROUPS = 32
"""Groups of every normalisation in ADM."""

Format = Literal["fp32", "bf16", "fp16"]
"""Number formats of the U-Net."""

Inputs = Literal["image+eps", "eps", "image", "image+grey_eps", "dire"]
"""What a student reads: the image, its noise map, both, or the image and the mean of the noise map's channels.

`dire` is the older method that the paper compares with: a classifier of only the DIRE image, which takes 40 passes of
the U-Net.
"""

WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth")

ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
"""A valid name of a model."""

EVALUATION_NAME = r"^[A-Za-z0-9_-]{1,64}$"
"""A valid name of a set of images in a card: a bare key of TOML."""

SELF_TEST_PLACES = 16
"""Numbers of eps in a self-test."""


class _CardSection(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class UnetConfig(_CardSection):
    """The architecture of an ADM, with the option names of its published command line.

    Exactly one of `num_head_channels` and `num_heads` is given. `attention_resolutions` are the sides of the
    feature maps that have attention. With `learn_sigma` the network has 6 output channels, of which 3 are the noise.
    """

    num_channels: Annotated[int, Field(gt=0, multiple_of=NORM_GROUPS)]
    num_res_blocks: PositiveInt
    channel_mult: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    attention_resolutions: tuple[PositiveInt, ...] = ()
    num_head_channels: PositiveInt | None = None
    num_heads: PositiveInt | None = None
    resblock_updown: bool = True
    use_scale_shift_norm: bool = True
    learn_sigma: bool = True

    @model_validator(mode="after")
    def _heads_are_defined_once(self) -> Self:
        if (self.num_head_channels is None) == (self.num_heads is None):
            raise ValueError("give exactly one of num_head_channels and num_heads")
        divisor = self.num_head_channels or self.num_heads or 1
        for multiple in self.channel_mult:
            if multiple * self.num_channels % divisor:
                raise ValueError(f"{multiple * self.num_channels} channels do not divide into heads by {divisor}")
        return self

    def heads(self, channels: int) -> int:
        """Return the number of attention heads of a layer with so many channels."""
        return self.num_heads or channels // (self.num_head_channels or channels)


class DiffusionConfig(_CardSection):
    """The noise schedule and its spacing; `ddimN` keeps N steps at one integer distance, beginning with step 0."""

    steps: PositiveInt = 1000
    noise_schedule: Literal["linear"] = "linear"
    timestep_respacing: str = "ddim20"
    clip_denoised: bool = True

    @model_validator(mode="after")
    def _spacing_exists(self) -> Self:
        self.kept_steps()
        return self

    def kept_steps(self) -> tuple[int, ...]:
        """Return the original indices of the kept steps, ascending.

        Raises:
            ValueError: `timestep_respacing` is not `ddimN`, or no integer distance leaves exactly N of the steps.
        """
        match = re.fullmatch(r"ddim([1-9]\d*)", self.timestep_respacing)
        if match is None:
            raise ValueError(f"timestep_respacing must be ddimN, such as ddim20, not {self.timestep_respacing!r}")
        wanted = int(match[1])
        for distance in range(1, self.steps + 1):
            kept = range(0, self.steps, distance)
            if len(kept) == wanted:
                return tuple(kept)
        raise ValueError(f"no integer distance leaves {wanted} of {self.steps} steps")


class StudentConfig(_CardSection):
    """The student: a torchvision classifier's name, the side to which its input is resized, if any, and its inputs."""

    backbone: str
    input_size: PositiveInt | None = None
    inputs: Inputs = "image+eps"


class WeightsFile(_CardSection):
    """A network's weights file: its path, relative to the models folder or the card, its URLs and its digests.

    `license`: of this file, if it differs from the card's.
    """

    weights: str
    license: str | None = None
    urls: tuple[str, ...] = ()
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    md5: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")] | None = None

    @field_validator("weights")
    @classmethod
    def _stays_in_the_folder(cls, value: str) -> str:
        path = PurePosixPath(value)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError("must be a path below the models folder")
        if path.suffix not in WEIGHT_SUFFIXES:
            raise ValueError(f"must end in one of {', '.join(WEIGHT_SUFFIXES)}")
        return value


class AdmSection(UnetConfig, WeightsFile):
    """`[adm]`: the architecture of the U-Net and its weights."""


class StudentSection(StudentConfig, WeightsFile):
    """`[student]`: the student's backbone and its weights."""


class SelfTest(_CardSection):
    """The networks' output for the input of worker/model/self_test.py: some values of eps, and the logit."""

    eps: Annotated[tuple[FiniteFloat, ...], Field(min_length=SELF_TEST_PLACES, max_length=SELF_TEST_PLACES)]
    logit: FiniteFloat


class CardEvaluation(_CardSection):
    """The metrics of these weights on one set of labelled images: `distildire evaluate --record`.

    `threshold`: the policy's if `policy` names one, or else the card's. `data_sha256`: as in the report. `estimates`:
    metrics by their names in the report. `average_precision_of`: that of each control on the same images. Each entry is
    a value and the two ends of its interval, with this `confidence`, from a bootstrap over groups.
    """

    made_at: str
    data_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    policy: str | None = None
    threshold: Annotated[float, Field(ge=0, le=1)]
    reals: PositiveInt
    fakes: PositiveInt
    groups: PositiveInt
    confidence: Annotated[float, Field(gt=0, lt=1)]
    estimates: dict[str, tuple[FiniteFloat, FiniteFloat, FiniteFloat]]
    average_precision_of: dict[str, tuple[FiniteFloat, FiniteFloat, FiniteFloat]] = {}


class ModelCard(_CardSection):
    """One model: its name, licence, parts, origin and metrics.

    `threshold`: an image whose probability of being fake reaches it is classified as FAKE. `image_size`: the side of
    the networks' input in pixels. `precision`: the U-Net's number format unless the operator chooses one; by default
    the fastest of the device. `demonstration`: if true, every result warns not to rely on this model. `notice`: a
    sentence for readers of the card. `provenance`: free text about data, training and evaluation, by headline.
    `evaluations`: metrics, by the name of the set of images. `self_test`: the expected output of the networks; when a
    worker starts, it checks that its device computes the same.
    """

    name: ModelName
    license: str
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    image_size: PositiveInt
    precision: Format | None = None
    demonstration: bool = False
    notice: str | None = None
    adm: AdmSection
    diffusion: DiffusionConfig = DiffusionConfig()
    student: StudentSection
    provenance: dict[str, str | int | float] = {}
    evaluations: dict[Annotated[str, Field(pattern=EVALUATION_NAME)], CardEvaluation] = {}
    self_test: SelfTest | None = None

    @model_validator(mode="after")
    def _sides_halve(self) -> Self:
        halvings = len(self.adm.channel_mult) - 1
        if self.image_size % 2**halvings:
            raise ValueError(f"image_size {self.image_size} cannot be halved {halvings} times, as channel_mult asks")
        return self
