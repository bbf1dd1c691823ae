"""Lists of labelled images, held in memory, in files or in a table, and how one image is decoded."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from widenet.errors import WideNetError, reason


class ImageSet(ABC):
    """A labelled list of images; ``labels`` is int64 [n]."""

    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def image(self, index: int) -> Image.Image:
        """Return one image in mode RGB; WideNetError names the file (or row) that cannot be decoded."""

    @abstractmethod
    def subset(self, indices: np.ndarray) -> "ImageSet":
        """Return the images at `indices` (int [m]), in that order."""


class ArrayImages(ImageSet):
    """Images in memory: ``pixels`` is uint8 [n, height, width] or [n, height, width, 3]."""

    def __init__(self, pixels: np.ndarray, labels: np.ndarray):
        self.pixels = pixels
        self.labels = np.asarray(labels, dtype=np.int64)

    def image(self, index: int) -> Image.Image:
        return Image.fromarray(self.pixels[index]).convert("RGB")

    def subset(self, indices: np.ndarray) -> "ArrayImages":
        return ArrayImages(self.pixels[indices], self.labels[indices])


class FileImages(ImageSet):
    """Image files, decoded when asked for."""

    def __init__(self, paths: list[Path], labels: np.ndarray):
        self.paths = paths
        self.labels = np.asarray(labels, dtype=np.int64)

    def image(self, index: int) -> Image.Image:
        return open_image(self.paths[index])

    def subset(self, indices: np.ndarray) -> "FileImages":
        return FileImages([self.paths[index] for index in indices], self.labels[indices])


class HubImages(ImageSet):
    """Rows of a ``datasets.Dataset`` that has the image column `column`."""

    def __init__(self, dataset: Any, column: str, labels: np.ndarray):
        self.dataset = dataset
        self.column = column
        self.labels = np.asarray(labels, dtype=np.int64)

    def image(self, index: int) -> Image.Image:
        try:
            return _to_rgb(self.dataset[int(index)][self.column])
        except Exception as error:  # the image may be missing, damaged, or lie in a file that is gone
            raise WideNetError(f"image {int(index)} of the data set {_decode_problem(error)}") from error

    def subset(self, indices: np.ndarray) -> "HubImages":
        return HubImages(self.dataset.select(indices), self.column, self.labels[indices])


@dataclass
class Source:
    """What a source holds before any part is held out."""

    class_names: list[str]
    train: ImageSet
    validation: ImageSet | None = None
    test: ImageSet | None = None
    skipped: int = 0
    root: Path | None = None  # of FileImages


def open_image(path: Path) -> Image.Image:
    """Decode an image file, upright and in mode RGB; WideNetError names the file if that fails."""
    try:
        with Image.open(path) as image:
            return _to_rgb(ImageOps.exif_transpose(image))
    except FileNotFoundError as error:
        raise WideNetError(f"{path} does not exist") from error
    except Exception as error:  # PIL's decoders raise nearly anything on damaged files
        raise WideNetError(f"{path} {_decode_problem(error)}") from error


def looks_like_image(text: str) -> bool:
    """Whether a text is the name of an image file, by its suffix."""
    return len(text) < 1000 and "\n" not in text and Path(text).suffix.lower() in Image.registered_extensions()


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "I" or image.mode.startswith("I;16"):
        # PIL clips 16-bit values at 255, which leaves a white image
        image = Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
    return image.convert("RGB")


def _decode_problem(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "is not an image (cannot identify image file)"
    verdict = "is truncated" if "truncated" in str(error).lower() else "cannot be decoded"
    return f"{verdict} ({reason(error)})"
