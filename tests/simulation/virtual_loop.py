"""An event loop whose time jumps, shared by all programs of a simulation.

Every program (a node's process, a client) is a `Process`: what it schedules carries it in its
context, so the loop knows whose callback it is about to run. It holds back what belongs to a
paused process, and forgets what belongs to a dead one. There are no sockets and no threads:
connections are made by `network`, threads are `Threads` below, and both complete by timers.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import random
from asyncio import base_events
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, Protocol

CURRENT: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)
START_S = 1000.0
INSTANT_CALLBACKS_MAX = 200_000


_BaseLoop: Any = base_events.BaseEventLoop
_BaseExecutor: Any = Executor


class Livelock(AssertionError):
    """Callbacks follow each other without end, and no time passes."""


class PowerGone(BaseException):
    """Ends what a thread was doing when its machine stopped."""


class Process:
    """One incarnation of a program."""

    def __init__(self, loop: VirtualLoop, name: str, rng: random.Random) -> None:
        self.loop, self.name, self.rng = loop, name, rng
        self.dead = self.paused = False
        self.clock_offset_s = rng.uniform(0.0, 1e6)
        self.held: list[asyncio.Handle] = []
        self.main: asyncio.Task[Any] | None = None
        self.tasks: dict[asyncio.Task[Any], None] = {}
        self.pools: list[Threads] = []
        self.at_death: list[Callable[[], object]] = []
        self.context = contextvars.copy_context()
        self.context.run(CURRENT.set, self)
        self.default_pool = Threads(self, 4, "default", lambda: rng.expovariate(2000))

    def clock(self) -> float:
        """Seconds on this machine's clock: another machine's shows something else."""
        return self.loop.now_s + self.clock_offset_s

    def start(self, coroutine: Any) -> asyncio.Task[Any]:
        """Run a coroutine as this process."""
        task: asyncio.Task[Any] = self.loop.create_task(coroutine, context=self.context.copy())
        return task

    def resume(self) -> None:
        """Go on: everything that was held is late."""
        self.paused = False
        held, self.held = self.held, []
        self.loop.add_ready(held)

    def end(self) -> None:
        """Die. Its coroutines are unwound, but nothing that they do has an effect any more."""
        self.dead = True
        self.resume()
        for act in self.at_death:
            act()
        for task in list(self.tasks):
            task.cancel()


class Network(Protocol):
    """What the loop asks for connections."""

    async def dial(self, process: Process, factory: Any, host: str, port: int) -> Any: ...

    def listen(self, process: Process, factory: Any, host: str, port: int) -> Any: ...


class VirtualLoop(_BaseLoop):  # type: ignore[misc]  # it overrides what is private
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = START_S
        self.network: Network | None = None
        self.pool: Threads | None = None
        """The pool whose work runs at this moment, in place of a thread."""
        self.errors: list[str] = []
        self._instant = 0
        self.set_task_factory(self._new_task)
        self.set_exception_handler(self._note_error)

    def time(self) -> float:
        return self.now_s

    def run(self, coroutine: Any) -> Any:
        """Run to the end of a coroutine, then forget everything."""
        task = self.create_task(coroutine)
        task.add_done_callback(lambda _: self.stop())
        try:
            self.run_forever()
        finally:
            self.close()
        return task.result()

    def add_ready(self, handles: list[asyncio.Handle]) -> None:
        self._ready.extend(handles)

    def _run_once(self) -> None:
        self._advance()
        for _ in range(len(self._ready)):
            handle = self._ready.popleft()
            if handle._cancelled:
                continue
            process = handle._context.get(CURRENT)
            if process is not None and process.paused:
                process.held.append(handle)
            else:
                handle._run()

    def _advance(self) -> None:
        """Let time jump to the next timer when nothing is ready; make due timers ready."""
        scheduled = self._scheduled
        if not self._ready:
            while scheduled and scheduled[0]._cancelled:
                heapq.heappop(scheduled)._scheduled = False
            assert scheduled, "somebody always waits for a timer"
            if scheduled[0]._when > self.now_s:
                self.now_s = scheduled[0]._when
                self._instant = 0
        self._instant += len(self._ready)
        if self._instant > INSTANT_CALLBACKS_MAX:
            raise Livelock(f"{self._instant} callbacks at {self.now_s:.3f} s")
        while scheduled and scheduled[0]._when <= self.now_s:
            handle = heapq.heappop(scheduled)
            handle._scheduled = False
            process = handle._context.get(CURRENT)
            if process is None or not process.dead:
                self._ready.append(handle)

    # -- what asyncio asks of a loop ----------------------------------------------------------

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Cancelled timers are dropped when they come up."""

    def _write_to_self(self) -> None:
        """There is no other thread that would wake this one."""

    def _process_events(self, event_list: object) -> None:
        """There are no sockets."""

    def call_soon_threadsafe(self, callback: Any, *args: Any, context: Any = None) -> Any:
        if self.pool is None:
            return self.call_soon(callback, *args, context=context)
        return self.pool.post(callback, args)

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:
        process = CURRENT.get()
        assert process is not None, "threads belong to a process"
        pool = executor or process.default_pool
        return asyncio.wrap_future(pool.submit(func, *args), loop=self)

    async def create_connection(
        self, factory: Any, host: Any = None, port: Any = None, **_: Any
    ) -> Any:
        process = CURRENT.get()
        assert process is not None, "connections belong to a process"
        assert self.network is not None, "a world has a network"
        return await self.network.dial(process, factory, host, port)

    async def create_server(
        self, factory: Any, host: Any = None, port: Any = None, **_: Any
    ) -> Any:
        process = CURRENT.get()
        assert process is not None, "ports belong to a process"
        assert self.network is not None, "a world has a network"
        return self.network.listen(process, factory, host, port)

    def _new_task(self, loop: Any, coroutine: Any, context: Any = None) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(coroutine, loop=self, context=context)
        process = CURRENT.get() if context is None else context.get(CURRENT)
        if process is not None:
            process.tasks[task] = None
            task.add_done_callback(lambda done: process.tasks.pop(done, None))
        return task

    def _note_error(self, _loop: object, context: dict[str, Any]) -> None:
        handle = context.get("handle")
        process = None if handle is None else handle._context.get(CURRENT)
        if process is None or not process.dead:
            self.errors.append(f"{context.get('message')}: {context.get('exception')!r}")


class Threads(_BaseExecutor):  # type: ignore[misc]  # it returns what a pool returns
    """A pool of threads that are not there: work is done at once when its time is up.

    What the work tells the loop arrives a little later, in order, as it would from a thread: so
    the loop's knowledge of the disk and of the state is always a bit old.
    """

    def __init__(
        self, process: Process, count: int, name: str, delay_s: Callable[[], float]
    ) -> None:
        self.process, self.count, self.name, self.delay_s = process, count, name, delay_s
        self.queue: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self.running: list[tuple[Future[Any], Callable[[], Any]]] = []
        self._told_s = 0.0
        process.pools.append(self)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        if self.process.dead:
            future.set_result(None)
            return future
        self.queue.append((future, lambda: fn(*args, **kwargs)))
        self._start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """The process ends soon; nobody waits for threads that are not there."""

    def post(self, callback: Any, args: Any) -> Any:
        """From a "thread": do something on the loop."""
        process, loop = self.process, self.process.loop
        if process.dead:
            return None
        self._told_s = max(self._told_s, loop.now_s + process.rng.expovariate(10_000))
        return loop.call_at(self._told_s, callback, *args, context=process.context)

    def interrupt(self, run: bool) -> None:
        """The process dies: what is under way is done to its end, to some point, or not at all."""
        running, self.running = self.running, []
        self.queue.clear()
        for _, work in running[: self.count if run else 0]:
            self._do(work)

    def _start(self) -> None:
        while self.queue and len(self.running) < self.count:
            job = self.queue.popleft()
            self.running.append(job)
            loop = self.process.loop
            loop.call_at(
                loop.now_s + self.delay_s(), self._finish, job, context=self.process.context
            )

    def _finish(self, job: tuple[Future[Any], Callable[[], Any]]) -> None:
        if job not in self.running:
            return
        self.running.remove(job)
        future, work = job
        self._do(lambda: _settle(future, work))
        self._start()

    def _do(self, work: Callable[[], Any]) -> None:
        loop = self.process.loop
        assert loop.pool is None, "work does not nest"
        loop.pool = self
        try:
            work()
        except (Exception, PowerGone):  # noqa: BLE001  # the work dies with its process
            assert self.process.dead, "errors of work are its future's"
        finally:
            loop.pool = None


def _settle(future: Future[Any], work: Callable[[], Any]) -> None:
    try:
        result = work()
    except Exception as error:  # noqa: BLE001  # it belongs to whoever waits
        future.set_exception(error)
    else:
        future.set_result(result)
