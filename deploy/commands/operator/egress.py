"""`distildire egress`: why a URL may be called from here, or not."""

from __future__ import annotations

import sys
from typing import Any

import click
from rich.markup import escape

from deploy.terminal.console import output
from deploy.terminal.groups import SuggestingGroup
from deploy.terminal.streams import print_json
from shared.egress.url_policy import AddressDecision, AllowList, EgressError, admit, decide
from worker.egress.http_client import Egress, Target

_TIMEOUT_SECONDS = 15.0


@click.group(cls=SuggestingGroup)
def command() -> None:
    """Ask the guard that webhooks go through."""


@command.command()
@click.argument("url")
@click.option(
    "--allow",
    default="",
    envvar="DISTILDIRE_EGRESS_ALLOW",
    show_envvar=True,
    help="What may be called although it is not public, as the setting has it: `host:port`, addresses or CIDRs, "
    "separated by commas.",
)
@click.option("--connect", is_flag=True, help="Connect too, and verify the certificate; nothing is sent.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output, nothing else.")
def check(url: str, allow: str, connect: bool, as_json: bool) -> None:
    """Say whether a webhook to URL would be sent, and if not, why.

    The name is looked up from here, so ask where the webhook worker runs. Exit status: 0 allowed, 1 refused or failed.
    """
    entries = [entry.strip() for entry in allow.split(",") if entry.strip()]
    try:
        allowed = AllowList.parse(entries)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--allow") from error
    document = _examine(Egress(entries), url, allowed, connect=connect)
    print_json(document) if as_json else _show(document)
    sys.exit(0 if document["allowed"] else 1)


def _examine(egress: Egress, url: str, allow: AllowList, *, connect: bool) -> dict[str, Any]:
    """Do what a delivery does, up to the request; return all that was found out."""
    found: dict[str, Any] = {"url": url, "allowed": False, "code": None, "reason": None, "host": None, "port": None}
    found |= {"addresses": [], "connected_to": None}
    try:
        target = egress.look_up(url)
        destination = target.destination
        decisions = decide(destination, target.addresses, allow)
        found |= {"host": destination.host, "port": destination.port}
        found["addresses"] = [_present(decision) for decision in decisions]
        admitted = Target(destination, admit(destination, target.addresses, allow))
        if connect:
            found["connected_to"] = str(egress.connect(admitted, _TIMEOUT_SECONDS))
    except EgressError as error:
        return found | {"code": str(error.code), "reason": error.message}
    return found | {"allowed": True}


def _present(decision: AddressDecision) -> dict[str, Any]:
    special = decision.special
    return {
        "address": str(decision.address),
        "allowed": decision.refusal is None,
        "code": decision.refusal and str(decision.refusal),
        "kind": special and special.kind.name.lower(),
        "range": special and str(special.network),
        "what": str(special.kind) if special else "a public address",
        "opened_by": decision.opened_by,
        "would_open": decision.would_open,
    }


def _show(document: dict[str, Any]) -> None:
    """Say the same to a person."""
    console = output()
    where = f" {document['host']}, port {document['port']}" if document["host"] else ""
    if document["allowed"]:
        console.print(f"[green]✓[/] allowed:{escape(where)}")
    else:
        console.print(f"[red]✗[/] {document['code']}:{escape(where)}\n  {escape(document['reason'])}")
    for found in document["addresses"]:
        console.print(f"  {'[green]✓[/]' if found['allowed'] else '[red]✗[/]'} {escape(_line(found))}")
    if document["connected_to"]:
        console.print(f"  connected to {document['connected_to']}")


def _line(found: dict[str, Any]) -> str:
    """Say of one address what it is, which range says so, and what opens or would open it."""
    within = f", in {found['range']}" if found["range"] else ""
    opened = f"; opened by DISTILDIRE_EGRESS_ALLOW={found['opened_by']}" if found["opened_by"] else ""
    remedy = f"; DISTILDIRE_EGRESS_ALLOW={found['would_open']} would open it" if found["would_open"] else ""
    return f"{found['address']} is {found['what']}{within}{opened}{remedy}"
