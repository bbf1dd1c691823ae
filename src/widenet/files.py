"""Files that are written whole or not at all."""

import json
from pathlib import Path
from typing import Any


def write_json(file: Path, value: dict[str, Any]) -> None:
    """Write a JSON file whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    write_text(file, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_text(file: Path, text: str) -> None:
    """Write a text file whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    partial = file.with_name(f"{file.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
