"""What the sources of images and of text have in common: cache, data sets of Hugging Face, holding out."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from widenet.errors import WideNetError, reason


def cache_folder(cache_dir: str | None) -> Path:
    """Return where downloads and tokenised corpora are kept: `cache_dir`, or ``~/.cache/widenet``."""
    return Path(cache_dir or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "widenet").expanduser()


def check_fractions(**fractions: float) -> None:
    """Raise WideNetError unless each share of the training part lies between 0 and 1."""
    for name, fraction in fractions.items():
        if not 0 < fraction < 1:
            raise WideNetError(f"{name} must lie between 0 and 1 (both excluded), not {fraction}")


# ---- Hugging Face data sets ----


def is_saved(folder: Path) -> bool:
    """Whether ``save_to_disk`` of ``datasets`` wrote a folder."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def has_tables(folder: Path) -> bool:
    """Whether a folder holds parquet or arrow files, itself or one level down."""
    return any(any(folder.glob(name)) for name in ("*.parquet", "*.arrow", "*/*.parquet", "*/*.arrow"))


def load_parts(
    name: str,
    place: tuple[str, ...],
    instead: str,
    saved: bool = False,
    revision: str | None = None,
    cache_dir: str | None = None,
) -> dict[str, Any]:
    """Return the parts of a Hugging Face data set by name; one without parts is called train.

    Args:
        name: of the set, for messages.
        place: its id on the hub or its folder and, where it has several, its configuration.
        instead: what a user can do who does not reach the hub.
        saved: :func:`is_saved` holds for the folder.
        revision: of the set on the hub.
        cache_dir: where ``datasets`` keeps downloads; its own place when None.

    Raises:
        WideNetError: ``datasets`` is not installed, or the set cannot be loaded.
    """
    try:
        import datasets
    except ImportError as error:
        raise WideNetError(f"{name} needs the package datasets: pip install 'widenet[datasets]'") from error
    chosen = {} if revision is None else {"revision": revision}
    try:
        if saved:
            loaded = datasets.load_from_disk(*place)
        else:
            loaded = datasets.load_dataset(*place, cache_dir=cache_dir, **chosen)
    except Exception as error:  # requests', httpx's, pyarrow's and datasets' own errors have no common base
        if Path(place[0]).is_dir():
            raise WideNetError(f"{name} cannot be read as a data set ({reason(error)})") from error
        raise WideNetError(
            f"{name} could not be loaded from the Hugging Face hub ({reason(error)}); {instead}"
        ) from error
    return dict(loaded) if isinstance(loaded, dict) else {"train": loaded}


# ---- holding out ----


def hold_out(
    source: str,
    labels: np.ndarray,
    class_names: list[str] | None,
    name: str,
    fraction: float,
    seed: int,
    example: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions 0 … n - 1 of the training examples as (kept, held out), both sorted.

    Args:
        source: for messages.
        labels: [n]; with class names they are stratified by.
        class_names: one name per class; None for numbers to predict.
        name: of the part that is held out.
        fraction: the share to hold out; at least one example, and of classes one of each.
        seed: settles which.
        example: what an example is called in messages.
    """
    from sklearn.model_selection import train_test_split

    present = np.unique(labels) if class_names is not None else labels[:1]
    # a stratified part has at least one example per class: more than the fraction of a small set
    size, classes = max(round(fraction * len(labels)), len(present)), None if class_names is None else labels
    try:
        kept, held = train_test_split(np.arange(len(labels)), test_size=size, stratify=classes, random_state=seed)
    except ValueError as error:
        raise WideNetError(
            f"{name}_fraction={fraction} cannot be held out of {source}, which has {len(labels)} {example}s to train "
            f"on ({reason(error)})"
        ) from error
    if class_names is not None:
        lost = np.setdiff1d(present, labels[kept])
        if len(lost):
            raise WideNetError(
                f"{name}_fraction={fraction} leaves no training {example} of class {class_names[lost[0]]!r}"
            )
    return np.sort(kept), np.sort(held)
