"""Load from wrk, a compiled client that costs little of the machine it shares with the server.

Requests are prepared beforehand, one body a line, and sent over and over. wrk is a program of its
own (Debian: `apt-get install wrk`).
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_SCRIPT = """
local requests, at = {}, 0
function init(arguments)
  for body in io.lines(arguments[1]) do
    requests[#requests + 1] = wrk.format("POST", nil, {["Content-Type"] = "application/json"}, body)
  end
end
function request()
  at = at % #requests + 1
  return requests[at]
end
"""


@dataclass(frozen=True)
class Speed:
    """What one run of a load gave; `rate`: requests a second."""

    rate: float
    p50_ms: float
    p99_ms: float


def available() -> bool:
    """Return whether wrk is installed."""
    return shutil.which("wrk") is not None


def run(
    port: int, path: str, bodies: Sequence[bytes], *, connections: int, seconds: float
) -> Speed:
    """Post bodies for so long; raises RuntimeError when an answer is not a 2xx."""
    with tempfile.TemporaryDirectory(prefix="recollect-wrk-") as folder:
        script, file = Path(folder) / "post.lua", Path(folder) / "bodies"
        script.write_text(_SCRIPT)
        file.write_bytes(b"\n".join(bodies) + b"\n")
        words = [
            "wrk",
            "--latency",
            "-t1",
            f"-c{connections}",
            f"-d{seconds:.0f}s",
            "-s",
            str(script),
        ]
        url = f"http://127.0.0.1:{port}{path}"
        done = subprocess.run(
            [*words, url, "--", str(file)], capture_output=True, text=True, check=True
        )
    if "Non-2xx" in done.stdout or "Socket errors" in done.stdout:
        raise RuntimeError(done.stdout)
    found = re.search(r"Requests/sec:\s+([0-9.]+)", done.stdout)
    assert found is not None, "wrk prints a rate"
    return Speed(float(found[1]), *_latencies(done.stdout))


def _latencies(text: str) -> tuple[float, float]:
    found = re.findall(r"^\s+(?:50|99)%\s+([0-9.]+)(us|ms|s)$", text, re.MULTILINE)
    factors = {"us": 0.001, "ms": 1.0, "s": 1000.0}
    p50_ms, p99_ms = (float(number) * factors[unit] for number, unit in found)
    return p50_ms, p99_ms
