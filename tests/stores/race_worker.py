"""One process of the races: a node that presents the tokens it is told to, all at once.

Started by `test_races.py` as `python -m tests.stores.race_worker`. Reads one JSON object per line, `{"url", "tokens"}`,
and answers with the list of outcomes, in the order of the tokens. A line without tokens makes it connect, and get
ready. No test in this file.
"""

from __future__ import annotations

import asyncio
import json
import sys

from keyturn.stores.engine import open_engine, ping
from keyturn.stores.sql import SqlSessions
from keyturn.testing import Holder


async def work() -> None:
    """Answer lines until there are no more."""
    url, engine, store = "", None, None
    while line := await asyncio.to_thread(sys.stdin.readline):
        task = json.loads(line)
        if engine is None or store is None or task["url"] != url:
            if engine is not None and store is not None:
                await store.close()
                await engine.close()
            url = task["url"]
            engine = open_engine(url)
            store = SqlSessions(engine, denylist_lifetime=610.0, heal_time=900.0)
            await ping(engine)
        holders = [Holder(store, token) for token in task["tokens"]]
        decisions = await asyncio.gather(*(holder.refresh() for holder in holders), return_exceptions=True)
        answers = [repr(d) if isinstance(d, BaseException) else d.outcome.value for d in decisions]
        sys.stdout.write(json.dumps(answers) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(work())
