"""What waits to be told to one subscriber: bounded, and the least important is left out first. Pure.

When there is too much: log text goes first, the oldest before the newer; then emitted values; then progress; then
states of a job that has another one by now; then results and errors of the states that are left; and last these. Where
jobs were asked for by id, the last state of each is never left out.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Final

from perdure.wire.streams import Emitted, Entry, LogText, Progress, Skipped, StateChange, Topic

#: A message takes no more entries when it has this many bytes.
MESSAGE_BYTES = 64 * 1024
#: Between two messages that are not full, seconds.
INTERVAL_SECONDS = 0.1
#: What may wait for one subscriber, as long as there are not too many of them.
BUFFER_BYTES = 1024 * 1024
BUFFER_ENTRIES = 10_000
#: Most messages that a subscriber can have been granted and not got.
MOST_CREDIT = 4_096
#: What an entry takes besides its texts, about.
_ENTRY_BYTES = 48


@dataclass(slots=True)
class Bounds:
    """How much may wait for each subscriber."""

    bytes: int = BUFFER_BYTES
    entries: int = BUFFER_ENTRIES


def entry_bytes(entry: Entry) -> int:
    """About how many bytes an entry has on the wire."""
    match entry:
        case Emitted():
            return _ENTRY_BYTES + _length(entry.value)
        case LogText():
            return _ENTRY_BYTES + _length(entry.text)
        case Progress():
            return _ENTRY_BYTES + _length(entry.text)
        case StateChange():
            names = len(entry.kind) + len(entry.queue)
            return 2 * _ENTRY_BYTES + names + _length(entry.error) + _length(entry.result)


def topic_of(entry: Entry) -> Topic:
    """What a subscriber must have asked for to get this."""
    return _TOPICS[type(entry)]


class Buffer:
    """The entries that wait for one subscriber, in order, and when it may be sent how many messages.

    `keep_last`: the last state of each job must arrive; whoever says so knows that there are not many jobs. `bounds` is
    shared: it may become narrower or wider at any time.
    """

    __slots__ = (
        "_bounds",
        "_entries",
        "_keep_last",
        "_last_number",
        "_logs",
        "_older_states",
        "_progress",
        "_rich",
        "_sent_at",
        "_states",
        "_values",
        "bytes",
        "credit",
        "ending",
        "skipped",
    )

    def __init__(self, bounds: Bounds, credit: int, *, keep_last: bool) -> None:
        self._bounds = bounds
        self._keep_last = keep_last
        #: Entries and their sizes, by a number that only grows; the other tables point into this one.
        self._entries: OrderedDict[int, tuple[Entry, int]] = OrderedDict()
        self._last_number = 0
        #: In order: these leave at the front only.
        self._logs: deque[int] = deque()
        self._values: deque[int] = deque()
        self._older_states: OrderedDict[int, None] = OrderedDict()
        #: States with a result or an error.
        self._rich: OrderedDict[int, None] = OrderedDict()
        #: By job: the newest one.
        self._progress: OrderedDict[int, int] = OrderedDict()
        self._states: OrderedDict[int, int] = OrderedDict()
        self._sent_at = -INTERVAL_SECONDS
        self.bytes = 0
        #: Nothing more will come: the last message must be sent, even an empty one.
        self.ending = False
        self.credit = max(0, min(credit, MOST_CREDIT))
        #: What was left out since the last message.
        self.skipped = Skipped()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to tell."""
        return not self._entries and self.skipped == _NOTHING

    def due_at(self, now: float) -> float | None:
        """When the next message should leave, `now` or later, in seconds; None: there is none, or no credit for it."""
        if self.credit <= 0 or (self.empty and not self.ending):
            return None
        return now if self.bytes >= MESSAGE_BYTES else max(now, self._sent_at + INTERVAL_SECONDS)

    def grant(self, messages: int) -> None:
        """The subscriber takes so many more."""
        self.credit = max(0, min(self.credit + messages, MOST_CREDIT))

    def skip(self, *, states: int = 0, lines: int = 0, values: int = 0) -> None:
        """So much was left out before it came here."""
        self.skipped.states += states
        self.skipped.lines += lines
        self.skipped.values += values

    def offer(self, entry: Entry, size: int) -> None:
        """Add an entry of so many bytes (entry_bytes), and make room for it if need be."""
        if size > self._bounds.bytes and self._leave_out(entry):
            return
        self._last_number += 1
        number = self._last_number
        match entry:
            case Emitted():
                self._values.append(number)
            case LogText():
                self._logs.append(number)
            case Progress():
                former = self._progress.pop(entry.id, None)
                if former is not None:
                    self._remove(former)
                self._progress[entry.id] = number
            case StateChange():
                former = self._states.pop(entry.id, None)
                if former is not None:
                    self._older_states[former] = None
                self._states[entry.id] = number
                if entry.error or entry.result:
                    self._rich[number] = None
        self._entries[number] = (entry, size)
        self.bytes += size
        if self.bytes > self._bounds.bytes or len(self._entries) > self._bounds.entries:
            self._make_room()

    def take(self, now: float) -> tuple[list[Entry], Skipped]:
        """The next message, for one credit: entries up to MESSAGE_BYTES (at least one), and what was left out."""
        self.credit -= 1
        self._sent_at = now
        taken: list[Entry] = []
        size = 0
        while self._entries:
            number, (entry, entry_size) = self._entries.popitem(last=False)
            if taken and size + entry_size > MESSAGE_BYTES:
                self._entries[number] = (entry, entry_size)
                self._entries.move_to_end(number, last=False)
                break
            taken.append(entry)
            size += entry_size
            self._unlist(number, entry)
        self.bytes -= size
        skipped, self.skipped = self.skipped, Skipped()
        return taken, skipped

    def clear(self) -> None:
        """Nobody will read it."""
        self._entries.clear()
        for table in (self._logs, self._values, self._older_states, self._rich, self._progress, self._states):
            table.clear()
        self.bytes = self.credit = 0
        self.skipped = Skipped()

    # --- making room

    def _leave_out(self, entry: Entry) -> bool:
        """What is too large by itself must not push everything else out; states can be stripped."""
        if isinstance(entry, LogText):
            self.skipped.lines += entry.lines
        elif isinstance(entry, Emitted):
            self.skipped.values += 1
        return not isinstance(entry, StateChange)

    def _make_room(self) -> None:
        bounds = self._bounds
        while self.bytes > bounds.bytes or len(self._entries) > bounds.entries:
            if not (self._drop_one() or (self.bytes > bounds.bytes and self._strip_one()) or self._drop_state()):
                return

    def _drop_one(self) -> bool:
        """Leave out the least important entry; False: there are only last states."""
        if self._logs:
            text = self._remove(self._logs.popleft())
            assert isinstance(text, LogText)
            self.skipped.lines += text.lines
        elif self._values:
            self._remove(self._values.popleft())
            self.skipped.values += 1
        elif self._progress:
            self._remove(self._progress.popitem(last=False)[1])
        elif self._older_states:
            number, _ = self._older_states.popitem(last=False)
            self._remove(number)
            self._rich.pop(number, None)
            self.skipped.states += 1
        else:
            return False
        return True

    def _strip_one(self) -> bool:
        """Leave out what can be looked up elsewhere: result and error of the oldest state that has some."""
        if not self._rich:
            return False
        number, _ = self._rich.popitem(last=False)
        entry, size = self._entries[number]
        assert isinstance(entry, StateChange)
        # Others may have the same entry: a new one.
        bare = StateChange(entry.id, entry.state, entry.at, entry.kind, entry.queue, entry.attempt)
        self._entries[number] = (bare, entry_bytes(bare))
        self.bytes += entry_bytes(bare) - size
        return True

    def _drop_state(self) -> bool:
        """Leave out the oldest state, though it is the last one of its job; False: none may be left out."""
        if self._keep_last or not self._states:
            return False
        _, number = self._states.popitem(last=False)
        self._remove(number)
        self._rich.pop(number, None)
        self.skipped.states += 1
        return True

    def _remove(self, number: int) -> Entry:
        entry, size = self._entries.pop(number)
        self.bytes -= size
        return entry

    def _unlist(self, number: int, entry: Entry) -> None:
        """This entry leaves from the front."""
        match entry:
            case Emitted():
                self._values.popleft()
            case LogText():
                self._logs.popleft()
            case Progress():
                del self._progress[entry.id]
            case StateChange():
                self._rich.pop(number, None)
                if self._states.get(entry.id) == number:
                    del self._states[entry.id]
                else:
                    del self._older_states[number]


_NOTHING = Skipped()
_TOPICS: Final[dict[type, Topic]] = {StateChange: "state", Progress: "progress", LogText: "log", Emitted: "emit"}


def _length(text: str | None) -> int:
    if text is None:
        return 0
    return len(text) if text.isascii() else len(text.encode())
