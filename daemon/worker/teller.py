"""What one job tells by `ctx.progress` and `ctx.emit`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from perdure.daemon.joblog import value_line, values_path
from perdure.daemon.worker.job_file import JobFile, complain
from perdure.data_check import encode_data_utf8
from perdure.errors import JobTimeout, NotData
from perdure.wire.streams import Emitted, Progress

if TYPE_CHECKING:
    from perdure.daemon.worker.newsroom import Newsroom
    from perdure.wire.work import JobRow

#: The largest value that can be emitted, bytes of JSON: what goes to people's screens is small.
LARGEST_VALUE_BYTES: Final = 64 * 1024
#: A longer text about the progress is cut, characters.
LONGEST_TEXT: Final = 500


class Teller:
    """Made by the job's first word, closed when it ends. Any thread."""

    __slots__ = ("_complained", "_file", "_newsroom", "_number", "_since", "ended", "latest", "noted", "row", "told")

    def __init__(self, newsroom: Newsroom, row: JobRow) -> None:
        self.row = row
        #: The newest progress.
        self.latest: Progress | None = None
        #: The one that was told last.
        self.told: Progress | None = None
        #: The newsroom will ask for the newest: nothing need be said to it.
        self.noted = False
        self.ended = False
        self._newsroom = newsroom
        self._number = 0
        #: When the first value was emitted, epoch milliseconds.
        self._since = 0
        self._file: JobFile | None = None
        self._complained = False

    def progress(self, done: float, total: float | None, text: str | None) -> None:
        """See Context.progress. After the end of the job it does nothing. Raises TypeError, ValueError."""
        progress = Progress(
            self.row.id, float(done), None if total is None else float(total), None if text is None else _short(text)
        )
        if self.ended:
            return
        # First the progress, then the look: see Newsroom._take_progress.
        self.latest = progress
        if not self.noted:
            self._newsroom.note_progress(self)

    def emit(self, value: Any) -> None:
        """See Context.emit. After the end of the job it does nothing. Raises NotData."""
        json = encode_data_utf8(value, "value")
        size = len(json)
        if size > LARGEST_VALUE_BYTES:
            raise NotData(
                f"value: {size:,} bytes as JSON; at most {LARGEST_VALUE_BYTES:,} can be emitted at a time."
                " Write it to a file and emit the path, or return it as the result."
            )
        newsroom, row = self._newsroom, self.row
        place = newsroom.place
        with place.lock:
            if self.ended:
                return
            self._number += 1
            if not self._since:
                self._since = place.clock.now_ms()
            self._keep(value_line(self._number, json, row.attempt, self._since))
            if place.ear is not None and newsroom.wants_value(row, size):
                value = Emitted(row.id, json.decode(), self._number, attempt=row.attempt, since=self._since)
                newsroom.hear_value(value)

    def close(self) -> None:
        """The job has ended."""
        newsroom = self._newsroom
        with newsroom.place.lock:
            if self._file is not None:
                self._file.close()
            with newsroom.lock:
                self.ended = True
                newsroom.end(self)

    def _keep(self, line: bytes) -> None:
        """Write it down. The first value takes the place of those of earlier attempts."""
        try:
            file = self._file
            if file is None:
                place = self._newsroom.place
                file = self._file = JobFile(values_path(place.folder, self.row.id), place.half_bytes)
                file.open(anew=True)
            file.append(line)
        except JobTimeout:
            raise
        except OSError as error:
            if not self._complained:
                self._complained = True
                complain("values", self.row.id, error)


def _short(text: str) -> str:
    """As much of it as is told, and what UTF-8 cannot hold escaped."""
    return str(text)[:LONGEST_TEXT].encode("utf-8", "backslashreplace").decode()
