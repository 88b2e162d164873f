"""The contract of a session store, as tests: give a store, inherit its behaviours.

Owns: every sentence of `ports.SessionStore` as a test. Must not hold: anything that only one store can do.
"""

from __future__ import annotations

from keyturn.testing.opening_contract import OpeningContract
from keyturn.testing.presenting_contract import PresentingContract


class StoreContract(PresentingContract, OpeningContract):
    """Inherit this in a test class and say how to make a store.

        @pytest.mark.anyio
        class TestMyStore(StoreContract):
            async def make_store(self, clock): ...
            async def kept_events(self): ...
            async def denied(self): ...
            async def start_healing(self, seconds, clock): ...

    The tests are coroutines: run them with anyio's or another pytest plugin, on asyncio. See `ContractBase` for what
    each of the four has to do.
    """
