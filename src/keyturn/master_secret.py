"""The master key ring: from the settings, or from the file that development keeps.

Owns: where it is read from. Must not hold: its form (`tokens/secret_ring.py`), what is derived from it.
"""

from __future__ import annotations

import os
from pathlib import Path

from keyturn.core.errors import UnsafeSettings
from keyturn.settings import SECRET_MISSING, Settings
from keyturn.stores.location import file_of, normalise, write_once
from keyturn.tokens.secret_ring import SecretRing


def secret_ring(settings: Settings) -> SecretRing:
    """Read the master key ring; in development without one, keep one beside the SQLite file. Raises: UnsafeSettings.

    Why a file and not a fresh one at each start: a restart would make every refresh token unreadable.
    """
    ring = settings.secret_ring()
    if ring is not None:
        return ring
    url = normalise(settings.database_url.get_secret_value())
    if settings.production or url.get_backend_name() != "sqlite" or url.database is None:
        raise UnsafeSettings([f"secret_missing: {SECRET_MISSING}"])
    path = Path(f"{file_of(url)}.secret")
    if not path.exists():
        try:
            write_once(path, SecretRing.generate(os.urandom(32)))
        except OSError as error:
            raise UnsafeSettings([f"secret_unwritable: {path}: {error.strerror}"]) from error
    return _read(path)


def _read(path: Path) -> SecretRing:
    try:
        return SecretRing.parse(path.read_text(encoding="ascii"))
    except OSError as error:
        raise UnsafeSettings([f"secret_unreadable: {path}: {error.strerror}"]) from error
    except UnicodeDecodeError:
        # The cause quotes what stands there.
        raise UnsafeSettings([f"secret_malformed: {path}: not ASCII"]) from None
    except ValueError as error:
        raise UnsafeSettings([f"secret_malformed: {path}: {error}"]) from None
