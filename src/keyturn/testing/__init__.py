"""For whoever builds on Keyturn: a clock that stands still, sessions and tokens by the line, and the contracts of users and of stores.

Give `UserDirectoryContract` the directory of your own users, or `StoreContract` a session store, and inherit its tests; see
their docstrings.
"""

from __future__ import annotations

import sys

if (pytest := sys.modules.get("pytest")) is not None:
    # Else a test that fails says `AssertionError` and not what it has found; and pytest is asked before they are loaded.
    pytest.register_assert_rewrite(
        *(f"{__name__}.{part}_contract" for part in ("opening", "presenting", "user_directory"))
    )

from keyturn.testing.clock import FrozenClock as FrozenClock
from keyturn.testing.sessions import CONTACT as CONTACT
from keyturn.testing.sessions import Holder as Holder
from keyturn.testing.sessions import refresh_tokens as refresh_tokens
from keyturn.testing.sessions import sign_in as sign_in
from keyturn.testing.store_contract import StoreContract as StoreContract
from keyturn.testing.user_directory_contract import UserDirectoryContract as UserDirectoryContract

__all__ = ["CONTACT", "FrozenClock", "Holder", "StoreContract", "UserDirectoryContract", "refresh_tokens", "sign_in"]
