"""Commands that show one sentence: ``kalm play``, and ``kalm imagine --text``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kalm.cli.options import Device, Env, Json, Preset, Seed, Set, open_session, tell

if TYPE_CHECKING:
    from kalm.session import Session

COMMANDS = typer.Typer()
OwnWords = Annotated[
    bool, typer.Option("--own-words", help="Ask in the sentence itself, not in what the reader makes of it.")
]


@COMMANDS.command("play")
def play_command(
    text: Annotated[str, typer.Option(help="What to do.")],
    policy: Annotated[Path, typer.Option(help="Folder of a policy.")],
    out: Annotated[Path | None, typer.Option(help="Film to write: FILE.mp4, .gif, or .png.")] = None,
    own_words: OwnWords = False,
    env: Env = None,
    preset: Preset = None,
    set_: Set = None,
    seed: Seed = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Watch a policy do what a sentence asks, in an initial state drawn from --seed.

    For example:

        kalm play --policy runs/demo/policies/bc+kalm-seed0 --text "Push the red ball behind the blue ball."

        kalm play --policy clevr-bc-kalm --text "Bring all other balls close to the cyan ball." --out film.gif
    """
    session = open_session(env, preset, set_, seed, device, None)
    show_sentence(session, text, None, policy, out, own_words, as_json)


def show_sentence(
    session: Session,
    text: str,
    model: Path | None,
    policy: Path | None,
    out: Path | None,
    own_words: bool,
    as_json: bool,
) -> None:
    """Watch, tell, and write the film."""
    from kalm.report.video import require_film
    from kalm.stages.watch import watch_sentence

    if out is not None:
        require_film(out)
    watched = watch_sentence(session, text, model, policy, not own_words)
    tell(watched.to_json(), as_json, lambda: typer.echo(str(watched)))
    if out is not None:
        watched.save(out)
