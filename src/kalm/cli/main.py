"""The command line: parse, call, print. What the commands do is in `kalm.pipeline`."""

from __future__ import annotations

import os
import sys
from functools import partial

import typer

from kalm.cli import data, language, models, policies, reading, run, watching
from kalm.cli.border import run_guarded
from kalm.runs import processes

app: typer.Typer = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="""Turn what a pre-trained language model knows into a robot policy.

    `kalm run --env clevr --preset demo --out runs/demo` does everything: collect, ground, imagine, train,
    evaluate, report. Each stage is also a command of its own.""",
)
for _group in (run, data, language, reading, policies, watching, models):
    app.add_typer(_group.COMMANDS)


def main() -> None:
    """Run the command line; errors of use end with one clear line and exit code 2 (`kalm.cli.border`)."""
    import logging

    processes.share_cores()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    # The model library's loading reports and bars say nothing new; set these yourself to see them.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")
    if not processes.is_main():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - open for as long as the process lives
    try:
        sys.exit(run_guarded(partial(app, prog_name="kalm", standalone_mode=False)))
    finally:
        processes.leave()
