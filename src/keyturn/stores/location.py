"""Where a database is: its URL, and for SQLite its file.

Owns: which URLs are taken and what is said about the others, how a new file is made, what is wrong with a file. Must not
hold: connections (`engine.py`).

A URL holds a password: what is said about one names its parts, and never repeats them.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from getpass import getuser
from pathlib import Path
from urllib.parse import unquote

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from keyturn.core.errors import UnsafeSettings
from keyturn.stores.poolers import hosts_apart

_SSL = frozenset({"ssl", "sslmode"})
_SSL_MODES = frozenset({"disable", "allow", "prefer", "require", "verify-ca", "verify-full"})
_VERIFIED = frozenset({"verify-ca", "verify-full"})
_NAME_THEM = "set PGSSLROOTCERT to the file of the certificates to trust, such as /etc/ssl/certs/ca-certificates.crt"
# What the driver takes as text, by the names that the driver or SQLAlchemy has for it.
_TAKEN = frozenset(
    {
        "gsslib",
        "host",
        "krbsrvname",
        "passfile",
        "port",
        "prepared_statement_cache_size",
        "ssl",
        "target_session_attrs",
    }
)
_TAKEN_BY_SQLITE = frozenset({"", "mode", "uri"})
# Of libpq, and of no consequence: Keyturn has a timeout and a name of its own.
_DROPPED = frozenset({"application_name", "connect_timeout"})
_IN_MEMORY = frozenset({None, "", ":memory:", "file:", "file::memory:"})
_IN_ENVIRONMENT = frozenset({"sslrootcert", "sslcert", "sslkey", "sslcrl"})


def normalise(url: str) -> URL:
    """Give a URL the driver Keyturn uses.

    Raises: ValueError: malformed, another database, SQLite in memory, or a parameter that would not be heeded.
    """
    try:
        url.encode()  # each part would be taken by one of those who read it, and refused by another
        parsed = make_url(hosts_apart(url))
    except (ArgumentError, ValueError):
        # The cause quotes the URL, or what it took for the port: the rest of a password.
        raise ValueError(
            "the database URL is malformed: it looks like sqlite:///keyturn.db or postgresql://user:password@host/database, "
            "with `@`, `:` and `/` in the password percent-encoded"
        ) from None
    if parsed.port is not None and not 0 < parsed.port <= 65535:
        raise ValueError("the database URL is malformed: there is no such port")
    kind = parsed.drivername.partition("+")[0]
    if kind in {"postgres", "postgresql"}:
        return _postgresql(parsed)
    if kind == "sqlite":
        if parsed.host or parsed.username or parsed.password or parsed.port:
            raise ValueError(
                "the database URL is malformed: SQLite's has three slashes before a path from here (sqlite:///keyturn.db) and "
                "four before any other (sqlite:////var/lib/keyturn.db)"
            )
        if parsed.database in _IN_MEMORY or parsed.query.get("mode") == "memory":
            raise ValueError("SQLite must be a file: one in memory is lost with the process")
        # Not as it was parsed: that leaves out what has no value, such as the end of a path.
        for name in sorted({part.partition("=")[0] for part in url.partition("?")[2].split("&")} - _TAKEN_BY_SQLITE):
            raise ValueError(
                f"the database URL's parameter {name!r} is not supported; where the path has a `?`, write "
                "sqlite:///file:/path?uri=true with %3F in its place"
            )
        return parsed.set(drivername="sqlite+aiosqlite")
    raise ValueError(f"the database {kind!r} is not supported: use sqlite or postgresql")


def _postgresql(parsed: URL) -> URL:
    """Translate the parameters of libpq, as hosting providers give them, into the driver's."""
    query: dict[str, str | tuple[str, ...]] = {}
    if "channel_binding" not in parsed.query:
        _refuse_binding("the environment variable PGCHANNELBINDING", os.environ.get("PGCHANNELBINDING") or "prefer")
    if not parsed.query.keys() & _SSL and (mode := os.environ.get("PGSSLMODE")):
        _refuse_mode("the environment variable PGSSLMODE", mode)
    for name, value in parsed.query.items():
        if name in _SSL:
            _refuse_mode(f"the database URL's {name}", value)
            query["ssl"] = value
        elif name == "channel_binding":
            _refuse_binding("the database URL's channel_binding", value)
        elif name in _IN_ENVIRONMENT:
            raise ValueError(
                f"the database URL's {name} is not supported: set the environment variable PG{name.upper()}"
            )
        elif name in _TAKEN:
            query[name] = value
        elif name not in _DROPPED:
            raise ValueError(f"the database URL's parameter {name!r} is not supported")
    named = query.get("host", "")
    _refuse_no_name([parsed.host or "", *(named if isinstance(named, str) else ",".join(named)).split(",")])
    if not parsed.username and "user" not in query and not os.environ.get("PGUSER"):
        _refuse_nobody()
    return parsed.set(drivername="postgresql+asyncpg", query=query)


def _refuse_no_name(hosts: Iterable[str]) -> None:
    """Refuse what is no name of a host, as a template makes one of a variable that is not set. The driver's error is none of a connection."""
    try:
        for host in hosts:
            if not host.startswith(("/", "@")):  # a Unix socket
                host.encode("idna")
    except UnicodeError:
        raise ValueError(
            "the database URL is malformed: a part of the host's name is empty or too long; is a variable not set?"
        ) from None


def _refuse_nobody() -> None:
    """Refuse a URL without a user where the account that we run as has no name for the driver to take, as in a container."""
    try:
        getuser()
    except (ImportError, KeyError, OSError) as error:
        raise ValueError(
            "the database URL names no user, and who runs this has no name: postgresql://user:password@host/database"
        ) from error


def _refuse_mode(named: str, value: str | tuple[str, ...]) -> None:
    """Refuse a word about TLS that the driver has no meaning for, or cannot do for want of certificates."""
    if value not in _SSL_MODES:
        raise ValueError(f"{named} must be one of {', '.join(sorted(_SSL_MODES))}")
    if value in _VERIFIED and not _trusts():
        raise ValueError(f"{named}={value} finds no certificates to verify with: {_NAME_THEM}")


def _refuse_binding(named: str, value: str | tuple[str, ...]) -> None:
    """Refuse a demand for channel binding. The driver has none: to drop the demand would make a promise of nothing."""
    if value not in {"disable", "prefer"}:
        raise ValueError(
            f"{named} cannot be had: leave it out, write sslmode=verify-full, which keeps impostors out as well, and {_NAME_THEM}"
        )


def _trusts() -> bool:
    """Say whether there is a file with which the driver can verify a server. It has no other: not that of the system."""
    file = os.environ.get("PGSSLROOTCERT") or os.path.expanduser("~/.postgresql/root.crt")  # noqa: PTH111 - raises nothing
    return os.access(file, os.R_OK)


def without_sqlalchemy(url: str) -> str:
    """Give a URL to what works on the driver alone, which would send the server every parameter it does not know.

    Raises: ValueError: as `normalise`.
    """
    parsed = normalise(url).difference_update_query(["prepared_statement_cache_size"])
    # Several hosts: SQLAlchemy repeats the parameter, the driver separates them by commas.
    query = {name: value if isinstance(value, str) else ",".join(value) for name, value in parsed.query.items()}
    return parsed.set(query=query).render_as_string(hide_password=False)


def file_of(url: URL) -> Path:
    """Return the file that a URL of SQLite names, also when it is one of SQLite's own (`sqlite:///file:a.db?uri=true`).

    It is absolute: whoever runs us may go elsewhere while we run.

    Raises: ValueError: it begins at the working directory, which is gone.
    """
    name = str(url.database)
    try:
        return Path(unquote(name.removeprefix("file:")) if "uri" in url.query else name).absolute()
    except FileNotFoundError:
        raise ValueError("the path of SQLite begins at the working directory, which is gone") from None


def address_of(url: URL) -> str:
    """Return the URI by which SQLite opens the file of a URL, which has to be there: a connection must not make one."""
    return f"{file_of(url).as_uri()}?mode={'ro' if url.query.get('mode') == 'ro' else 'rw'}"


def create_private_file(path: Path) -> None:
    """Create the file of a new SQLite database, readable by its owner alone; leave an existing one as it is.

    Why: SQLite would create it, and the two beside it, with whatever the umask allows; password hashes are in it.

    Raises: UnsafeSettings: the system does not let us.
    """
    try:
        path.touch(mode=0o600, exist_ok=True)
    except OSError as error:
        raise UnsafeSettings([f"database_unusable: {path}: {error.strerror}"]) from error


def write_once(path: Path, text: str) -> None:
    """Write a file that only its owner reads, unless there is one: each process drafts its own, the first to link it wins."""
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    draft.touch(mode=0o600)
    draft.write_text(text, encoding="ascii")
    with suppress(FileExistsError):
        os.link(draft, path)
    draft.unlink()


def is_missing(path: Path) -> bool:
    """Say whether nobody has made a file yet; no, where that cannot be seen: to open it says what is wrong."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def why_not_created(path: Path) -> str | None:
    """Say what would keep `create_private_file` from making a file, without trying."""
    parent = Path(os.path.realpath(path)).parent  # where a link leads
    if not parent.is_dir():
        return f"{parent} is not a directory"
    if not os.access(parent, os.W_OK | os.X_OK):
        return f"{parent} may not be written by this user"
    return None


def open_to_others(path: Path) -> bool:
    """Say whether users that are neither its owner nor of its group may read or write a file."""
    return bool(path.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH))
