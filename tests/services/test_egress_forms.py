"""Forms of forbidden URLs, from registration to delivery: each is refused for its reason, and nobody is reached.

The listener is on every address of the machine. In a world where every address is the machine's own
(tests/support/every_address.py) the same tests show that no address at all is connected to.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from click.testing import CliRunner
from sqlalchemy import select

from deploy.cli import main
from shared.crypto import Vault
from shared.database.engine import Database
from shared.database.tables import WebhookAttempt, WebhookDelivery
from shared.domain import NewJob
from shared.egress.url_policy import EgressError, parse
from shared.jobs import lifecycle
from shared.webhooks.endpoints import create_endpoint
from tests.support.api_world import ApiWorld
from tests.support.egress_forms import FORMS, REDIRECTS, AllAddresses, ConnectLog, Form, Names
from tests.support.receivers import Receiver
from worker.egress.http_client import Egress
from worker.webhooks.sender import WebhookSender

VAULT = Vault("a secret key for tests, 32 chars at least")
SENDERS = "webhook-sender"
CONNECTS = ConnectLog()
LOCALHOST: dict[str, list[Sequence[str]]] = {
    "localhost": [("127.0.0.1", "::1")],
    "hooks.localhost": [("127.0.0.1", "::1")],
}


@pytest.fixture(scope="module")
def all_addresses() -> Iterator[AllAddresses]:
    listening = AllAddresses()
    yield listening
    listening.close()


@pytest.fixture(autouse=True)
def _nobody_yet(all_addresses: AllAddresses) -> None:
    all_addresses.take()


@pytest.fixture(scope="module", autouse=True)
def _proxies(all_addresses: AllAddresses) -> Iterator[None]:
    """The environment offers proxies, which listen: whoever used one would be counted."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
            patch.setenv(name, f"http://127.0.0.1:{all_addresses.port}")
        yield


@dataclass(frozen=True)
class Deliveries:
    """What came of one delivery to each of many URLs."""

    errors: Mapping[str, str | None]
    connects: list[tuple[Any, ...]]
    reached: list[str]


def test_there_are_eighty_forms_and_more_and_none_twice() -> None:
    assert len({form.url for form in FORMS}) == len(FORMS) > 200
    assert len(REDIRECTS["statuses"]) * len(REDIRECTS["to"]) == 40


def test_at_registration_each_form_is_refused_that_is_plain_without_a_look_up(
    api: ApiWorld, all_addresses: AllAddresses
) -> None:
    got = {form.url: _register(api, form.at(all_addresses.port)) for form in FORMS}
    assert got == {form.url: form.registration for form in FORMS}
    assert all_addresses.take() == []


def _register(api: ApiWorld, url: str) -> str:
    answer = api.one.post("/v1/webhook-endpoints", json={"url": url})
    if answer.status_code == 201:
        api.one.delete(f"/v1/webhook-endpoints/{answer.json['id']}")
        return "accepted"
    assert answer.status_code == 422
    return str(answer.json["code"])


def test_at_delivery_each_form_is_refused_for_its_reason_and_nobody_is_reached(
    database: Database, tenant: UUID, all_addresses: AllAddresses
) -> None:
    names = Names(dict(LOCALHOST))
    for form in FORMS:
        if form.answers is not None:
            names.answers[parse(form.at(all_addresses.port)).host] = [form.answers]
    storable = [form for form in FORMS if "\0" not in form.url]  # PostgreSQL holds no NUL: such a URL is never stored
    urls = {form.at(all_addresses.port): form for form in storable}
    outcome = _deliver(database, tenant, [*urls], Egress((), names), all_addresses)
    assert {urls[url].url: error for url, error in outcome.errors.items()} == {
        form.url: form.refusal for form in storable
    }
    assert outcome.connects == []
    assert outcome.reached == []


@pytest.mark.parametrize("form", [form for form in FORMS if "\0" in form.url], ids=lambda form: form.group)
def test_what_cannot_be_stored_is_refused_as_well(form: Form, all_addresses: AllAddresses) -> None:
    with pytest.raises(EgressError) as refused:
        Egress().check(form.at(all_addresses.port))
    assert refused.value.code == form.refusal


def _deliver(
    database: Database, tenant: UUID, urls: list[str], egress: Egress, all_addresses: AllAddresses
) -> Deliveries:
    """Deliver once to each URL, as if it had been registered before any rule was made."""
    with database.begin() as session:
        of = {create_endpoint(session, VAULT, tenant, url, ["job.canceled"])[0].id: url for url in urls}
    _end_a_job(database, tenant)
    sender = WebhookSender(database, egress, VAULT)
    with CONNECTS.noting(SENDERS) as connects:
        _deliver_until(sender, lambda: len(_errors(database, of)) == len(urls))
        sender.close()
    return Deliveries(_errors(database, of), connects, all_addresses.take())


def _errors(database: Database, of: Mapping[UUID, str]) -> dict[str, str | None]:
    """For each URL that was tried, the error of its last try."""
    tried = select(WebhookDelivery.endpoint_id, WebhookAttempt.error).join(
        WebhookAttempt, WebhookAttempt.delivery_id == WebhookDelivery.id
    )
    with database.begin() as session:
        rows = session.execute(tried.order_by(WebhookAttempt.attempt)).all()
    return {of[endpoint]: error for endpoint, error in rows}


def _end_a_job(database: Database, tenant: UUID) -> None:
    job_id = uuid4()
    with database.begin() as session:
        new = NewJob(job_id, tenant, f"{job_id}/source", "00" * 32, 5, "image/png")
        lifecycle.create(session, new, deadline=timedelta(hours=1))
        lifecycle.cancel(session, tenant, job_id)


def _deliver_until(sender: WebhookSender, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        sender.deliver_due()
        assert time.monotonic() < deadline, "what was waited for did not come"
        time.sleep(0.02)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "[::1]"])
def test_the_same_listener_is_reached_once_the_operator_allows_it(
    host: str, database: Database, tenant: UUID, all_addresses: AllAddresses
) -> None:
    """The control: without it, the counts of zero above could come from a listener that counts nothing."""
    url = f"http://{host}:{all_addresses.port}/"
    address = host.strip("[]")
    outcome = _deliver(database, tenant, [url], Egress([address]), all_addresses)
    assert outcome.reached == [address]
    assert [connect[:2] for connect in outcome.connects] == [(address, all_addresses.port)]
    assert outcome.errors[url] in ("bad_response", "connection_lost")


def test_a_name_is_looked_up_once_and_connected_to_at_the_address_that_was_checked(all_addresses: AllAddresses) -> None:
    """A name that answers with an allowed address first and with a forbidden one to whoever asks again."""
    names = Names({"rebinding.test": [("127.0.0.2",), ("127.0.0.1",)]})
    egress = Egress([f"127.0.0.2:{all_addresses.port}"], names)
    with CONNECTS.noting("MainThread") as connects, pytest.raises(EgressError):
        egress.post(f"http://rebinding.test:{all_addresses.port}/", b"{}", {}, 5)
    assert names.asked == ["rebinding.test"]
    assert connects == [("127.0.0.2", all_addresses.port)]
    assert all_addresses.take() == ["127.0.0.2"]


def test_the_address_that_the_system_says_we_are_connected_to_is_the_checked_one(receiver: Receiver) -> None:
    names = Names({"receiver.test": [("127.0.0.1",)]})
    egress = Egress([f"127.0.0.1:{receiver.port}"], names)
    target = egress.check(receiver.url("/200", host="receiver.test"))
    assert egress.connect(target, 5) == target.addresses[0]
    assert names.asked == ["receiver.test"]


def test_an_endpoint_whose_name_moves_inside_after_it_was_accepted_is_not_called_any_more(
    database: Database, tenant: UUID, receiver: Receiver, all_addresses: AllAddresses
) -> None:
    names = Names({"moving.test": [("127.0.0.1",)]})
    url = receiver.url("/200", host="moving.test")
    egress = Egress([f"127.0.0.1:{receiver.port}"], names)
    assert _deliver(database, tenant, [url], egress, all_addresses).errors == {url: None}
    names.answers["moving.test"] = [("127.0.0.2",)]
    before = len(receiver.received)
    _end_a_job(database, tenant)
    sender = WebhookSender(database, egress, VAULT)
    with CONNECTS.noting(SENDERS) as connects:
        _deliver_until(sender, lambda: _last_error(database) == "address_not_allowed")
        sender.close()
    assert connects == []
    assert len(receiver.received) == before
    assert all_addresses.take() == []


def _last_error(database: Database) -> str | None:
    with database.begin() as session:
        tries = select(WebhookAttempt.error).order_by(WebhookAttempt.started_at.desc()).limit(1)
        return session.scalars(tries).one_or_none()


@pytest.mark.parametrize("status", REDIRECTS["statuses"])
def test_no_redirect_is_followed_wherever_it_leads(
    status: int, receiver: Receiver, all_addresses: AllAddresses
) -> None:
    egress = Egress([f"127.0.0.1:{receiver.port}"])
    for to in REDIRECTS["to"]:
        receiver.location = to.replace("{port}", str(all_addresses.port))
        with CONNECTS.noting("MainThread") as connects:
            assert egress.post(receiver.url(f"/{status}"), b"{}", {}, 5).status == status
        assert connects == [("127.0.0.1", receiver.port)]
    assert len(receiver.received) == len(REDIRECTS["to"])
    assert all_addresses.take() == []


def test_no_url_writes_a_second_host_into_the_head(receiver: Receiver) -> None:
    Egress([f"127.0.0.1:{receiver.port}"]).post(receiver.url("/200?a=%0d%0aHost:%20127.0.0.2"), b"{}", {}, 5)
    (request,) = receiver.received
    assert request.host_lines == [f"127.0.0.1:{receiver.port}"]
    assert request.path == "/200?a=%0d%0aHost:%20127.0.0.2"


@pytest.mark.parametrize("connect", [False, True])
def test_egress_check_connects_only_when_asked_to(connect: bool, all_addresses: AllAddresses) -> None:
    arguments = ["egress", "check", f"http://127.0.0.2:{all_addresses.port}/", "--allow", "127.0.0.2", "--json"]
    result = CliRunner().invoke(main, arguments + ["--connect"] * connect)
    assert result.exit_code == 0
    assert json.loads(result.output)["connected_to"] == ("127.0.0.2" if connect else None)
    assert all_addresses.take() == ["127.0.0.2"] * connect
