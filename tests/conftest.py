"""What several test files use."""

import sys
from collections.abc import Callable
from typing import NamedTuple

import pytest

import widenet_cli


class Result(NamedTuple):
    """What a command line did: its exit code and what it printed."""

    code: int
    out: str
    err: str


@pytest.fixture
def widenet(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Return a function that runs a command line as the installed script does."""

    def call(*words: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["widenet", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            widenet_cli.main()
            sys.exit(0)
        out, err = capsys.readouterr()
        code = caught.value.code
        return Result(code if isinstance(code, int) else int(code is not None), out, err)

    return call
