"""Commands of the system, run without stopping the clients."""

from __future__ import annotations

import asyncio


class CommandError(Exception):
    """A command of the system failed; its message says which and why."""


async def system(*words: str, text: str = "") -> str:
    """Run a command, with `text` as its input, and return its output; raises CommandError."""
    process = await asyncio.create_subprocess_exec(
        *words,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate(text.encode())
    if process.returncode:
        raise CommandError(f"{' '.join(words)}: {err.decode(errors='replace').strip()}")
    return out.decode()
