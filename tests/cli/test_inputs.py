"""What `widenet predict` reads: files, folders, lists and texts."""

from pathlib import Path

import pytest
from PIL import Image

from widenet.errors import WideNetError
from widenet_cli.inputs import read_inputs


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("b.png", "a.jpg", "inner/c.PNG", ".hidden/d.png", "inner/._e.png"):
        Path(name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(name)
    Path("bad.png").write_text("no image")
    Path("notes.txt").write_text("It was good.\n\n  It was bad.\n")
    Path("list.txt").write_text("b.png\nnone.png\n\na.jpg\n")
    Path("blank.txt").write_text("\n \n")
    Path("latin1.txt").write_bytes(b"caf\xe9")
    Path("empty").mkdir()
    Path("texts/more").mkdir(parents=True)
    Path("texts/1.txt").write_text("one\ntwo\n")
    Path("texts/more/2.txt").write_text("three\n")
    return tmp_path


def test_images_of_folders_and_lists(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert read_inputs(["b.png", "inner"], True) == ["b.png", "inner/c.PNG"]
    assert capsys.readouterr().err == ""
    assert read_inputs(["."], True) == ["a.jpg", "b.png", "inner/c.PNG"]
    assert capsys.readouterr().err == "widenet: skipped: bad.png is not an image (cannot identify image file)\n"
    assert read_inputs(["@list.txt"], True) == ["b.png", "a.jpg"]
    assert capsys.readouterr().err == "widenet: skipped: none.png does not exist\n"


def test_what_cannot_be_read_is_named_and_the_rest_is_read(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["empty", "@none.txt", "@latin1.txt", "@blank.txt", "bad.png", "a.jpg"]
    assert read_inputs(given, True) == ["a.jpg"]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 5
    for name, line in zip(["empty", "none.txt", "latin1.txt", "blank.txt", "bad.png"], lines, strict=True):
        assert line.startswith(f"widenet: skipped: {name} ")


def test_texts_of_lists_and_folders(here: Path) -> None:
    assert read_inputs(["A text.", "@notes.txt"], False) == ["A text.", "It was good.", "  It was bad."]
    assert read_inputs(["texts"], False) == ["one", "two", "three"]
    assert read_inputs(["@@home it is quiet", ""], False) == ["@home it is quiet", ""]


@pytest.mark.parametrize(
    ("given", "images", "expected"),
    [
        (["empty"], True, "empty has no image files"),
        (["empty"], False, r"empty has no files \*\.txt"),
        (["bad.png"], True, "bad.png is not an image"),
        (["@blank.txt"], False, "blank.txt is empty"),
        (["bad.png", "none.png"], True, "bad.png is not an image .*; 2 inputs, none can be read"),
    ],
)
def test_nothing_to_read_is_a_mistake(here: Path, given: list[str], images: bool, expected: str) -> None:
    with pytest.raises(WideNetError, match=expected):
        read_inputs(given, images)
