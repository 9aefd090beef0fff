"""What one job tells by `ctx.progress` and `ctx.emit`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from perdure.daemon.joblog import values_path
from perdure.daemon.worker.job_file import JobFile, complain
from perdure.data_check import encode_data
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

    __slots__ = ("_complained", "_ended", "_file", "_newsroom", "_number", "latest", "row")

    def __init__(self, newsroom: Newsroom, row: JobRow) -> None:
        self.row = row
        #: The newest progress.
        self.latest: Progress | None = None
        self._newsroom = newsroom
        self._number = 0
        self._file: JobFile | None = None
        self._ended = False
        self._complained = False

    def progress(self, done: float, total: float | None, text: str | None) -> None:
        """See Context.progress. After the end of the job it does nothing. Raises TypeError, ValueError."""
        progress = Progress(
            self.row.id, float(done), None if total is None else float(total), None if text is None else _short(text)
        )
        with self._newsroom.lock:
            if not self._ended:
                self.latest = progress
                self._newsroom.note_progress(progress)

    def emit(self, value: Any) -> None:
        """See Context.emit. After the end of the job it does nothing. Raises NotData."""
        text = encode_data(value, "value")
        line = text.encode()
        if len(line) > LARGEST_VALUE_BYTES:
            raise NotData(
                f"value: {len(line):,} bytes as JSON; at most {LARGEST_VALUE_BYTES:,} can be emitted at a time."
                " Write it to a file and emit the path, or return it as the result."
            )
        place = self._newsroom.place
        with place.lock:
            if self._ended:
                return
            self._number += 1
            self._keep(b"[%d,%b]\n" % (self._number, line))
            if place.ear is not None:
                self._newsroom.hear_value(Emitted(self.row.id, text, self._number), self.row.queue)

    def close(self) -> None:
        """The job has ended."""
        newsroom = self._newsroom
        with newsroom.place.lock:
            if self._file is not None:
                self._file.close()
            with newsroom.lock:
                self._ended = True
                newsroom.end(self)

    def _keep(self, line: bytes) -> None:
        """Write it down. The first value takes the place of those of earlier attempts."""
        place = self._newsroom.place
        try:
            if self._file is None:
                self._file = JobFile(values_path(place.folder, self.row.id), place.half_bytes)
                self._file.open(anew=True)
            self._file.append(line)
        except JobTimeout:
            raise
        except OSError as error:
            if not self._complained:
                self._complained = True
                complain("values", self.row.id, error)


def _short(text: str) -> str:
    """As much of it as is told, and what UTF-8 cannot hold escaped."""
    return str(text)[:LONGEST_TEXT].encode("utf-8", "backslashreplace").decode()
