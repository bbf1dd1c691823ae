"""The pieces of HTML that the sections are made of, and numbers as a person reads them."""

from html import escape
from importlib import resources
from typing import Any

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


def page(title: str, body: str) -> str:
    """Return a whole page, with its style in it."""
    style = resources.files("widenet.reports").joinpath("style.css").read_text(encoding="utf-8")
    return PAGE.format(title=escape(title), style=f"\n{style}", body=body)


def section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>"


def table(rows: dict[str, Any]) -> str:
    cells = [
        f"<tr><th scope=row>{escape(str(key))}</th><td>{escape(str(value))}</td></tr>"
        for key, value in rows.items()
        if value is not None
    ]
    return f"<table>{''.join(cells)}</table>"


def grid(columns: list[str], rows: dict[str, list[str | None]]) -> str:
    """Return a table of values with a name for each column and row."""
    head = "".join(f"<th scope=col class=number>{escape(column)}</th>" for column in columns)
    body = "".join(
        f"<tr><th scope=row>{escape(name)}</th>"
        + "".join(f"<td class=number>{escape(value or '–')}</td>" for value in values)
        + "</tr>"
        for name, values in rows.items()
    )
    return f"<table class=grid><thead><tr><td></td>{head}</tr></thead><tbody>{body}</tbody></table>"


def fill(template: str, value: Any) -> str | None:
    return None if value is None else template.format(value)


def short(number: float) -> str:
    """14,636,928 → 14.6 million."""
    for size, word in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if number >= size:
            return f"{number / size:.3g} {word}"
    return f"{number:,}"


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
