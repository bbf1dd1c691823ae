"""From labelled images to the batches a model sees.

Axes: N images, C channels, S height and width in pixels.

Small sets live in memory and are augmented as whole batches, so that two cores spend their time in the
model; larger ones are decoded image by image with timm's transforms. At evaluation every image goes
through the run's own image processor, the one ``transformers.pipeline`` uses.
"""

import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from timm.data.mixup import Mixup, mixup_target
from timm.data.transforms_factory import create_transform
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as tv
from transformers import ViTImageProcessor

from widenet.config import WideNetVisionConfig
from widenet.data.batch import Batch
from widenet.data.images.load import ArrayImages, ImageData, ImageSet
from widenet.data.images.section import Augmentation


def make_processor(config: WideNetVisionConfig, data: ImageData, crop_fraction: float = 1.0) -> ViTImageProcessor:
    """Return the image processor of a run: resize, centre crop, scale to [0, 1], normalise."""
    size = config.image_size
    return ViTImageProcessor(
        do_convert_rgb=True,
        do_resize=True,
        size={"shortest_edge": round(size / crop_fraction)},
        resample=3,  # bicubic
        do_center_crop=True,
        crop_size={"height": size, "width": size},
        image_mean=list(data.mean),
        image_std=list(data.std),
    )


class EvalImages(Dataset):
    """Images as evaluated: batches of pixel_values [N, C, S, S] and labels [N]."""

    def __init__(self, images: ImageSet, processor: ViTImageProcessor) -> None:
        self.images = images
        self.processor = processor

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: list[int]) -> Batch:
        """Return a whole batch; DataLoader asks for it when the collator passes it through."""
        pixels = self.processor([self.images.image(index) for index in indices], return_tensors="pt")
        return {"pixel_values": pixels["pixel_values"], "labels": _labels_at(self.images, indices)}


class TrainImages(Dataset):
    """Images as trained on: augmented batches of pixel_values [N, C, S, S] and labels [N]."""

    def __init__(self, images: ImageSet, processor: ViTImageProcessor, augment: Augmentation) -> None:
        self.images = images
        self.augment = augment
        known: Any = processor  # its fields are set from its arguments
        size = known.crop_size or known.size
        self.size: int = size.get("height") or size["shortest_edge"]
        self.mean = torch.tensor(processor.image_mean).view(1, 3, 1, 1)
        self.std = torch.tensor(processor.image_std).view(1, 3, 1, 1)
        self._transform: Callable[[Any], Tensor] | None = None
        self._pixels: Tensor | None = None
        if augment.per_image or not isinstance(images, ArrayImages):
            area = augment.crop_area or (1.0, 1.0)
            self._transform = create_transform(
                self.size,
                is_training=True,
                scale=area,
                # without a random crop the aspect ratio is kept, too
                ratio=(3 / 4, 4 / 3) if augment.crop_area else (1.0, 1.0),
                hflip=0.0,
                color_jitter=augment.color_jitter,
                auto_augment=augment.auto_augment,
                interpolation="bicubic",
                mean=(0.0, 0.0, 0.0),
                std=(1.0, 1.0, 1.0),
            )
        else:
            pixels = torch.from_numpy(images.pixels)
            pixels = pixels.unsqueeze(1) if pixels.dim() == 3 else pixels.permute(0, 3, 1, 2)  # [n, 1 or 3, …]
            if pixels.shape[-2:] != (self.size, self.size):
                # as the processor does: the shorter side fits, the middle is kept
                bicubic = tv.InterpolationMode.BICUBIC
                pixels = tv.center_crop(tv.resize(pixels, [self.size], bicubic, antialias=True), [self.size])
            self._pixels = pixels.contiguous()

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: list[int]) -> Batch:
        """Return a whole augmented batch."""
        if self._pixels is not None:
            x = self._pixels[indices].float() / 255  # [N, 1 or 3, S, S]
        else:
            assert self._transform is not None
            x = torch.stack([self._transform(self.images.image(index)) for index in indices])
        x = augment_batch(x, self.augment)
        return {"pixel_values": (x - self.mean) / self.std, "labels": _labels_at(self.images, indices)}


def augment_batch(x: Tensor, augment: Augmentation) -> Tensor:
    """Shift, rotate, zoom, flip and erase each image of a batch [N, C, S, S] by its own random amount."""
    N, C, height, width = x.shape
    if augment.shift or augment.rotate or augment.zoom:
        angle = (torch.rand(N) * 2 - 1) * math.radians(augment.rotate)
        scale = 1 / (1 + (torch.rand(N) * 2 - 1) * augment.zoom)
        shift = (torch.rand(N, 2) * 2 - 1) * augment.shift * 2  # grid coordinates run from -1 to 1
        cos, sin = angle.cos() * scale, angle.sin() * scale
        theta = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)  # [N, 2, 2]
        theta = torch.cat([theta, shift.unsqueeze(-1)], -1)  # [N, 2, 3]
        grid = torch.nn.functional.affine_grid(theta, [N, C, height, width], align_corners=False)
        warped = torch.nn.functional.grid_sample(x, grid, align_corners=False)
        # Interpolation blurs, and test images are sharp: the model must see sharp ones, too.
        chosen = (torch.rand(N) < augment.warp).view(N, 1, 1, 1)
        x = torch.where(chosen, warped, x)
    if augment.flip:
        flipped = (torch.rand(N) < augment.flip).view(N, 1, 1, 1)
        x = torch.where(flipped, x.flip(-1), x)
    if augment.erase:
        x = _erase(x, augment.erase)
    return x


def _erase(x: Tensor, probability: float) -> Tensor:
    """Replace, with this probability, a rectangle of each image [N, C, S, S] by noise (random erasing)."""
    N, _, height, width = x.shape
    area = torch.empty(N).uniform_(0.02, 1 / 3)
    aspect = torch.empty(N).uniform_(math.log(0.3), math.log(1 / 0.3)).exp()
    tall, wide = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    top, left = torch.rand(N) * (1 - tall), torch.rand(N) * (1 - wide)
    rows, columns = (torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width
    inside = ((rows >= top[:, None]) & (rows < (top + tall)[:, None])).unsqueeze(2) & (
        (columns >= left[:, None]) & (columns < (left + wide)[:, None])
    ).unsqueeze(1)  # [N, S, S]
    chosen = (torch.rand(N) < probability).view(N, 1, 1)
    return torch.where((inside & chosen).unsqueeze(1), torch.rand_like(x), x)


class Collator:
    """Mix the images of a training batch and soften its labels, with timm's Mixup.

    Args:
        num_labels: number of classes.
        label_smoothing: share of each label that is spread over all classes.
        mixup, cutmix: α of the Beta distributions that the shares of two images are drawn from; 0: off.
    """

    def __init__(self, num_labels: int, label_smoothing: float = 0.0, mixup: float = 0.0, cutmix: float = 0.0) -> None:
        self.num_labels = num_labels
        self.smoothing = label_smoothing
        self.mixup: Mixup | None = None
        if mixup or cutmix:
            self.mixup = Mixup(mixup, cutmix, num_classes=num_labels, label_smoothing=label_smoothing)

    def __call__(self, batch: Batch) -> Batch:
        """Return the batch; with mixup or label smoothing, labels become [N, num_labels] probabilities."""
        pixels, labels = batch["pixel_values"], batch["labels"]
        if self.mixup is not None:
            pixels, labels = self.mixup(pixels, labels)
        elif self.smoothing:
            labels = mixup_target(labels, self.num_labels, smoothing=self.smoothing)
        return {"pixel_values": pixels, "labels": labels}


class SeededBatches(Dataset):
    """Whole training batches, whose randomness depends on nothing but the seed and the images in them.

    So a batch is the same in a resumed run and with any number of workers, and making it does not move
    the random numbers of the model. The order of the images is part of the seed: no two epochs are alike.
    """

    def __init__(self, images: TrainImages, collator: Collator, seed: int) -> None:
        self.images = images
        self.collator = collator
        self.seed = seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: list[int]) -> Batch:
        """Return a whole augmented and mixed batch."""
        with _seeded(int(np.random.SeedSequence([self.seed, *indices]).generate_state(1)[0])):
            return self.collator(self.images.__getitems__(indices))


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed Python's, NumPy's and PyTorch's generators; put them back as they were at the end."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002 (as the next)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (timm draws from it)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed GPUs, too
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002 (as above)
        torch.set_rng_state(states[2])


def _labels_at(images: ImageSet, indices: list[int]) -> Tensor:
    return torch.from_numpy(images.labels[np.asarray(indices)])
