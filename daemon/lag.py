"""How long a loop keeps others waiting, and what it was that kept them waiting.

A timer on the loop notes how late it comes. A thread beside it looks when the timer is overdue: then something stands
in the loop's way, and the stack of the loop's thread says what. Three things look the same to the timer, and what
stands there is not to blame: a machine with too few CPUs for all that wants to run; a process that was stopped, or a
machine that was suspended; and C code in another thread that holds Python's lock (the GIL).
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable
from types import CodeType
from typing import Final, NamedTuple

from perdure.daemon.alarm_clock import AlarmClock
from perdure.daemon.lag_figures import SAMPLE_NS, RollingLag
from perdure.daemon.lag_sample import Sample, ThreadUse, look_at_loop
from perdure.wire.work import LoopBlocked

#: Between two ticks of a busy loop; and of one that does nothing, where each costs a wake-up.
FINE_NS: Final = SAMPLE_NS
COARSE_NS: Final = 5_000_000_000
#: Between two beats of a busy loop; one that does nothing beats with each of its ticks.
BEAT_NS: Final = 1_000_000_000
#: The watcher of a loop that does nothing sleeps so long, unless its alarm is set: it need only find what hangs.
WATCHER_COARSE_NS: Final = 10_000_000_000
#: Fine ticks that find nothing going on before they become coarse ones.
QUIET_TICKS: Final = 10
#: A loop that has used this part of the time was not idle: 1 in so many.
BUSY_PART: Final = 20
#: From here on it is worth telling: a frame of a screen, and more than any turn of a loop should take.
BLOCKED_NS: Final = 16_000_000
#: A loop that stands for so long is told of before it moves again; then at twice that, and so on.
STILL_NS: Final = 1_000_000_000
#: By so much the watcher may itself be late and still be believed.
WATCHER_LATE_NS: Final = 8_000_000
#: A longer lag needs a witness, that the watcher ran meanwhile or that the process used the CPU (C code may have held
#: the GIL): else it was none, but a process that was stopped, or a machine that was suspended.
JUMP_NS: Final = 1_000_000_000
#: So many are told of at once, and then one in so much time.
BURST: Final = 5
REFILL_NS: Final = 10_000_000_000

#: Stands in a report when the loop moved again before anybody could look.
UNSEEN: Final = "(over before it could be seen)"

Tell = Callable[[LoopBlocked], bool]


class Look(NamedTuple):
    """What the watcher saw when the timer that was due at `due_ns` was overdue. `late`: it was late itself."""

    due_ns: int
    at_ns: int
    sample: Sample | None
    late: bool


class Throttle:
    """Lets through a few at once, then one at a time, and counts the others."""

    def __init__(self) -> None:
        self._left = float(BURST)
        self._last_ns: int | None = None
        self.left_out = 0

    def allows(self, now_ns: int) -> bool:
        """Whether one more may pass."""
        if self._last_ns is not None:
            self._left = min(float(BURST), self._left + (now_ns - self._last_ns) / REFILL_NS)
        self._last_ns = now_ns
        if self._left < 1:
            self.left_out += 1
            return False
        self._left -= 1
        return True


def _never() -> bool:
    return False


def _nobody() -> Sample | None:
    return None


class LagMeter:
    """Measures one loop. Made anywhere, started in the loop's thread.

    `tell` gets what blocked the loop, in the loop's thread or in the watcher's, and says whether that could be told.
    `beat` is called once a second while the loop is busy, and else with the coarse ticks, so that it costs an idle loop
    no wake-up of its own.
    `held`: whether there is work that may begin at any time (else: who begins some calls `busy`). `rival`: what
    another thread executes that may hold the GIL. Clocks are in nanoseconds.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        tell: Tell,
        *,
        beat: Callable[[], None] | None = None,
        held: Callable[[], bool] = _never,
        rival: Callable[[], Sample | None] = _nobody,
        clock: Callable[[], int] = time.monotonic_ns,
        cpu_clock: Callable[[], int] = time.process_time_ns,
    ) -> None:
        self._loop = loop
        self._tell = tell
        self._beat = beat
        self._next_beat_ns = 0
        self._held = held
        self._rival = rival
        self._clock = clock
        self._cpu_clock = cpu_clock
        self._figures = RollingLag(clock())
        self._throttle = Throttle()
        self._fine = True
        self._quiet = 0
        self._interval_ns = FINE_NS
        self._last_ns = self._due_ns = clock()
        self._timer: asyncio.TimerHandle | None = None
        self._thread = 0
        self._base: CodeType | None = None
        self._use: ThreadUse | None = None
        self._ran_ns = self._starved_ns = self._cpu_ns = 0
        # The watcher's own.
        self._looked: Look | None = None
        self._still_ns = STILL_NS
        self._planned_ns = clock()
        self._alarm: AlarmClock | None = None
        #: When it rings, if it is set.
        self._alarm_ns = 0
        self._watcher = threading.Thread(target=self._watch, name="perdure-lag", daemon=True)
        self._closed = False

    def start(self) -> None:
        """Begin. In the loop's thread."""
        self._thread = threading.get_ident()
        self._use = ThreadUse()
        self._alarm = AlarmClock()
        self._ran_ns, self._starved_ns = self._use.read()
        self._cpu_ns = self._cpu_clock()
        self._last_ns = self._clock()
        self._set(self._last_ns)
        self._watcher.start()

    def close(self) -> None:
        """Stop measuring. In the loop's thread; harmless when it was never started."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._use is not None and self._alarm is not None:
            self._alarm.set(1)
            self._watcher.join()
            self._alarm.close()
            self._use.close()
            self._alarm = self._use = None

    def busy(self) -> None:
        """There is something to do: look closely from now on. Cheap, for the hot path; in the loop's thread."""
        self._quiet = 0
        if not self._fine and not self._closed:
            self._quicken()

    def figures(self) -> tuple[float, float]:
        """The longest lag of the last minute, and what all but a thousandth of it stayed below, in milliseconds."""
        now_ns = self._clock()
        return self._figures.longest_ms(now_ns), self._figures.p999_ms(now_ns)

    # --- the timer

    def _quicken(self) -> None:
        now_ns = self._clock()
        if now_ns >= self._due_ns:
            return  # the tick is due already, and it counts what is late
        if self._timer is not None:
            self._timer.cancel()
        self._figures.add(now_ns, now_ns - self._last_ns, 0)
        self._last_ns = now_ns
        self._fine, self._interval_ns = True, FINE_NS
        self._set(now_ns)
        self._wake_watcher(now_ns)

    def _wake_watcher(self, now_ns: int) -> None:
        """When it has something to look for: not now, when the loop has something to do at last."""
        if self._alarm is not None:
            self._alarm_ns = now_ns + BLOCKED_NS
            self._alarm.set(BLOCKED_NS)

    def _set(self, now_ns: int) -> None:
        # uvloop rounds timers to whole milliseconds: they may come early by less than one, which is no lag below zero.
        self._due_ns = now_ns + self._interval_ns
        self._timer = self._loop.call_later(self._interval_ns / 1e9, self._tick)

    def _tick(self) -> None:
        now_ns = self._clock()
        # Below this callback is whoever turns the loop: what is seen on top of it while the loop waits.
        caller = sys._getframe().f_back
        self._base = None if caller is None else caller.f_code
        assert self._use is not None
        ran_ns, starved_ns = self._use.read()
        cpu_ns = self._cpu_clock()
        lag_ns = max(0, now_ns - self._due_ns)
        used_ns = ran_ns - self._ran_ns
        looked = self._looked
        if looked is not None and looked.due_ns != self._due_ns:
            looked = None  # that was another time
        if lag_ns <= JUMP_NS or _was_seen(looked) or (cpu_ns - self._cpu_ns) * 2 > lag_ns:
            self._figures.add(now_ns, now_ns - self._last_ns, lag_ns)
            if lag_ns - (starved_ns - self._starved_ns) > BLOCKED_NS:
                self._blocked(now_ns, lag_ns, looked, used_ns * 2 > lag_ns)
        self._ran_ns, self._starved_ns, self._cpu_ns = ran_ns, starved_ns, cpu_ns
        self._last_ns = now_ns
        self._choose_pace(now_ns, used_ns)
        if self._beat is not None and now_ns >= self._next_beat_ns:
            self._next_beat_ns = now_ns + BEAT_NS - FINE_NS
            self._beat()
        self._set(now_ns)

    def _choose_pace(self, now_ns: int, used_ns: int) -> None:
        """Fine ticks while there is something to do, and for a moment after that."""
        self._quiet = 0 if used_ns * BUSY_PART > self._interval_ns or self._held() else self._quiet + 1
        fine, was_fine = self._quiet < QUIET_TICKS, self._fine
        self._fine, self._interval_ns = fine, FINE_NS if fine else COARSE_NS
        if fine and not was_fine:
            self._wake_watcher(now_ns)

    def _blocked(self, now_ns: int, lag_ns: int, looked: Look | None, used_cpu: bool) -> None:
        """It was late, and not for want of a CPU: tell what stood in its way, if that is known."""
        sample = None if looked is None else looked.sample
        if sample is None or (looked is not None and looked.late and not used_cpu):
            # Nothing ran on the loop, and yet it did not move: another thread held the GIL.
            rival = self._rival()
            if rival is not None:
                sample = rival
            elif sample is None and used_cpu:
                sample = Sample("", UNSEEN)
        if sample is not None:
            self._report(now_ns, lag_ns, sample, still=False)

    def _report(self, now_ns: int, lag_ns: int, sample: Sample, *, still: bool) -> None:
        throttle = self._throttle
        if throttle.allows(now_ns):
            lag_ms = round(lag_ns / 1e6, 1)
            if self._tell(LoopBlocked(lag_ms, sample.task, sample.stack, throttle.left_out, still)):
                throttle.left_out = 0
            else:
                throttle.left_out += 1

    # --- the watcher's thread

    def _watch(self) -> None:
        assert self._alarm is not None
        while not self._closed:
            wait_ns = self.look()
            self._planned_ns = self._clock() + wait_ns
            if self._alarm.wait(wait_ns):
                self._planned_ns = self._alarm_ns

    def look(self) -> int:
        """Look whether the timer is overdue, and at what runs if it is. Nanoseconds until it is worth looking again."""
        now_ns, due_ns = self._clock(), self._due_ns
        lag_ns = now_ns - due_ns
        if lag_ns < BLOCKED_NS:
            return BLOCKED_NS - lag_ns if self._fine else WATCHER_COARSE_NS
        looked = self._looked
        if looked is None or looked.due_ns != due_ns:
            late = now_ns - self._planned_ns > WATCHER_LATE_NS
            self._looked = Look(due_ns, now_ns, self._sample(), late)
            self._still_ns = STILL_NS
        elif looked.sample is None:
            self._looked = looked._replace(sample=self._sample())
        elif lag_ns >= self._still_ns and not looked.late:
            self._report(now_ns, lag_ns, looked.sample, still=True)
            self._still_ns *= 2
        return min(lag_ns, STILL_NS)

    def _sample(self) -> Sample | None:
        return look_at_loop(self._loop, self._thread, self._base)


def _was_seen(looked: Look | None) -> bool:
    """Whether the watcher was there when the lag began: then neither the process nor the machine was stopped."""
    return looked is not None and looked.at_ns < looked.due_ns + BLOCKED_NS + JUMP_NS
