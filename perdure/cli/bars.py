"""Progress bars at the end of what a terminal shows, redrawn in place. Without rich, which is slow to import."""

from __future__ import annotations

import shutil

from perdure.cli.text import clean, fit, paint
from perdure.wire.streams import Progress

#: More jobs than this at a time are not drawn.
_MOST_BARS = 8
_WIDTH = 24


class Bars:
    """The newest progress of each job that runs."""

    def __init__(self) -> None:
        self._progress: dict[int, Progress] = {}
        self._drawn = 0

    def put(self, progress: Progress) -> None:
        """This is how far a job is now."""
        self._progress[progress.id] = progress

    def drop(self, job_id: int) -> None:
        """It runs no more."""
        self._progress.pop(job_id, None)

    def erase(self) -> str:
        """What takes the bars off the screen, so that lines can be printed where they were."""
        drawn, self._drawn = self._drawn, 0
        return f"\x1b[{drawn}A\x1b[J" if drawn else ""

    def draw(self) -> str:
        """What puts them there again, below the last line."""
        width = shutil.get_terminal_size().columns - 1
        lines = [_bar_line(progress, width) for progress in list(self._progress.values())[-_MOST_BARS:]]
        self._drawn = len(lines)
        return "".join(f"{line}\n" for line in lines)


def progress_text(progress: Progress) -> str:
    """How far it is, in words: "40% 40/100 rows"."""
    text = f" {clean(progress.text)}" if progress.text else ""
    if not progress.total:
        return f"{progress.done:,g}{text}"
    share = max(0.0, min(1.0, progress.done / progress.total))
    return f"{share:.0%} {progress.done:,g}/{progress.total:,g}{text}"


def _bar_line(progress: Progress, width: int) -> str:
    share = max(0.0, min(1.0, progress.done / progress.total)) if progress.total else 0.0
    full = round(share * _WIDTH)
    bar = f"{paint('█' * full, 'cyan')}{paint('·' * (_WIDTH - full), dim=True)}" if progress.total else ""
    words = fit(f"{progress.id} {progress_text(progress)}", max(10, width - (_WIDTH + 1 if bar else 0)))
    return f"{bar} {words}" if bar else words
