"""perdure as a service of the real systemd, from `perdure systemd install` to a clean stop."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.systemd_machine import Machine, why_not
from tests.support.wait import wait_until

UNIT = "perdure.service"
HANDLERS = Path(__file__).with_name("handlers.py")
CONFIG = "/etc/perdure/perdure.toml"
#: Shorter limits than the unit's, so that a hang and a restart take a test two seconds and not half a minute.
QUICK = "[Service]\nWatchdogSec=2s\nRestartSec=200ms\n"
#: The job that root enqueues before the service has ever run.
EARLY_JOB = 1
#: These tests are part of every test run.
ALL_SECONDS = 60


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine on which perdure was installed as the documentation says."""
    folder = tmp_path_factory.mktemp("machine")
    if reason := why_not(folder):
        pytest.skip(f"the real systemd cannot be booted in namespaces: {reason}")
    begun = time.monotonic()
    with Machine(folder) as booted:
        booted.perdure("systemd", "install")
        booted.run("systemd-sysusers", "perdure.conf")
        booted.run("systemd-tmpfiles", "--create", "perdure.conf")
        booted.write("/etc/perdure/jobs.py", HANDLERS.read_text())
        booted.run("sed", "-i", 's/^handlers = .*/handlers = ["jobs"]/', CONFIG)
        booted.write(f"/etc/systemd/system/{UNIT}.d/quick.conf", QUICK)
        booted.run("systemctl", "daemon-reload")
        assert _enqueue(booted, "greet", "name=early") == EARLY_JOB
        booted.run("systemctl", "start", UNIT)
        yield booted
    assert time.monotonic() - begun < ALL_SECONDS, "the tests of the service have become slow"


@pytest.fixture
def service(machine: Machine) -> Machine:
    """The machine with the service up, whatever the test before did to it."""
    machine.run("systemctl", "start", UNIT)
    return machine


def _enqueue(machine: Machine, kind: str, *arguments: str) -> int:
    """Put a job into the queue; its id."""
    return int(machine.perdure("enqueue", kind, *arguments).stdout)


def _result(machine: Machine, kind: str, *arguments: str) -> Any:
    """Run a job to its end; its result."""
    job = _enqueue(machine, kind, *arguments)
    machine.perdure("wait", str(job))
    return _job(machine, job)["result"]


def _job(machine: Machine, job: int) -> dict[str, Any]:
    shown: dict[str, Any] = json.loads(machine.perdure("show", str(job), "--json").stdout)
    return shown


def _status(machine: Machine) -> dict[str, Any]:
    status: dict[str, Any] = json.loads(machine.perdure("status", "--json").stdout)
    return status


def _main_pid(machine: Machine) -> int:
    return int(machine.show("MainPID"))


def _is_restarted(machine: Machine, former: int) -> bool:
    return machine.show("ActiveState") == "active" and _main_pid(machine) not in (0, former)


def _messages(machine: Machine) -> list[str]:
    return [entry["MESSAGE"] for entry in machine.journal() if isinstance(entry.get("MESSAGE"), str)]


def test_started_means_ready(service: Machine) -> None:
    """What is ordered after perdure, or typed after `systemctl start`, must find the queue open."""
    service.run("systemctl", "restart", UNIT)
    assert _status(service)["running"] is True
    assert service.show("StatusText")
    assert _result(service, "greet", "name=world") == "hello world"


def test_the_queue_can_be_filled_before_the_first_start(service: Machine) -> None:
    """root's first `perdure enqueue` must not leave files that the service's user cannot open."""
    service.perdure("wait", str(EARLY_JOB))
    assert _job(service, EARLY_JOB)["result"] == "hello early"
    owners = service.run("stat", "--format", "%U %a", "/var/lib/perdure/perdure.db", "/var/lib/perdure/perdure.db.lock")
    assert owners.stdout.split("\n")[:2] == ["perdure 600"] * 2


def test_a_job_sees_only_what_it_should(service: Machine) -> None:
    """Jobs run other people's code: no way to speak for the daemon, no writing outside the service's folders."""
    seen = _result(service, "surroundings")
    private = {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "CREDENTIALS_DIRECTORY", "JOURNAL_STREAM"}
    assert private & set(seen["environment"]) == set()
    assert seen["user"] != 0
    assert len(seen["refused"]) == 3
    assert seen["home"] == []
    assert seen["state"] == "/var/lib/perdure"


def test_killed_is_restarted_and_recovered(service: Machine) -> None:
    """After a SIGKILL of the supervisor nothing is lost, nothing of the old run lives on, and the job runs again."""
    former = _status(service)
    job = _enqueue(service, "nap", "seconds:=1")
    wait_until(lambda: _job(service, job)["state"] == "running", what="the job runs")
    service.run("kill", "-s", "KILL", str(former["pid"]))
    wait_until(lambda: _is_restarted(service, former["pid"]), what="systemd restarts the daemon")
    service.perdure("wait", str(job))
    shown = _job(service, job)
    assert (shown["state"], shown["interruptions"], shown["attempt"]) == ("completed", 1, 2)
    for worker in former["workers"]:
        assert service.run("test", "-d", f"/proc/{worker['pid']}", check=False).returncode == 1


def test_a_daemon_that_hangs_is_restarted(service: Machine) -> None:
    """A supervisor that lives and does nothing is noticed by its missing pings."""
    former = _main_pid(service)
    job = _enqueue(service, "greet", "name=later", "--delay", "1s")
    service.run("kill", "-s", "STOP", str(former))
    wait_until(lambda: _is_restarted(service, former), timeout=20, what="the watchdog restarts the daemon")
    service.perdure("wait", str(job))
    assert any("watchdog" in entry["MESSAGE"].lower() for entry in service.journal() if "MESSAGE" in entry)


def test_a_long_job_is_no_hang(service: Machine) -> None:
    """The watchdog watches the daemon, not the jobs: one that runs longer than the limit disturbs nothing."""
    former = _main_pid(service)
    assert _result(service, "nap", "seconds:=2.5") == "rested"
    assert _main_pid(service) == former


def test_reload_brings_the_new_code(service: Machine) -> None:
    """`systemctl reload` returns when the new handlers are at work; the daemon and its queue stay as they are."""
    former = _main_pid(service)
    service.run("sed", "-i", 's/^GREETING = .*/GREETING = "good morning"/', "/etc/perdure/jobs.py")
    service.run("systemctl", "reload", UNIT)
    assert _result(service, "greet", "name=world") == "good morning world"
    assert _main_pid(service) == former


def test_a_reload_of_broken_code_fails_and_changes_nothing(service: Machine) -> None:
    """A typing error in a deploy must not take down what works, and must not look like success."""
    former = _main_pid(service)
    service.write("/etc/perdure/jobs.py", "def broken(:\n")
    try:
        assert service.run("systemctl", "reload", UNIT, check=False).returncode != 0
        errors = [entry["MESSAGE"] for entry in service.journal() if entry.get("PRIORITY") == "3"]
        assert any("reload.failed" in message and "jobs.py" in message for message in errors), (
            "not in journalctl -p err"
        )
        assert _result(service, "greet", "name=world").endswith("world")
    finally:
        service.write("/etc/perdure/jobs.py", HANDLERS.read_text())
    assert service.show("ActiveState") == "active"
    assert _main_pid(service) == former
    service.run("systemctl", "reload", UNIT)


def test_a_stop_lets_the_running_job_finish(service: Machine) -> None:
    """A deploy must not interrupt work: the stop waits for the job, and is over soon after it."""
    job = _enqueue(service, "nap", "seconds:=2")
    wait_until(lambda: _job(service, job)["state"] == "running", what="the job runs")
    begun = time.monotonic()
    service.run("systemctl", "stop", UNIT)
    assert time.monotonic() - begun < 10
    assert service.show("Result") == "success"
    shown = service.run("runuser", "-u", "perdure", "--", "/opt/perdure/bin/perdure", "show", str(job), "--json")
    found = json.loads(shown.stdout)
    assert (found["state"], found["attempt"], found["interruptions"]) == ("completed", 1, 0)


def test_a_broken_configuration_does_not_loop(service: Machine) -> None:
    """A mistake in the file is reported once, with its line, and not every two seconds for ever."""
    good = service.run("cat", CONFIG).stdout
    service.write(CONFIG, good + "\n[workers]\ncuont = 3\n")
    try:
        assert service.run("systemctl", "restart", UNIT, check=False).returncode != 0
        assert service.show("SubState") == "failed"
        assert "did you mean" in "\n".join(_messages(service)).lower()
    finally:
        service.write(CONFIG, good)
        service.run("systemctl", "reset-failed", UNIT)


def test_an_administrator_without_the_service_running_does_not_break_it(service: Machine) -> None:
    """root's `perdure enqueue` while the daemon is down must not leave a log that the daemon cannot open."""
    service.run("systemctl", "stop", UNIT)
    job = _enqueue(service, "greet", "name=root")
    service.run("systemctl", "start", UNIT)
    service.perdure("wait", str(job))


def test_the_journal_is_readable(service: Machine) -> None:
    """One event a line as text, with its priority for `journalctl -p`, and no prefix or escape codes left over."""
    service.run("systemctl", "restart", UNIT)
    entries = [entry for entry in service.journal() if entry.get("_SYSTEMD_UNIT") == UNIT]
    assert entries
    for entry in entries:
        assert isinstance(entry["MESSAGE"], str), f"not text: {entry}"
        assert not entry["MESSAGE"].startswith("<")
        assert "\x1b" not in entry["MESSAGE"]
        assert entry["SYSLOG_IDENTIFIER"] == "perdure"
    assert "6" in {entry["PRIORITY"] for entry in entries}
