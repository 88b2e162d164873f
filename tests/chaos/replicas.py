"""Two PostgreSQL servers, one of which follows the other, and that change places; wires between them and each node.

Owns: following, failing, promoting, rebuilding. Must not hold: clients, claims.
"""

from __future__ import annotations

from tests.chaos.databases import DATABASE, Standby
from tests.chaos.wire import LoopThread, Wire
from tests.services import PostgresServer, find_program, other_clock, wait_until

_TIMEOUT = 60.0
_FOLLOWS = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND sync_state = '{}'"
_WRITE = "SELECT pg_logical_emit_message(true, 'keyturn', 'a commit')"


class _Ahead(Standby):
    """A standby whose clock may be ahead, by `libfaketime`."""

    def __init__(self, primary: PostgresServer, ahead: float) -> None:
        super().__init__(primary)
        self._seconds = ahead

    def _command(self) -> list[str]:
        if not self._seconds:
            return super()._command()
        settings = {**other_clock(), "FAKETIME": f"+{self._seconds}"}
        return ["env", *(f"{name}={value}" for name, value in settings.items()), *super()._command()]


class Replicas:
    """A primary and a standby, as an operator keeps them: who was failed over from is rebuilt before it follows.

    Args:
        thread: where the wires are.
        synchronous: whether a commit is acknowledged only when both have it. One that is alone does not wait.
        ahead: seconds by which the clock of the first standby is ahead.

    Attributes:
        primary: takes writes.
        standby: follows it, or lies dead.
        replication: leads from the standby to the primary.
    """

    def __init__(self, thread: LoopThread, *, synchronous: bool, ahead: float = 0.0) -> None:
        self._thread = thread
        self._synchronous = synchronous
        first = PostgresServer()
        self._second = _Ahead(first, ahead)
        self.primary: PostgresServer = first
        self.standby: PostgresServer = self._second
        self._servers = first, self._second
        self._ways: list[dict[PostgresServer, Wire]] = []

    def start(self) -> None:
        """Start both, with an empty database."""
        self.primary.start()
        self.primary.create_database(DATABASE)
        # What `pg_rewind` needs.
        self.primary.execute("ALTER SYSTEM SET wal_log_hints = on")
        self.primary.execute("ALTER SYSTEM SET wal_keep_size = '256MB'")
        self.primary.restart()
        self.replication = Wire(self._thread, self.primary.port)
        self._second.follow_by(self.replication.port)
        self.standby.start()
        self._both()

    def be_asynchronous(self) -> None:
        """Let no commit wait for the standby any more."""
        self._synchronous = False
        self._wait_for("")

    def url(self) -> str:
        """Return a URL of both for one more node, which has wires of its own to each."""
        ways = {server: Wire(self._thread, server.port) for server in self._servers}
        self._ways.append(ways)
        hosts = ",".join(f"127.0.0.1:{wire.port}" for wire in ways.values())
        return f"postgresql://{self.primary.user}@{hosts}/{DATABASE}?target_session_attrs=read-write"

    def ways(self, server: PostgresServer) -> list[Wire]:
        """Return the wires that lead from the nodes to a server, node by node."""
        return [ways[server] for ways in self._ways]

    def lose(self) -> None:
        """Let the standby hear of nothing that is committed from now on."""
        self.replication.hold()

    def kill(self) -> None:
        """Kill the primary."""
        self.primary.kill9()

    def stop(self) -> None:
        """Stop the primary; where nothing keeps it from that, the standby has everything then."""
        self.primary.stop()

    def isolate(self) -> None:
        """Cut the primary off from everybody, alive as it is."""
        for wire in self.ways(self.primary):
            wire.cut()
        self.replication.cut()

    def promote(self) -> PostgresServer:
        """Make the standby the primary; return the one of before."""
        self.replication.cut()
        self.primary, self.standby = self.standby, self.primary
        # Alone, it would wait for a standby at each commit.
        self._wait_for("")
        assert self.primary.execute("SELECT pg_promote(true, 60)") == "t"
        return self.standby

    def rebuild(self) -> None:
        """Let the one that was failed over from forget what the other has not, and follow it."""
        self.standby.kill9()
        self.primary.execute("CHECKPOINT")
        self.replication.lead_to(self.primary.port)
        self.replication.mend()
        source = f"host=127.0.0.1 port={self.replication.port} user={self.primary.user} dbname=postgres"
        command = [str(find_program("pg_rewind")), "-D", str(self.standby.data), "--source-server", source, "-R"]
        self._second.run_as_owner(command)
        self.standby.start()
        for wire in self.ways(self.standby):
            wire.mend()
        self._both()

    def difference(self) -> float:
        """Return by how many seconds the clock of the one is ahead of that of the other, about."""
        first, second = (
            float(server.execute("SELECT extract(epoch FROM clock_timestamp())")) for server in self._servers
        )
        return second - first

    def close(self) -> None:
        """Stop both and forget everything."""
        for server in self._servers:
            server.close()

    def _both(self) -> None:
        """Wait until the standby follows, and has all that was acknowledged."""
        if self._synchronous:
            self._wait_for("*")
        follows = _FOLLOWS.format("sync" if self._synchronous else "async")
        wait_until(lambda: self.primary.execute(follows) == "1", _TIMEOUT, "a standby that follows")
        # Who waits for this one has waited for all commits before it.
        self.primary.execute(_WRITE)

    def _wait_for(self, names: str) -> None:
        """Let each commit of the primary wait for these standbys."""
        self.primary.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{names}'")
        self.primary.execute("SELECT pg_reload_conf()")
