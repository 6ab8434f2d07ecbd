"""`recollect store`: one memory from the command line, or many as JSON lines.

All lines are read, and checked for what needs no server, before the first is sent: broken JSON or
a missing task in line 900 stores nothing.
Every memory has an id before it is sent; sending it again after a lost answer replaces it by
itself, which is what makes the retries safe.
"""

from __future__ import annotations

import math
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Final

import orjson
import typer

from cluster.client import Client
from cluster.commands.options import URL_DEFAULT, ApiKey, Json, Url, connect
from cluster.commands.output import progress, show, show_json
from cluster.errors import CommandFailed

CONNECTIONS: Final = 8
RETRY_S: Final = 0.2
GIVE_UP_S: Final = 30.0

Memory = dict[str, Any]


def finite(value: float | None) -> float | None:
    """Refuse a number that JSON cannot carry, instead of storing nothing in its place."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter("it must be a finite number")
    return value


def store(
    text: Annotated[
        str | None,
        typer.Argument(help="What to remember (the task); `-` reads JSON lines from stdin."),
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help="Read memories from a file of JSON lines.")
    ] = None,
    output: Annotated[str | None, typer.Option(help="What came out.")] = None,
    critique: Annotated[str | None, typer.Option(help="What to do better.")] = None,
    reward: Annotated[float | None, typer.Option(help="How well it went.", callback=finite)] = None,
    success: Annotated[
        bool | None, typer.Option("--success/--failure", help="Whether it worked.")
    ] = None,
    session: Annotated[str | None, typer.Option(help="Session that it belongs to.")] = None,
    url: Url = URL_DEFAULT,
    api_key: ApiKey = "",
    as_json: Json = False,
) -> None:
    """Store a memory, or many.

    A line of a file is a JSON object with `task` and any other field of POST /patterns/store,
    or just a JSON string.

    Examples:

        recollect store "Retry the upload with a smaller chunk" --success --reward 0.9

        recollect store --file memories.jsonl

        jq -c '.[]' memories.json | recollect store -
    """
    given = {
        "output": output,
        "critique": critique,
        "reward": reward,
        "success": success,
        "sessionId": session,
    }
    shared = {name: value for name, value in given.items() if value is not None}
    if file is None and text is not None and text != "-":
        stored = store_memories([{"task": text, **shared}], lambda: connect(url, api_key))
        _report_one(stored[0], as_json=as_json)
        return
    stored = store_memories(_lines(text, file, shared), lambda: connect(url, api_key))
    if as_json:
        show_json(stored)
    else:
        show(f"Stored {len(stored):,} {'memory' if len(stored) == 1 else 'memories'}")


def store_memories(
    memories: Sequence[Memory], new_client: Callable[[], Client]
) -> list[dict[str, Any]]:
    """Store memories over several connections; returns id and version of each, in order.

    Raises:
        CommandFailed: one was refused; says which, and how many were stored.
    """
    named = [{"id": str(uuid.uuid4()), **memory} for memory in memories]
    lanes = [named[start::CONNECTIONS] for start in range(min(CONNECTIONS, len(named)))]
    done: dict[str, dict[str, Any]] = {}
    with progress("Storing", len(named)) as advance, ThreadPoolExecutor(len(lanes) or 1) as pool:
        running = [pool.submit(_store_lane, lane, new_client, done, advance) for lane in lanes]
        failures = [future.exception() for future in running]
    for failure in failures:
        if isinstance(failure, CommandFailed) and len(named) > 1:
            failure.message += f" ({len(done):,} of {len(named):,} memories are stored)"
        if failure:
            raise failure
    return [done[memory["id"]] for memory in named]


def _store_lane(
    lane: Sequence[Memory],
    new_client: Callable[[], Client],
    done: dict[str, dict[str, Any]],
    advance: Callable[[int], None],
) -> None:
    with new_client() as client:
        for memory in lane:
            done[memory["id"]] = _store(client, memory)
            advance(1)


def _store(client: Client, memory: Memory) -> dict[str, Any]:
    deadline_s = time.monotonic() + GIVE_UP_S
    while True:
        try:
            answer: dict[str, Any] = client.post("/patterns/store", memory)
            return answer
        except CommandFailed as failure:
            # Nobody there at all is told at once; a cluster that is electing gets time.
            worth_it = failure.retryable and failure.code != "no_answer"
            if not worth_it or time.monotonic() >= deadline_s:
                raise
        time.sleep(RETRY_S)


def _lines(text: str | None, file: Path | None, shared: Memory) -> list[Memory]:
    if (file is None) == (text is None):
        raise typer.BadParameter("give a text, or `-` for stdin, or --file; one of them")
    raw = sys.stdin.buffer.read() if file is None else file.read_bytes()
    return list(parse_lines(raw, shared))


def parse_lines(raw: bytes, shared: Memory) -> Iterator[Memory]:
    """Yield the memories of JSON lines, each with the `shared` fields that it does not set.

    Raises:
        CommandFailed: a line is not a memory; names it.
    """
    for number, line in enumerate(raw.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            value = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise _bad_line(number, f"is not JSON ({error.msg})") from None
        memory = {"task": value} if isinstance(value, str) else value
        if not isinstance(memory, dict) or not isinstance(memory.get("task"), str):
            raise _bad_line(number, "is neither text nor an object with the text `task`")
        yield {**shared, **memory}


def _bad_line(number: int, what: str) -> CommandFailed:
    return CommandFailed(
        f"line {number} {what}; nothing was stored",
        hint='a line is such as {"task": "what was tried", "output": "what came out"}',
        code="bad_line",
    )


def _report_one(stored: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        show_json(stored)
    else:
        show(f"Stored {stored['id']} (version {stored['version']})")
