"""Followers of one run in one process: ``python followers_client.py URL RUN WAY NUMBER``.

WAY is ``poll`` or ``stream``. The Hub's token is in ``JUPYTERHUB_API_TOKEN``. When all of them have
been told how the run stands it prints a line, and at the end of the run, as JSON, when each event
came to the last of them.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time

import httpx
from httpx_sse import aconnect_sse

came: dict[int, float] = {}
begun = 0


async def poll(client: httpx.AsyncClient, url: str) -> None:
    """Ask for what is new, again and again, as the follower of before."""
    after, first = 0, True
    while True:
        answer = await client.get(f"{url}/events?after={after}&wait={0 if first else 10}")
        page = answer.raise_for_status().json()
        now = time.time()
        for event in page["events"]:
            after = event[0]
            came[after] = max(now, came.get(after, 0.0))
        if first:
            begin()
        first = False
        if page["ended"]:
            return


async def listen(client: httpx.AsyncClient, url: str) -> None:
    """Listen to the stream."""
    first = True
    async with aconnect_sse(client, "GET", f"{url}/stream") as source:
        source.response.raise_for_status()
        async for told in source.aiter_sse():
            if told.event == "message":
                seq = json.loads(told.data)[0]
                came[seq] = max(time.time(), came.get(seq, 0.0))
            elif first:
                first = False
                begin()
            if told.event == "end":
                return


def begin() -> None:
    """Tell when all of them follow."""
    global begun
    begun += 1
    if begun == int(sys.argv[4]):
        print("following", flush=True)


async def main() -> None:
    """Follow, each over a connection of its own."""
    url, run, way, number = sys.argv[1:]
    headers = {"Authorization": f"token {os.environ['JUPYTERHUB_API_TOKEN']}"}
    follow = {"poll": poll, "stream": listen}[way]
    async with asyncio.TaskGroup() as tasks:
        for _ in range(int(number)):
            client = httpx.AsyncClient(headers=headers, timeout=60, trust_env=False)
            tasks.create_task(follow(client, f"{url}/runs/{run}"))
    print(json.dumps(came))


if __name__ == "__main__":
    asyncio.run(main())
