"""The one exception for a user's mistake, and the helpers that word it.

Library code raises :class:`WideNetError` with a single line that names the offending value and what
is allowed; the command line prints that line and exits with code 2.
"""

from collections.abc import Iterable
from difflib import SequenceMatcher
from heapq import nlargest


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
    alike = {each: _likeness(str(name), each) for each in names}
    near = [each for each in nlargest(5, alike, key=lambda each: alike[each]) if alike[each] >= 0.5]
    hint = f"; did you mean {near[0]!r}?" if near else "."
    if len(names) > 20 and near:  # a terminal full of names helps nobody
        return WideNetError(f"unknown {kind} {str(name)!r}{hint} Nearest of {len(names)}: {', '.join(near)}.")
    return WideNetError(f"unknown {kind} {str(name)!r}{hint} Allowed: {', '.join(names)}.")


def _likeness(asked: str, name: str) -> float:
    """Return how alike two names are, from 0 to 1; of a dotted name a person may know the last part alone."""
    pairs = ((asked, name), (asked.rpartition(".")[2], name.rpartition(".")[2]))
    return max(SequenceMatcher(None, *pair).ratio() for pair in pairs)


def reason(error: BaseException) -> str:
    """Return another error's message as a single, short line, to quote it."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."
