"""The command: `python -m longheads.bench MODEL`, or `--shape llama2-7b`.

The table goes to standard output. Exit statuses are those of `longheads.run`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from longheads.bench import peer, report
from longheads.bench.cost import measure_ceilings
from longheads.bench.engines import LongHeads
from longheads.bench.measure import Place, Plan, Row, measure, warm_up
from longheads.bench.plot import plot
from longheads.bench.shapes import default_folder, shape_file
from longheads.command import check_outputs, exit_status, open_model, tell
from longheads.errors import ArgumentError, LongHeadsWarning
from longheads.find import find_model
from longheads.options import Parser, add_machine, add_reading, count, machine_options, session_options
from longheads.stats import memory_of

TYPE = "Q4_0"
VS_DEPTH = 8192
# Options that say more about another one, and mean nothing without it.
BELONGS = {"type": "shape", "shape_dir": "shape", "vs_depth": "vs", "vs_flash_attn": "vs"}


def depths(text: str) -> list[int]:
    """0,4096,32k, ascending."""
    return sorted({count(part.strip(), least=0) for part in text.split(",")})


def parser() -> argparse.ArgumentParser:
    p = Parser(
        prog="longheads.bench",
        description="Measure how fast a model reads and writes, and how that changes with what came before.",
        epilog="A number may end in k, which is 1024: --depth 0,4k,32k,128k.",
    )
    # fmt: off
    p.add_argument("model", metavar="MODEL", nargs="?", help="a GGUF file, or smollm2")
    p.add_argument("--shape", metavar="NAME",
                   help="instead of a model: random weights in the shape of one (llama2-7b, llama3-8b, llama3.2-1b, "
                        "llama3.2-3b, tinyllama-1.1b, smollm2-135m, smollm2-360m)")
    p.add_argument("--type", metavar="TYPE", help=f"of the weights of --shape (default: {TYPE})")
    p.add_argument("--shape-dir", metavar="FOLDER", type=Path,
                   help=f"where the files of --shape are kept (default: {default_folder()})")

    g = p.add_argument_group("what is measured; lengths in tokens")
    g.add_argument("-d", "--depth", metavar="N,N", type=depths, default=[0, 4096],
                   help="how much lies before what is measured; several take turns, each in a session of its own (beside "
                        "another runtime, or offloaded, one follows the other in one session; default: 0,4096)")
    g.add_argument("-p", "--prompt", metavar="N", type=count, default=512,
                   help="length of the prompt that is read at each depth (default: %(default)s)")
    g.add_argument("-n", "--decode", metavar="N", type=count, default=32,
                   help="tokens that are written at each depth (default: %(default)s)")
    g.add_argument("-r", "--repeat", metavar="N", type=count, default=3, help="rounds (default: %(default)s)")
    g.add_argument("--read", action="store_true",
                   help="reach depths by reading random text, not by filling in random keys and values")
    g.add_argument("--whole", action="store_true", help="measure reading all of it up to each depth, too")
    g.add_argument("--json", metavar="FILE", type=Path, help="write everything as one JSON object")
    g.add_argument("--plot", metavar="FILE", type=Path, help="draw speed against depth (PNG, SVG, PDF)")

    g = p.add_argument_group("beside another runtime, in turn, in the same process")
    g.add_argument("--vs", choices=["llama-cpp-python"], help="the other runtime")
    g.add_argument("--vs-depth", metavar="N", type=count,
                   help=f"take it along up to this depth, which it has to read (default: {VS_DEPTH})")
    g.add_argument("--vs-flash-attn", choices=["on", "off"], help="default: on")

    add_reading(p, ctx="what the last depth needs")
    add_machine(p)
    # fmt: on
    return p


def check_early(arguments: argparse.Namespace, plan: Plan) -> None:
    """What would fail late, or not at all, is told before the measuring begins."""
    check_outputs(arguments.json, arguments.plot)
    if arguments.vs:
        peer.load()
        if plan.vs_depth < plan.depths[0]:
            raise ArgumentError(
                f"llama.cpp comes along up to depth {plan.vs_depth}, which is less than any: raise --vs-depth"
            )


def capacity(arguments: argparse.Namespace, plan: Plan) -> int:
    """The session's ctx."""
    last = plan.depths[-1]
    if arguments.ctx is None:
        return plan.room(last)
    if arguments.ctx < plan.room(last):
        raise ArgumentError(
            f"ctx is {arguments.ctx}, but depth {last} and what is measured there need {plan.room(last)}: "
            "raise ctx or omit it"
        )
    return arguments.ctx


def model_file(arguments: argparse.Namespace) -> Path:
    if arguments.model:
        return Path(find_model(arguments.model))
    path = shape_file(arguments.shape, arguments.type or TYPE, arguments.shape_dir)
    tell(f"{path} has {path.stat().st_size / 1e6:.0f} MB and is kept for the next time")
    return path


def run(arguments: argparse.Namespace, usage: argparse.ArgumentParser) -> None:
    if bool(arguments.model) == bool(arguments.shape):
        usage.error("name either a model or a --shape")
    for option, other in BELONGS.items():
        if getattr(arguments, option) is not None and not getattr(arguments, other):
            usage.error(f"--{option.replace('_', '-')} means nothing without --{other}")
    plan = Plan(
        depths=arguments.depth,
        prompt=arguments.prompt,
        decode=arguments.decode,
        repeat=arguments.repeat,
        whole=arguments.whole,
        vs_depth=arguments.vs_depth or VS_DEPTH,
    )
    flash_attention = arguments.vs_flash_attn != "off"
    options = session_options(arguments) | {"ctx": capacity(arguments, plan)}
    check_early(arguments, plan)
    path = model_file(arguments)
    with contextlib.ExitStack() as stack:
        model = stack.enter_context(open_model(path, **machine_options(arguments), **options))
        filled, theirs = not (arguments.read or arguments.whole), None
        if arguments.vs:
            reached = [depth for depth in plan.depths if depth <= plan.vs_depth]
            theirs = peer.LlamaCpp(
                path,
                n_ctx=plan.room(reached[-1]),
                threads=model.threads,
                flash_attention=flash_attention,
                gpu=model.device.startswith("cuda"),
            )
            stack.callback(theirs.close)
        text = np.random.default_rng(0).integers(0, model.n_vocab, plan.room(plan.depths[-1]), dtype=np.int32)

        def engine(**more: int) -> LongHeads:
            return LongHeads(stack.enter_context(model.session(**more)), text, fill=filled)

        ours = engine()  # of the last depth, or of all
        # The peer has one context, and sessions that share a device's memory for copies would have unequal parts of it.
        in_turn = len(plan.depths) > 1 and not theirs and not model.options["kv_offload"]
        if in_turn:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", LongHeadsWarning)  # told for the model
                firsts = [Place(depth, engine(ctx=plan.room(depth))) for depth in plan.depths[:-1]]
            turns = [[*firsts, Place(plan.depths[-1], ours)]]
        else:
            turns = [[Place(depth, ours, theirs if depth <= plan.vs_depth else None)] for depth in plan.depths]
        warm_up([engine for place in turns[0] for engine in place.engines], text)
        others = report.Others()
        rows: list[Row] = [row for places in turns for row in measure(model, places, text, plan)]
        busy = others.processors()
        memory = memory_of(model, ours.session)  # before the probe, which takes some of its own
        result = report.Report(
            path=path,
            model=model,
            options=model.options,
            plan=plan,
            in_turn=in_turn,
            filled=filled,
            ceilings=measure_ceilings(model),
            peer=theirs.description if theirs else None,
            peer_options={
                "flash_attention": flash_attention,
                "n_batch": peer.N_BATCH,
                "n_ubatch": peer.N_UBATCH,
            },
            others=busy,
            memory=memory,
            rows=rows,
        )
        print(report.text(result))
        if arguments.json:
            arguments.json.write_text(json.dumps(report.as_object(result), indent=1) + "\n", encoding="utf-8")
        if arguments.plot:
            plot(result, arguments.plot)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    usage = parser()
    arguments = usage.parse_args(argv)
    return exit_status(lambda: run(arguments, usage))
