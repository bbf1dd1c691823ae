"""From image files to classes, with a trained run."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from widenet.checkpoints.folder import load_model, load_processor
from widenet.data.images import open_image
from widenet.errors import WideNetError
from widenet.vision import WideNetForImageClassification


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of one image, best first, as (class name, probability)."""

    image: str
    classes: list[tuple[str, float]]


@torch.inference_mode()
def predict_images(
    run: str | Path, images: Sequence[str | Path], top: int = 5, batch_size: int = 64
) -> list[Prediction]:
    """Classify image files of any size.

    Args:
        run: run or model folder.
        images: image files.
        top: how many classes to return for each, at most the model's number of classes.
        batch_size: images at once; without an evaluation capacity the result does not depend on it.

    Raises:
        WideNetError: the run or an image cannot be read, or ``top`` is below 1.
    """
    if top < 1:
        raise WideNetError(f"top={top} must be at least 1")
    model, processor = load_model(run, WideNetForImageClassification).eval(), load_processor(run)
    names = model.config.id2label
    found = []
    for start in range(0, len(images), batch_size):
        paths = [Path(image) for image in images[start : start + batch_size]]
        pixels = processor([open_image(path) for path in paths], return_tensors="pt")["pixel_values"]
        best = model(pixels).logits.float().softmax(-1).topk(min(top, len(names)))
        for path, probabilities, indices in zip(paths, best.values.tolist(), best.indices.tolist(), strict=True):
            classes = [(names[index], value) for index, value in zip(indices, probabilities, strict=True)]
            found.append(Prediction(str(path), classes))
    return found
