"""Runs pytest many times without starting Python each time.

A child process imports what all runs need, then forks once a run: the copies of the tree differ,
the libraries do not. The child is this module as a program; `Runner` is its other end.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn

RUN_TIMEOUT_S: Final = 120
ARGUMENTS: Final = ("-x", "-q", "--tb=line", "-p", "no:cacheprovider")


class Runner:
    """Runs tests of the tree in `place`, one run at a time."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._process = self._start()

    def run(self, arguments: Sequence[str], *, write_bytecode: bool) -> tuple[int, str]:
        """Return pytest's exit code and output; raises TimeoutError."""
        order = json.dumps([write_bytecode, *ARGUMENTS, *arguments])
        orders, codes = self._process.stdin, self._process.stdout
        assert orders is not None, "the child reads from a pipe"
        assert codes is not None, "the child writes into a pipe"
        orders.write(f"{order}\n".encode())
        orders.flush()
        if not select.select([codes], [], [], RUN_TIMEOUT_S)[0]:
            self.close()
            self._process = self._start()
            raise TimeoutError(f"over {RUN_TIMEOUT_S} s")
        code = int(codes.readline())
        return code, (self._place / "output").read_text(errors="replace")

    def close(self) -> None:
        """End the child and whatever it runs."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()

    def _start(self) -> subprocess.Popen[bytes]:
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
        changed = {"PYTHONPATH": str(self._place), "PYTHONHASHSEED": "0", "CI": "1"}
        return subprocess.Popen(
            [sys.executable, "-m", "tests.mutants.runner"],
            cwd=self._place,
            env=kept | changed,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )


def main() -> None:
    """Answer each line of arguments with an exit code."""
    import hypothesis.strategies
    import msgpack
    import msgspec
    import pysyncobj.syncobj
    import pytest

    loaded = hypothesis.strategies, msgpack, msgspec, pysyncobj.syncobj, pytest
    assert all(loaded), "imported for the forks"
    for line in sys.stdin:
        write_bytecode, *arguments = json.loads(line)
        child = os.fork()
        if child == 0:
            sys.dont_write_bytecode = not write_bytecode
            _run(arguments)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _run(arguments: list[str]) -> NoReturn:
    import pytest

    code = -1
    try:
        output = os.open("output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for descriptor in (1, 2):
            os.dup2(output, descriptor)
        ignored = "ignore::pytest.PytestAssertRewriteWarning"  # the imports made ahead
        code = int(pytest.main([*arguments, "-W", ignored]))
        sys.stdout.flush()
    finally:
        os._exit(code & 0xFF)


if __name__ == "__main__":
    main()
