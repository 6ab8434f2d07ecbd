"""Load from wrk, a compiled client: requests are made beforehand, so that the server is measured.

Debian's package `wrk` runs a Lua script on each of its threads. The script here reads bodies from a
file, one a line, makes every request's bytes before the clock starts, and sends them round and
round. Where wrk is missing, processes of `bench.load` do the same, at more cost to the machine.
"""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench import load

_SCRIPT: Final = """\
local count = 0
function setup(thread) thread:set("number", count); count = count + 1 end
function init(arguments)
  requests, at = {}, 0
  local threads, line = tonumber(arguments[2]), 0
  local headers = {["Content-Type"] = "application/json"}
  for body in io.lines(arguments[1]) do
    if line % threads == number then
      requests[#requests + 1] = wrk.format("POST", nil, headers, body)
    end
    line = line + 1
  end
end
function request() at = at % #requests + 1; return requests[at] end
function done(summary, latency)
  local failed, counts = 0, summary.errors
  for _, kind in ipairs({"connect", "read", "write", "status", "timeout"}) do
    failed = failed + counts[kind]
  end
  io.write(string.format('\\n{"requests":%d,"seconds":%f,"p50_ms":%f,"p99_ms":%f,"failed":%d}',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3,
    latency:percentile(99) / 1e3, failed))
end
"""
_THREADS_MAX: Final = 2
_SAMPLE: Final = 500


@dataclass(frozen=True)
class Speed:
    """What one run of a load gave: requests a second, and milliseconds each."""

    rate: float
    p50_ms: float
    p99_ms: float


def run(port: int, path: str, bodies: Sequence[bytes], connections: int, seconds: float) -> Speed:
    """Post the bodies round and round over keep-alive connections for about `seconds`.

    Raises RuntimeError when something was answered with anything but success.
    """
    if shutil.which("wrk") is None:
        return by_processes(port, path, bodies, connections, seconds)
    threads = min(_THREADS_MAX, connections)
    with tempfile.TemporaryDirectory(prefix="recollect-wrk-") as folder:
        script, lines = Path(folder, "load.lua"), Path(folder, "bodies")
        script.write_text(_SCRIPT)
        lines.write_bytes(b"\n".join(bodies))
        words = ["wrk", f"-t{threads}", f"-c{connections}", f"-d{max(1, round(seconds))}s"]
        words += ["--timeout", "60s", "-s", str(script), f"http://127.0.0.1:{port}{path}"]
        words += ["--", str(lines), str(threads)]
        output = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    found = json.loads(output[output.rindex("\n{") :])
    if found["failed"]:
        raise RuntimeError(f"{found['failed']} requests to {path} failed")
    return Speed(found["requests"] / found["seconds"], found["p50_ms"], found["p99_ms"])


def by_processes(
    port: int, path: str, bodies: Sequence[bytes], connections: int, seconds: float
) -> Speed:
    """Do the same without wrk; the latencies are those of the slowest process."""
    requests = [load.request("POST", path, body) for body in bodies]
    share = -(-connections // _THREADS_MAX)
    shares = [min(share, connections - first) for first in range(0, connections, share)]
    with ProcessPoolExecutor(len(shares)) as pool:
        work = functools.partial(_for_seconds, port, requests, seconds)
        runs = list(pool.map(work, shares))
    return Speed(
        sum(run.rate for run in runs),
        max(run.p50_ms for run in runs),
        max(run.p99_ms for run in runs),
    )


def _for_seconds(port: int, requests: Sequence[bytes], seconds: float, connections: int) -> Speed:
    latencies: list[float] = []
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        start = len(latencies) % len(requests)
        sent = requests[start : start + _SAMPLE]
        latencies += load.run(port, sent, connections).latencies_s
    elapsed = time.perf_counter() - began
    done = load.Load([b""] * len(latencies), latencies, elapsed)
    return Speed(done.rate, done.latency_ms(0.5), done.latency_ms(0.99))
