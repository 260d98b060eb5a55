"""The command ``depthrank``: its verbs, and what a failure looks like."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from depthrank.cli import (
    bench,
    curve,
    delta,
    demo,
    doctor,
    evaluate,
    fetch,
    init,
    inspect,
    log,
    models,
    plan,
    rank,
    replay,
    serve,
    token,
    train,
    tune,
)
from depthrank.errors import DepthrankError

app = typer.Typer(
    name="depthrank",
    help="Serve a ranking model of LLM-scale complexity over thousands of candidates, at the cost of a small one.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
VERBS = (
    init.init,
    train.train,
    evaluate.evaluate,
    curve.curve,
    tune.tune,
    rank.rank,
    serve.serve,
    bench.bench,
    inspect.inspect,
    fetch.fetch,
    replay.replay,
    models.models,
    plan.plan,
    doctor.doctor,
    demo.demo,
    token.token,
)
for verb in VERBS:
    app.command()(verb)
app.add_typer(log.app, name="log")
app.add_typer(delta.app, name="delta")


def _print_version(wanted: bool) -> None:
    if wanted:
        from depthrank import __version__

        typer.echo(f"depthrank {__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of a failure.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options before the verb."""
    if debug:
        os.environ["DEPTHRANK_DEBUG"] = "1"


def main() -> None:
    """Run the command line; a failure is one readable message and exit code 1 (2: wrong usage, 130: interrupted)."""
    try:
        app()
    except DepthrankError as error:
        sys.exit(_failed(error, str(error)))
    except KeyboardInterrupt:
        sys.exit(_failed(None, "interrupted", code=130))
    except ModuleNotFoundError as error:
        sys.exit(_failed(error, f"the package {error.name!r} is not installed; run: pip install {error.name}"))
    except (OSError, MemoryError) as error:
        sys.exit(_failed(error, _what_the_system_said(error)))
    except Exception as error:  # noqa: BLE001 - the outermost place; --debug shows everything
        hint = "this is a bug in depthrank; run depthrank --debug VERB ... for the traceback"
        sys.exit(_failed(error, f"{type(error).__name__}: {error} ({hint})", code=70))


def _failed(error: BaseException | None, message: str, code: int = 1) -> int:
    if error is not None and os.environ.get("DEPTHRANK_DEBUG"):
        raise error
    sys.stderr.write(f"depthrank: {message}\n")
    return code


def _what_the_system_said(error: OSError | MemoryError) -> str:
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}"
    return "out of memory; use fewer candidates, a smaller batch or a smaller model"
