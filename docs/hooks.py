"""What the site needs that Markdown cannot say: the README as its first page, and docstrings with Sphinx's roles."""

import re
from html import escape
from pathlib import Path
from typing import Any

from griffe import Extension, NameResolutionError, Object
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
START = "index.md"
ROLE = re.compile(r":[a-z]+:`(~?)([^`]+)`")
TOGETHER = re.compile(r"^( +)(\w+(?:, \w+)+)(: .*(?:\n\1 .*)*)", re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Make the README the first page, unless there is one, and leave out of the navigation what does not exist."""
    if START not in files.src_uris:
        files.append(File.generated(config, START, content=first_page()))
    config.nav = existing(config.nav or [], set(files.src_uris))
    return files


def first_page() -> str:
    """Return the README with its links as they are from docs/; what lies outside docs/ is named, not linked."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"\[([^\[\]]*)\]\((?!https?:|#|docs/)[^)]+\)", r"\1", text)
    return re.sub(r"""(\]\(|=["'])docs/""", r"\1", text)


def existing(nav: list[Any], pages: set[str]) -> list[Any]:
    """Return the navigation without the pages and sections that are not there."""
    kept = []
    for entry in nav:
        ((title, target),) = entry.items()
        target = existing(target, pages) if isinstance(target, list) else target if target in pages else None
        if target:
            kept.append({title: target})
    return kept


class Docstrings(Extension):
    """Read the docstrings as they are meant."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        """Turn :func:`name` into a link, if it is in the reference, and give each parameter its own line."""
        if obj.docstring is None:
            return
        text = ROLE.sub(lambda match: self._link(obj, *match.groups()), obj.docstring.value)
        text = TOGETHER.sub(lambda match: "\n".join(match[1] + name + match[3] for name in match[2].split(", ")), text)
        if obj.is_class and "__init__" not in obj.members:  # a config's arguments are its fields
            text = text.replace("\nArgs:\n", "\nAttributes:\n")
        obj.docstring.value = text

    def _link(self, obj: Object, short: str, name: str) -> str:
        first, *rest = name.split(".")
        try:
            path = ".".join([obj.resolve(first), *rest])
        except NameResolutionError:
            path = name
        text = escape(name.rsplit(".", 1)[-1] if short else name)
        return f'<autoref identifier="{escape(path)}" optional><code>{text}</code></autoref>'
