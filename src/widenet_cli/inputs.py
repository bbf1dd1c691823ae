"""What stands behind ``widenet predict RUN``: files, folders, texts, and files of them."""

import os
from pathlib import Path

from widenet_cli.show import fail, warn


def read_inputs(given: list[str], reads_images: bool) -> list[str]:
    """Return the single inputs, and say which cannot be read; one mistake of many does not stop the others.

    Args:
        given: image files or texts; folders of image files or of ``*.txt`` with a text a line; ``@FILE`` with an
            input a line. ``@@`` begins a text with @.
        reads_images: whether the inputs are images.

    Raises:
        WideNetError: none can be read.
    """
    from widenet.errors import WideNetError

    found: list[str] = []
    problems: list[str] = []
    for each in given:
        try:
            found += _expand(each, reads_images)
        except WideNetError as error:
            problems.append(str(error))
    if reads_images:
        found = [file for file in found if _is_image(file, problems)]
    if problems and not found:
        fail(problems[0] if len(problems) == 1 else f"{problems[0]}; {len(problems)} inputs, none can be read")
    for problem in problems:
        warn(f"skipped: {problem}")
    return found


def text_or_file(value: str) -> str:
    """Return a text given as itself, or as @ and the name of its file.

    Raises:
        WideNetError: the file cannot be read.
    """
    if not value.startswith("@"):
        return value
    try:
        return Path(value[1:]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        fail(f"{value[1:]} cannot be read: {error}")


def _expand(given: str, reads_images: bool) -> list[str]:
    if given.startswith("@@"):
        return [given[1:]]
    if given.startswith("@"):
        return _lines(given)
    if not os.path.isdir(given):
        return [given]
    from widenet.data.images.sets import looks_like_image

    inside = sorted(path for path in Path(given).rglob("*") if path.is_file())
    files = [str(path) for path in inside if not any(part[0] == "." for part in path.relative_to(given).parts)]
    files = [file for file in files if (looks_like_image(file) if reads_images else file.endswith(".txt"))]
    if not files:
        fail(f"{given} has no {'image files' if reads_images else 'files *.txt'}")
    return files if reads_images else [line for file in files for line in _lines(f"@{file}")]


def _lines(file: str) -> list[str]:
    lines = [line for line in text_or_file(file).splitlines() if line.strip()]
    if not lines:
        fail(f"{file[1:]} is empty")
    return lines


def _is_image(file: str, problems: list[str]) -> bool:
    from widenet.data.images.sets import open_image
    from widenet.errors import WideNetError

    try:
        open_image(Path(file))
    except WideNetError as error:
        problems.append(str(error))
        return False
    return True
