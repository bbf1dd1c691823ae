"""The documents show what the commands print."""

import re
from pathlib import Path

import pytest
import yaml

from widenet import WideNetTextConfig, create_config
from widenet.models.tables import describe_paper, describe_presets

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def _rows(text: str) -> set[tuple[str, ...]]:
    lines = (line for line in text.splitlines() if line.startswith("| "))
    return {tuple(cell.strip().strip("`") for cell in line.strip("|").split("|")) for line in lines}


def test_models_page_shows_the_tables() -> None:
    rows = _rows((ROOT / "docs/models.md").read_text(encoding="utf-8"))
    for preset in describe_presets():
        is_text = isinstance(create_config(preset["model"]), WideNetTextConfig)
        cells = (
            preset["model"],
            f"{preset['parameters']:,}",
            f"{preset['active_parameters']:,}",
            *([str(preset["tokens"])] if is_text else []),
            f"{preset['GFLOPs']:.3f}",
            f"{preset['active_GFLOPs']:.3f}",
            preset["published"] or "",
            str(preset["text_average" if is_text else "ImageNet_top1"] or ""),
        )
        assert cells in rows
    for row in describe_paper():
        name = (row["table"], row["row"], row["model"])
        size = (f"{row['parameters']:,}", row["published"])
        if row["scores"]:
            scores = [score.split("=")[1] for score in row["scores"].split()]
            assert (*name, *size, *scores) in rows
        else:
            assert (*name, row["overrides"], *size, str(row["top1"] or ""), row["note"]) in rows


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


def _anchors(document: Path) -> set[str]:
    """Return the anchors that GitHub and the site give to a page's headings."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_headings(document: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!http)([^)#]*)#([^)]+)\)", document.read_text(encoding="utf-8")):
        page = document.parent / target if target else document
        assert anchor in _anchors(page), f"{document.name} links to {target}#{anchor}"


def test_the_charts_numbers_stand_in_the_lab_notes() -> None:
    for entry in yaml.safe_load((ROOT / "benchmarks/results.yaml").read_text(encoding="utf-8")):
        page, anchor = entry["link"].split("#")
        text = (ROOT / page).read_text(encoding="utf-8")
        assert anchor in _anchors(ROOT / page)
        assert f"{entry['parameters']:,}" in text and f"{entry['value']:.2f} %" in text
        assert all(f"{value:.2f}" in text for value in entry.get("seeds", ()))


def test_the_files_that_the_readme_names_exist() -> None:
    named = re.findall(r"`(src/[\w/.]+)`", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(named) >= 6
    assert all((ROOT / name).exists() for name in named)
