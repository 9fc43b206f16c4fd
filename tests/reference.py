"""The oracle: LLaMA with dense or LongHeads attention in NumPy float64, one token after another.

Written for clarity from arXiv 2402.10685 (scheme `paper`) and 2406.10774 (scheme `bounds`), with a position window that
may be wider than the budget. It shares no code with the runtime and reads files through the `gguf` package.

Shapes: n tokens, H query heads, G KV heads, d head dimension, l tokens a chunk, C chunks, m attended chunks.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Plan:
    """Settings of one run, lengths in tokens; names as in the runtime's Model."""

    chunk: int = 64
    budget: int = 2048
    window: int | None = None       # None: budget, as in the paper
    local: int = 2
    dense_until: int | None = None  # None: the larger budget
    scheme: str = "bounds"          # bounds, paper, peak
    select_per: str = "head"        # head, kv_head
    attention: str = "longheads"    # longheads, dense
    far_heads: int = 1000           # KV heads that choose, those with the largest reach; 1000: all
    far_bias: float = 0.0           # what the bias of chosen chunks is multiplied by
    near_budget: int | None = None  # of heads that choose nothing; None: budget

    def resolved(self) -> Plan:
        near = self.budget if self.near_budget is None else self.near_budget
        return dataclasses.replace(
            self,
            window=self.budget if self.window is None else self.window,
            dense_until=max(self.budget, near) if self.dense_until is None else self.dense_until,
            near_budget=near,
        )

    @property
    def width(self) -> int:
        """The most chunks that a head attends where attention is sparse."""
        return max(self.budget, self.resolved().near_budget) // self.chunk


@dataclass
class Run:
    """What the model computes for n tokens.

    chosen: (n_layer, H, n, width), attended chunks ascending, then -1; all -1 where a token attends densely.
    margin: (n_layer, H, n), by how much the worst chosen candidate beats the best one left out; inf where there was no
    choice. Negative only where a run was told what to choose (`follow`) and the reference would have chosen otherwise.
    """

    logits: Floats  # (n, n_vocab)
    chosen: Ints
    margin: Floats

    def log_probs(self) -> Floats:
        """ln softmax of the logits: (n, n_vocab)."""
        shifted = self.logits - self.logits.max(axis=-1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def softmax(x: Floats) -> Floats:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def in_steps(x: Floats, levels: int, axes: tuple[int, ...]) -> Floats:
    """x rounded to multiples of a step of which the largest |x| over the axes has `levels`."""
    step = np.abs(x).max(axis=axes, keepdims=True) / levels
    return np.round(x / np.where(step > 0, step, 1)) * step


class Rope:
    """Rotation of the first rope_dim components of a head, pairs (2i, 2i+1), by a position times each pair's frequency.

    Scaling as llama.cpp does it. `mscale`, which only YaRN has, is a factor of q and of k; q.k gets its square.
    """

    def __init__(self, meta: dict, head_dim: int, trained_ctx: int, divisors: Floats | None) -> None:
        def get(key: str, default: float) -> float:
            return float(meta.get(f"llama.rope.{key}", default))

        self.dim = int(get("dimension_count", head_dim))
        base = get("freq_base", 10000.0)
        scaling = meta.get("llama.rope.scaling.type", "none")
        factor = get("scaling.factor", 1.0) or 1.0  # a file may say 0 for "none"
        pair = np.arange(self.dim // 2)
        freq = base ** (-2 * pair / self.dim)
        if divisors is not None:
            freq = freq / divisors
        self.mscale = 1.0
        if scaling == "linear":
            freq = freq / factor
        elif scaling == "yarn":
            original_ctx = get("scaling.original_context_length", trained_ctx)
            extrapolate = get("scaling.yarn_ext_factor", 1.0)

            def pair_turning(times: float) -> float:
                return self.dim * math.log(original_ctx / (times * 2 * math.pi)) / (2 * math.log(base))

            low = max(0, math.floor(pair_turning(get("scaling.yarn_beta_fast", 32.0))))
            high = min(self.dim - 1, math.ceil(pair_turning(get("scaling.yarn_beta_slow", 1.0))))
            keep = extrapolate * (1 - np.clip((pair - low) / max(0.001, high - low), 0, 1))
            freq = freq / factor * (1 - keep) + freq * keep
            self.mscale = get("scaling.attn_factor", 1.0) * (1 + 0.1 * math.log(factor) if extrapolate else 1.0)
        elif scaling != "none":
            raise ValueError(f"rope scaling {scaling!r}")
        self.freq = freq  # radians a token

    def rotate(self, x: Floats, positions: Ints) -> Floats:
        """x (..., d) with positions that broadcast to x.shape[:-1]."""
        out = x.copy()
        pairs = x[..., 0 : self.dim : 2] + 1j * x[..., 1 : self.dim : 2]
        pairs = pairs * np.exp(1j * np.asarray(positions)[..., None] * self.freq)
        out[..., 0 : self.dim : 2], out[..., 1 : self.dim : 2] = pairs.real, pairs.imag
        return out


def interleave(a: Floats, rope_dim: int) -> Floats:
    """From the half-split order of a rotated pair's components, in which the paper's code pairs values with keys, to
    the neighbouring order of GGUF files: out[2i] = a[i], out[2i + 1] = a[i + rope_dim / 2]."""
    out = a.copy()
    half = rope_dim // 2
    out[..., 0:rope_dim:2], out[..., 1:rope_dim:2] = a[..., :half], a[..., half:rope_dim]
    return out


class Reference:
    """A model file, computed in float64."""

    def __init__(self, path: str | Path) -> None:
        reader = gguf.GGUFReader(path)
        meta = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("tokenizer.")}
        self.w: dict[str, Floats] = {}  # matrices (outputs, inputs)
        for t in reader.tensors:
            shape = tuple(int(x) for x in reversed(t.shape))
            self.w[t.name] = gguf.quants.dequantize(t.data, t.tensor_type).reshape(shape).astype(np.float64)
        self.n_layer = int(meta["llama.block_count"])
        self.n_head = int(meta["llama.attention.head_count"])
        self.n_head_kv = int(meta.get("llama.attention.head_count_kv", self.n_head))
        self.n_embd = int(meta["llama.embedding_length"])
        self.head_dim = int(meta.get("llama.attention.key_length", self.n_embd // self.n_head))
        self.eps = float(meta["llama.attention.layer_norm_rms_epsilon"])
        self.trained_ctx = int(meta["llama.context_length"])
        self.rope = Rope(meta, self.head_dim, self.trained_ctx, self.w.get("rope_freqs.weight"))
        # of q.k; YaRN's factor lies here instead of in each rotation
        self.scale = self.rope.mscale**2 / math.sqrt(self.head_dim)

    # --- the layers ---

    def run(self, ids: list[int] | Ints, plan: Plan, follow: Ints | None = None) -> Run:
        """Compute all tokens of an empty timeline.

        follow: shaped like Run.chosen, choices to take instead of the own ones wherever a token chooses; margins then
        say whether they were right. ValueError where they break a rule (order, forced chunks, one choice per group).
        """
        plan = plan.resolved()
        n = len(ids)
        chosen = np.full((self.n_layer, self.n_head, n, plan.width), -1, dtype=np.int64)
        margin = np.full((self.n_layer, self.n_head, n), math.inf)
        x = self.w["token_embd.weight"][np.asarray(ids)]
        reach = np.array([self.reach(layer).reshape(self.n_head_kv, -1).max(axis=1) for layer in range(self.n_layer)])
        far = np.zeros(reach.shape, dtype=bool)  # (n_layer, G)
        far.flat[np.argsort(-reach, axis=None, kind="stable")[: plan.far_heads]] = True
        for layer in range(self.n_layer):
            h = self.norm(x, f"blk.{layer}.attn_norm")
            q = self.linear(h, f"blk.{layer}.attn_q").reshape(n, self.n_head, self.head_dim)
            k = self.linear(h, f"blk.{layer}.attn_k").reshape(n, self.n_head_kv, self.head_dim)
            v = self.linear(h, f"blk.{layer}.attn_v").reshape(n, self.n_head_kv, self.head_dim)
            told = None if follow is None else follow[layer]
            attention = Attention(self, plan, far[layer], self.leaders(layer), q, k, v)
            attended = attention.run(chosen[layer], margin[layer], told)
            x = x + self.linear(attended.reshape(n, -1), f"blk.{layer}.attn_output")
            h = self.norm(x, f"blk.{layer}.ffn_norm")
            gate, up = self.linear(h, f"blk.{layer}.ffn_gate"), self.linear(h, f"blk.{layer}.ffn_up")
            x = x + self.linear(gate / (1 + np.exp(-gate)) * up, f"blk.{layer}.ffn_down")
        output = "output" if "output.weight" in self.w else "token_embd"
        return Run(self.linear(self.norm(x, "output_norm"), output), chosen, margin)

    def reach(self, layer: int) -> Floats:
        """How strongly each head of a layer matches content: the spread of q.k over its slow components for
        independent unit activations, times their share in it. (H)"""
        scaled = self.w[f"blk.{layer}.attn_norm.weight"]
        slow = slice(-min(self.head_dim, max(16, self.head_dim // 4)), None)
        q = (self.w[f"blk.{layer}.attn_q.weight"] * scaled).reshape(self.n_head, self.head_dim, -1)
        k = (self.w[f"blk.{layer}.attn_k.weight"] * scaled).reshape(self.n_head_kv, self.head_dim, -1)
        k = k.repeat(self.n_head // self.n_head_kv, axis=0)
        spread = np.linalg.norm(q[:, slow].swapaxes(1, 2) @ k[:, slow], axis=(1, 2)) / math.sqrt(self.head_dim)
        share = spread * math.sqrt(self.head_dim) / np.linalg.norm(q, axis=(1, 2)) / np.linalg.norm(k, axis=(1, 2))
        return spread * share

    def leaders(self, layer: int) -> Ints:
        """Of each query head the one of its group that has the largest reach: (H)."""
        group = self.n_head // self.n_head_kv
        strongest = self.reach(layer).reshape(-1, group).argmax(axis=1)
        return (np.arange(self.n_head_kv) * group + strongest).repeat(group)

    def norm(self, x: Floats, name: str) -> Floats:
        return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + self.eps) * self.w[f"{name}.weight"]

    def linear(self, x: Floats, name: str) -> Floats:
        return x @ self.w[f"{name}.weight"].T + self.w.get(f"{name}.bias", 0.0)


class Attention:
    """One layer's attention over a whole timeline.

    Keys and values of all tokens are there from the start; a token looks only at tokens before it and at summaries of
    chunks that were complete before its own chunk began.
    """

    def __init__(
        self, model: Reference, plan: Plan, far: NDArray[np.bool_], leaders: Ints, q: Floats, k: Floats, v: Floats
    ) -> None:
        self.plan, self.rope, self.scale = plan, model.rope, model.scale
        self.leaders = leaders  # (H): whose choice a head takes where its group has one
        self.q = q  # (n, H, d), not rotated
        self.n, self.n_head, self.d = q.shape
        self.group = self.n_head // k.shape[1]
        self.kv_of = np.arange(self.n_head) // self.group  # g(h)
        self.far = far[self.kv_of]  # (H): which heads choose; the others take the last chunks
        l = plan.chunk
        n_chunk = -(-self.n // l)

        def in_chunks(x: Floats) -> Floats:  # (n, heads, d) -> (heads, C, l, d), zeros after the end
            padded = np.zeros((n_chunk * l, *x.shape[1:]))
            padded[: self.n] = x
            return padded.reshape(n_chunk, l, *x.shape[1:]).transpose(2, 0, 1, 3)

        self.k = in_chunks(k)
        self.kc = self.rope.rotate(self.k, np.arange(l))
        self.v = in_chunks(v)
        self.summary: tuple[Floats, ...] = ()
        if plan.attention != "dense":
            complete = slice(0, self.n // l)
            if plan.scheme == "bounds":
                self.summary = self.bounds(complete)
            elif plan.scheme == "paper":
                self.summary = self.paper(complete, in_chunks(q))
            else:
                self.summary = self.peak(complete)

    # --- schemes: a chunk's summary, and a query's scores ---

    def bounds(self, complete: slice) -> tuple[Floats, Floats]:
        """Minimum and maximum of each component of the chunk's keys: two of (G, C, d)."""
        return self.k[:, complete].min(axis=2), self.k[:, complete].max(axis=2)

    def paper(self, complete: slice, q: Floats) -> tuple[Floats]:
        """A vector in key space: (H, C, d)."""
        qc = self.rope.rotate(q, np.arange(self.plan.chunk))[:, complete]
        kc, v = self.kc[self.kv_of][:, complete], self.v[self.kv_of][:, complete]
        a = (softmax(qc @ kc.swapaxes(-1, -2) * self.scale) @ v).mean(axis=2, keepdims=True)
        a = interleave(a, self.rope.dim)
        return ((softmax(a @ kc.swapaxes(-1, -2) * self.scale) @ kc)[:, :, 0],)

    def peak(self, complete: slice) -> tuple[Floats]:
        """The slow components of the keys, as they lie from the mean key of chunk 0, in 31 steps to either side of a
        chunk's largest: (G, C, l, dims)."""
        slow = self.kc[:, complete, :, -(min(self.d, max(16, self.d // 4)) // 2 * 2) :]
        return (in_steps(slow - slow[:, :1].mean(axis=2, keepdims=True), 31, (2, 3)),)

    def scores(self, p: int, candidates: slice) -> Floats:
        """How much each candidate matters to the token at p: (H, candidates)."""
        q, l = self.q[p], self.plan.chunk
        if self.plan.scheme == "peak":  # as if all candidates lay at the far end of the window
            slow = self.summary[0][self.kv_of][:, candidates]
            dims = slow.shape[-1]
            far = self.rope.rotate(q, self.plan.window - l + p % l)[:, -dims:] * self.scale
            # With as many steps as keep a product with codes of 0 to 63 within 16 bits.
            far = in_steps(far, min(127, 32767 // (63 * dims)), (1,))
            return np.einsum("hcld,hd->hcl", slow, far).max(axis=-1)
        if self.plan.scheme == "bounds":
            low, high = (bound[self.kv_of][:, candidates] for bound in self.summary)
            return np.maximum(q[:, None] * low, q[:, None] * high).sum(axis=-1)
        return (self.summary[0][:, candidates] @ q[:, :, None])[:, :, 0]

    # --- who is attended ---

    def select(self, p: int, told: Ints | None) -> tuple[Ints, Floats, Floats]:
        """For the token at p: chunks (H, width), ascending, then -1; margins (H); and what the scores of those chosen are
        above the least of them, in the units of q.k (H, width), NaN for the others."""
        l, local, k = self.plan.chunk, self.plan.local, self.plan.budget // self.plan.chunk
        c = p // l
        last = np.arange(c - local + 1, c + 1)
        n_near = self.plan.near_budget // l
        near = np.concatenate([[0], np.arange(c - n_near + 2, c + 1)])
        scores = self.scores(p, slice(1, c - local + 1))  # of chunks 1, 2, ..., c - local
        if self.plan.select_per == "kv_head":
            scores = scores[self.leaders]
        n_best = k - 1 - local
        chosen = np.full((self.n_head, self.plan.width), -1, dtype=np.int64)
        margin = np.full(self.n_head, math.inf)
        above = np.full(chosen.shape, math.nan)
        unit = 1.0 if self.plan.scheme == "peak" else self.scale
        for h in range(self.n_head):
            if not self.far[h]:
                chosen[h, :n_near] = near
                continue
            if told is None:
                best = np.sort(np.argsort(-scores[h], kind="stable")[:n_best])  # stable: ties to the lower index
            else:
                best = told[h, 1 : 1 + n_best] - 1
            chosen[h, :k] = np.concatenate([[0], 1 + best, last])
            if n_best:
                above[h, 1 : 1 + n_best] = (scores[h, best] - scores[h, best].min()) * unit
            rest = np.delete(scores[h], best)
            if n_best and len(rest):
                margin[h] = scores[h, best].min() - rest.max()
        if told is not None:
            group = 1 if self.plan.select_per == "head" else self.group
            one_each = (told == told[::group].repeat(group, axis=0)).all()
            ascending = (np.diff(told)[told[:, 1:] >= 0] > 0).all()
            if not ascending or not (told == chosen).all() or not one_each:
                raise ValueError(f"position {p} attends {told.tolist()}, which breaks the rules of {self.plan}")
        return chosen, margin, above

    # --- attention ---

    def run(self, chosen: Ints, margin: Floats, follow: Ints | None) -> Floats:
        """Attended values (n, H, d). Fills chosen (H, n, width) and margin (H, n) where a token chooses."""
        out = np.empty_like(self.q)
        for p in range(self.n):
            c = p // self.plan.chunk
            bias = np.zeros((self.n_head, 1))
            if self.plan.attention == "dense" or p < self.plan.dense_until:
                chunks = np.tile(np.arange(c + 1), (self.n_head, 1))
                distance = c - chunks
            else:
                chunks, margin[:, p], above = self.select(p, None if follow is None else follow[:, p])
                chosen[:, p] = chunks
                rank = np.arange(chunks.shape[1])
                ratio = (c - self.plan.local) / (self.plan.window / self.plan.chunk)
                far = math.log(max(ratio, 1))
                bias = self.plan.far_bias * (2 - far + 2 * min(far, 1) * np.minimum(above - 1, 1.5))
                distance = np.minimum(c - chunks, self.plan.window // self.plan.chunk - 1 - rank)
            out[p] = self.attend(p, chunks, distance, np.nan_to_num(bias))
        return out

    def attend(self, p: int, chunks: Ints, distance: Ints, bias: Floats) -> Floats:
        """Attention of the token at p to chunks (H, m), -1 for none, seen at distances (H, m) in chunks, with a bias of
        q.k, (H, m) or (H, 1): (H, d)."""
        l, m = self.plan.chunk, chunks.shape[1]
        heads = self.kv_of[:, None]
        q = self.rope.rotate(np.repeat(self.q[p][:, None], m, axis=1), distance * l + p % l)  # (H, m, d)
        scores = (self.kc[heads, chunks] @ q[..., None])[..., 0] * self.scale + bias[..., None]  # (H, m, l)
        scores[(chunks[:, :, None] < 0) | (chunks[:, :, None] * l + np.arange(l) > p)] = -math.inf
        weights = softmax(scores.reshape(self.n_head, m * l)).reshape(scores.shape)
        return (weights[:, :, None] @ self.v[heads, chunks])[:, :, 0].sum(axis=1)
