"""What a recipe says of its images: where they are, and what they go through in training."""

from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from widenet.data.section import AtLeastZero, DataSection, Fraction, Place, Probability, Section, Share

# What timm's policies understand; it skips the sections that it does not know.
AUTO_AUGMENT = (
    r"^(rand(-(m|n|p|mstd|mmax|inc)\d+(\.\d+)?|-t[a-z]+)*|augmix(-(m|w|d|a|b|mstd)\d+(\.\d+)?)*"
    r"|(original|originalr|v0|v0r|3a)(-mstd\d+(\.\d+)?)?)$"
)


def _ascending(area: tuple[float, float]) -> tuple[float, float]:
    if area[0] > area[1]:
        raise PydanticCustomError("order", "the smaller fraction must come first")
    return area


UpToOne = Annotated[float, Field(gt=0, le=1)]
CropArea = Annotated[tuple[Fraction, UpToOne], AfterValidator(_ascending)]


class Augmentation(Section):
    """What training images go through; everything off by default.

    The first six work on the whole batch as one tensor and cost next to nothing. The others decode and
    transform image by image, with timm's transforms.
    """

    warp: Probability = 1.0
    """Probability that an image is shifted, rotated and zoomed at all."""
    shift: Share = 0.0
    """Largest shift, as a fraction of the side, in x and in y."""
    rotate: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Largest rotation, in degrees, either way."""
    zoom: Share = 0.0
    """Largest zoom: the side is scaled by 1 ± this."""
    flip: Probability = 0.0
    """Probability of a left-right flip."""
    erase: Probability = 0.0
    """Probability that a random rectangle becomes noise."""
    crop_area: CropArea | None = None
    """Random resized crop: its smallest and largest area, as fractions of the image; null: no crop."""
    auto_augment: Annotated[str, Field(pattern=AUTO_AUGMENT)] | None = None
    """timm's augmentation policy, for example rand-m9-mstd0.5; null: none."""
    color_jitter: AtLeastZero = 0.0
    """Strength of timm's random brightness, contrast and saturation; timm skips it beside auto_augment."""

    @property
    def per_image(self) -> bool:
        """Whether images must be decoded one by one."""
        return bool(self.crop_area or self.auto_augment or self.color_jitter)


class ImagesSection(DataSection):
    """Labelled images."""

    source: Place | None
    """digits, mnist, fashion-mnist, cifar10, cifar100; a folder with a sub-folder per class; or a Hugging Face id."""
    check_files: bool = True
    """Decode every image file of a folder once before training starts."""
    skip_bad_files: bool = False
    """Leave out files that cannot be decoded, instead of stopping."""
    crop_fraction: UpToOne = 1.0
    """Centre crop of evaluated images, as a fraction of the shorter side."""
    augment: Augmentation = Augmentation()
