"""A worker: the sync lane in the main thread, the async lane and the channel in a second one.

It starts as a fork of the nursery (see `run_worker`), with the handlers imported. It ends when it is told to drain,
when its supervisor is gone, or by a signal. SIGTERM is left at its default, so that the supervisor can end a worker
that hangs in an extension; SIGINT does nothing here.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import random
import select
import signal
import socket
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Final, NoReturn

import msgspec
import uvloop

from perdure.adapters.toolbox import Toolbox
from perdure.adapters.view import BreakerView
from perdure.clock import SystemClock
from perdure.daemon.process_control import die_with, set_process_name
from perdure.daemon.worker import stacks
from perdure.daemon.worker.alarm import Alarm
from perdure.daemon.worker.async_lane import GATHER_NS, AsyncLane
from perdure.daemon.worker.commands import Commands
from perdure.daemon.worker.handlers import Handlers
from perdure.daemon.worker.job_log import LogPlace
from perdure.daemon.worker.job_logger import JobLogger
from perdure.daemon.worker.lane import Bench
from perdure.daemon.worker.loop_lag import worker_meter
from perdure.daemon.worker.loop_side import LoopSide
from perdure.daemon.worker.newsroom import Newsroom
from perdure.daemon.worker.outcome import Outbox
from perdure.daemon.worker.output import Output
from perdure.daemon.worker.port import ORPHANED, Port
from perdure.daemon.worker.ports import Ports
from perdure.daemon.worker.recorder import RecorderPage
from perdure.daemon.worker.spooling import Spool
from perdure.daemon.worker.sync_lane import SyncLane
from perdure.log import get_logger
from perdure.wire import packet
from perdure.wire.work import Hello, Observed, PortOffered, WorkerConfig

#: The exit status after a defect in the worker's own code (EX_SOFTWARE).
DEFECT: Final = 70
#: How long the reparenting to the supervisor may take, seconds.
_ADOPTION_SECONDS: Final = 5.0
#: How long threads that handlers left behind may delay a clean exit, seconds.
_LINGER_SECONDS: Final = 2.0
#: What systemd gave to the daemon is not for jobs.
_PRIVATE_VARIABLES: Final = ("NOTIFY_SOCKET", "CREDENTIALS_DIRECTORY", "JOURNAL_STREAM")
_PRIVATE_PREFIXES: Final = ("WATCHDOG_", "LISTEN_")


log = get_logger()


class Descriptors(msgspec.Struct):
    """What comes with ForkWorker, in this order."""

    channel: int
    page: int
    stacks: int
    output: int


def run_worker(config: WorkerConfig, fds: Descriptors, handlers: Handlers, output: Output) -> NoReturn:
    """Be a worker. Called in a fresh fork whose other descriptors of the nursery are closed; never returns."""
    try:
        become_worker(config, fds)
        Worker(config, fds, handlers, output).run()
        leave(0)
    except BaseException:
        report_defect()
    os._exit(DEFECT)


def report_defect() -> None:
    """Write the traceback of what broke to the descriptor itself: it may have been the output's routing."""
    with contextlib.suppress(OSError):
        os.write(2, traceback.format_exc().encode("utf-8", "backslashreplace"))


# --- from a fork to a worker


def become_worker(config: WorkerConfig, fds: Descriptors) -> None:
    """Turn this process into a worker: signals, streams, environment, random numbers, family."""
    for fd in msgspec.structs.astuple(fds):
        os.set_inheritable(fd, False)
    # A group of its own, so that a Ctrl-C in the supervisor's terminal does not reach jobs.
    os.setpgid(0, 0)
    _reset_signals()
    _redirect_streams(fds.output)
    _clean_environment()
    _reseed()
    set_process_name(f"perdure-w{config.id}")
    # Last: by now there is hardly ever anything left to wait for.
    _wait_for_adoption(config.supervisor_pid, fds.channel)


def _wait_for_adoption(supervisor_pid: int, channel: int) -> None:
    """Wait until the supervisor is our parent; from then on die with it.

    The intermediate process is ending while this runs. Only afterwards is the parent final, and PR_SET_PDEATHSIG right.
    A supervisor that dies meanwhile will never be our parent, but it hangs up.
    """
    deadline = time.monotonic() + _ADOPTION_SECONDS
    hangup = select.poll()
    hangup.register(channel, 0)
    while os.getppid() != supervisor_pid:
        if hangup.poll(1) or time.monotonic() > deadline:
            os._exit(ORPHANED)
    if not die_with(supervisor_pid):
        os._exit(ORPHANED)


def _reset_signals() -> None:
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    # A handler that does nothing instead of SIG_IGN, which the programs that jobs start would inherit.
    signal.signal(signal.SIGINT, lambda _signal, _frame: None)


def _redirect_streams(output_fd: int) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(output_fd, 1)
    os.dup2(output_fd, 2)
    for fd in {null, output_fd} - {0, 1, 2}:
        os.close(fd)


def _clean_environment() -> None:
    for name in list(os.environ):
        if name in _PRIVATE_VARIABLES or name.startswith(_PRIVATE_PREFIXES):
            del os.environ[name]


def _reseed() -> None:
    """Brothers must not draw the same numbers. Python reseeds its own generator on fork; others do not."""
    random.seed()
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()


# --- the worker


class Worker:
    """Puts the parts together and runs them."""

    def __init__(self, config: WorkerConfig, fds: Descriptors, handlers: Handlers, output: Output) -> None:
        clock = SystemClock()
        stacks.arm(fds.stacks)
        alarm = Alarm(clock)
        alarm.install()
        self._page = RecorderPage.from_fd(fds.page)
        self._page.set_pid(os.getpid())
        self._sock = socket.socket(fileno=fds.channel)
        packet.set_buffers(self._sock)
        port = Port(self._sock)
        # Every signal has its handler by now. The supervisor claims the first jobs while the rest is made, and what it
        # sends waits in the channel.
        port.send_waiting(msgspec.msgpack.encode(Hello(os.getpid())))
        place = LogPlace(Path(config.job_log_dir), config.job_log_bytes, clock)
        output.open(place)
        output.install_logging(config.log_level)
        self._loop = uvloop.new_event_loop()
        view = BreakerView(self._report, clock, self._plan_report)
        toolbox = Toolbox(config.dependencies, config.store_id, view, self._loop, clock, random.Random())
        logger = JobLogger(output, config.log_level)
        newsroom = Newsroom(port, place, clock, self._loop)
        spool, ports = Spool(config.spool_dir, config.blob_bytes), Ports(self._offer_port)
        commands = Commands(config)
        bench = Bench(
            handlers, clock, output, logger, config.result_bytes, view, toolbox, newsroom, spool, commands, ports
        )
        self._output = output
        self._sync = SyncLane(bench, self._page.slot_writer(0), Outbox(port, self._page.done_ring("sync")), alarm)
        lag = worker_meter(self._loop, self._page, port, output, lambda: not self._async.idle)
        self._side = LoopSide(self._loop, self._sock, self._sync, alarm, bench, fds.stacks, lag)
        port.older, port.before = self._side.unsent, newsroom.flush_ended
        slots = [self._page.slot_writer(index) for index in range(1, self._page.async_slots + 1)]
        box = Outbox(port, self._page.done_ring("async"), GATHER_NS)
        self._async = AsyncLane(bench, slots, box, self._loop, self._side.stop_if_done)
        self._thread = threading.Thread(target=self._turn_loop, name="perdure-loop", daemon=True)
        os.register_at_fork(after_in_child=self._let_go)

    def run(self) -> None:
        """Run jobs until told to drain; returns when all is done and told."""
        self._thread.start()
        self._sync.serve()
        self._loop.call_soon_threadsafe(self._side.on_sync_end)
        self._thread.join()

    def _turn_loop(self) -> None:
        try:
            self._output.set_loop_thread()
            asyncio.set_event_loop(self._loop)
            self._side.serve(self._async)
        except BaseException:
            report_defect()
            os._exit(DEFECT)

    def _report(self, observed: Observed) -> None:
        self._side.report(observed)

    def _offer_port(self, offered: PortOffered, fd: int) -> None:
        self._side.offer_port(offered, fd)

    def _plan_report(self) -> None:
        self._side.plan_report()

    def _let_go(self) -> None:
        """In a child that a handler forks: do not hold the channel open after the worker is dead."""
        self._sock.close()


# --- the end


def leave(status: int) -> NoReturn:
    """End the process after a clean drain, whatever handlers left running."""
    if _threads_ended(time.monotonic() + _LINGER_SECONDS):
        with contextlib.suppress(Exception):
            atexit._run_exitfuncs()
    with contextlib.suppress(Exception):
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def _threads_ended(deadline: float) -> bool:
    """Wait for the threads that Python would wait for at its exit, but not for ever."""
    executors = sys.modules.get("concurrent.futures.thread")
    with contextlib.suppress(Exception):
        # Idle threads of executors end when they are told to, which Python does at its own exit only.
        for queue in list(executors._threads_queues.values()) if executors else ():
            queue.put(None)
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                log.warning("worker.thread_left_behind", name=thread.name, waited_s=_LINGER_SECONDS)
                return False
    return True
