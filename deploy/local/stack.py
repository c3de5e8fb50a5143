"""The whole product on one machine: the services, the database's schema, a key, the processes, `stack.json`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from deploy.local.credentials import free_ports, is_free
from deploy.local.postgres import role_passwords, role_urls
from deploy.local.process_identity import ProcessIdentity
from deploy.local.process_registry import ProcessRegistry
from deploy.local.processes import ChildProcess, StackError
from deploy.local.programs import HOST, StackProcess, stack_processes
from deploy.local.services import LocalServices, ServiceUrls
from deploy.local.stack_file import STACK_FILE, StackDocument
from deploy.local.state_files import write_private
from migrations.upgrade import prepare_roles, upgrade
from shared.crypto import Vault
from shared.database.engine import Database
from shared.environment import PREFIX, with_settings
from shared.settings import Settings
from shared.tenants.api_keys import Scope, authenticate, create_key

DEFAULT_PORT = 8000
SERVICES = ("postgres", "valkey", "s3")
PROCESSES = ("api", "analysis_worker", "webhook_worker", "beat")
_STOP_ORDER = (("api",), ("analysis_worker", "webhook_worker"), ("beat",))
_READY_SECONDS = 180  # a full-size model is loaded and warmed up on two cores
_TENANT = "local"
_PORT_FILE = "api.port"

#: Told as the stack comes up: what, and how it stands (`running` already, `starting`, `ready`, `ended`); or a sentence
#: about what was found damaged, and `noted`.
Report = Callable[[str, str], None]


class Stack:
    """Owns all processes of one data directory. Use it from the main thread, and `stop` it at the end."""

    def __init__(self, data_dir: Path, port: int | None, report: Report) -> None:
        """`port` is the API's; None keeps the last one, at first 8000 if that is free."""
        self._data_dir = data_dir.resolve()
        self._wanted_port = port
        self._report = report
        self._services = LocalServices(self._data_dir, notice=lambda word: report(word, "noted"))
        self._registry = ProcessRegistry(self._data_dir)
        self._product: dict[str, ChildProcess] = {}
        self._reported_ends: set[ProcessIdentity] = set()
        self._document: StackDocument | None = None

    def claim(self) -> None:
        """Become the owner of the data directory; raise `DataDirInUseError` if it has another."""
        self._services.claim()

    def ensure(self) -> StackDocument:
        """Start what does not run, wait until all answers, write `stack.json` and return what is in it.

        Raises:
            DataDirInUseError: the stack has another owner.
            StackError: something did not come up; what was started for this call is stopped, the rest left alone.
        """
        credentials = self._services.claim()
        secret_key = credentials.secret_key
        port = self._api_port()  # before anything is started for nothing
        urls = self._start_services()
        values = {**asdict(urls), "secret_key": secret_key}
        Settings.read(**values)  # with the user's own DISTILDIRE_*: a mistake there is told at once
        with self._reported("schema"):
            upgrade(urls.database_url)
            prepare_roles(urls.database_url, role_passwords(credentials))
        with self._reported("key"):
            api_key = _api_key(self._data_dir, urls.database_url, secret_key)
        environment = with_settings(os.environ) | {f"{PREFIX}{name.upper()}": value for name, value in values.items()}
        databases = role_urls(self._services.claim())
        self._start_product(stack_processes(self._data_dir, port, environment, databases))
        self._document = StackDocument(
            api_url=f"http://{HOST}:{port}",
            api_key=api_key,
            database_url=urls.database_url,
            redis_url=urls.redis_url,
            s3={
                "endpoint": urls.s3_endpoint,
                "access_key": urls.s3_access_key,
                "secret_key": urls.s3_secret_key,
                "bucket": urls.s3_bucket,
            },
        )
        children = {**self._services.children, **self._product}
        self._registry.write({name: child.identity for name, child in children.items()})  # it may have been damaged
        return self._write_document()

    def ended(self) -> list[ChildProcess]:
        """Return the processes that ended by themselves and were not returned yet; `stack.json` then says so."""
        children = {**self._services.children, **self._product}.values()
        dead = [child for child in children if not child.running and child.identity not in self._reported_ends]
        self._reported_ends.update(child.identity for child in dead)
        for child in dead:
            self._report(child.program.name, "ended")
        if dead:
            with suppress(OSError):  # a full disk must not end what still runs
                self._write_document()
        return dead

    def stop(self) -> None:
        """Stop all: the API first, then the workers with what they are doing, then the services; data stays.

        Harmless when it never came up, and when another process owns the data directory.
        """
        if not self._services.owned:
            return
        (self._data_dir / STACK_FILE).unlink(missing_ok=True)
        for names in _STOP_ORDER:
            self._stop_product(names)
        self._services.stop()

    def _start_services(self) -> ServiceUrls:
        missing = [name for name in SERVICES if not self._services.is_running(name)]
        for name in SERVICES:
            self._report(name, "starting" if name in missing else "running")
        urls = self._services.start()
        for name in missing:
            self._report(name, "ready")
        return urls

    def _start_product(self, processes: tuple[StackProcess, ...]) -> None:
        """Start the missing ones side by side; one that runs with outdated addresses counts as missing."""
        missing = [process for process in processes if not self._runs_as_wanted(process)]
        try:
            for process in missing:
                self._spawn(process)
            for process in missing:
                self._product[process.name].wait_until(process.is_ready, _READY_SECONDS)
                self._report(process.name, "ready")
        except BaseException:
            self._stop_product([process.name for process in missing])
            raise

    def _runs_as_wanted(self, process: StackProcess) -> bool:
        child = self._product.get(process.name)
        running = child is not None and child.running
        if child is not None and running and child.program != process.program:
            self._stop_product([process.name])
            running = False
        self._report(process.name, "running" if running else "starting")
        return running

    def _spawn(self, process: StackProcess) -> None:
        process.prepare()
        child = ChildProcess(process.program)
        self._product[process.name] = child
        self._registry.record(process.name, child.identity)

    def _stop_product(self, names: Iterable[str]) -> None:
        """Stop these side by side: each may take its time to finish what it is doing."""
        stopping = {name: self._product.pop(name) for name in names if name in self._product}
        for child in stopping.values():
            child.request_stop()
        for name, child in stopping.items():
            child.stop()
            self._registry.forget(name)

    def _api_port(self) -> int:
        """The port of the running API, or the one to start it on."""
        kept = self._data_dir / _PORT_FILE
        last = _kept_port(kept) or DEFAULT_PORT
        api = self._product.get("api")
        if api is not None and api.running:
            return last
        if self._wanted_port is not None and not is_free(self._wanted_port):
            raise StackError(f"Port {self._wanted_port} is taken by another program. Choose another with --port.")
        port = self._wanted_port or (last if is_free(last) else free_ports(1)[0])
        if kept.exists() and _kept_port(kept) is None:
            self._report(f"{_PORT_FILE} was damaged; the API is at port {port} now.", "noted")
        write_private(kept, str(port))
        return port

    def _write_document(self) -> StackDocument:
        if self._document is None:
            raise StackError("The stack has not come up yet.")
        children = {**self._product, **self._services.children}
        pids = {name: children[name].pid if children[name].running else None for name in (*PROCESSES, *SERVICES)}
        self._document = StackDocument(**{**asdict(self._document), "pids": pids})
        write_private(self._data_dir / STACK_FILE, json.dumps(asdict(self._document), indent=2) + "\n")
        return self._document

    @contextmanager
    def _reported(self, step: str) -> Iterator[None]:
        self._report(step, "starting")
        yield
        self._report(step, "ready")


def _kept_port(file: Path) -> int | None:
    """The port of the last time; None where there is none, or the file is damaged."""
    text = file.read_text(errors="replace").strip() if file.exists() else ""
    return int(text) if text.isdecimal() and 0 < int(text) < 65536 else None


def _api_key(data_dir: Path, database_url: str, secret_key: str) -> str:
    """Return the key of the last time while it is valid, so that scripts go on working; else a new one."""
    path = data_dir / "api.key"
    vault = Vault(secret_key)
    with Database(database_url, pool_size=1) as database, database.begin() as session:
        kept = path.read_text(errors="replace") if path.exists() else ""
        known = authenticate(session, vault, kept)
        if known is not None and known.scopes.issuperset(Scope):  # an older version's key has fewer
            return kept
        key = create_key(session, vault, tenant=_TENANT, name="distildire up", scopes=list(Scope)).key
    write_private(path, key)
    return key
