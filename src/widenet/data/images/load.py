"""Images from a name, a folder or a data set, split once and for all.

:func:`load_images` turns what the user wrote after ``data=`` into three labelled lists of images. The
test part is settled first and never takes part in choosing the validation part.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from widenet.data.common import find_data, hold_out
from widenet.data.images.readers import NAMES, download, read_digits, read_hub, read_image_folder
from widenet.data.images.section import ImagesSection
from widenet.data.images.sets import ArrayImages, FileImages, ImageSet, Source, open_image
from widenet.errors import WideNetError

__all__ = ["ArrayImages", "ImageData", "ImageSet", "load_images", "open_image"]

STATISTICS_SAMPLE = 512


@dataclass(frozen=True)
class ImageData:
    """Three disjoint parts of one labelled set of images.

    Attributes:
        train, validation, test: the parts; labels index `class_names`.
        class_names: one name per class.
        mean, std: per RGB channel of the training images scaled to [0, 1]; for images that are not held
            in memory, of a fixed sample of at most 512.
        split: JSON-able record: ``source``, ``seed``, ``sizes`` and ``origin`` of the parts,
            ``skipped_files``, and a ``digest`` which is equal only if the split is the same.
    """

    train: ImageSet
    validation: ImageSet
    test: ImageSet
    class_names: list[str]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    split: dict[str, Any]


def load_images(section: ImagesSection, *, labelled: bool = True) -> ImageData:
    """Load labelled images and settle their training, validation and test parts.

    The source is ``digits``, ``mnist``, ``fashion-mnist``, ``cifar10`` or ``cifar100`` (a folder of such a
    name is ``./mnist``); a folder with the original files of the latter four; a folder with one sub-folder of
    images per class, directly or under ``train/``, ``val/`` and ``test/``; a folder written by ``datasets``
    (``save_to_disk``, parquet or arrow files); or a Hugging Face id (``user/name``, ``hf:name``).

    A part that the source does not have is held out of its training images, stratified by class and
    determined by the split seed. A source with a validation part but no test part (like ImageNet) has its
    validation part taken as the test part, since validation is what checkpoints are picked by.

    Args:
        section: the ``data`` section of a recipe.
        labelled: False also takes a folder of nothing but images, or of a single class.

    Raises:
        WideNetError: the source does not exist, cannot be downloaded or decoded, or cannot be split.
    """
    source = str(section.source)
    place = find_data(source, NAMES, "data set")
    if source == "digits":
        found = read_digits()
    elif isinstance(place, str):
        found = download(place, section.cache_dir)
    elif isinstance(place, tuple):
        found = read_hub(place, section.cache_dir)
    elif place.is_dir():
        check = section.check_files or section.skip_bad_files
        found = read_image_folder(place, section.cache_dir, check, section.skip_bad_files, labelled)
    else:
        raise WideNetError(f"{source} is a file; the data must be a folder, a known name or a Hugging Face id")
    if labelled and len(np.unique(found.train.labels)) == 1:
        only = found.class_names[found.train.labels[0]]
        raise WideNetError(f"{source} has only one class ({only!r}); at least two are needed")
    return _split_images(section, found)


# ---- splitting ----


def _split_images(section: ImagesSection, found: Source) -> ImageData:
    source, seed = str(section.source), section.split_seed
    own = {"test": found.test, "validation": found.validation}
    own_test = "own"
    if found.test is None and found.validation is not None:
        own, own_test = {"test": found.validation, "validation": None}, "own (the validation part)"
    if not len(found.train):
        raise WideNetError(f"{source} has no training images")
    rest = np.arange(len(found.train))
    parts: dict[str, ImageSet] = {}
    indices, origin = {}, {"train": "own"}
    for name, fraction in (("test", section.test_fraction), ("validation", section.validation_fraction)):
        part = own[name]
        if part is None:
            rest, indices[name] = _hold_out_images(source, found, rest, name, fraction, seed)
            parts[name] = found.train.subset(indices[name])
            origin[name] = f"held out of train, {fraction}, seed {seed}"
        elif len(part) == 0:
            raise WideNetError(f"the {name} part of {source} has no images")
        else:
            parts[name], indices[name] = part, np.arange(len(part))
            origin[name] = own_test if name == "test" else "own"
    indices["train"] = rest
    parts["train"] = found.train.subset(rest) if len(rest) < len(found.train) else found.train

    digest = hashlib.sha256("\n".join(found.class_names).encode())
    for name in ("train", "validation", "test"):
        part = parts[name]
        digest.update(f"\n{name} {len(part)}\n".encode())
        if isinstance(part, FileImages) and found.root is not None:
            digest.update("\n".join(path.relative_to(found.root).as_posix() for path in part.paths).encode())
        else:
            digest.update(indices[name].astype("<i8").tobytes())
        digest.update(part.labels.astype("<i8").tobytes())
    mean, std = _channel_statistics(parts["train"])
    split = {
        "source": source,
        "seed": seed,
        "sizes": {name: len(parts[name]) for name in ("train", "validation", "test")},
        "origin": origin,
        "skipped_files": found.skipped,
        "digest": digest.hexdigest(),
    }
    return ImageData(**parts, class_names=found.class_names, mean=mean, std=std, split=split)


def _hold_out_images(
    source: str, found: Source, rest: np.ndarray, name: str, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return `rest` (indices into the training images) as (kept, held out), both sorted."""
    present, counts = np.unique(found.train.labels, return_counts=True)
    if counts.min() < 3:
        small = found.class_names[present[counts.argmin()]]
        raise WideNetError(
            f"class {small!r} of {source} has {counts.min()} images; at least 3 are needed, since the {name} "
            f"part is held out of the training images"
        )
    labels = found.train.labels[rest]
    kept, held = hold_out(source, labels, found.class_names, name, fraction, seed, "image")
    return rest[kept], rest[held]


def _channel_statistics(images: ImageSet) -> tuple[Any, Any]:
    """Return mean and std, three floats each; every image weighs the same, whatever its size."""
    histogram = np.zeros((3, 256))
    if isinstance(images, ArrayImages):
        for start in range(0, len(images), 4096):
            block = images.pixels[start : start + 4096]
            tall = Image.fromarray(block.reshape(-1, *block.shape[2:])).convert("RGB")
            histogram += np.reshape(tall.histogram(), (3, 256))
    else:
        sample = np.random.default_rng(0).permutation(len(images))[:STATISTICS_SAMPLE]
        for index in np.sort(sample):
            image = images.image(index)
            histogram += np.reshape(image.histogram(), (3, 256)) / (image.width * image.height)
    weights = histogram / histogram.sum(1, keepdims=True)
    values = np.arange(256) / 255
    mean = weights @ values
    variance = (weights * (values - mean[:, None]) ** 2).sum(1)
    # pixels are divided by std: a channel that never changes must not make them infinite
    std = np.sqrt(variance).clip(1 / 255)
    return tuple(mean.tolist()), tuple(std.tolist())
