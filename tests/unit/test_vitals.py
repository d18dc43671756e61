"""Full or silent disks and used up descriptors are parts of the server's health, and are said once."""

import os
import resource
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sluice import vitals
from sluice.health import Condition
from sluice.pressure import Memory
from sluice.vitals import Disk, Files, allow_more_files, open_files

FREE = 1 << 30


def told(free: int, files: int = 1000) -> os.statvfs_result:
    """A file system with blocks of 1 KiB."""
    return os.statvfs_result((1024, 1024, 1 << 21, free >> 10, free >> 10, 1000, files, files, 0, 255))


class System:
    """Answers when it is let."""

    def __init__(self) -> None:
        self.answer: os.statvfs_result | OSError = told(FREE)
        self.lets = threading.Event()
        self.lets.set()
        self.asked = threading.Semaphore(0)

    def ask(self, directory: Path) -> os.statvfs_result:
        self.asked.release()
        self.lets.wait()
        if isinstance(self.answer, OSError):
            raise self.answer
        return self.answer


def look(disk: Disk, now: float) -> None:
    """Look, and wait for the thread that was sent."""
    disk.look(now)
    for thread in threading.enumerate():
        if thread.name == "sluice-disk":
            thread.join()


@pytest.mark.parametrize(
    ("answer", "condition", "reason"),
    [
        (told(FREE), Condition.OK, "/models: 1.0 GiB free"),
        (told(5 << 20), Condition.DEGRADED, "/models: 5.0 MiB free"),
        (told(0), Condition.DEGRADED, "/models: 0 bytes free"),
        (told(FREE, files=0), Condition.DEGRADED, "/models: 1.0 GiB free, no room for another file"),
        (OSError(5, "x"), Condition.DEGRADED, "/models: Input/output error"),
    ],
    ids=["room", "little room", "full", "no more files", "broken"],
)
def test_a_disk(answer: os.statvfs_result | OSError, condition: Condition, reason: str) -> None:
    system = System()
    system.answer = answer
    disk = Disk("repository", Path("/models"), ask=system.ask)
    look(disk, 100.0)
    part = disk.part(100.0)
    assert (part.kind, part.name, part.condition, part.reason) == ("disk", "repository", condition, reason)


def test_a_full_disk_is_said_once_and_once_more_when_it_has_room(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "sluice")
    system = System()
    disk = Disk("repository", Path("/models"), ask=system.ask)
    for number, free in enumerate((0, 1024, 0, FREE, FREE)):
        system.answer = told(free)
        look(disk, 100.0 + 5 * number)
    assert [record.message for record in caplog.records] == [
        "the disk is short (/models: 0 bytes free)",
        "the disk has room again (/models: 1.0 GiB free)",
    ]


def test_a_disk_that_hangs_holds_nobody_up(caplog: pytest.LogCaptureFixture) -> None:
    system = System()
    system.lets.clear()
    disk = Disk("repository", Path("/models"), ask=system.ask)
    now = 100.0
    for second in range(20):
        disk.look(now + second)
    assert system.asked.acquire(timeout=60)
    assert not system.asked.acquire(blocking=False)  # by one thread only
    part = disk.part(now + 20)
    assert (part.condition, part.reason) == (Condition.DEGRADED, "/models has not answered for 20 s")
    assert [record.message for record in caplog.records] == ["the disk of /models does not answer"]
    system.lets.set()
    look(disk, now + 20)


def test_a_disk_is_asked_again_after_there_was_no_thread_to_ask_it(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk("repository", Path("/models"), ask=System().ask)
    with monkeypatch.context() as busy:
        busy.setattr(threading.Thread, "start", no_thread)
        disk.look(100.0)
    assert disk.part(200.0).condition is Condition.OK
    look(disk, 200.0)
    assert disk.part(200.0).reason == "/models: 1.0 GiB free"


def no_thread(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_what_is_known_of_writing_belongs_to_the_disk() -> None:
    disk = Disk("repository", Path("/models"), lambda: "cannot be written", ask=System().ask)
    look(disk, 100.0)
    part = disk.part(100.0)
    assert (part.condition, part.reason) == (Condition.DEGRADED, "cannot be written")


@pytest.fixture
def limit() -> Iterator[None]:
    """Puts the limit back."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def allow(count: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


@pytest.mark.usefixtures("limit")
def test_used_up_descriptors_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "sluice")
    files = Files()
    files.look()
    assert (files.part().condition, files.part().kind) == (Condition.OK, "files")
    for _ in range(3):
        allow(open_files() + 2)
        files.look()
        assert files.part().condition is Condition.DEGRADED
        assert "used up" in files.part().reason
    allow(open_files() * 4)
    files.look()
    assert files.part().condition is Condition.OK
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


@pytest.mark.usefixtures("limit")
def test_open_files_are_counted_when_no_more_can_be_opened() -> None:
    before = open_files()
    with Path("/dev/null").open():
        assert open_files() == before + 1
    allow(before)
    assert open_files() >= before


@pytest.mark.usefixtures("limit")
def test_as_many_files_as_are_allowed(caplog: pytest.LogCaptureFixture) -> None:
    hard = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 1 << 20)
    allow(256)
    allow_more_files(wanted=256)
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == hard
    assert not caplog.records
    allow_more_files(wanted=hard + 1)
    assert [record.message for record in caplog.records] == [
        f"only {hard} files may be open; server.max_connections asks for {hard + 1}"
    ]


def test_a_temporary_directory_always_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: (_ for _ in ()).throw(FileNotFoundError("no usable directory")))
    assert vitals.temporary_directory() == Path("/tmp")


async def test_the_room_that_is_left_before_batches_shrink() -> None:
    relief = vitals.Relief(lambda share: None, lambda: None, lambda reason: None)
    for budget in (1 << 20, 1 << 50):  # less than there is, and more than may be taken of the machine
        memory = Memory(budget)
        watching = vitals.Vitals(memory, relief)
        bound = memory.read().bound
        assert await watching.room() == pytest.approx(0.88 * bound.limit - bound.used, abs=64 << 20)
        await watching.close()
