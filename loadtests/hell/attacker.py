"""A process that attacks until its input ends: `python -m loadtests.hell.attacker <attack> <HTTP port> <gRPC port>`."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys

from loadtests.hell.asking import ASK, GREEDY, MESSAGE
from loadtests.hell.attacks import ATTACKS, Victim


async def attack(name: str, victim: Victim) -> None:
    """Until nobody holds the other end of our input any more."""
    running = asyncio.create_task(ATTACKS[name].run(victim))
    ended = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await asyncio.wait({running, ended}, return_when=asyncio.FIRST_COMPLETED)
    print(json.dumps(victim.counts), flush=True)
    if running.done():
        running.result()


def main() -> None:
    name, http, grpc = sys.argv[1:]
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    asyncio.run(attack_and_leave(name, Victim(int(http), int(grpc), ASK, GREEDY, MESSAGE)))


async def attack_and_leave(name: str, victim: Victim) -> None:
    await attack(name, victim)
    sys.stdout.flush()
    os._exit(0)  # connections by the thousand are closed by the kernel, not one by one


if __name__ == "__main__":
    main()
