"""From images to batches: pixels worked by hand, augmentation by construction, mixing by its own equations."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from transformers import ViTImageProcessor

from widenet.data.batch import Batch, as_is
from widenet.data.images.batches import (
    Collator,
    EvalImages,
    SeededBatches,
    TrainImages,
    augment_batch,
    make_processor,
)
from widenet.data.images.load import ArrayImages, FileImages, ImageData, ImageSet
from widenet.data.images.section import Augmentation
from widenet.models.presets import create_config

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.5)


def pixels(count: int = 6, side: int = 8, colour: bool = True) -> np.ndarray:
    shape = (count, side, side, 3) if colour else (count, side, side)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def array_images(count: int = 6, side: int = 8, colour: bool = True) -> ArrayImages:
    return ArrayImages(pixels(count, side, colour), np.arange(count) % 3)


def file_images(folder: Path, images: ArrayImages) -> FileImages:
    paths = [folder / f"{index}.png" for index in range(len(images))]
    for index, path in enumerate(paths):
        images.image(index).save(path)
    return FileImages(paths, images.labels)


def processor(size: int = 8, crop_fraction: float = 1.0) -> ViTImageProcessor:
    images = array_images()
    data = ImageData(images, images, images, ["a", "b", "c"], MEAN, STD, {})
    return make_processor(create_config("widenet-digits", image_size=size), data, crop_fraction)


def by_hand(raw: np.ndarray) -> torch.Tensor:
    """Scale to [0, 1] and normalise uint8 [n, S, S, 3] as [n, 3, S, S]."""
    scaled = (raw.astype(np.float64) / 255 - np.array(MEAN)) / np.array(STD)
    return torch.from_numpy(scaled).permute(0, 3, 1, 2).float()


# ---- evaluation ----


def test_evaluation_of_arrays_is_scaling_and_normalisation() -> None:
    batch = EvalImages(array_images(), processor()).__getitems__([4, 0, 2])
    assert torch.allclose(batch["pixel_values"], by_hand(pixels()[[4, 0, 2]]), atol=1e-6)
    assert batch["labels"].tolist() == [1, 0, 2]
    assert batch["labels"].dtype == torch.int64


def test_evaluation_of_grey_arrays_has_three_equal_channels_before_normalisation() -> None:
    raw = pixels(colour=False)
    batch = EvalImages(array_images(colour=False), processor()).__getitems__([0, 1])
    assert torch.allclose(batch["pixel_values"], by_hand(np.stack([raw] * 3, -1)[:2]), atol=1e-6)


def test_evaluation_of_files_equals_that_of_the_same_arrays(tmp_path: Path) -> None:
    images = array_images()
    from_files = EvalImages(file_images(tmp_path, images), processor()).__getitems__([0, 1, 2, 3])
    assert torch.allclose(from_files["pixel_values"], by_hand(pixels()[:4]), atol=1e-6)


def test_evaluation_crops_the_centre() -> None:
    # crop_fraction 0.5: an image of 16 is not resized, and its middle 8×8 is left
    raw = pixels(side=16)
    batch = EvalImages(ArrayImages(raw, np.arange(6)), processor(8, crop_fraction=0.5)).__getitems__([0, 5])
    assert torch.allclose(batch["pixel_values"], by_hand(raw[[0, 5], 4:12, 4:12]), atol=1e-6)


def test_evaluation_keeps_the_aspect_ratio() -> None:
    # 8 rows and 16 columns: the shorter side is 8 already, so the columns 4 to 11 are left
    raw = np.random.default_rng(1).integers(0, 256, (2, 8, 16, 3), dtype=np.uint8)
    batch = EvalImages(ArrayImages(raw, np.arange(2)), processor()).__getitems__([0, 1])
    assert torch.allclose(batch["pixel_values"], by_hand(raw[:, :, 4:12]), atol=1e-6)


# ---- training without augmentation ----


@pytest.mark.parametrize("colour", [True, False])
def test_unaugmented_arrays_equal_evaluation(colour: bool) -> None:
    images = array_images(colour=colour)
    trained = TrainImages(images, processor(), Augmentation()).__getitems__([5, 1])
    evaluated = EvalImages(images, processor()).__getitems__([5, 1])
    assert trained["pixel_values"].shape == (2, 3, 8, 8)
    assert torch.allclose(trained["pixel_values"], evaluated["pixel_values"], atol=1e-6)
    assert torch.equal(trained["labels"], evaluated["labels"])


def test_unaugmented_files_equal_evaluation(tmp_path: Path) -> None:
    images = file_images(tmp_path, array_images())
    trained = TrainImages(images, processor(), Augmentation()).__getitems__([5, 1])
    assert torch.allclose(trained["pixel_values"], by_hand(pixels()[[5, 1]]), atol=1e-6)


@pytest.mark.parametrize("side", [12, 5])
def test_resizing_is_that_of_evaluation(tmp_path: Path, side: int) -> None:
    # smooth images, since bicubic filters differ most on noise; 1 of 255 for rounding, in units of the std
    ramp = np.linspace(20, 220, side)
    raw = np.stack([np.add.outer(ramp, ramp) / 2, np.outer(ramp, ramp) / 220, np.tile(ramp, (side, 1))], -1)
    images = ArrayImages(raw.round().astype(np.uint8)[None], np.zeros(1))
    wanted = EvalImages(images, processor()).__getitems__([0])["pixel_values"]
    for source in (images, file_images(tmp_path, images)):
        found = TrainImages(source, processor(), Augmentation()).__getitems__([0])["pixel_values"]
        assert found.shape == (1, 3, 8, 8)
        assert ((found - wanted).abs() * torch.tensor(STD).view(1, 3, 1, 1)).max() < 1.5 / 255


def test_random_crops_take_the_per_image_path() -> None:
    images = array_images(side=16)
    augmented = TrainImages(images, processor(), Augmentation(crop_area=(0.1, 0.5)))
    torch.manual_seed(0)
    random.seed(0)
    batches = [augmented.__getitems__([0, 1])["pixel_values"] for _ in range(2)]
    assert batches[0].shape == (2, 3, 8, 8)
    assert not torch.allclose(batches[0], batches[1])


@pytest.mark.parametrize("field", [{"auto_augment": "rand-m9-mstd0.5"}, {"color_jitter": 0.4}])
def test_per_image_transforms_change_pixels(field: dict) -> None:
    images = ArrayImages(pixels(side=16), np.arange(6))
    found = TrainImages(images, processor(16), Augmentation(**field)).__getitems__(list(range(6)))["pixel_values"]
    assert found.shape == (6, 3, 16, 16)
    assert torch.isfinite(found).all()
    assert not torch.allclose(found, by_hand(pixels(side=16)), atol=0.05)


# ---- augmentation of whole batches ----


def constant_rand(monkeypatch: pytest.MonkeyPatch, amounts: float, shifts: float = 0.5) -> None:
    """Let torch.rand(N) return `amounts` and torch.rand(N, 2) `shifts`; 0.5 stands for no change."""

    def rand(*shape: int) -> torch.Tensor:
        return torch.full(shape, shifts if len(shape) == 2 else amounts)

    monkeypatch.setattr(torch, "rand", rand)


def test_nothing_asked_for_changes_nothing() -> None:
    x = torch.rand(4, 3, 8, 8)
    assert torch.equal(augment_batch(x, Augmentation()), x)


def test_flip_with_certainty() -> None:
    x = torch.rand(4, 3, 8, 8)
    assert torch.equal(augment_batch(x, Augmentation(flip=1.0)), x.flip(-1))


def test_flip_is_drawn_per_image() -> None:
    torch.manual_seed(0)
    x = torch.rand(200, 1, 4, 4)
    found = augment_batch(x, Augmentation(flip=0.5))
    flipped = (found == x.flip(-1)).flatten(1).all(1)
    assert torch.equal(flipped, ~(found == x).flatten(1).all(1))
    assert 60 < flipped.sum() < 140


def test_shift_moves_by_a_fraction_of_the_side(monkeypatch: pytest.MonkeyPatch) -> None:
    # the largest shift, a quarter of 8 pixels, towards the upper left; zeros come in from the other sides
    x = torch.rand(2, 1, 8, 8)
    wanted = torch.zeros_like(x)
    wanted[..., :6, :6] = x[..., 2:, 2:]
    constant_rand(monkeypatch, amounts=0.5, shifts=1.0)
    assert torch.allclose(augment_batch(x, Augmentation(shift=0.25)), wanted, atol=1e-5)


def test_rotation_by_a_right_angle(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.rand(2, 1, 8, 8)
    constant_rand(monkeypatch, amounts=0.0)  # the least of -90° to 90°
    assert torch.allclose(augment_batch(x, Augmentation(rotate=90.0)), x.rot90(-1, (-2, -1)), atol=1e-5)


def test_zoom_magnifies_around_the_centre(monkeypatch: pytest.MonkeyPatch) -> None:
    # rand = 0 zooms out by 1 - 0.5: the 8×8 image of ones fills the middle 4×4
    x = torch.ones(1, 1, 8, 8)
    constant_rand(monkeypatch, amounts=0.0)
    found = augment_batch(x, Augmentation(zoom=0.5))[0, 0]
    assert torch.allclose(found[2:6, 2:6], torch.ones(4, 4), atol=1e-5)
    assert found[0].abs().max() == found[:, 0].abs().max() == found[7].abs().max() == 0
    assert torch.allclose(found, found.flip(0), atol=1e-5)


def test_warp_probability() -> None:
    x = torch.rand(200, 1, 8, 8)
    strong = {"shift": 0.3, "rotate": 30.0, "zoom": 0.3}
    assert torch.equal(augment_batch(x, Augmentation(warp=0.0, **strong)), x)
    torch.manual_seed(0)
    untouched = (augment_batch(x, Augmentation(warp=0.5, **strong)) == x).flatten(1).all(1)
    assert 60 < untouched.sum() < 140
    assert not (augment_batch(x, Augmentation(**strong)) == x).flatten(1).all(1).any()


def test_erase_replaces_one_rectangle_by_noise() -> None:
    torch.manual_seed(0)
    x = torch.full((50, 3, 16, 16), 2.0)  # noise lies in [0, 1], so that every erased pixel shows
    found = augment_batch(x, Augmentation(erase=1.0))
    changed = (found != x).any(1)  # [N, S, S]
    assert torch.equal(changed, (found != x).all(1))
    rectangle = changed.any(2, keepdim=True) & changed.any(1, keepdim=True)
    assert torch.equal(changed, rectangle)
    for mask in changed:
        rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        assert torch.equal(rows, torch.arange(len(rows)) + rows[:1])  # without gaps
        assert torch.equal(columns, torch.arange(len(columns)) + columns[:1])
    assert 0.05 < changed.float().mean() < 0.3  # areas are drawn from 1/50 to 1/3
    assert (found[changed.unsqueeze(1).expand_as(found)]).std() > 0.2


def test_erase_probability() -> None:
    torch.manual_seed(0)
    x = torch.full((200, 1, 16, 16), 2.0)
    erased = (augment_batch(x, Augmentation(erase=0.25)) != x).flatten(1).any(1)
    assert 25 < erased.sum() < 75


def test_augmentation_follows_the_torch_seed() -> None:
    augment = Augmentation(shift=0.2, rotate=10.0, zoom=0.1, flip=0.5, erase=0.5)
    x = torch.rand(4, 3, 8, 8)
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(augment_batch(x, augment))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


# ---- mixing and smoothing ----


def whole_batch(count: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(0)
    return {"pixel_values": torch.rand(count, 3, 4, 4, generator=generator), "labels": torch.arange(count) % 3}


def test_without_mixing_batches_pass_unchanged() -> None:
    batch = whole_batch()
    found = Collator(3)(batch)
    assert torch.equal(found["pixel_values"], batch["pixel_values"])
    assert torch.equal(found["labels"], batch["labels"])


def test_label_smoothing_by_hand() -> None:
    # 0.1 spread evenly over 4 classes: 0.025 for each, and 0.9 more for the right one
    found = Collator(4, label_smoothing=0.1)(whole_batch(2))["labels"]
    wanted = torch.tensor([[0.925, 0.025, 0.025, 0.025], [0.025, 0.925, 0.025, 0.025]])
    assert torch.allclose(found, wanted)


def test_mixup_mixes_pixels_and_labels_alike() -> None:
    batch = whole_batch(4)  # classes 0, 1, 2, 0; each image is mixed with its mirror in the batch
    original = batch["pixel_values"].clone()
    np.random.seed(0)  # noqa: NPY002
    found = Collator(3, mixup=1.0)(batch)
    share = found["labels"][1, 1].item()  # image 1 of class 1, with image 2 of class 2
    assert 0 < share < 1
    wanted = torch.tensor([[1, 0, 0], [0, share, 1 - share], [0, 1 - share, share], [1, 0, 0]])
    assert torch.allclose(found["labels"], wanted, atol=1e-6)
    assert torch.allclose(found["pixel_values"], share * original + (1 - share) * original.flip(0), atol=1e-6)


def test_cutmix_shares_are_areas() -> None:
    batch = whole_batch(2)
    original = batch["pixel_values"].clone()
    np.random.seed(3)  # noqa: NPY002
    found = Collator(3, cutmix=1.0)(batch)
    kept = (found["pixel_values"] == original).all(1).float().mean((1, 2))
    assert 0 < kept[0] < 1
    assert found["labels"][0].tolist() == pytest.approx([kept[0].item(), 1 - kept[0].item(), 0])


@pytest.mark.parametrize("fields", [{"mixup": 0.2}, {"cutmix": 1.0}, {"mixup": 0.5, "cutmix": 0.5}])
def test_mixed_labels_are_distributions(fields: dict[str, float]) -> None:
    collator = Collator(3, **fields, label_smoothing=0.1)
    for _ in range(5):
        labels = collator(whole_batch(6))["labels"]
        assert labels.shape == (6, 3)
        assert torch.allclose(labels.sum(1), torch.ones(6))
        assert labels.min() > 0.03  # 0.1 / 3 of smoothing


# ---- seeded batches ----

STRONG = Augmentation(shift=0.2, rotate=20.0, flip=0.5, erase=0.5)


def seeded(seed: int = 0, images: ImageSet | None = None, augment: Augmentation = STRONG) -> SeededBatches:
    images = images or array_images(12)
    return SeededBatches(TrainImages(images, processor(), augment), Collator(3, mixup=0.5), seed)


def disturb(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)


@pytest.mark.parametrize("augment", [STRONG, Augmentation(auto_augment="rand-m9-mstd0.5", color_jitter=0.4)])
def test_a_batch_depends_on_seed_and_images_alone(augment: Augmentation) -> None:
    found = []
    for state in (1, 2):
        disturb(state)
        found.append(seeded(augment=augment).__getitems__([3, 1, 4, 0]))
    assert torch.equal(found[0]["pixel_values"], found[1]["pixel_values"])
    assert torch.equal(found[0]["labels"], found[1]["labels"])


def test_other_seeds_and_orders_give_other_batches() -> None:
    labels = {
        name: batches.__getitems__(indices)["labels"][1].max().item()
        for name, batches, indices in (
            ("same", seeded(), [0, 1, 2, 3]),
            ("other seed", seeded(1), [0, 1, 2, 3]),
            ("other order", seeded(), [1, 0, 2, 3]),
            ("other images", seeded(), [0, 1, 2, 4]),
        )
    }
    assert len(set(labels.values())) == 4  # mixup's share, drawn anew for each


def test_making_a_batch_leaves_the_generators_alone() -> None:
    disturb(5)
    wanted = random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002
    disturb(5)
    seeded(augment=Augmentation(auto_augment="rand-m9", flip=0.5)).__getitems__([0, 1])
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == wanted  # noqa: NPY002


def test_generators_are_put_back_after_an_error(tmp_path: Path) -> None:
    broken = FileImages([tmp_path / "none.png"] * 2, np.arange(2))
    disturb(5)
    wanted = torch.rand(1)
    disturb(5)
    with pytest.raises(ValueError, match=r"none\.png"):
        seeded(images=broken).__getitems__([0, 1])
    assert torch.equal(torch.rand(1), wanted)


def test_worker_processes_make_the_same_batches() -> None:
    found = []
    for workers in (0, 2):
        loader = DataLoader(seeded(), batch_size=4, collate_fn=as_is, num_workers=workers)
        found.append(torch.cat([batch["pixel_values"] for batch in loader]))
    assert found[0].shape == (12, 3, 8, 8)
    assert torch.equal(found[0], found[1])


def test_files_named_in_no_image_are_named(tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    Image.new("RGB", (8, 8)).save(bad)
    bad.write_bytes(bad.read_bytes()[:40])
    images = FileImages([bad], np.zeros(1))
    for dataset in (EvalImages(images, processor()), TrainImages(images, processor(), Augmentation())):
        with pytest.raises(ValueError, match=r"bad\.png"):
            dataset.__getitems__([0])
