"""Memory's levels do not flutter, the tightest bound is found wherever it is set, and relief follows the levels."""

import asyncio
import gc
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from sluice import vitals
from sluice.health import Condition
from sluice.pressure import BEGINS, ENDS, Gauge, Level, Memory
from sluice.vitals import SHRUNK, Relief, Vitals

MIB = 1 << 20
PID = 100
WORKERS = (101, 102)


@pytest.mark.parametrize(
    ("shares", "levels"),
    [
        ((0.5, 0.79, 0.8, 0.87, 0.88, 0.94, 0.95), "OK OK WARN WARN SHRINK SHRINK REFUSE"),
        ((0.99, 0.94, 0.93, 0.90, 0.85, 0.83, 0.77, 0.75), "REFUSE REFUSE SHRINK SHRINK SHRINK WARN WARN OK"),
        ((0.81, 0.79, 0.81, 0.77, 0.81), "WARN WARN WARN WARN WARN"),
        ((0.96, 0.92, 0.92), "REFUSE SHRINK SHRINK"),
        ((0.99, 0.1, 0.99), "REFUSE OK REFUSE"),
    ],
    ids=["rises", "falls with slack", "does not flutter", "rests where it serves", "jumps"],
)
def test_levels(shares: tuple[float, ...], levels: str) -> None:
    gauge = Gauge()
    assert [gauge.judge(share).name for share in shares] == levels.split()


@given(st.lists(st.floats(0, 1.5)))
def test_a_level_is_never_below_its_share_and_never_far_above(shares: list[float]) -> None:
    gauge = Gauge()
    for share in shares:
        level = gauge.judge(share)
        assert all(share < BEGINS[higher] for higher in BEGINS if higher > level)
        assert level is Level.OK or share >= ENDS[level]


@dataclass
class System:
    """The files of a system in which a server with two workers runs; numbers are MiB."""

    root: Path
    mounts: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.write("proc/meminfo", "MemTotal: 1024000 kB\nMemFree: 1 kB\nMemAvailable: 921600 kB\n")
        self.process(PID, 100, 20)
        for worker in WORKERS:
            self.process(worker, 50, 10)
        self.write(f"proc/{PID}/task/{PID}/children", " ".join(map(str, WORKERS)) + " ")

    def write(self, path: str, text: str) -> None:
        place = self.root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)

    def process(self, pid: int, own: int, shared: int) -> None:
        """Written at once and always as long, so that whoever reads meanwhile sees the numbers of before or these."""
        status = f"Name:\tx\nRssAnon:\t{own << 10:8} kB\nRssFile:\t9999999 kB\nRssShmem:\t{shared << 10:8} kB\n"
        path = f"proc/{pid}/status"
        if not (self.root / path).exists():
            self.write(path, status)
        with (self.root / path).open("r+b", buffering=0) as file:
            file.write(status.encode())

    def member(self, line: str, *mounts: str) -> None:
        self.write(f"proc/{PID}/cgroup", f"7:cpu,cpuacct:/elsewhere\n{line}\n")
        self.write(f"proc/{PID}/mountinfo", "".join(f"{mount}\n" for mount in mounts))

    def group(self, path: str, limit: str, used: int, cached: int = 0, high: str = "max") -> None:
        """Of version 2."""
        self.write(f"sys/fs/cgroup{path}/memory.max", f"{limit}\n")
        self.write(f"sys/fs/cgroup{path}/memory.high", f"{high}\n")
        self.write(f"sys/fs/cgroup{path}/memory.current", f"{used * MIB}\n")
        statistics = f"anon 1\ninactive_file {cached * MIB // 2}\nactive_file {cached * MIB // 2}\nslab_reclaimable 0\n"
        self.write(f"sys/fs/cgroup{path}/memory.stat", statistics)

    def memory(self, budget: int = 0) -> Memory:
        return Memory(budget * MIB, self.root, PID)


V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup rw,nsdelegate"
V1 = "34 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"


@pytest.fixture
def system(tmp_path: Path) -> System:
    return System(tmp_path)


def tightest(memory: Memory) -> tuple[str, int, int]:
    """Whose bound it is, MiB used, and MiB allowed."""
    bound = memory.read().bound
    memory.close()
    return bound.name, bound.used // MIB, bound.limit // MIB


def test_without_a_limit_the_machine_is_the_bound(system: System) -> None:
    system.member("0::/a", V2)
    system.group("/a", "max", 900)
    assert tightest(system.memory()) == ("machine", 100, 1000)


def test_a_system_without_control_groups(system: System) -> None:
    assert tightest(system.memory()) == ("machine", 100, 1000)


def test_the_tightest_of_nested_groups_decides(system: System) -> None:
    system.member("0::/pod/container", V2)
    system.group("/pod/container", str(400 * MIB), 100)
    system.group("/pod", str(500 * MIB), 450)  # others in it use the rest
    assert tightest(system.memory()) == ("container", 450, 500)


def test_what_is_cached_from_files_is_not_used(system: System) -> None:
    system.member("0::/a", V2)
    system.group("/a", str(400 * MIB), 390, cached=200)
    assert tightest(system.memory()) == ("container", 190, 400)


def test_where_processes_are_slowed_down_is_a_limit(system: System) -> None:
    system.member("0::/a", V2)
    system.group("/a", str(800 * MIB), 190, high=str(200 * MIB))
    assert tightest(system.memory()) == ("container", 190, 200)


def test_a_limit_that_changes_is_seen(system: System) -> None:
    system.member("0::/a", V2)
    system.group("/a", str(800 * MIB), 300)
    memory = system.memory()
    assert memory.read().bound.limit == 800 * MIB
    system.group("/a", str(400 * MIB), 310)
    assert tightest(memory) == ("container", 310, 400)


@pytest.mark.parametrize(
    ("membership", "mount"),
    [
        ("0::/", V2),  # a name space of its own
        ("0::/docker/4711", V2.replace("0:26 /", "0:26 /docker/4711")),  # only its own part is mounted
        ("0::/../../elsewhere", V2),  # outside of its name space
    ],
)
def test_a_container_sees_its_group_at_the_root(system: System, membership: str, mount: str) -> None:
    system.member(membership, mount)
    system.group("", str(400 * MIB), 200)
    assert tightest(system.memory()) == ("container", 200, 400)


def test_version_1(system: System) -> None:
    system.member("4:memory:/a/b", V1, V2)
    for path, limit in (("", 1 << 63), ("/a", 300 * MIB), ("/a/b", (1 << 63) - 4096)):
        system.write(f"sys/fs/cgroup/memory{path}/memory.limit_in_bytes", f"{limit}\n")
        system.write(f"sys/fs/cgroup/memory{path}/memory.usage_in_bytes", f"{250 * MIB}\n")
        statistics = f"total_inactive_file {30 * MIB}\ntotal_active_file {20 * MIB}\n"
        system.write(f"sys/fs/cgroup/memory{path}/memory.stat", statistics)
    assert tightest(system.memory()) == ("container", 200, 300)


def test_a_budget_counts_the_server_and_its_workers_and_what_they_share_once(system: System) -> None:
    reading = system.memory(budget=500).read()
    assert (reading.server, reading.workers, reading.shared) == (100 * MIB, 100 * MIB, 20 * MIB)
    assert (reading.bound.name, reading.bound.used, reading.bound.limit) == ("budget", 220 * MIB, 500 * MIB)


def test_a_budget_does_not_lift_the_containers_limit(system: System) -> None:
    system.member("0::/a", V2)
    system.group("/a", str(300 * MIB), 280)
    assert tightest(system.memory(budget=500)) == ("container", 280, 300)


def test_workers_come_and_go(system: System) -> None:
    memory = system.memory(budget=500)
    assert memory.read().workers == 100 * MIB
    system.process(103, 70, 0)
    system.write(f"proc/{PID}/task/{PID}/children", "102 103 104")  # of the last nothing is left to be read
    assert memory.read().workers == 120 * MIB
    memory.close()


def test_this_very_system() -> None:
    program = "held = bytearray(64 << 20); print(flush=True); input()"
    memory = Memory(1 << 40)
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        reading = memory.read()
        child.communicate(b"\n")
    assert reading.workers > 64 * MIB
    assert 0 < reading.server < 1 << 40
    assert Memory(0).read().bound.limit > 0
    memory.close()


@dataclass
class Asked:
    """What was asked for, in order; the first squeezes may fail."""

    calls: list[str] = field(default_factory=list)
    failures: int = 0

    def squeeze(self, share: float) -> None:
        if self.failures:
            self.failures -= 1
            self.calls.append("no squeeze")
            raise RuntimeError("a bug")
        self.calls.append(f"squeeze {share:g}")

    def relief(self) -> Relief:
        return Relief(
            squeeze=self.squeeze,
            trim=lambda: self.calls.append("trim"),
            refuse=lambda reason: self.calls.append("refuse" if reason else "accept"),
        )


class Watched:
    """Vitals over a system of files, looked at again and again."""

    def __init__(self, system: System) -> None:
        self.system = system
        for worker in WORKERS:
            system.process(worker, 0, 0)
        self.asked = Asked()
        self.looked = asyncio.Event()
        self.vitals = Vitals(system.memory(budget=1000), self.asked.relief(), period=0.001)
        self.vitals.notify = self.looked.set

    async def use(self, share: float) -> list[str]:
        """What is asked for when so much is used."""
        own = int(1000 * share) - 20
        self.system.process(PID, own, 20)
        self.asked.calls.clear()
        for _ in range(2):  # one look may be under way with the numbers of before
            self.looked.clear()
            await self.looked.wait()
        return list(self.asked.calls)

    def condition(self) -> Condition:
        return next(part.condition for part in self.vitals.parts() if part.kind == "memory")


@pytest.fixture
async def watched(system: System) -> AsyncIterator[Watched]:
    watched = Watched(system)
    watched.vitals.start()
    yield watched
    await watched.vitals.close()


async def test_relief_follows_the_levels(watched: Watched) -> None:
    assert await watched.use(0.5) == []
    assert watched.condition() is Condition.OK
    assert await watched.use(0.85) == []
    assert watched.condition() is Condition.DEGRADED
    assert await watched.use(0.9) == [f"squeeze {SHRUNK:g}", "trim"]
    assert await watched.use(0.97) == ["refuse"]
    assert watched.condition() is Condition.FAILED
    assert await watched.use(0.945) == []
    assert await watched.use(0.93) == ["accept"]
    assert await watched.use(0.86) == []
    assert await watched.use(0.5) == ["squeeze 1"]
    assert watched.condition() is Condition.OK


async def test_garbage_is_collected_when_memory_becomes_short_and_not_all_the_time(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    collections: list[int] = []
    monkeypatch.setattr(vitals, "_TRIM_EVERY", 0.0)
    monkeypatch.setattr(gc, "collect", lambda: collections.append(1))
    assert set(await watched.use(0.85)) == set()
    assert collections == []
    for share, collected in ((0.9, 1), (0.91, 1), (0.97, 2), (0.97, 2)):
        assert "trim" in await watched.use(share)
        assert len(collections) == collected


async def test_a_jump_asks_for_everything_at_once(watched: Watched) -> None:
    assert await watched.use(0.99) == ["refuse", f"squeeze {SHRUNK:g}", "trim"]
    assert await watched.use(0.1) == ["accept", "squeeze 1"]


async def test_a_level_is_said_once(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        await watched.use(0.9)
    said = [record.message for record in caplog.records if "memory" in record.message]
    assert said == [
        "memory is running short: 90% of the budget's 1000.0 MiB; batches are kept small and caches are emptied"
    ]


async def test_what_goes_wrong_with_looking_does_not_end_it(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    watched.system.write(f"proc/{PID}/status", f"RssAnon: many{' ' * 100}\n")
    for _ in range(3):
        watched.looked.clear()
        await watched.looked.wait()
    assert await watched.use(0.99) == ["refuse", f"squeeze {SHRUNK:g}", "trim"]
    assert sum("cannot watch" in record.message for record in caplog.records) == 1


async def test_relief_that_fails_is_asked_for_again(watched: Watched) -> None:
    watched.asked.failures = 3
    await watched.use(0.99)
    while "trim" not in watched.asked.calls:
        watched.looked.clear()
        await watched.looked.wait()
    assert watched.asked.calls == ["refuse", *["no squeeze"] * 3, f"squeeze {SHRUNK:g}", "trim"]


async def test_metrics(watched: Watched) -> None:
    await watched.use(0.85)
    registry = CollectorRegistry()
    registry.register(watched.vitals)
    assert registry.get_sample_value("sluice_memory_bytes", {"part": "server"}) == 830 * MIB
    assert registry.get_sample_value("sluice_memory_bytes", {"part": "shared"}) == 20 * MIB
    assert registry.get_sample_value("sluice_memory_budget_bytes", {"bound": "budget"}) == 1000 * MIB
    assert registry.get_sample_value("sluice_memory_used_bytes", {"bound": "budget"}) == 850 * MIB
    assert registry.get_sample_value("sluice_memory_level") == Level.WARN


async def test_closing_leaves_no_file_open(system: System) -> None:
    gc.collect()
    before = set(Path("/proc/self/fd").iterdir())
    watched = Watched(system)
    watched.vitals.start()
    await watched.use(0.5)
    await watched.vitals.close()
    await watched.vitals.close()
    assert {path for path in Path("/proc/self/fd").iterdir() if path.exists()} <= before
