"""What a token costs at the least, and what the machine can do at best."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from longheads._core import ffi, lib
from longheads.errors import check
from longheads.model import Model
from longheads.session import Session

PROBE_SECONDS = 0.5  # for each ceiling
QUANTISED_BITS = 12  # weights of fewer bits are multiplied as bytes


@dataclass(frozen=True)
class Ceilings:
    """Operations and bytes a second."""

    fp32: float
    int8: float
    float16: float
    read: float


def measure_ceilings(model: Model) -> Ceilings:
    out = ffi.new("lh_ceilings *")
    check(lib.lh_model_probe(model._pointer, PROBE_SECONDS, out))
    return Ceilings(out.fp32, out.int8, out.float16, out.read)


def arithmetic(model: Model) -> str:
    """Which of the Ceilings holds for a prompt. A GPU multiplies halves, whatever the weights are; AMX bfloat16, where they
    are quantised."""
    quantised = 8 * model.weight_bytes < QUANTISED_BITS * model.n_params
    if model.device.startswith("cuda") or (quantised and model.device.startswith("cpu (amx")):
        return "float16"
    return "int8" if quantised else "fp32"


def prompt_operations(model: Model, n: int) -> int:
    """Multiplications and additions of n tokens with the weights; the output matrix sees the last one only."""
    info = model._info
    heads = info.n_head + info.n_head_kv  # of q and o, of k and v
    layer = info.n_embd * (2 * heads * info.head_dim + 3 * info.n_ff)
    return 2 * (n * info.n_layer * layer + info.n_vocab * info.n_embd)


def token_bytes(model: Model, session: Session) -> int:
    """Bytes that the session's last token had to read: weights, the keys and values of the chunks that its heads
    attended, and the summaries of all chunks in the KV heads that chose among them."""
    stats, chunk = session._stats(), model.chunk
    last = session.position - 1
    chosen = session.selected()  # (n_layer, n_head, k)
    groups = chosen.reshape(model.n_layer * model.n_head_kv, -1)
    # Heads that share keys and values read a chunk once.
    n_chosen = sum(len(np.unique(group[group >= 0])) for group in groups)
    rows = n_chosen * chunk - len(groups) * (chunk - 1 - last % chunk)  # the own chunk ends with the token
    sparse = chosen.shape[2] < last // chunk + 1
    summaries = session.options["far_heads"] * (last // chunk) * stats.chunk_summary_bytes if sparse else 0
    return model._info.active_bytes + rows * stats.row_bytes + summaries
