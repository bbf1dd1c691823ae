"""What stands behind ``widenet predict RUN``: files, folders, texts, and files of them."""

from pathlib import Path

from widenet_cli.show import fail, warn


def expand(inputs: list[str], reads_images: bool) -> list[str]:
    """Return the single inputs: of @FILE each line, and for a model of images the image files of a folder."""
    found: list[str] = []
    for text in inputs:
        if text.startswith("@"):
            found += [line for line in text_or_file(text).splitlines() if line.strip()]
        elif reads_images and Path(text).is_dir():
            found += _images_of(Path(text))
        else:
            found.append(text)
    return found


def text_or_file(value: str) -> str:
    """Return a text given as itself, or as @ and the name of its file."""
    if not value.startswith("@"):
        return value
    try:
        return Path(value[1:]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        fail(f"{value[1:]} cannot be read: {error}")


def readable_images(files: list[str]) -> list[str]:
    """Return the files that are images, and say which are not; one mistake of many does not stop the others."""
    from widenet.data.images.sets import open_image
    from widenet.errors import WideNetError

    good, problems = [], []
    for file in files:
        try:
            open_image(Path(file))
            good.append(file)
        except WideNetError as error:
            problems.append(str(error))
    if problems and not good:
        fail(problems[0] if len(problems) == 1 else f"{problems[0]}; none of the {len(problems)} files is an image")
    for problem in problems:
        warn(f"skipped: {problem}")
    return good


def _images_of(folder: Path) -> list[str]:
    from widenet.data.images.sets import looks_like_image

    found = sorted(str(path) for path in folder.rglob("*") if path.is_file() and looks_like_image(str(path)))
    if not found:
        fail(f"{folder} has no image files")
    return found
