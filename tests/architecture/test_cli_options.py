"""Options of the command line are only ever added; programs are written against them."""

from __future__ import annotations

import json
from pathlib import Path

import click
import typer

from depthrank.cli.app import app

SNAPSHOT = Path(__file__).with_name("cli_options.json")
Options = dict[str, list[str]]


def options_of(command: click.Command, name: str = "depthrank") -> Options:
    """Verb -> its options and arguments, for the command and all its subcommands."""
    names = [text for p in command.params for text in ((p.name or "",) if p.param_type_name == "argument" else p.opts)]
    found = {name: sorted(names)}
    for verb, sub in getattr(command, "commands", {}).items():
        found |= options_of(sub, f"{name} {verb}")
    return found


def removed(before: Options, now: Options) -> list[str]:
    return [f"{verb} {o}" for verb, options in before.items() for o in options if o not in now.get(verb, [])]


def current() -> Options:
    return options_of(typer.main.get_command(app))


def test_no_verb_and_no_option_was_removed_or_renamed() -> None:
    assert removed(json.loads(SNAPSHOT.read_text()), current()) == []


def test_new_options_are_written_into_the_snapshot() -> None:
    new = removed(current(), json.loads(SNAPSHOT.read_text()))
    text = json.dumps(current(), indent=1)
    assert new == [], f"write this into {SNAPSHOT.name}, so that they stay:\n{text}"


def test_a_removed_option_and_a_renamed_verb_are_seen() -> None:
    now = current()
    now["depthrank train"].remove("--seed")
    now["depthrank rerank"] = now.pop("depthrank rank")
    gone = removed(json.loads(SNAPSHOT.read_text()), now)
    assert "depthrank train --seed" in gone
    assert "depthrank rank --request" in gone


def test_the_options_that_outside_programs_use_are_there() -> None:
    now = current()
    promised = {
        "train": ["spec", "--out", "--log", "--seed", "--minutes", "--resume"],
        "evaluate": ["artifact", "spec", "--split", "--json"],
        "rank": ["artifact", "--request", "--explain", "--batch", "--out"],
        "serve": ["artifact", "--host", "--port", "--log", "--workers"],
        "bench": ["target", "--rate", "--seconds", "--surge", "--json"],
        "inspect": ["artifact"],
        "doctor": [],
        "demo": ["--no-serve"],
        **{f"log {verb}": [] for verb in ("import", "export", "erase", "stats", "backup", "restore")},
    }
    assert {v: sorted(set(o) - set(now.get(f"depthrank {v}", ["absent"]))) for v, o in promised.items()} == {
        verb: [] for verb in promised
    }


def test_every_verb_has_help_with_an_example() -> None:
    def verbs(command: click.Command) -> list[click.Command]:
        subs = getattr(command, "commands", {})
        return [v for sub in subs.values() for v in verbs(sub)] if subs else [command]

    without = [v.name for v in verbs(typer.main.get_command(app)) if "Example: " not in (v.help or "")]
    assert without == []
