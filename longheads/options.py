"""Options that every command has: how long documents are read, and on what."""

from __future__ import annotations

import argparse
import re
import sys
from difflib import get_close_matches
from itertools import takewhile
from typing import Any, TypedDict, cast, get_args

from longheads.session import KVType, RopeScaling, SessionOptions


class MachineOptions(TypedDict):
    """Model's keywords that are of no session."""

    threads: int | None
    device: str
    mmap: bool


#: What llama.cpp calls by other names than the commands here.
_ELSEWHERE = {
    "--device": ["-ngl", "--gpu-layers", "--n-gpu-layers", "-dev"],
    "--kv-type": ["-ctk", "--cache-type-k", "-ctv", "--cache-type-v"],
    "--chat": ["-cnv", "--conversation"],
    "--no-chat": ["-no-cnv", "--no-cnv", "--no-conversation"],
    "--output": ["--outfile"],
    "--session": ["--prompt-cache", "--prompt-cache-all"],
    "--repeat": ["--repetitions"],
}


class Parser(argparse.ArgumentParser):
    """Options by their whole names; one that is unknown is told with the one that may be meant."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        words = list(sys.argv[1:] if args is None else args)
        if not self._subparsers:  # these know what is theirs
            for word in takewhile(lambda word: word != "--", words):
                self._check(word)
        return super().parse_known_args(words, namespace)

    def _check(self, word: str) -> None:
        # -n64 is -n 64, but -ngl is not -n gl; what has a space is a text, as for argparse.
        name, known = word.partition("=")[0], self._option_string_actions
        if not re.match(r"--|-[a-zA-Z]{2}", word) or name in known or " " in word:
            return
        meant = [ours for ours, theirs in _ELSEWHERE.items() if name in theirs and ours in known]
        meant = meant or get_close_matches(name, [option for option in known if option.startswith("--")], 1, 0.75)
        self.error(f"there is no option {name}" + (f": {meant[0]} may be meant" if meant else ""))


def count(text: str, least: int = 1) -> int:
    """A whole number; k stands for 1024: 131072 or 128k."""
    number = text.lower().removesuffix("k")
    if not re.fullmatch(r"-?[0-9]{1,18}", number) or int(number) < least:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a count: expected a whole number of at least {least}, such as 4096 or 4k"
        )
    return int(number) * (1024 if number != text.lower() else 1)


def capacity(text: str) -> int | None:
    """A count; 0, as llama.cpp has it, for what is trained."""
    return count(text, least=0) or None


def add_reading(p: argparse.ArgumentParser, ctx: str = "the trained context") -> None:
    """The options that become SessionOptions; ctx: what its default is called."""
    g = p.add_argument_group("reading; lengths in tokens")
    # fmt: off
    g.add_argument("-c", "--ctx", "--ctx-size", metavar="N", type=capacity, help=f"capacity (default, and 0: {ctx})")
    g.add_argument("--attention", choices=["longheads", "dense"], help="default: longheads")
    g.add_argument("--budget", metavar="N", type=count,
                   help="tokens that a head attends, if it chooses chunks (default: 2048)")
    g.add_argument("--near-budget", metavar="N", type=count,
                   help="tokens that a head attends, if it chooses none (default: half of the budget)")
    g.add_argument("--window", metavar="N", type=count,
                   help="positions that distances are mapped into (default: three quarters of the trained context)")
    g.add_argument("--chunk", metavar="N", type=count, help="tokens in a chunk (default: 64)")
    g.add_argument("--local", metavar="N", type=count,
                   help="chunks at the end that heads which choose attend always (default: all but 4 of the budget, at "
                        "least half)")
    g.add_argument("--dense-until", metavar="N", type=count,
                   help="attend everything below this position (default: the larger budget)")
    g.add_argument("--far-heads", metavar="N", type=count,
                   help="KV heads, of all layers, that choose among all chunks; the others attend the last ones "
                        "(default: a quarter)")
    g.add_argument("--far-bias", metavar="X", type=float,
                   help="how much more chosen chunks weigh where there are few to choose from, and less where there are "
                        "many; 0: all alike (default: 0.5)")
    g.add_argument("--scheme", choices=["peak", "bounds", "paper"], help="how chunks are judged (default: peak)")
    g.add_argument("--select-per", choices=["kv_head", "head"], help="who chooses chunks (default: kv_head)")
    g.add_argument("-b", "--batch", "--batch-size", metavar="N", type=count, help="most tokens computed at once (default: 1024)")
    g.add_argument("--rope-scaling", choices=get_args(RopeScaling),
                   help="stretch positions over more than the trained context, which --window and --ctx then reckon "
                        "with (default: as the file says)")
    g.add_argument("--rope-scale", metavar="X", type=float,
                   help="how many times as far (default: as the file says); alone it is a linear scaling")
    g.add_argument("--kv-type", choices=get_args(KVType),
                   help="how keys and values are kept; q8_0 takes half of the memory (default: f16)")
    g.add_argument("--keep-all", action="store_true", default=None,
                   help="keep keys and values of the whole text in all KV heads, not only in those that choose among all "
                        "chunks: five times the memory, and any part of the text can be forgotten again")
    # fmt: on


def add_machine(p: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Threads and device; returns the group, for a command's own."""
    g = p.add_argument_group("machine")
    g.add_argument("-t", "--threads", metavar="N", type=count, help="default: as many as the process may use")
    g.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    g.add_argument("--mmap", action=argparse.BooleanOptionalAction, default=False,
                   help="leave weights in the file's pages, which processes share; they are read faster where they are "
                        "copied")
    g.add_argument("--kv-offload", action="store_true", default=None,
                   help="keep whole texts' keys and values in memory of the host, and on the GPU only the chunks in "
                        "use")  # fmt: skip
    return g


def machine_options(arguments: argparse.Namespace) -> MachineOptions:
    return {"threads": arguments.threads, "device": arguments.device, "mmap": arguments.mmap}


def session_options(arguments: argparse.Namespace) -> SessionOptions:
    """What was said of SessionOptions; what was not is left to Model."""
    said = {name: getattr(arguments, name, None) for name in SessionOptions.__annotations__}
    return cast(SessionOptions, {name: value for name, value in said.items() if value is not None})
