"""How transactions run: on threads with SQLite, on the event loop with PostgreSQL.

A unit of work is a plain function of a ``Session``, or of a ``Connection`` if it knows rows and no objects: that costs half as much, and
is what every release runs. SQLite blocks, so the whole unit, from BEGIN to COMMIT, runs in a thread: one trip
there and back, however many statements it has. Whoever waits for it may be cancelled; the unit runs to its end all the same, so that no
transaction is ever left half done or open. PostgreSQL's driver is asynchronous; ``AsyncSession.run_sync`` runs the same function,
and each of its statements waits on the event loop.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from threading import Lock
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection, Engine, Executable, Result, ScalarResult
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

T = TypeVar("T")


class Steps(Protocol):
    """One transaction that is taken step by step."""

    async def run(self, work: Callable[[Session], T]) -> T:
        """Run ``work`` in the transaction."""
        ...

    async def execute(self, statement: Executable, parameters: Any = None) -> Result[Any]:
        """Execute one statement; the rows are fetched."""
        ...

    async def scalar(self, statement: Executable, parameters: Any = None) -> Any:
        """Execute one statement; return the first column of the first row."""
        ...

    async def scalars(self, statement: Executable, parameters: Any = None) -> ScalarResult[Any]:
        """Execute one statement; return the first column of each row."""
        ...


class Lane(Protocol):
    """Runs transactions of one kind, so many at once."""

    @property
    def engine(self) -> Engine:
        """The engine below."""
        ...

    async def run(self, work: Callable[[Session], T]) -> T:
        """Run ``work`` as one transaction."""
        ...

    async def run_rows(self, work: Callable[[Connection], T]) -> T:
        """Run ``work``, which knows rows only, as one transaction."""
        ...

    def open(self) -> AbstractAsyncContextManager[Steps]:
        """Open a transaction."""
        ...

    async def close(self) -> None:
        """Finish what runs, and close every connection."""
        ...


class _Steps:
    """Implements ``Steps`` on what runs one of them."""

    def __init__(self, run: Callable[[Callable[[Session], Any]], Any]) -> None:
        self._run = run

    async def run(self, work: Callable[[Session], T]) -> T:
        """See ``Steps``."""
        outcome: T = await self._run(work)
        return outcome

    async def execute(self, statement: Executable, parameters: Any = None) -> Result[Any]:
        """See ``Steps``."""

        def fetched(session: Session) -> Result[Any]:
            result = session.execute(statement, parameters)
            return result.freeze()() if getattr(result, "returns_rows", True) else result

        return await self.run(fetched)

    async def scalar(self, statement: Executable, parameters: Any = None) -> Any:
        """See ``Steps``."""
        return await self.run(lambda session: session.scalar(statement, parameters))

    async def scalars(self, statement: Executable, parameters: Any = None) -> ScalarResult[Any]:
        """See ``Steps``."""
        return (await self.execute(statement, parameters)).scalars()


class ThreadLane:
    """Implements ``Lane`` for a driver that blocks. Used from one event loop."""

    def __init__(self, engine: Engine, size: int, patience_s: float) -> None:
        """Run ``size`` transactions at once; who waits longer than ``patience_s`` for his turn gets ``TimeoutError``."""
        self.engine = engine
        self._free = asyncio.Semaphore(size)
        self._patience_s = patience_s
        self._threads = ThreadPoolExecutor(size, thread_name_prefix="database")

    async def run(self, work: Callable[[Session], T]) -> T:
        """See ``Lane``."""
        await self._take_turn()
        return await self._submit(lambda: self._transaction(work), self._free.release)

    async def run_rows(self, work: Callable[[Connection], T]) -> T:
        """See ``Lane``."""
        await self._take_turn()
        return await self._submit(lambda: self._transaction_of_rows(work), self._free.release)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Steps]:
        """See ``Lane``."""
        await self._take_turn()
        session = Session(self.engine, expire_on_commit=False, autoflush=False)
        one_at_a_time = Lock()  # a step that nobody waits for any more still runs to its end, and before the next one

        def step(work: Callable[[], T]) -> T:
            with one_at_a_time:
                return work()

        try:
            yield _Steps(lambda work: self._submit(lambda: step(lambda: work(session))))
            await self._submit(lambda: step(session.commit))
        finally:
            await asyncio.shield(self._submit(lambda: step(session.close), self._free.release))

    async def close(self) -> None:
        """See ``Lane``."""
        await asyncio.to_thread(self._threads.shutdown)
        self.engine.dispose()

    def _transaction(self, work: Callable[[Session], T]) -> T:
        with Session(self.engine, expire_on_commit=False, autoflush=False) as session:
            outcome = work(session)
            session.commit()
            return outcome

    def _transaction_of_rows(self, work: Callable[[Connection], T]) -> T:
        with self.engine.connect() as connection, connection.begin():
            return work(connection)

    async def _take_turn(self) -> None:
        if not self._free.locked():
            await self._free.acquire()
            return
        async with asyncio.timeout(self._patience_s):
            await self._free.acquire()

    def _submit(self, call: Callable[[], T], afterwards: Callable[[], None] = lambda: None) -> asyncio.Future[T]:
        """Run ``call`` in a thread; ``afterwards`` on the event loop when it is done, whether or not anybody still waits for it."""
        loop = asyncio.get_running_loop()
        waiting: asyncio.Future[T] = loop.create_future()

        def settle(done: Future[T]) -> None:
            afterwards()
            if waiting.cancelled():
                return
            error = done.exception()
            if error is None:
                waiting.set_result(done.result())
            else:
                waiting.set_exception(error)

        def report(done: Future[T]) -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(settle, done)

        self._threads.submit(call).add_done_callback(report)
        return waiting


class LoopLane:
    """Implements ``Lane`` for an asynchronous driver."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    @property
    def engine(self) -> Engine:
        """See ``Lane``."""
        return self._engine.sync_engine

    async def run(self, work: Callable[[Session], T]) -> T:
        """See ``Lane``."""
        async with AsyncSession(self._engine, expire_on_commit=False, autoflush=False) as session:
            outcome = await session.run_sync(work)
            await session.commit()
            return outcome

    async def run_rows(self, work: Callable[[Connection], T]) -> T:
        """See ``Lane``."""
        async with self._engine.connect() as connection, connection.begin():
            return await connection.run_sync(work)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Steps]:
        """See ``Lane``."""
        async with AsyncSession(self._engine, expire_on_commit=False, autoflush=False) as session:
            yield _Steps(session.run_sync)
            await session.commit()

    async def close(self) -> None:
        """See ``Lane``."""
        await self._engine.dispose()
