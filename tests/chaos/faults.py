"""What is done to the service: each way of failing is a small class with a begin and an end."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from signal import SIGKILL, SIGQUIT, SIGTERM, Signals
from typing import ClassVar

import psycopg2
import redis
from psycopg2.extensions import connection as Connection  # noqa: N812  # a class in spite of its name

from deploy.bench.processes import tree
from tests.chaos.crash_points import ACCEPTED, DECIDED, STAGES, request_crash
from tests.chaos.deployment import ANALYSIS_WORKERS, SERVERS_WITH_DISKS, Deployment
from tests.chaos.proxy import Behaviour
from tests.support.quota import Quota

_AT_ONCE = (0.0, 0.0)
#: How long a look for a process that passes a point takes; a plan looks again.
_PASSING_SECONDS = 0.5


@dataclass(frozen=True)
class Fault:
    """One fault; `lasts` are the least and the most seconds between its begin and its end."""

    lasts: tuple[float, float] = _AT_ONCE
    target: str = ""
    """The process that it is done to, where it is one that is known before."""

    @property
    def kills(self) -> bool:
        """Whether a process is killed by it."""
        return False

    @property
    def name(self) -> str:
        """What a report calls it."""
        raise NotImplementedError

    def possible(self, deployment: Deployment) -> bool:
        """Whether this machine can do it at all."""
        return True

    def begin(self, deployment: Deployment) -> bool:
        """Do it; return whether there was anything to do it to."""
        raise NotImplementedError

    def end(self, deployment: Deployment) -> None:
        """Undo it."""


@dataclass(frozen=True)
class Signal(Fault):
    """A process gets a signal that ends it, and is started again as soon as the deployment sees it."""

    number: Signals = SIGKILL

    @property
    def kills(self) -> bool:
        return self.number in (SIGKILL, SIGQUIT)

    @property
    def name(self) -> str:
        return f"{self.number.name} {self.target}"

    def begin(self, deployment: Deployment) -> bool:
        if self.number is SIGTERM and not deployment.ready(self.target):
            return False  # one that is still importing has nothing to stop
        return _may_die(deployment, self.target) and deployment.signal(self.target, self.number)


@dataclass(frozen=True)
class DieAt(Fault):
    """Whichever process passes a point of its work next is killed there, with its children."""

    process: str = ""
    point: str = ""
    kills = True

    @property
    def name(self) -> str:
        return f"SIGKILL {self.process}: {self.point}"

    def begin(self, deployment: Deployment) -> bool:
        return request_crash(deployment.crash_requests, self.point, _PASSING_SECONDS)


@dataclass(frozen=True)
class KillGunicornWorker(Fault):
    """One of the API's processes is killed; gunicorn starts another."""

    name = "SIGKILL gunicorn worker"
    kills = True

    def begin(self, deployment: Deployment) -> bool:
        return deployment.kill_gunicorn_worker()


@dataclass(frozen=True)
class Freeze(Fault):
    """A process and its children stand still (SIGSTOP), then go on as if nothing had been (SIGCONT)."""

    @property
    def name(self) -> str:
        return f"freeze {self.target}{_exactly(self.lasts)}"

    def begin(self, deployment: Deployment) -> bool:
        return _may_die(deployment, self.target) and deployment.freeze(self.target)

    def end(self, deployment: Deployment) -> None:
        deployment.thaw(self.target)


@dataclass(frozen=True)
class Down(Fault):
    """A process is killed and stays away for a while."""

    kills = True

    @property
    def name(self) -> str:
        return f"{self.target} down{_exactly(self.lasts)}"

    def begin(self, deployment: Deployment) -> bool:
        deployment.keep_stopped(self.target)
        deployment.signal(self.target, SIGKILL)  # it may have been killed a moment ago
        return True

    def end(self, deployment: Deployment) -> None:
        deployment.allow_start(self.target)


@dataclass(frozen=True)
class Flush(Fault):
    """Everything in Valkey is deleted."""

    target: str = "valkey"
    name = "FLUSHALL"

    def begin(self, deployment: Deployment) -> bool:
        try:
            with deployment.redis() as client:
                client.flushall()
        except redis.RedisError:
            return False
        return True


@dataclass(frozen=True)
class TerminateBackends(Fault):
    """PostgreSQL ends every connection."""

    name = "pg_terminate_backend"

    def begin(self, deployment: Deployment) -> bool:
        try:
            with contextlib.closing(deployment.postgres()) as connection, connection.cursor() as cursor:
                cursor.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
                )
        except psycopg2.OperationalError:
            return False
        return True


@dataclass(frozen=True)
class OpenTransaction(Fault):
    """Somebody keeps a transaction open, begun by these statements."""

    _held: list[Connection] = field(default_factory=list, compare=False)
    statements: ClassVar[tuple[str, ...]]

    def begin(self, deployment: Deployment) -> bool:
        try:
            connection = deployment.postgres()
            self._held.append(connection)
            with connection.cursor() as cursor:
                for statement in self.statements:
                    cursor.execute(statement)
        except psycopg2.OperationalError:
            return False
        return True

    def end(self, deployment: Deployment) -> None:
        while self._held:
            with contextlib.suppress(psycopg2.Error):  # another fault may have ended the connection
                self._held.pop().close()


@dataclass(frozen=True)
class LockJobs(OpenTransaction):
    """Somebody holds the table of the jobs locked."""

    name = "jobs table locked"
    statements = ("SET lock_timeout = '2s'", "LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE")


@dataclass(frozen=True)
class HeldSnapshot(OpenTransaction):
    """Somebody reads the database as of one moment, as a backup does, so that no dead row can be cleared away."""

    name = "snapshot held"
    statements = ("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", "SELECT count(*) FROM tenants")


@dataclass(frozen=True)
class HangingEndpoint(Fault):
    """One endpoint takes what is sent and never answers, while the others do: its backlog grows."""

    endpoint: str = ""
    name = "one endpoint hangs"

    def begin(self, deployment: Deployment) -> bool:
        deployment.receiver.hang(self.endpoint)
        return True

    def end(self, deployment: Deployment) -> None:
        deployment.receiver.answer(self.endpoint)


@dataclass(frozen=True)
class HalfACore(Fault):
    """A process and its children have half a core together, as in a container with such a limit."""

    _quota: Quota = field(default_factory=lambda: Quota(f"distildire-chaos-{os.getpid()}", 0.5), compare=False)

    @property
    def name(self) -> str:
        return f"{self.target}: half a core"

    def possible(self, deployment: Deployment) -> bool:
        made = self._quota.make()
        self._quota.remove()
        return made

    def begin(self, deployment: Deployment) -> bool:
        pid = deployment.pid(self.target)
        if pid is None or not self._quota.make():
            return False
        self._quota.hold(tree(pid))
        return True

    def end(self, deployment: Deployment) -> None:
        self._quota.remove()


@dataclass(frozen=True)
class FullDisk(Fault):
    """The disk of a server has no room left."""

    @property
    def name(self) -> str:
        return f"{self.target}'s disk full"

    def possible(self, deployment: Deployment) -> bool:
        return self.target in deployment.disks

    def begin(self, deployment: Deployment) -> bool:
        deployment.disks[self.target].fill()
        return True

    def end(self, deployment: Deployment) -> None:
        deployment.disks[self.target].empty()


@dataclass(frozen=True)
class BadStore(Fault):
    """A share of what goes to the object store goes wrong on its way."""

    behaviour: Behaviour = Behaviour.CLEAN
    share: float = 1.0

    @property
    def name(self) -> str:
        return f"store: {self.behaviour}"

    def begin(self, deployment: Deployment) -> bool:
        deployment.proxy.misbehave(self.behaviour, share=self.share)
        return True

    def end(self, deployment: Deployment) -> None:
        deployment.proxy.behave()


@dataclass(frozen=True)
class BadReceivers(Fault):
    """Every receiver of webhooks behaves as a path of `tests/support/receivers.py` says."""

    behaviour: str = ""

    @property
    def name(self) -> str:
        return f"receivers: {self.behaviour}"

    def begin(self, deployment: Deployment) -> bool:
        deployment.receiver.misbehave(self.behaviour)
        return True

    def end(self, deployment: Deployment) -> None:
        deployment.receiver.behave()


def _exactly(lasts: tuple[float, float]) -> str:
    return f" {lasts[0]:.0f} s" if lasts[0] == lasts[1] else ""


def _may_die(deployment: Deployment, target: str) -> bool:
    return target not in ANALYSIS_WORKERS or deployment.wait_busy(target)


#: Ended from outside, at once, and started again.
KILLS: tuple[Fault, ...] = (
    *(Signal(target=name) for name in ANALYSIS_WORKERS),
    *(DieAt(process="analysis worker", point=point) for point in (*STAGES, DECIDED)),
    *(Signal(target="api"), DieAt(process="api", point=ACCEPTED), KillGunicornWorker()),
    *(Signal(target="webhook_worker"), Signal(target="beat")),
    *(Signal(target="valkey"), Signal(target="s3"), Signal(target="postgres", number=SIGQUIT)),
)
#: What else happens in a moment.
MOMENTS: tuple[Fault, ...] = (
    *(Signal(target=name, number=SIGTERM) for name in ("api", *ANALYSIS_WORKERS, "webhook_worker", "beat")),
    Flush(),
    TerminateBackends(),
)
#: What lasts. SIGSTOP lasts longer than the lease; a 5 s lock is the longest wait that a request makes for one.
LASTING: tuple[Fault, ...] = (
    *(Freeze((4.0, 8.0), name) for name in ANALYSIS_WORKERS),
    Freeze((3.0, 20.0), "valkey"),
    Down((3.0, 20.0), "valkey"),
    LockJobs((5.0, 5.0)),
    Down((3.0, 8.0), "s3"),
    *(
        BadStore((3.0, 8.0), behaviour=behaviour, share=0.5)
        for behaviour in (Behaviour.UNAVAILABLE, Behaviour.SLOW, Behaviour.RESET)
    ),
    BadStore((7.0, 12.0), behaviour=Behaviour.SILENT, share=1.0),
    *(
        BadStore((3.0, 8.0), behaviour=behaviour, share=0.3)
        for behaviour in (Behaviour.CUT_ANSWER, Behaviour.CUT_REQUEST)
    ),
    *(
        BadStore((3.0, 8.0), behaviour=behaviour, share=0.3)
        for behaviour in (Behaviour.WRONG_ANSWER, Behaviour.WRONG_REQUEST)
    ),
    *(
        BadReceivers((2.0, 8.0), behaviour=how)
        for how in ("500", "hang", "drip-body", "drip-head", "close", "redirect")
    ),
    BadReceivers((2.0, 4.0), behaviour="gigabyte"),
    *(FullDisk((3.0, 8.0), name) for name in SERVERS_WITH_DISKS),
)
#: What nobody ends of, beside all the others, for half a minute or more.
BESIDE: tuple[Fault, ...] = (
    HeldSnapshot((40.0, 180.0)),
    HangingEndpoint((40.0, 120.0), endpoint="second-a"),
    HalfACore((30.0, 60.0), ANALYSIS_WORKERS[1]),
)
#: So long that only a long run has them.
LONG: tuple[Fault, ...] = (Freeze((70.0, 70.0), "valkey"), Down((600.0, 600.0), "valkey"))
#: What happens to servers and to the ways between them: the product's processes live through all of it.
OUTSIDE: frozenset[Fault] = frozenset(
    fault
    for fault in (*KILLS, *MOMENTS, *LASTING)
    if isinstance(fault, Flush | TerminateBackends | LockJobs | BadStore | BadReceivers | FullDisk)
    or (isinstance(fault, Signal | Freeze | Down) and fault.target in SERVERS_WITH_DISKS)
)
