"""`perdure run`: opens everything in order, hands over to the main loop, and closes everything in order."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import gc
import os
import random
import signal
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

import uvloop

from perdure.clock import SystemClock
from perdure.config.settings import Settings
from perdure.daemon.control import ControlSocket
from perdure.daemon.leftovers import executing_before, remove_leftovers
from perdure.daemon.opening import open_store
from perdure.daemon.strays import LOOK_SECONDS, end_strays_of_earlier_runs, queue_mark
from perdure.daemon.supervisor import Supervisor
from perdure.daemon.systemd import Notifier, listen_fds
from perdure.errors import PerdureError
from perdure.log import configure_logging, get_logger
from perdure.store.models import RunInfo

log = get_logger()

#: How long to wait for a command that works on the file at the moment, in seconds.
LOCK_WAIT_SECONDS = 10.0


def run(settings: Settings) -> int:
    """Run the daemon until it is told to stop; the exit code. Everything a user can cause is logged, not raised."""
    configure_logging(settings.logs.level, settings.logs.format, stream=sys.stderr, environ=os.environ)
    # Whoever started us may have ignored it, and then no process of ours could be waited for.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # Rows and messages come and go by the thousand and form no cycles: looking for some at every 700th is wasted time.
    gc.set_threshold(50_000, 20, 50)
    faulthandler.enable()  # a watchdog's SIGABRT leaves the stacks in the log
    sockets = listen_fds(os.environ)
    notifier = Notifier.from_environ(os.environ)
    try:
        return uvloop.run(_serve(settings, notifier, sockets))
    except OSError as error:
        log.critical("daemon.failed", reason=str(error), advice="see `perdure doctor`")
        return 1
    except PerdureError as error:
        log.critical("daemon.failed", reason=str(error))
        return error.exit_code
    finally:
        notifier.close()


async def _serve(settings: Settings, notifier: Notifier, sockets: list[int]) -> int:
    clock = SystemClock()
    store = await open_store(settings, "daemon", LOCK_WAIT_SECONDS)
    supervisor = Supervisor(store, settings, clock, random.Random(), notifier)
    try:
        with _signals(supervisor):
            boot_id = _boot_id()
            info = await store.begin_run(os.getpid(), boot_id, clock.now_ms())
            await _recover(supervisor, info)
            await supervisor.service.spool.sweep(store)
            supervisor.service.kinds_loaded(await store.kinds())
            await supervisor.prepare(info, boot_id)
            async with ControlSocket(settings, supervisor, sockets):
                if await _start(supervisor):
                    notifier.ready(supervisor.housekeeping.status_line())
                    log.info("daemon.ready", **_ready_facts(settings, supervisor))
                    gc.freeze()  # what is here stays: no collection need look at it again
                    await supervisor.supervise()
            await store.end_run(info.id, clock.now_ms())
        return 0
    finally:
        await supervisor.close()
        await store.close()
        log.info("daemon.stopped")


async def _start(supervisor: Supervisor) -> bool:
    """Start the processes; False when a signal said to stop meanwhile."""
    starting = asyncio.ensure_future(supervisor.start())
    told = asyncio.ensure_future(supervisor.told_to_stop())
    try:
        await asyncio.wait({starting, told}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            return True
        log.info("start.interrupted")
        return False
    finally:
        for task in (starting, told):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, PerdureError):
                await task


async def _recover(supervisor: Supervisor, info: RunInfo) -> None:
    """Put back what the last run left running: charged where the flight recorders say that it was executing."""
    folder = supervisor.settings.paths.recorder_dir
    before = executing_before(folder, _boot_id()) if info.previous_same_boot else None
    executing, unwanted = before or (None, ())
    if info.previous_same_boot:
        await _end_strays(supervisor, executing)
    found = await supervisor.store.recover(executing, supervisor.clock.now_ms(), unwanted)
    if any(found):
        log.warning(
            "jobs.recovered",
            released=found.released,
            interrupted=found.interrupted,
            dead=found.buried,
            cancelled=found.cancelled,
        )
    remove_leftovers(folder)


async def _end_strays(supervisor: Supervisor, executing: Collection[tuple[int, int]] | None) -> None:
    """Commands of the last run must not go on beside those of the same jobs in this one."""
    store_id = await supervisor.store.store_id()
    try:
        queue = queue_mark(store_id, supervisor.settings.paths.db)
        looking = asyncio.to_thread(end_strays_of_earlier_runs, queue, executing)
        ended = await asyncio.wait_for(looking, LOOK_SECONDS)
    except OSError as error:  # a TimeoutError is one
        log.error("strays.not_looked_for", reason=str(error) or "it took too long")
        return
    if ended:
        log.warning("strays.ended", processes=ended)


@contextlib.contextmanager
def _signals(supervisor: Supervisor) -> Iterator[None]:
    """Signal handlers only queue."""
    loop = asyncio.get_running_loop()
    handled = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
    for number in handled:
        loop.add_signal_handler(number, supervisor.signalled, number)
    try:
        yield
    finally:
        for number in handled:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _ready_facts(settings: Settings, supervisor: Supervisor) -> dict[str, object]:
    return {
        "store": str(settings.paths.db),
        "durability": settings.store.durability,
        "socket": str(settings.paths.socket),
        "workers": supervisor.fleet.size,
        "kinds": len(supervisor.core.kinds),
    }
