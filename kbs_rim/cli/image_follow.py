"""``kbs-rim image follow|approve|reject``: new versions from your sources, and who says that they are trusted."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kbs_rim.cli import EXIT_OK, EXIT_REFUSED
from kbs_rim.cli.admin_client import connect, connected, print_json, print_table
from kbs_rim.cli.image_add import register, unique
from kbs_rim.cli.image_collect import collecting, load_sources, say_speed, sourced_options, submission
from kbs_rim.errors import KbsRimError, TheirFault

if TYPE_CHECKING:
    from kbs_rim.cli.admin_client import AdminClient
    from kbs_rim.image_sources.follow_state import Proposal
    from kbs_rim.image_sources.following import Event
    from kbs_rim.image_sources.origins import SourcedImage


class _Broker:
    """A broker's registry, as following needs it."""

    def __init__(self, client: "AdminClient") -> None:
        self._client = client

    def knows(self, image_id: str) -> bool:
        try:
            self._client.get(f"/admin/v1/images/{image_id}")
        except TheirFault as error:
            if error.finding_id == "registry.image-unknown":
                return False
            raise
        return True

    def register(self, images: Sequence["SourcedImage"]) -> None:
        register(self._client, [submission(image) for image in unique(images)])

    def deprecate(self, image_id: str, reason: str) -> None:
        self._client.send("POST", f"/admin/v1/images/{image_id}/state", {"state": "deprecated", "reason": reason})


@click.command()
@click.option("--list", "only_list", is_flag=True, help="Show open proposals; look at no source and ask no broker.")
@sourced_options
@connected
def follow(
    *,
    only_list: bool,
    sources_file: Path | None,
    cache: Path | None,
    state_file: Path | None,
    offline: bool,
    url: str,
    token_file: Path | None,
    ca_file: Path | None,
    as_json: bool,
) -> int:
    """Look for new versions in your sources, and propose them.

    Nothing becomes trusted by it, unless a rule of the sources approves by itself. Exit 1 if a rule failed.
    """
    from kbs_rim.image_sources.follow_state import save_state
    from kbs_rim.image_sources.following import Follower

    if sources_file is None and not only_list:
        raise click.UsageError("--sources (or KBS_RIM_IMAGE_SOURCES) names the list of sources and rules")
    sources = load_sources(sources_file)
    events: list[Event] = []
    with collecting(sources, cache, state_file, offline=offline) as (collector, state, path):
        if not only_list:
            follower = Follower(collector, state, _Broker(connect(url, token_file, ca_file)))
            for event in follower.look(sources.follow):
                events.append(event)
                save_state(path, state)
                if not as_json:
                    _tell(event)
            say_speed(collector.hashed_bytes, collector.hashing_s)
        proposals = list(state.proposals.values())
    if as_json:
        print_json({"proposals": [item.to_document() for item in proposals], "events": [_event(item) for item in events]})
    else:
        print_table("", ("id", "action", "rule", "package", "version", "images"), (_row(item) for item in proposals))
    return EXIT_REFUSED if any(event.error for event in events) else EXIT_OK


@click.command()
@click.argument("proposals", metavar="ID...", nargs=-1, required=True)
@sourced_options
@connected
def approve(
    proposals: tuple[str, ...],
    *,
    sources_file: Path | None,
    cache: Path | None,
    state_file: Path | None,
    offline: bool,
    url: str,
    token_file: Path | None,
    ca_file: Path | None,
    as_json: bool,
) -> None:
    """Carry out proposals: read source, signature and package again, and register or deprecate what was proposed."""
    from kbs_rim.image_sources.follow_state import save_state
    from kbs_rim.image_sources.following import Follower

    client = connect(url, token_file, ca_file)
    who = str(client.get("/admin/v1/whoami")["name"])
    events: list[Event] = []
    with collecting(load_sources(sources_file), cache, state_file, offline=offline) as (collector, state, path):
        follower = Follower(collector, state, _Broker(client))
        for proposal in proposals:
            events += follower.approve(proposal, by=who)
            save_state(path, state)
    if as_json:
        print_json({"events": [_event(item) for item in events]})
        return
    for event in events:
        _tell(event, err=False)


@click.command()
@click.argument("proposals", metavar="ID...", nargs=-1, required=True)
@click.option("--state", "state_file", envvar="KBS_RIM_IMAGE_STATE", type=click.Path(dir_okay=False, path_type=Path), help="See follow.")
def reject(proposals: tuple[str, ...], state_file: Path | None) -> None:
    """Turn proposals down; they are not made again."""
    from kbs_rim.cli.image_collect import state_path
    from kbs_rim.image_sources.follow_state import load_state, save_state

    path = state_path(state_file)
    state = load_state(path)
    for proposal in proposals:
        state.find(proposal)
    for proposal in proposals:
        state.settle(proposal, "rejected")
        click.echo(f"{proposal} is rejected")
    save_state(path, state)


def _row(proposal: "Proposal") -> tuple[object, ...]:
    names = ", ".join(image.name.rpartition("/")[2] for image in proposal.images)
    return proposal.id, proposal.action.value, proposal.rule, proposal.package, proposal.version, names


def _event(event: "Event") -> dict[str, Any]:
    error = event.error
    return {
        "what": event.what,
        "rule": event.rule,
        "proposal": event.proposal.to_document() if event.proposal else None,
        "error": None if error is None else {"id": getattr(error, "finding_id", None), "message": str(error)},
    }


def _tell(event: "Event", *, err: bool = True) -> None:
    if event.error is not None:
        click.echo(f"kbs-rim: {event.rule}: {_words(event.error)}", err=True)
    elif event.proposal is not None:
        proposal = event.proposal
        click.echo(f"{event.what}: {proposal.action} {proposal.package} {proposal.version} ({proposal.id})", err=err)
    elif err:
        click.echo(f"kbs-rim: {event.rule}: nothing new", err=True)


def _words(error: KbsRimError) -> str:
    finding = getattr(error, "finding_id", None)
    return f"{finding}: {error}" if finding else str(error)
