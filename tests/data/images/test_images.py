"""Loading labelled images: what is accepted, what is refused and how, and that the parts stay apart."""

import gzip
import json
import pickle
import struct
import sys
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from widenet.data.images.load import ArrayImages, ImageData, load_images, open_image
from widenet.data.images.section import ImagesSection
from widenet.data.images.sets import FileImages, HubImages
from widenet.errors import WideNetError


def load(source: object, **options: object) -> ImageData:
    return load_images(ImagesSection(source=str(source), **options))  # type: ignore[arg-type]


# ---- builders of tiny sources ----


def picture(seed: int, size: tuple[int, int] = (12, 10)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


def write_classes(folder: Path, counts: dict[str, int], suffix: str = ".png") -> None:
    for number, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            picture(1000 * number + index).save(folder / name / f"{index:03}{suffix}")


def idx_bytes(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_idx(folder: Path, compress: bool = False) -> dict[str, np.ndarray]:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    arrays = {}
    for prefix, count in (("train", 100), ("t10k", 20)):
        arrays[f"{prefix}-images-idx3-ubyte"] = rng.integers(0, 256, (count, 7, 5), dtype=np.uint8)
        arrays[f"{prefix}-labels-idx1-ubyte"] = np.arange(count, dtype=np.uint8) % 10
    for name, array in arrays.items():
        data = idx_bytes(array)
        (folder / f"{name}{'.gz' * compress}").write_bytes(gzip.compress(data) if compress else data)
    return arrays


def write_cifar10(folder: Path) -> np.ndarray:
    """Write five batches of 20 images and a test batch; return the training rows, uint8 [100, 3072]."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    train = []
    for name in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]:
        data = rng.integers(0, 256, (20, 3072), dtype=np.uint8)
        train.append(data)
        content = {"data": data, "labels": [index % 10 for index in range(20)], "batch_label": name}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    names = [f"class {index}" for index in range(10)]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}, protocol=2))
    return np.concatenate(train[:5])


def paths_of(part: object) -> set[Path]:
    assert isinstance(part, FileImages)
    return set(part.paths)


# ---- splits ----


def test_digits_are_split_by_class_without_overlap() -> None:
    from sklearn.datasets import load_digits

    data = load("digits")
    sizes = {"train": 1294, "validation": 144, "test": 359}
    assert data.split["sizes"] == sizes
    assert [len(data.train), len(data.validation), len(data.test)] == list(sizes.values())
    assert data.class_names == list("0123456789")
    parts = (data.train, data.validation, data.test)
    for part in parts:
        shares = np.bincount(part.labels, minlength=10) / len(part)
        assert shares.min() > 0.08 and shares.max() < 0.12
    # every digit is in exactly one part, with its own label
    original = load_digits()
    wanted = sorted((image.tobytes(), label) for image, label in zip(original.images, original.target, strict=True))
    pixels = np.concatenate([part.pixels for part in parts])
    labels = np.concatenate([part.labels for part in parts])
    restored = np.round(pixels * (16 / 255))
    assert sorted((image.tobytes(), label) for image, label in zip(restored, labels, strict=True)) == wanted
    assert pixels.max() == 255 and pixels.dtype == np.uint8


def test_split_depends_on_the_seed_alone() -> None:
    first, again, other = load("digits"), load("digits"), load("digits", split_seed=1)
    assert np.array_equal(first.train.pixels, again.train.pixels)
    assert first.split == again.split
    assert first.split["digest"] != other.split["digest"]
    assert not np.array_equal(first.test.labels, other.test.labels)
    assert json.loads(json.dumps(first.split)) == first.split
    assert first.split["origin"]["test"] == "held out of train, 0.2, seed 0"


def test_validation_fraction_leaves_the_test_part_alone() -> None:
    small, large = load("digits"), load("digits", validation_fraction=0.4)
    assert np.array_equal(small.test.pixels, large.test.pixels)
    assert len(large.validation) == 575


@pytest.mark.parametrize("option", ["validation_fraction", "test_fraction"])
@pytest.mark.parametrize("value", [0, 1, -0.5, 20, float("nan")])
def test_fraction_out_of_range(option: str, value: float) -> None:
    with pytest.raises(ValidationError, match=rf"{option}\n.*(greater|less) than"):
        load("digits", **{option: value})


def test_statistics_are_those_of_the_training_pixels() -> None:
    data = load("digits")
    scaled = data.train.pixels / 255
    assert data.mean == pytest.approx([scaled.mean()] * 3)
    assert data.std == pytest.approx([scaled.std()] * 3)


def test_statistics_of_files_tell_channels_apart(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for index in range(5):
            Image.new("RGB", (4, 4), (255, 51, 0)).save(tmp_path / name / f"{index}.png")
    data = load(str(tmp_path))
    assert data.mean == pytest.approx((1.0, 0.2, 0.0))
    assert min(data.std) > 0  # pixels are divided by it


# ---- the MNIST family ----


@pytest.mark.parametrize("compress", [False, True])
def test_idx_round_trip(tmp_path: Path, compress: bool) -> None:
    arrays = write_idx(tmp_path / "mnist", compress)
    data = load(str(tmp_path / "mnist"))
    assert isinstance(data.test, ArrayImages)
    assert np.array_equal(data.test.pixels, arrays["t10k-images-idx3-ubyte"])
    assert np.array_equal(data.test.labels, arrays["t10k-labels-idx1-ubyte"])
    assert data.split["origin"]["test"] == "own"
    assert data.split["sizes"] == {"train": 90, "validation": 10, "test": 20}
    held = {image.tobytes() for image in data.validation.pixels}
    kept = {image.tobytes() for image in data.train.pixels}
    assert not held & kept
    assert held | kept == {image.tobytes() for image in arrays["train-images-idx3-ubyte"]}
    image = data.test.image(3)
    assert (image.mode, image.size) == ("RGB", (5, 7))
    assert np.array_equal(np.asarray(image)[..., 2], arrays["t10k-images-idx3-ubyte"][3])
    assert data.class_names == list("0123456789")


def test_class_names_of_fashion(tmp_path: Path) -> None:
    write_idx(tmp_path / "My-Fashion")
    assert load(str(tmp_path / "My-Fashion")).class_names[9] == "Ankle boot"


@pytest.mark.parametrize("compress", [False, True])
def test_truncated_idx_is_named(tmp_path: Path, compress: bool) -> None:
    write_idx(tmp_path, compress)
    path = next(tmp_path.glob("t10k-images*"))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(WideNetError, match=rf"{path.name} is truncated"):
        load(str(tmp_path))


def test_damaged_idx_is_refused(tmp_path: Path) -> None:
    arrays = write_idx(tmp_path)
    labels = tmp_path / "train-labels-idx1-ubyte"
    labels.write_bytes(b"\x00\x00\x0d" + labels.read_bytes()[3:])
    with pytest.raises(WideNetError, match="train-labels-idx1-ubyte is not an IDX file"):
        load(str(tmp_path))
    labels.write_bytes(idx_bytes(arrays[labels.name][:-1]))
    with pytest.raises(WideNetError, match="99 labels for 100 images"):
        load(str(tmp_path))
    labels.write_bytes(idx_bytes(arrays[labels.name] + 1))
    with pytest.raises(WideNetError, match="labels 1 to 10, not 0 to 9"):
        load(str(tmp_path))
    labels.unlink()
    with pytest.raises(WideNetError, match="lacks the file train-labels-idx1-ubyte"):
        load(str(tmp_path))


# ---- CIFAR ----


@pytest.mark.parametrize("inner", [".", "cifar-10-batches-py"])
def test_cifar10_pickles(tmp_path: Path, inner: str) -> None:
    rows = write_cifar10(tmp_path / "cifar" / inner)
    data = load(str(tmp_path / "cifar"))
    assert data.class_names[3] == "class 3"
    assert data.split["sizes"] == {"train": 90, "validation": 10, "test": 20}
    parts = [*data.train.pixels, *data.validation.pixels]
    # rows hold one channel after the other
    wanted = {row.reshape(3, 32, 32).transpose(1, 2, 0).tobytes() for row in rows}
    assert {image.tobytes() for image in parts} == wanted
    assert data.train.image(0).size == (32, 32)


def test_cifar100_uses_fine_labels(tmp_path: Path) -> None:
    for name in ("train", "test"):
        content = {
            "data": np.zeros((40, 3072), np.uint8),
            "fine_labels": [index % 4 for index in range(40)],
            "coarse_labels": [0] * 40,
        }
        (tmp_path / name).write_bytes(pickle.dumps(content, protocol=2))
    names = {"fine_label_names": ["ant", "bee", "cat", "dog"], "coarse_label_names": ["animal"]}
    (tmp_path / "meta").write_bytes(pickle.dumps(names))
    data = load(str(tmp_path))
    assert data.class_names == ["ant", "bee", "cat", "dog"]
    assert np.array_equal(np.bincount(data.validation.labels), [1, 1, 1, 1])


class Payload:
    """Creates the file `target` when unpickled without care."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self) -> tuple:
        return open, (str(self.target), "w")


def test_malicious_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    folder, target = tmp_path / "cifar", tmp_path / "pwned"
    write_cifar10(folder)
    data = pickle.dumps({"data": Payload(target), "labels": []})
    (folder / "data_batch_2").write_bytes(data)
    with pytest.raises(WideNetError, match=r"data_batch_2 is not a CIFAR file: it refers to .*open"):
        load(str(folder))
    assert not target.exists()
    pickle.loads(data)["data"].close()
    assert target.exists()  # the payload does work


def test_incomplete_cifar_is_named(tmp_path: Path) -> None:
    write_cifar10(tmp_path / "cifar")
    path = tmp_path / "cifar" / "data_batch_4"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(WideNetError, match=r"data_batch_4 .*truncated"):
        load(str(tmp_path / "cifar"))
    path.unlink()
    with pytest.raises(WideNetError, match="lacks the file data_batch_4"):
        load(str(tmp_path / "cifar"))


# ---- downloads ----


def test_failed_download_is_one_line_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    def half(url: str, download_root: str, **_: object) -> None:
        (Path(download_root) / "train-images-idx3-ubyte").write_bytes(b"half")
        raise URLError("no route to host")

    monkeypatch.setattr(torchvision.datasets.mnist, "download_and_extract_archive", half)
    with pytest.raises(WideNetError, match=r"fashion-mnist could not be downloaded .*no route") as caught:
        load("fashion-mnist", cache_dir=str(tmp_path / "cache"))
    assert "data=FOLDER" in str(caught.value) and "\n" not in str(caught.value)
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("error", [URLError("down"), RuntimeError("down"), TimeoutError("down")])
@pytest.mark.parametrize("name", ["mnist", "cifar10", "cifar100"])
def test_any_download_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, error: Exception) -> None:
    import torchvision

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(torchvision.datasets, name.upper(), fail)
    with pytest.raises(WideNetError, match=f"{name} could not be downloaded .*down"):
        load(name, cache_dir=str(tmp_path))


def test_a_download_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    asked: list[str] = []

    def fetch(url: str, download_root: str, filename: str, md5: str) -> None:
        if not asked:
            write_idx(Path(download_root))
        asked.append(filename)

    monkeypatch.setattr(torchvision.datasets.mnist, "download_and_extract_archive", fetch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    first = load("fashion-mnist")
    assert len(asked) == 4
    again = load("fashion-mnist")
    assert len(asked) == 4
    assert first.split == again.split
    assert first.class_names[0] == "T-shirt/top"
    assert [path.name for path in (tmp_path / "home" / "widenet").iterdir()] == ["FashionMNIST"]


# ---- folders of image files ----


def test_class_folders(tmp_path: Path) -> None:
    write_classes(tmp_path, {"cat": 20, "ant": 30})
    (tmp_path / "cat" / "deep").mkdir()
    picture(7).convert("RGBA").save(tmp_path / "cat" / "deep" / "z.png")
    for ignored in (".DS_Store", "Thumbs.db", "desktop.ini"):
        (tmp_path / "cat" / ignored).write_bytes(b"?")
    (tmp_path / ".cache").mkdir()
    (tmp_path / "README.md").write_text("about")
    data = load(str(tmp_path))
    assert data.class_names == ["ant", "cat"]
    parts = [paths_of(part) for part in (data.train, data.validation, data.test)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 51
    assert data.split["sizes"] == {"train": 37, "validation": 4, "test": 10}
    assert np.array_equal(np.bincount(data.test.labels), [6, 4])
    for part in (data.train, data.validation, data.test):
        for index in range(len(part)):
            assert part.image(index).mode == "RGB"
            assert data.class_names[part.labels[index]] in part.paths[index].parts
    assert np.array_equal(np.asarray(open_image(tmp_path / "ant" / "004.png")), np.asarray(picture(1004)))


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_validation_folder_is_the_test_part_if_there_is_no_other(tmp_path: Path, name: str) -> None:
    write_classes(tmp_path / "train", {"a": 10, "b": 10})
    write_classes(tmp_path / name, {"a": 3, "b": 2})
    data = load(str(tmp_path))
    assert all(path.parts[-3] == name for path in paths_of(data.test)) and len(data.test) == 5
    assert all(path.parts[-3] == "train" for path in paths_of(data.train) | paths_of(data.validation))
    assert data.split["sizes"] == {"train": 18, "validation": 2, "test": 5}
    assert data.split["origin"]["test"].startswith("own")
    assert data.split["origin"]["validation"].startswith("held out of train")


def test_three_folders_are_taken_as_they_are(tmp_path: Path) -> None:
    for name, count in (("train", 2), ("val", 1), ("test", 1)):  # too few to hold anything out
        write_classes(tmp_path / name, {"a": count, "b": count})
    data = load(str(tmp_path))
    for name, part in (("train", data.train), ("val", data.validation), ("test", data.test)):
        assert paths_of(part) == set((tmp_path / name).glob("*/*.png"))
    assert set(data.split["origin"].values()) == {"own"}


def test_train_and_test_folders(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", {"a": 10, "b": 10})
    write_classes(tmp_path / "test", {"b": 3})
    data = load(str(tmp_path))
    assert paths_of(data.test) == set((tmp_path / "test").glob("*/*"))
    assert data.test.labels.tolist() == [1, 1, 1]
    assert data.split["sizes"] == {"train": 18, "validation": 2, "test": 3}


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    write_classes(tmp_path, {"bus": 5, "train": 5})
    assert load(str(tmp_path)).class_names == ["bus", "train"]


def test_digest_tells_files_apart_wherever_the_folder_is(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_classes(tmp_path / name, {"a": 10, "b": 10})
    digests = [load(str(tmp_path / name)).split["digest"] for name in ("one", "two")]
    assert digests[0] == digests[1]
    (tmp_path / "two" / "a" / "000.png").rename(tmp_path / "two" / "a" / "00x.png")
    assert load(str(tmp_path / "two")).split["digest"] != digests[0]


def test_bad_files_are_named_or_skipped_and_counted(tmp_path: Path) -> None:
    write_classes(tmp_path, {"a": 10, "b": 10}, ".jpg")
    jpeg, text = tmp_path / "a" / "002.jpg", tmp_path / "b" / "notes.txt"
    picture(0, (64, 64)).save(jpeg)
    jpeg.write_bytes(jpeg.read_bytes()[:-900])
    text.write_text("not a picture")
    with pytest.raises(WideNetError, match=rf"{jpeg.name} is truncated .*2 bad .*skip_bad_files=true"):
        load(str(tmp_path))
    data = load(str(tmp_path), skip_bad_files=True)
    assert data.split["skipped_files"] == 2
    kept = paths_of(data.train) | paths_of(data.validation) | paths_of(data.test)
    assert len(kept) == 19 and not kept & {jpeg, text}
    jpeg.unlink()
    with pytest.raises(WideNetError, match=rf"{text.name} is not an image"):
        load(str(tmp_path))


def test_unchecked_files_fail_when_asked_for(tmp_path: Path) -> None:
    for name in ("train", "val", "test"):
        write_classes(tmp_path / name, {"a": 1, "b": 1})
    path = tmp_path / "test" / "b" / "000.png"
    path.write_bytes(b"")
    data = load(str(tmp_path), check_files=False)
    with pytest.raises(WideNetError, match=rf"{path} is not an image"):
        data.test.image(1)


def test_sixteen_bit_and_rotated_images(tmp_path: Path) -> None:
    Image.fromarray(np.full((2, 2), 0x80FF, np.uint16)).save(tmp_path / "deep.png")
    assert open_image(tmp_path / "deep.png").getpixel((0, 0)) == (0x80,) * 3
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turned by 90 degrees
    picture(0, (4, 8)).save(tmp_path / "phone.jpg", exif=exif)
    assert open_image(tmp_path / "phone.jpg").size == (4, 8)


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    def refused(name: str, match: str, **options: bool) -> None:
        with pytest.raises(WideNetError, match=match) as caught:
            load(str(tmp_path / name), **options)
        assert "\n" not in str(caught.value)

    refused("missing", "data set .*missing' does not exist")
    (tmp_path / "empty").mkdir()
    refused("empty", "is empty")
    (tmp_path / "flat").mkdir()
    picture(0).save(tmp_path / "flat" / "x.png")
    refused("flat", "no class sub-folders")
    refused("flat/x.png", "is a file")
    (tmp_path / "hollow" / "a").mkdir(parents=True)
    refused("hollow", "no images")
    write_classes(tmp_path / "one", {"cat": 5})
    refused("one", r"only one class \('cat'\)")
    write_classes(tmp_path / "small", {"a": 5, "rare": 2})
    refused("small", "class 'rare' .* 2 images; at least 3")
    write_classes(tmp_path / "loose", {"a": 5, "b": 5})
    picture(0).save(tmp_path / "loose" / "x.png")
    refused("loose", "x.png outside of class sub-folders")
    write_classes(tmp_path / "skipped", {"a": 5, "b": 5, "bad": 1})
    (tmp_path / "skipped" / "bad" / "000.png").write_text("?")
    refused("skipped", "class 'bad' .*no training images after skipping", skip_bad_files=True)
    write_classes(tmp_path / "other" / "train", {"a": 5, "b": 5})
    write_classes(tmp_path / "other" / "val", {"a": 5, "c": 5})
    refused("other", "class 'c' which the training images lack")
    write_classes(tmp_path / "headless" / "test", {"a": 5, "b": 5})
    refused("headless", "has test/ but no train/")
    for name in ("train", "val", "validation"):
        write_classes(tmp_path / "twice" / name, {"a": 1, "b": 1})
    refused("twice", "both val/ and validation/")
    write_classes(tmp_path / "unlabelled" / "train", {"a": 5, "b": 5})
    (tmp_path / "unlabelled" / "test").mkdir()
    refused("unlabelled", "test has no class sub-folders")


def test_unknown_name_gets_a_suggestion() -> None:
    with pytest.raises(WideNetError, match=r"'digts'; did you mean 'digits'\?.*data=PATH"):
        load("digts")
    for source in ("./nowhere", "../nowhere", "/nowhere/at/all", "a/b/c", "~nobody-here/x", ""):
        with pytest.raises(WideNetError, match="does not exist"):
            load(source)


def test_a_public_name_means_the_public_set_and_a_path_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_classes(tmp_path / "digits", {"a": 10, "b": 10})
    monkeypatch.chdir(tmp_path)
    assert load("./digits").class_names == ["a", "b"]
    assert caplog.messages == []
    assert len(load("digits").class_names) == 10
    assert caplog.messages == ["data=digits is the public data set; the folder of that name is data=./digits"]


@pytest.mark.parametrize(
    ("source", "nearest"),
    [
        ("./data/pest", "./data/pets"),
        ("data/pest/", "data/pets"),
        ("./dat/pets", "./data/pets"),  # the first missing part is the one that is mistyped
        ("./dat/pest", "./data"),
        ("~/data/pest", "~/data/pets"),
        ("date", "data"),
    ],
)
def test_a_mistyped_folder_names_the_nearest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, nearest: str
) -> None:
    (tmp_path / "data" / "pets").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WideNetError, match=rf"'{source}'.*; did you mean '{nearest}'\?"):
        load(source)


def test_a_mistyped_parent_that_looks_like_an_id_names_the_nearest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    def fail(name: str, **_: object) -> None:
        raise ConnectionError("down")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos" / "train").mkdir(parents=True)
    with pytest.raises(WideNetError, match=r"hub \(down\); did you mean 'photos/train'\?"):
        load("phtos/train")


@pytest.mark.parametrize("source", ["data/pets/", "~/data/pets", "~/data/pets/", "data//pets"])
def test_ways_to_write_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    write_classes(tmp_path / "data" / "pets", {"a": 10, "b": 10})
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    data, plain = load(source), load("data/pets")
    assert data.split == {**plain.split, "source": source}
    assert all(path.is_file() for path in paths_of(data.train))


def test_mistyped_path_does_not_ask_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked = []

    def fail(name: str, **_: object) -> None:
        asked.append(name)
        raise ConnectionError("down")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    for source in ("data/pets", "data/pets/"):
        with pytest.raises(WideNetError, match=f"data set '{source}' does not exist"):
            load(source)
    assert asked == []
    for source in ("hf:data/pets", "user/pets"):  # where the prefix or no such folder tells that it is an id
        with pytest.raises(WideNetError, match="Hugging Face hub"):
            load(source)
    assert asked == ["data/pets", "user/pets"]


# ---- Hugging Face data sets ----


def make_table(count: int, labels: list | None = None, names: tuple[str, ...] | None = ("b", "a")):
    import datasets

    kind = datasets.ClassLabel(names=list(names)) if names else datasets.Value("string")
    return datasets.Dataset.from_dict(
        {"photo": [picture(i) for i in range(count)], "label": labels or [i % 2 for i in range(count)]},
        features=datasets.Features({"photo": datasets.Image(), "label": kind}),
    )


def test_folder_of_save_to_disk(tmp_path: Path) -> None:
    make_table(30).save_to_disk(tmp_path / "set")
    data = load(str(tmp_path / "set"))
    assert isinstance(data.train, HubImages)
    assert data.class_names == ["b", "a"]
    assert data.split["sizes"] == {"train": 22, "validation": 2, "test": 6}
    pictures = {picture(i).tobytes(): i % 2 for i in range(30)}
    seen = set()
    for part in (data.train, data.validation, data.test):
        for index in range(len(part)):
            image = part.image(index)
            assert pictures[image.tobytes()] == part.labels[index]
            seen.add(image.tobytes())
    assert seen == set(pictures)
    again = load(str(tmp_path / "set"), split_seed=0)
    assert again.split["digest"] == data.split["digest"]


def test_parts_of_a_saved_data_set(tmp_path: Path) -> None:
    import datasets

    # the test part's labels are kept secret: the validation part becomes the test part
    tables = {"train": make_table(20), "validation": make_table(4), "test": make_table(6, [-1] * 6)}
    datasets.DatasetDict(tables).save_to_disk(tmp_path / "set")
    data = load(str(tmp_path / "set"))
    assert data.split["sizes"] == {"train": 18, "validation": 2, "test": 4}
    tables["test"] = make_table(6, [0, 1] * 3, ("b", "c"))
    datasets.DatasetDict(tables).save_to_disk(tmp_path / "other")
    with pytest.raises(WideNetError, match=r"test part .* another class, 'c'"):
        load(str(tmp_path / "other"))


def test_parquet_files_with_text_labels(tmp_path: Path) -> None:
    (tmp_path / "set" / "data").mkdir(parents=True)
    for name, count in (("train", 24), ("test", 6)):
        table = make_table(count, [("10", "9", "x")[i % 3] for i in range(count)], names=None)
        table.to_parquet(tmp_path / "set" / "data" / f"{name}-00000-of-00001.parquet")
    data = load(str(tmp_path / "set"), cache_dir=str(tmp_path / "cache"))
    assert data.class_names == ["x", "9", "10"]
    assert data.split["sizes"] == {"train": 21, "validation": 3, "test": 6}
    assert data.test.labels.tolist() == [2, 1, 0, 2, 1, 0]
    assert data.test.image(5).tobytes() == picture(5).tobytes()


def test_data_set_without_images_or_labels(tmp_path: Path) -> None:
    table = make_table(6)
    table.remove_columns("label").save_to_disk(tmp_path / "a")
    with pytest.raises(WideNetError, match="no column with a label; its columns are photo"):
        load(str(tmp_path / "a"))
    table.remove_columns("photo").save_to_disk(tmp_path / "b")
    with pytest.raises(WideNetError, match="no column with an image; its columns are label"):
        load(str(tmp_path / "b"))


@pytest.mark.parametrize("source", ["someone/pictures", "hf:pictures"])
def test_hub_unreachable(monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    import datasets

    def fail(name: str, **_: object) -> None:
        raise ConnectionError(f"Couldn't reach {name}\non the Hub")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(WideNetError, match=r"Couldn't reach \S*pictures on the Hub.*data=FOLDER") as caught:
        load(source)
    assert "\n" not in str(caught.value)


def test_datasets_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(WideNetError, match=r"pip install 'widenet\[datasets\]'"):
        load("someone/pictures")
