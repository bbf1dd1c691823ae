"""What a person sees: tables, JSON, consoles and errors."""

import json
import sys
import textwrap
from collections.abc import Iterable
from typing import Any, NoReturn, TextIO

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


def stop(message: str, code: int) -> NoReturn:
    """Print a line on stderr and end with an exit code."""
    warn(message)
    sys.exit(code)


def warn(message: str) -> None:
    """Print a line on stderr."""
    print(f"widenet: {message}", file=sys.stderr)


def fail(message: str) -> NoReturn:
    """Raise the error of a user's mistake."""
    from widenet.errors import WideNetError

    raise WideNetError(message)


def print_json(value: Any) -> None:
    """Print a value as JSON, in the letters it has."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(rows: list[dict[str, Any]], as_json: bool = False) -> None:
    """Print rows, which need not all have the same keys, as a table or as JSON."""
    if as_json:
        return print_json(rows)
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    columns = list(dict.fromkeys(key for row in rows for key in row))
    for column in columns:
        numeric = all(_is_number(row.get(column)) for row in rows)
        table.add_column(column.replace("_", " "), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row.get(column)) for column in columns))
    console().print(table)


def print_notes(notes: Iterable[tuple[str, ...]]) -> None:
    """Print notes: what each is about in a line, and below it, indented, what is said of it."""
    width = console().width
    for title, *texts in notes:
        print(title)
        text = "; ".join(filter(None, texts))
        print(textwrap.fill(text, width, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False))


def console(stream: TextIO | None = None) -> Any:
    """Return a rich console, for stdout by default."""
    from rich.console import Console

    stream = stream or sys.stdout
    # In a file or a pipe a line must not be cut at 80 columns.
    return Console(file=stream, width=None if stream.isatty() else 200, highlight=False, markup=False)


def seconds_as_text(seconds: float) -> str:
    """Return a time as a person reads it."""
    from widenet.reports.markup import duration

    return duration(seconds)


def quiet() -> None:
    """Keep libraries' progress bars and deprecation notes out of a person's terminal."""
    import warnings

    from transformers.utils import logging

    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)


def _is_number(value: Any) -> bool:
    """Whether a value is a number, or the text of one."""
    return not isinstance(value, str) or value[:-1].replace(".", "").lstrip("-").isdecimal()


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
