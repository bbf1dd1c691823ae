"""The one exception for a user's mistake, and the helpers that word it.

Library code raises :class:`WideNetError` with a single line that names the offending value and what
is allowed; the command line prints that line and exits with code 2.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class WideNetError(ValueError):
    """A mistake in what the user asked for: bad value, missing file, mismatched model."""


def unknown(kind: str, name: object, allowed: Iterable[str]) -> WideNetError:
    """Return the error for a name that does not exist, with the nearest name that does.

    Args:
        kind: what was looked up, for example ``"preset"``.
        name: what the user wrote.
        allowed: every valid name.
    """
    names = list(allowed)
    near = get_close_matches(str(name), names, n=5, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    if len(names) > 20 and near:  # a terminal full of names helps nobody
        return WideNetError(f"unknown {kind} {str(name)!r}{hint} Nearest of {len(names)}: {', '.join(near)}.")
    return WideNetError(f"unknown {kind} {str(name)!r}{hint} Allowed: {', '.join(names)}.")


def reason(error: BaseException) -> str:
    """Return another error's message as a single, short line, to quote it."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."
