"""Readers: from a name, a folder or a Hugging Face data set to the parts which it has, before any split."""

import gzip
import os
import pickle
import re
import shutil
import socket
import struct
import tempfile
import zlib
from collections.abc import Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from widenet.data.common import cache_folder, has_tables, is_saved, load_parts
from widenet.data.images.sets import ArrayImages, FileImages, HubImages, ImageSet, Source, open_image
from widenet.errors import WideNetError, reason

DIGITS = [str(digit) for digit in range(10)]
FASHION = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"]
FASHION += ["Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
# name: (class in torchvision.datasets, folder which that class fills under its root)
DOWNLOADS = {
    "mnist": ("MNIST", "MNIST"),
    "fashion-mnist": ("FashionMNIST", "FashionMNIST"),
    "cifar10": ("CIFAR10", "cifar-10-batches-py"),
    "cifar100": ("CIFAR100", "cifar-100-python"),
}
NAMES = ["digits", *DOWNLOADS]
VALIDATION_NAMES = ("val", "valid", "validation")
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "classes", "target", "category")
# _codecs.encode is how Python 3 writes bytes for Python 2
PICKLE_ALLOWED = {"numpy.ndarray", "numpy.dtype", "numpy._core.multiarray._reconstruct", "_codecs.encode"}
DOWNLOAD_TIMEOUT = 20.0  # seconds without an answer


# ---- known names and their original files ----


def read_digits() -> Source:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return Source(DIGITS, ArrayImages(np.round(digits.images * 255 / 16).astype(np.uint8), digits.target))


def download(name: str, cache_dir: str | None) -> Source:
    """Read a known set from the cache; fetch it with torchvision first if it is not there."""
    kind, folder_name = DOWNLOADS[name]
    cache = cache_folder(cache_dir)
    folder = cache / folder_name
    if not folder.exists():
        timeout = socket.getdefaulttimeout()
        try:
            import torchvision

            cache.mkdir(parents=True, exist_ok=True)
            # torchvision has no timeout, and takes half a file for a whole one at its next try: hence the
            # timeout, and a folder that takes its final name only when it is complete
            socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
            with tempfile.TemporaryDirectory(dir=cache, prefix=".download-") as staging:
                getattr(torchvision.datasets, kind)(staging, download=True)
                if not folder.exists():  # another process may have been first
                    shutil.move(Path(staging) / folder_name, folder)
        except Exception as error:
            raise WideNetError(
                f"{name} could not be downloaded to {cache} ({reason(error)}); a folder with its original "
                f"files can be given instead: data=FOLDER"
            ) from error
        finally:
            socket.setdefaulttimeout(timeout)
    if name.startswith("cifar"):
        return _read_cifar(folder)
    return _read_idx(folder / "raw", FASHION if name == "fashion-mnist" else DIGITS)


def _read_idx(folder: Path, class_names: list[str]) -> Source:
    """Read the four files of the MNIST family."""
    parts = {}
    for part, prefix in (("train", "train"), ("test", "t10k")):
        pixels = _read_idx_file(folder, f"{prefix}-images-idx3-ubyte", 3)
        labels = _read_idx_file(folder, f"{prefix}-labels-idx1-ubyte", 1)
        parts[part] = _checked_array(folder / f"{prefix}-labels-idx1-ubyte", pixels, labels, class_names)
    return Source(class_names, parts["train"], test=parts["test"])


def _checked_array(path: Path, pixels: np.ndarray, labels: Any, class_names: list[str]) -> ArrayImages:
    labels = np.asarray(labels, dtype=np.int64)
    if labels.shape != (len(pixels),) or not len(pixels):
        raise WideNetError(f"{path} has {labels.size} labels for {len(pixels)} images")
    if labels.min() < 0 or labels.max() >= len(class_names):
        raise WideNetError(f"{path} has labels {labels.min()} to {labels.max()}, not 0 to {len(class_names) - 1}")
    return ArrayImages(pixels, labels)


def _read_idx_file(folder: Path, name: str, dimensions: int) -> np.ndarray:
    """Return an IDX file, plain or gz, as uint8 with `dimensions` dimensions."""
    path = next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)
    if path is None:
        raise WideNetError(f"{folder} lacks the file {name} (or {name}.gz)")
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise WideNetError(f"{path} is truncated or damaged ({reason(error)})") from error
    start = 4 + 4 * dimensions
    # the magic number is two zero bytes, 8 for "unsigned byte", and the number of dimensions
    if len(data) < start or data[:4] != bytes([0, 0, 8, dimensions]):
        raise WideNetError(f"{path} is not an IDX file of unsigned bytes with {dimensions} dimensions")
    shape = struct.unpack(f">{dimensions}I", data[4:start])
    if len(data) - start != np.prod(shape, dtype=object):
        problem = "is truncated" if len(data) - start < np.prod(shape, dtype=object) else "is too long"
        wanted = " x ".join(map(str, shape))
        raise WideNetError(f"{path} {problem}: {len(data) - start} bytes of data for a header of {wanted}")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _read_cifar(folder: Path) -> Source:
    """Read the Python version of CIFAR-10 or CIFAR-100."""
    if (folder / "batches.meta").is_file() or (folder / "data_batch_1").is_file():
        train, test, meta = [f"data_batch_{i}" for i in range(1, 6)], ["test_batch"], "batches.meta"
        labels_key, names_key = "labels", "label_names"
    else:
        train, test, meta = ["train"], ["test"], "meta"
        labels_key, names_key = "fine_labels", "fine_label_names"
    (class_names,) = _read_pickle(folder / meta, names_key)
    parts = {}
    for part, files in (("train", train), ("test", test)):
        batches = []
        for path in (folder / file for file in files):
            data, labels = _read_pickle(path, "data", labels_key)
            if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape[1:] != (3072,):
                raise WideNetError(f"{path} does not hold 3072 bytes per image")
            pixels = data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
            batches.append(_checked_array(path, pixels, labels, class_names))
        pixels = np.concatenate([batch.pixels for batch in batches])
        parts[part] = ArrayImages(pixels, np.concatenate([batch.labels for batch in batches]))
    return Source([str(name) for name in class_names], parts["train"], test=parts["test"])


class _ArrayUnpickler(pickle.Unpickler):
    """Reads numpy arrays and plain containers; a pickle that names anything else is refused."""

    def find_class(self, module: str, name: str) -> Any:
        module = re.sub(r"^numpy\.core\.", "numpy._core.", module)
        if f"{module}.{name}" not in PICKLE_ALLOWED:
            raise WideNetError(f"it refers to {module}.{name}, which is not part of an array")
        return super().find_class(module, name)


def _read_pickle(path: Path, *keys: str) -> list[Any]:
    """Return the values at `keys` of a pickled dictionary, without running code that the file names."""
    try:
        with path.open("rb") as file:
            content = _ArrayUnpickler(file, encoding="latin1").load()
        return [content[key] for key in keys]
    except FileNotFoundError as error:
        raise WideNetError(f"{path.parent} lacks the file {path.name}") from error
    except WideNetError as error:
        raise WideNetError(f"{path} is not a CIFAR file: {error}") from error
    except Exception as error:  # a damaged pickle can raise anything
        raise WideNetError(f"{path} is not a CIFAR file or is truncated ({reason(error)})") from error


# ---- folders ----


def read_image_folder(folder: Path, cache_dir: str | None, check: bool, skip: bool, labelled: bool = True) -> Source:
    """Tell by its files what a folder holds, and read it; unless ``labelled``, it may hold plain images."""
    for place in (folder, folder / "raw"):
        if any(place.glob("*-idx[13]-ubyte*")):
            return _read_idx(place, FASHION if "fashion" in str(place.resolve()).lower() else DIGITS)
    for place in (folder, folder / "cifar-10-batches-py", folder / "cifar-100-python"):
        cifar10 = (place / "batches.meta").is_file() or (place / "data_batch_1").is_file()
        if cifar10 or ((place / "train").is_file() and (place / "meta").is_file()):
            return _read_cifar(place)
    if is_saved(folder):
        return read_hub((str(folder),), cache_dir, saved=True)
    if has_tables(folder):
        return read_hub((str(folder.resolve()),), cache_dir)
    return _read_class_folders(folder, check, skip, labelled)


def _read_class_folders(root: Path, check: bool, skip: bool, labelled: bool) -> Source:
    folders = _sub_folders(root)
    split_names = {"train", "test", *VALIDATION_NAMES}
    # a class may be called "train", too: then that folder holds images and has other classes beside it
    if not labelled and not folders:
        places = {"train": "."}
    elif set(folders) <= split_names or ("train" in folders and _sub_folders(root / "train")):
        validations = [name for name in VALIDATION_NAMES if name in folders]
        if len(validations) > 1:
            raise WideNetError(f"{root} has both {validations[0]}/ and {validations[1]}/; keep one of them")
        if folders and "train" not in folders:
            raise WideNetError(f"{root} has {folders[0]}/ but no train/")
        places = {"train": "train", "test": "test", "validation": "".join(validations)}
        places = {part: name for part, name in places.items() if name in folders}
    else:
        places = {"train": "."}
    if not places:
        raise WideNetError(f"{root} {'has no class sub-folders' if any(root.iterdir()) else 'is empty'}")

    class_names = _sub_folders(root / places["train"])
    if labelled or class_names:
        files = {part: _class_files(root / place, class_names) for part, place in places.items()}
    else:
        class_names = [root.name]
        files = {part: _plain_files(root / place) for part, place in places.items()}
    bad = _bad_files([path for paths, _ in files.values() for path in paths]) if check else {}
    if bad and not skip:
        raise WideNetError(
            f"{next(iter(bad.values()))}; {len(bad)} bad file(s) in all, which data.skip_bad_files=true leaves out"
        )
    parts = {}
    for part, (paths, labels) in files.items():
        good = [index for index, path in enumerate(paths) if path not in bad]
        parts[part] = FileImages(paths, np.array(labels)).subset(np.array(good, dtype=np.int64))
    if not len(parts["train"]):
        raise WideNetError(f"{root / places['train']} has no images")
    empty = np.setdiff1d(np.arange(len(class_names)), parts["train"].labels)
    if len(empty):
        after = " after skipping bad files" if bad else ""
        raise WideNetError(f"class {class_names[empty[0]]!r} of {root} has no training images{after}")
    return Source(class_names, parts["train"], parts.get("validation"), parts.get("test"), len(bad), root)


def _ignored(name: str) -> bool:
    return name.startswith(".") or name.lower() in ("thumbs.db", "desktop.ini", "__macosx")


def _sub_folders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not _ignored(path.name))


def _class_files(folder: Path, class_names: list[str]) -> tuple[list[Path], list[int]]:
    """Return every file in the class folders of one part, sorted, and its label."""
    found = _sub_folders(folder)
    other = [name for name in found if name not in class_names]
    if other:
        raise WideNetError(f"{folder} has a class {other[0]!r} which the training images lack")
    loose = [path.name for path in folder.iterdir() if path.suffix.lower() in Image.registered_extensions()]
    loose = sorted(name for name in loose if name not in found and not _ignored(name))
    if loose or not found:
        problem = f"has the image {loose[0]} outside of" if loose else "has no"
        raise WideNetError(f"{folder} {problem} class sub-folders")
    paths: list[Path] = []
    labels: list[int] = []
    for name in found:
        for parent, sub_folders, files in os.walk(folder / name, followlinks=True):
            sub_folders[:] = sorted(sub for sub in sub_folders if not _ignored(sub))
            paths += [Path(parent, file) for file in sorted(files) if not _ignored(file)]
        labels += [class_names.index(name)] * (len(paths) - len(labels))
    return paths, labels


def _plain_files(folder: Path) -> tuple[list[Path], list[int]]:
    """Return the image files of a folder without classes, sorted, all with the same label."""
    known = Image.registered_extensions()
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in known and not _ignored(path.name))
    return paths, [0] * len(paths)


def _bad_files(paths: list[Path]) -> dict[Path, str]:
    """Decode every file; return what is wrong with each that fails, in the order of `paths`."""

    def problem(path: Path) -> str | None:
        try:
            open_image(path)
            return None
        except WideNetError as error:
            return str(error)

    with ThreadPool() as pool:
        problems = pool.imap(problem, paths, chunksize=16)
        return {path: text for path, text in zip(paths, problems, strict=True) if text is not None}


# ---- Hugging Face data sets ----


def read_hub(place: tuple[str, ...], cache_dir: str | None, saved: bool = False) -> Source:
    """Read a data set from the hub, a folder of parquet or arrow files, or (`saved`) of ``save_to_disk``."""
    name = ":".join(place)
    tables = load_parts(name, place, "a local folder can be given instead: data=FOLDER", saved, cache_dir=cache_dir)
    if "train" not in tables and len(tables) == 1:
        tables = {"train": next(iter(tables.values()))}
    if "train" not in tables:
        raise WideNetError(f"{name} has the parts {', '.join(tables)}, but none called train")

    import datasets

    image, label = _hub_columns(name, tables["train"].features)
    class_names: list[str] = []
    parts: dict[str, ImageSet] = {}
    names = {"train": ("train",), "validation": (*VALIDATION_NAMES, "dev"), "test": ("test",)}
    for part, keys in names.items():
        table = next((tables[key] for key in keys if key in tables), None)
        if table is None:
            continue
        if not {image, label} <= set(table.features):
            raise WideNetError(f"the {part} part of {name} lacks the column {image!r} or {label!r}")
        classes = _row_classes(table, label)
        if part == "train":
            # numbers in their own order: "10" comes after "9"
            found = sorted(
                {value for value in classes if value is not None},
                key=lambda value: (int(value) if value.isdecimal() else -1, value),
            )
            class_names = list(getattr(table.features[label], "names", None) or found)
        elif not any(value is not None for value in classes):
            continue  # a part whose labels are kept secret is as good as none
        numbers: dict[str | None, int] = {value: number for number, value in enumerate(class_names)}
        other = next((row for row, value in enumerate(classes) if value not in numbers), None)
        if other is not None:
            problem = "is not labelled" if classes[other] is None else f"has another class, {classes[other]!r}"
            raise WideNetError(f"row {other} of the {part} part of {name} {problem}")
        pictures = table.with_format(None).select_columns([image]).cast_column(image, datasets.Image())
        parts[part] = HubImages(pictures, image, np.array([numbers[value] for value in classes]))
    return Source(class_names, parts["train"], parts.get("validation"), parts.get("test"))


def _hub_columns(name: str, features: Any) -> tuple[str, str]:
    """Return the names of the image column and of the label column."""
    import datasets

    images = [key for key, kind in features.items() if isinstance(kind, datasets.Image)]
    # parquet files that were not written by `datasets` hold the encoded file as bytes and path
    images += [key for key, kind in features.items() if isinstance(kind, dict) and set(kind) == {"bytes", "path"}]
    plain = re.compile("(large_)?string|u?int")
    labels = [
        key
        for key in LABEL_COLUMNS
        if key in features and plain.match(str(getattr(features[key], "dtype", "")))  # ClassLabel: int64
    ]
    labels += [key for key, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    for what, found in (("an image", images), ("a label", labels)):
        if not found:
            raise WideNetError(f"{name} has no column with {what}; its columns are {', '.join(features)}")
    return images[0], labels[0]


def _row_classes(table: Any, column: str) -> list[str | None]:
    """Return each row's class name; None where the row is not labelled."""
    values = table.with_format(None).select_columns([column])[:][column]
    names: Sequence[str] | None = getattr(table.features[column], "names", None)
    if names is None:
        return [None if value is None else str(value) for value in values]
    return [None if value is None or value < 0 else names[value] for value in values]
