"""Run every command and snippet of README.md and docs/*.md, on small data.

    python tools/docs_check.py                    all pages
    python tools/docs_check.py docs/widen.md      some
    python tools/docs_check.py --keep DIR         leave the folders there, to look into

Each page gets a folder of its own with stand-ins for the data that the pages name (:mod:`standins`). Its blocks run
in order: ``shell`` (or ``bash``), and ``python`` in one session. Training is cut to a few steps (``SHORT``). Blocks in
any other language are text. A comment on the line above a block leaves it out; a comment of its own runs what a reader
does not see:

    <!-- docs-check: skip, needs the hub -->
    <!-- docs-check: setup
    widenet train digits --output runs/digits
    -->

``widenet`` on the PATH of a block is a few lines that hand their arguments to a process which has loaded PyTorch once
and forks for every command, because loading it a hundred times would take ten minutes.
"""

import argparse
import json
import multiprocessing
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent
SHELLS = ("shell", "bash")
LIMIT = 300  # seconds of a block
SHORT = ("training.max_steps=2", "training.eval_steps=2", "training.batch_size=4", "data.num_workers=0")
PUBLIC = {"fashion-mnist": "./fashion-mnist"}  # recipe or data set that would be downloaded: its stand-in

BLOCK = re.compile(
    r"<!-- docs-check: setup\n(?P<setup>.*?)-->|(?:<!-- docs-check: skip,? ?(?P<skip>.*?) -->\n)?"
    r"^```(?P<language>[^\n]*)\n(?P<code>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
CLIENT = """#!{python}
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    socket.send_fds(server, [json.dumps([os.getcwd(), sys.argv[1:]]).encode()], [0, 1, 2])
    sys.exit(int(server.recv(16) or 1))
"""


class Block(NamedTuple):
    """A fenced block of a page, or a hidden set-up."""

    line: int
    language: str
    code: str
    skip: str | None  # why it cannot run


def read_blocks(page: Path) -> Iterator[Block]:
    """Yield the blocks of a page in order."""
    text = page.read_text(encoding="utf-8")
    for found in BLOCK.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        if found["setup"] is not None:
            yield Block(line, "shell", found["setup"], None)
        else:
            yield Block(line, found["language"].strip(), found["code"], found["skip"])


def shortened(words: list[str]) -> list[str]:
    """Return the arguments of ``widenet``, with training cut short and public data replaced."""
    trains = words[:1] == ["train"] or (words[:1] == ["widen"] and "--distill" in words)
    if not trains or "--help" in words:
        return words
    named = {word.removeprefix("data="): n for n, word in enumerate(words) if word.startswith("data=")}
    words = list(words)
    for public, standin in PUBLIC.items():
        if public in named:
            words[named[public]] = f"data={standin}"
        elif public in words[1:2] and not named:
            words.append(f"data={standin}")
    return words + list(SHORT)


def serve(listener: socket.socket) -> None:
    """Run one command after the other, each in a fork of this process."""
    import widenet_cli

    while True:
        client, _ = listener.accept()
        with client:
            message, streams, _, _ = socket.recv_fds(client, 1 << 16, 3)
            folder, words = json.loads(message)
            child = os.fork()
            if child == 0:
                for number, stream in enumerate(streams):
                    os.dup2(stream, number)
                os.chdir(folder)
                sys.argv = ["widenet", *shortened(words)]
                os._exit(_exit_code(widenet_cli.main))
            for stream in streams:
                os.close(stream)
            client.send(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])).encode())


def _exit_code(command: Any) -> int:
    code = 0
    try:
        command()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def session(folder: Path, calls: Connection) -> None:
    """Run the Python blocks of a page in one name space; answer each with what it printed and whether it failed."""
    os.chdir(folder)
    space: dict[str, Any] = {"__name__": "__main__"}
    while True:
        code = calls.recv()
        shown = folder / ".python-output"
        with shown.open("w") as file, redirect_stdout(file), redirect_stderr(file):
            try:
                exec(compile(code, "<block>", "exec"), space)
                failed = False
            except BaseException:
                traceback.print_exc()
                failed = True
        calls.send((failed, shown.read_text()))


class Page:
    """A page, its folder and its Python session."""

    def __init__(self, page: Path, folder: Path, standins: Path, tools: Path) -> None:
        self.page, self.folder = page, folder
        shutil.copytree(standins, folder)
        fork = multiprocessing.get_context("fork")
        self.calls, theirs = fork.Pipe()
        self.python = fork.Process(target=session, args=(folder, theirs), daemon=True)
        self.python.start()
        self.environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"}

    def run(self, block: Block) -> tuple[bool, str]:
        """Return whether a block failed, and what it printed."""
        if block.language in SHELLS:
            words = ["bash", "-euo", "pipefail", "-c", block.code]
            try:
                done = subprocess.run(
                    words,
                    cwd=self.folder,
                    env=self.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    timeout=LIMIT,
                )
            except subprocess.TimeoutExpired:
                return True, f"still running after {LIMIT} s"
            return done.returncode != 0, f"{done.stdout}exit code {done.returncode}"
        self.calls.send(block.code)
        if not self.calls.poll(LIMIT):
            return True, f"still running after {LIMIT} s"
        try:
            return self.calls.recv()
        except EOFError:
            return True, "the Python session ended"


def check(page: Page) -> tuple[int, int, list[str]]:
    """Run a page; return how many blocks ran and failed, and those left out."""
    ran = failures = 0
    skipped = []
    for block in read_blocks(page.page):
        place = f"{page.page.relative_to(ROOT)}:{block.line}"
        if not block.language:
            print(f"FAIL  {place}  a block without a language: shell, python or text", flush=True)
            failures += 1
        elif block.language not in (*SHELLS, "python"):
            continue
        elif block.skip is not None:
            skipped.append(f"{place}  {block.skip or 'NO REASON GIVEN'}")
            failures += not block.skip
        else:
            started = time.perf_counter()
            failed, shown = page.run(block)
            ran += 1
            failures += failed
            print(f"{'FAIL' if failed else 'ok  '}  {place}  {time.perf_counter() - started:.1f} s", flush=True)
            if failed:
                print("    " + "\n    ".join(shown.strip().splitlines()[-12:]), flush=True)
    return ran, failures, skipped


def main() -> int:
    """Check pages; return 1 if a block failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("pages", nargs="*", type=Path, help="default: README.md and docs/*.md")
    parser.add_argument("--keep", type=Path, help="a new folder for the pages' folders, which are then kept")
    arguments = parser.parse_args()
    pages = [page.resolve() for page in arguments.pages] or [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    top = Path(tempfile.mkdtemp(prefix="docs-check-")) if arguments.keep is None else arguments.keep.resolve()
    top.mkdir(parents=True, exist_ok=True)

    # Before the libraries are loaded: no network, one thread (a fork keeps no others), caches of our own.
    offline = dict.fromkeys(("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "OMP_NUM_THREADS"), "1")
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH", "")])
    os.environ |= {**offline, "HOME": str(top), "MPLBACKEND": "Agg", "TOKENIZERS_PARALLELISM": "false"}
    os.environ["PYTHONPATH"] = paths
    sys.path[:0] = [str(ROOT / "src"), str(ROOT)]
    from standins import make_standins

    import widenet  # noqa: F401  (so that forks need not load it)

    fork = multiprocessing.get_context("fork")
    maker = fork.Process(target=make_standins, args=(top / "standins",))
    maker.start()
    maker.join()
    if maker.exitcode:
        return 1
    tools, address = top / "bin", str(top / "server")
    tools.mkdir()
    for name, text in (
        ("widenet", CLIENT.format(python=sys.executable, address=address)),
        ("python", f'#!/bin/sh\nexec {sys.executable} "$@"\n'),
    ):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        server = fork.Process(target=serve, args=(listener,), daemon=True)
        server.start()
        ran = failures = 0
        skipped = []
        for page in pages:
            session_of_page = Page(page, top / page.stem, top / "standins", tools)
            found = check(session_of_page)
            session_of_page.python.terminate()
            ran, failures, skipped = ran + found[0], failures + found[1], skipped + found[2]
        server.terminate()
    if skipped:
        print("\nleft out:", *skipped, sep="\n  ")
    print(f"\n{ran} blocks ran, {failures} failed, {len(skipped)} left out")
    if arguments.keep is None:
        shutil.rmtree(top, ignore_errors=True)
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
