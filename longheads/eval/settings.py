"""Rules that are compared: each is a name for the table and options of a session."""

from __future__ import annotations

import argparse
import re
import warnings
from dataclasses import dataclass
from typing import Any, get_type_hints

from longheads.session import Session, SessionOptions

# Options that change no result, and one that is of the machine.
CHANGE_NOTHING = ("ctx", "batch", "keep_all")
OF_A_SETTING = {
    name: type_ for name, type_ in get_type_hints(SessionOptions).items() if name not in (*CHANGE_NOTHING, "kv_offload")
}
# Options of a setting, by what their values are.
NUMBERS = tuple(name for name, type_ in OF_A_SETTING.items() if type_ == int | None)
FRACTIONS = tuple(name for name, type_ in OF_A_SETTING.items() if type_ == float | None)
WORDS = tuple(name for name in OF_A_SETTING if name not in NUMBERS + FRACTIONS)


@dataclass(frozen=True)
class Setting:
    """A row of the table. options: of SessionOptions; what is not there comes from the model."""

    name: str
    options: dict[str, Any]


DEFAULTS = Setting("defaults", {})


def parse_setting(text: str) -> Setting:
    """`name: option=value,option=value`; a name alone is the defaults."""
    name, _, rest = text.partition(":")
    if not name.strip() or "=" in name:
        raise argparse.ArgumentTypeError(f"setting {text!r} has no name: write NAME: option=value,...")
    options: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in rest.split(","))):
        option, _, value = (word.strip() for word in part.partition("="))
        if option in NUMBERS and re.fullmatch("[0-9]+", value):
            options[option] = int(value)
        elif option in FRACTIONS and re.fullmatch(r"[0-9]+(\.[0-9]+)?", value):
            options[option] = float(value)
        elif option in WORDS and value:
            options[option] = value
        else:
            raise argparse.ArgumentTypeError(
                f"setting {name.strip()!r} says {part!r}, expected option=number for "
                f"{', '.join(NUMBERS + FRACTIONS)}, or option=word for {', '.join(WORDS)}"
            )
    return Setting(name.strip(), options)


def add_settings(p: argparse._ActionsContainer) -> None:
    """The option that says what is compared."""
    p.add_argument(
        "--setting", metavar="SETTING", type=parse_setting, action="append", dest="settings",
        help="a row of the table, as 'NAME: OPTION=VALUE,...'; may be repeated; options are "
        f"{', '.join(NUMBERS + FRACTIONS + WORDS)} (default: 'defaults', what the model makes of no option)",
    )  # fmt: skip


def said_settings(arguments: argparse.Namespace, usage: argparse.ArgumentParser) -> list[Setting]:
    """The settings of the command line, in order, each with a name of its own."""
    settings = arguments.settings or [DEFAULTS]
    names = [setting.name for setting in settings]
    for name in names:
        if names.count(name) > 1:
            usage.error(f"two settings are called {name!r}: give each a name of its own")
    return settings


def follow(session: Session, setting: Setting) -> None:
    """Let a session go on under a setting; what that leaves open comes from the model, as in a new session."""
    opened: dict[str, Any] = dict.fromkeys(OF_A_SETTING) | setting.options
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # caps were told when the setting was first met
        session.set_options(**opened)


def rule_of(session: Session) -> dict[str, Any]:
    """Everything that a result depends on, with what the model makes of options that were left open."""
    return {name: value for name, value in session.options.items() if name not in CHANGE_NOTHING}
