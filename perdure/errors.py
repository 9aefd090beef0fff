"""The one tree of errors.

The docstring of a class is its default message. A message says what happened, to what, and what to do next.
`exit_code` is what the command line ends with; `retryable` says whether trying again later can help.
"""

from __future__ import annotations

import inspect
from typing import ClassVar


class PerdureError(Exception):
    """Something in perdure failed."""

    exit_code: ClassVar[int] = 1
    retryable: ClassVar[bool] = False

    #: The traceback of the other side, when this error came over a channel with one.
    remote_traceback: str | None = None

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or inspect.getdoc(type(self)) or type(self).__name__)


# --- what the caller got wrong: exit code 2


class UsageError(PerdureError):
    """The request cannot be understood."""

    exit_code = 2


class ConfigError(UsageError):
    """The configuration has mistakes. Run `perdure config check` to see all of them."""


class InvalidOption(UsageError):
    """An option has a value that is not allowed."""


class InvalidArguments(UsageError):
    """The arguments do not fit the handler's signature."""


class MessageTooLarge(UsageError):
    """A message has more bytes than the other side takes. Send less at once."""


class NotData(InvalidArguments):
    """An argument is not data. Pass numbers, strings, booleans, None, lists and dicts only."""


class InvalidHandler(UsageError):
    """A function cannot be used as a job handler."""


class HandlersNotLoaded(PerdureError):
    """The modules with the handlers cannot be imported."""


# --- who is not there, or not in the right condition


class DaemonUnreachable(PerdureError):
    """The daemon cannot be reached. Start it with `perdure run`."""

    exit_code = 3
    retryable = True


class DaemonStopping(DaemonUnreachable):
    """The daemon is stopping and takes nothing new. Try again when it is back."""


class ChannelClosed(DaemonUnreachable):
    """The other side closed the connection before it answered."""


class TimeGivenIsOver(PerdureError, TimeoutError):
    """What was waited for has not happened within the time given. It was not cancelled."""


class CallTimeout(PerdureError, TimeoutError):
    """The other side did not answer within the deadline."""

    exit_code = 3
    retryable = True


class ProtocolError(PerdureError):
    """The other side sent something that is not a perdure message. Do both sides have the same version?"""


class Forbidden(PerdureError):
    """This user may not talk to the daemon. Ask to be put into the group named by daemon.socket_group."""


class NotFound(PerdureError):
    """There is no such job."""


class JobFailed(PerdureError):
    """The job that was waited for did not complete."""

    exit_code = 4


# --- refused, though well-formed: exit code 5


class Refused(PerdureError):
    """The request was refused."""

    exit_code = 5


class Duplicate(Refused):
    """An unfinished job with this unique key exists already."""


class QueueFull(Refused):
    """The queue is full. Try again later, or raise its limit ([queues.NAME]: max_depth, max_age)."""

    retryable = True


class Busy(Refused):
    """The daemon has as much of this to do as it takes on. Try again later."""

    retryable = True


class WrongState(Refused):
    """The job is not in a state in which this can be done."""


# --- the store


class StoreError(PerdureError):
    """The queue's database cannot be used."""


class StoreLocked(StoreError):
    """Another process has the queue open for writing."""


class StoreFull(StoreError):
    """The disk is full. Free some space; every job is where it was."""

    retryable = True


class StoreReadOnly(StoreError):
    """The queue's folder or file cannot be written. Check its owner and permissions."""


class StoreCorrupt(StoreError):
    """The file is not a usable perdure database."""


class SchemaTooNew(StoreError):
    """The database was written by a newer perdure. Install that version or a newer one."""


# --- databases and other services that jobs need


class BreakerOpen(PerdureError):
    """The breaker of a dependency is open, so no call was made.

    `name` is the dependency; `seconds_left` until its break is over, None if nobody knows. A job that ends with this
    is parked until the dependency is back, and it costs it no attempt.
    """

    retryable = True

    def __init__(self, message: str | None = None, *, name: str = "", seconds_left: float | None = None) -> None:
        when = "" if seconds_left is None else f" for {seconds_left:.1f} s more"
        super().__init__(message or f"{name}: no call was made, its breaker is open{when}")
        self.name = name
        self.seconds_left = seconds_left


class UnknownDependency(UsageError):
    """The configuration has no such dependency. Declare it: [dependencies.NAME]."""


class CallTooLong(PerdureError, TimeoutError):
    """A call to a dependency did not end within its time limit."""

    retryable = True


class Unavailable(PerdureError, ConnectionError):
    """A dependency cannot be used. The class says why; each message names the address and the setting to look at."""

    retryable = True


class NoAnswer(Unavailable):
    """Nothing answers there: refused, unreachable, or silent until the time limit."""


class UnknownHost(Unavailable):
    """The name of the host cannot be resolved."""


class WrongCredentials(Unavailable):
    """The server refused user, password or key."""


class UnknownDatabase(Unavailable):
    """The server has no database of this name."""


class WrongProtocol(Unavailable):
    """Another kind of server listens on that port."""


class TlsNotOffered(Unavailable):
    """TLS was asked for, and the server does not offer it."""


class TlsRequired(Unavailable):
    """The server takes no connection without TLS."""


class CertificateRefused(Unavailable):
    """The server's certificate cannot be trusted."""


class PoolExhausted(Unavailable):
    """All connections of the pool are in use, and none came back within the time limit."""


# --- what handlers raise to steer their job, and what is raised in them


class Retry(PerdureError):
    """Try this job again later; it counts as a failed attempt.

    `after`: seconds (float) or text such as "10m" until the next attempt; None lets the backoff decide.
    """

    retryable = True

    def __init__(self, message: str | None = None, *, after: float | str | None = None) -> None:
        super().__init__(message or "the handler asked for another attempt")
        self.after = after


class Permanent(PerdureError):
    """This job can never succeed: it goes to the dead letters at once."""


class PayloadGone(Permanent):
    """The job's payload is not there any more, or cannot be read."""


class PayloadChanged(Permanent):
    """The job's payload is not what it was when the job was enqueued. Spool it if it may change: --spool."""


class NotAllowed(Permanent):
    """The configuration does not allow this command. Add it to shell.allow."""


class JobCancelled(PerdureError):
    """The job was cancelled while it ran. Raised inside the handler; if it does not end, its worker is killed."""


class CommandFailed(PerdureError):
    """A command did not end well.

    `command` is how it was called, for people; `returncode` its exit status, or minus the number of the signal that
    ended it; `last_lines` the end of what it printed.
    """

    retryable = True

    def __init__(
        self, message: str | None = None, *, command: str = "", returncode: int = 1, last_lines: str = ""
    ) -> None:
        super().__init__(message)
        self.command = command
        self.returncode = returncode
        self.last_lines = last_lines


class JobTimeout(PerdureError, TimeoutError):
    """The job reached its time limit. Raised inside the handler; a second later the worker is killed."""

    retryable = True


class JobInterrupted(PerdureError):
    """The worker died while it executed this job."""

    retryable = True


class RemoteError(PerdureError):
    """The other side failed with an error that has no class here.

    `remote_type` is that class's name, `remote_message` its message; `remote_retryable` is None if it was not said.
    """

    def __init__(
        self,
        message: str | None = None,
        *,
        remote_type: str = "",
        remote_message: str = "",
        remote_retryable: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.remote_type = remote_type
        self.remote_message = remote_message
        self.remote_retryable = remote_retryable
