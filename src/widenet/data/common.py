"""What the sources of images and of text have in common: names, cache, Hugging Face data sets, holding out."""

import logging
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from widenet.errors import WideNetError, reason, unknown


def cache_folder(cache_dir: str | None) -> Path:
    """Return where downloads and tokenised corpora are kept: `cache_dir`, or ``~/.cache/widenet``."""
    return Path(cache_dir or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "widenet").expanduser()


# ---- what the user wrote ----


def find_data(source: str, public: Iterable[str], kind: str) -> str | Path | tuple[str, ...]:
    """Tell what ``data=`` names: a public set, a path, or an id on the Hugging Face hub.

    A public name means the same on every machine, so it goes before a folder here of that name, which is
    ``./name``; a line in the log says so. Among the others, what exists here goes before the hub.

    Args:
        source: what the user wrote.
        public: the names of the public sets.
        kind: what is looked for, in messages.

    Returns:
        The public name; the path, which exists; or the id and, where one is given, the configuration
        (``user/name``, ``user/name:config``, ``hf:name``).

    Raises:
        WideNetError: it is none of them; names the nearest names and paths that are.
    """
    names, path = list(public), Path(os.path.expanduser(source))
    if source in names:
        if path.is_dir():
            logging.getLogger(__name__).warning(
                "data=%s is the public data set; the folder of that name is data=./%s", source, source
            )
        return source
    if source and path.exists():  # Path("") is the current folder
        return path
    hub, looks_like_id = source.removeprefix("hf:"), re.fullmatch(r"\w[\w.-]*/\w[\w.-]*(:[\w.-]+)?", source)
    # beside a folder that exists it is a mistyped path rather than an id; without network the hub takes long
    if hub and (hub != source or (looks_like_id and not path.parent.is_dir())):
        return tuple(hub.split(":", 1))
    if source[:1] in ("", ".", "~") or "/" in source or os.sep in source or path.suffix:
        error = no_such(source, kind)
        raise WideNetError(f"{error}; as a Hugging Face id it is hf:{source}") if looks_like_id else error
    raise WideNetError(f"{unknown(kind, source, [*names, *_near(source)])} A path can be given, too: data=PATH.")


def no_such(path: str | Path, kind: str = "file") -> WideNetError:
    """Return the error for a path that does not exist, with the nearest one that does."""
    near = _near(str(path))
    return WideNetError(f"{kind} {str(path)!r} does not exist{f'; did you mean {near[0]!r}?' if near else ''}")


def _near(path: str) -> list[str]:
    """Return the paths that exist where the first missing part of this one is written a little differently."""
    parent, name = os.path.split(path.rstrip(os.sep))
    rest = ""
    while parent and not os.path.isdir(os.path.expanduser(parent)):
        rest = os.path.join(name, rest)
        parent, name = os.path.split(parent)
    names: list[str] = []
    with suppress(OSError):  # not to be listed: nothing to suggest
        names = sorted(entry.name for entry in islice(os.scandir(os.path.expanduser(parent) or "."), 10_000))
    near = [os.path.join(parent, found) for found in get_close_matches(name, names)]
    whole = [os.path.join(found, rest).rstrip(os.sep) for found in near]
    return [path for path in whole if os.path.exists(os.path.expanduser(path))] or near


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
        near = _near(place[0])
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise WideNetError(
            f"{name} could not be loaded from the Hugging Face hub ({reason(error)}){hint}; {instead}"
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
