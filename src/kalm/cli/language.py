"""Commands of the language model: ``kalm ground``, ``kalm imagine``, ``kalm inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kalm.cli.options import (
    Device,
    Effects,
    Env,
    Goals,
    Json,
    Levels,
    Out,
    Overwrite,
    Preset,
    Seed,
    Set,
    Split,
    Workers,
    as_yaml,
    known_levels,
    open_session,
    split_settings,
    tell,
)
from kalm.cli.watching import OwnWords, show_sentence
from kalm.errors import KalmError
from kalm.runs.folder import REFINED
from kalm.types import LEVELS

COMMANDS = typer.Typer()


@COMMANDS.command("ground")
def ground_command(
    data: Annotated[Path, typer.Option(help="Dataset of real rollouts.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the result.")] = None,
    backbone: Annotated[
        str | None, typer.Option(help="Language model: minilm, smollm2, a hub name, a folder or a GGUF file.")
    ] = None,
    env: Env = None,
    preset: Preset = None,
    set_: Set = None,
    seed: Seed = None,
    device: Device = None,
    overwrite: Overwrite = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print size, memory, steps, and the time they take, tried for 10 s."),
    ] = False,
    count: Annotated[
        int, typer.Option("--processes", min=1, help="With --dry-run: devices that share the work.")
    ] = 1,
    as_json: Json = False,
) -> None:
    """Ground a language model in a dataset; the model comes to OUT/model.

    For example:

        kalm ground --data data/real --out grounded --backbone minilm

        kalm ground --data data/real --out grounded --backbone Qwen2.5-0.5B-Instruct-Q8_0.gguf

        kalm ground --data data/real --backbone meta-llama/Llama-2-7b-chat-hf --dry-run --processes 8
    """
    from kalm.stages.ground import GROUND, GroundInputs, grounding_cost

    if backbone is not None:
        set_ = [*(set_ or []), f"ground.backbone={as_yaml(backbone)}"]
    session = open_session(env, preset, set_, seed, device, None)
    if dry_run:
        tell(grounding_cost(session, data, count), as_json)
        return
    if out is None:
        raise KalmError("ground needs a folder for its result: give --out, or --dry-run to see the cost.")
    tell(GROUND.alone(session, GroundInputs(data), out, overwrite), as_json)


@COMMANDS.command("imagine")
def imagine_command(
    model: Annotated[Path, typer.Option(help="Grounded model (the folder `model` of `kalm ground`).")],
    out: Out,
    goals: Goals = None,
    level: Levels = None,
    real: Annotated[
        Path | None,
        typer.Option(help="Real rollouts: needed by imagine.samples and imagine.refine."),
    ] = None,
    actor: Annotated[
        Path | None,
        typer.Option(help="A second grounded model that chooses the actions; --model gives the states."),
    ] = None,
    text: Annotated[
        str | None,
        typer.Option(help="Only this sentence, watched: --out is a film, FILE.mp4, .gif or .png."),
    ] = None,
    policy: Annotated[Path | None, typer.Option(help="With --text: a policy that acts beside it.")] = None,
    own_words: OwnWords = False,
    env: Env = None,
    preset: Preset = None,
    set_: Set = None,
    seed: Seed = None,
    device: Device = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Imagine rollouts for the novel levels, or for the goals of a file.

    For example:

        kalm imagine --model grounded/model --out imagined --level rephrase

        kalm imagine --model grounded/model --out imagined --goals my_goals.jsonl

        kalm imagine --model grounded/model --out imagined --real data/real --set imagine.refine.relabel=true

        kalm imagine --model runs/demo --text "Push the red ball behind the blue ball." --out film.mp4
    """
    from kalm.report.tables import refined_table, show_all
    from kalm.stages.imagine import IMAGINE, ImagineInputs

    films = {"--policy": policy, "--own-words": own_words}
    folders = {"--goals": goals, "--level": level, "--real": real, "--actor": actor, "--overwrite": overwrite}
    if unused := [option for option, given in (films if text is None else folders).items() if given]:
        raise KalmError(
            f"{' and '.join(unused)} cannot be used {'without' if text is None else 'with'} --text: with it "
            "one sentence is shown as a film, without it many are imagined into a folder. Leave out one or "
            "the other."
        )
    session = open_session(env, preset, set_, seed, device, None)
    if text is not None:
        show_sentence(session, text, model, policy, out, own_words, as_json)
        return
    inputs = ImagineInputs(model, real, goals, known_levels(level), actor)
    figures = IMAGINE.alone(session, inputs, out, overwrite)
    table = refined_table(figures)
    tell({name: part for name, part in figures.items() if as_json or name not in REFINED}, as_json)
    if table is not None and not as_json:
        show_all([table])


@COMMANDS.command("inspect")
def inspect_command(
    model: Annotated[
        Path | None, typer.Argument(help="Grounded model, or the folder of the run that made it.")
    ] = None,
    goals: Goals = None,
    level: Levels = None,
    split: Split = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Real rollouts that the model has not learnt from; fresh ones by default."),
    ] = None,
    rollouts: Annotated[int | None, typer.Option(min=1, help="Imagined rollouts per level.")] = None,
    effects: Effects = None,
    out: Annotated[Path | None, typer.Option(help="Folder for figures, rollouts and texts.")] = None,
    env: Env = None,
    preset: Preset = None,
    set_: Set = None,
    seed: Seed = None,
    device: Device = None,
    workers: Workers = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Measure what a grounded model can do: imagine, explain, predict. Settings: `inspect.*`, `imagine.*`.

    For example:

        kalm inspect runs/demo --rollouts 200

        kalm inspect grounded/model --level easy --set imagine.temperature=0.5 --out inspected

        kalm inspect runs/demo --split tune

        kalm inspect --effects results/clevr-effects.csv
    """
    from kalm.evaluation.effects import effects_to_json, read_effects
    from kalm.stages.inspect import INSPECT, InspectInputs, measure_model

    if model is None and effects is None:
        raise KalmError("nothing to inspect. Give a grounded model or a run folder, or --effects FILE.")
    extra = [
        *(set_ or []),
        *split_settings(split, "inspect"),
        *([f"inspect.rollouts={rollouts}"] if rollouts is not None else []),
    ]
    session = open_session(env, preset, extra, seed, device, workers)
    figures, tables = {}, []
    if model is not None:
        inputs = InspectInputs(model, goals, known_levels(level) or LEVELS, data)
        if out is None:
            figures = measure_model(session, INSPECT.located(inputs))[0].to_json()
        else:
            figures = INSPECT.alone(session, inputs, out, overwrite)
        from kalm.evaluation.grounding import Inspection
        from kalm.report.grounding import inspection_tables

        tables += inspection_tables(Inspection.from_json(figures))
    if effects is not None:
        from kalm.report.grounding import effects_table

        lines = read_effects(effects)
        figures["effects"] = effects_to_json(lines)
        tables.append(effects_table(lines))
    from kalm.report.tables import show_all

    tell(figures, as_json, lambda: show_all(tables))
