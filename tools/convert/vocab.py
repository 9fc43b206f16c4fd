"""The vocabulary of a Hugging Face folder as GGUF keys: SentencePiece BPE (`llama`) or byte-level BPE (`gpt2`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gguf import GGUFValueType as Value

from longheads.errors import FormatError, LongHeadsError, UnsupportedError

from .hf_config import Config, read_json
from .pretokenizer import recognise
from .sentencepiece_file import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, SentencePiece, read_sentencepiece
from .source import Metadata

_SPECIALS = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}  # the folder's name -> GGUF's
_LEAST = -1e4  # the score of tokens that no merge makes


@dataclass
class Vocab:
    """Tokens by id, as GGUF stores them."""

    model: str  # llama or gpt2
    tokens: list[str | bytes | None]
    types: list[int]
    scores: list[float] = field(default_factory=list)  # llama
    merges: list[str] = field(default_factory=list)  # gpt2
    pre: str = "default"
    ids: dict[str, int] = field(default_factory=dict)  # special tokens, by the folder's names
    add_space_prefix: bool = True
    remove_extra_spaces: bool = False

    def put(self, id_: int, text: str, special: bool) -> None:
        """An added token: at its id, in whose place others may have been."""
        while len(self.tokens) <= id_:
            self.tokens.append(None)
            self.types.append(UNUSED)
            self.scores.append(_LEAST)
        if self.tokens[id_] in (text, text.encode()) and self.types[id_] != NORMAL:
            return  # the model file knows best what it is
        self.tokens[id_] = text
        self.types[id_] = CONTROL if special else USER_DEFINED

    def find(self, text: str) -> int | None:
        for form in (text, text.encode()):
            if form in self.tokens:
                return self.tokens.index(form)
        return None


def _content(token: Any) -> str | None:
    """A special token's text: itself, or within an object."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


@contextmanager
def _damage(where: str) -> Iterator[None]:
    """JSON may hold anything anywhere: whatever that brings about inside is a FormatError, which says where."""
    try:
        yield
    except LongHeadsError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise FormatError(f"{where} is damaged ({error}); fetch it again") from None


# --- the two kinds ---------------------------------------------------------------------------------------------------


def _from_sentencepiece(model: SentencePiece) -> Vocab:
    ids = {"unk": model.unk, "bos": model.bos, "eos": model.eos, "pad": model.pad}
    return Vocab("llama", list(model.tokens), list(model.types), list(model.scores),
                 ids={name: id_ for name, id_ in ids.items() if 0 <= id_ < len(model.tokens)},
                 add_space_prefix=model.add_space_prefix, remove_extra_spaces=model.remove_extra_spaces)  # fmt: skip


def _merges(model: dict[str, Any]) -> list[tuple[str, str]]:
    """Pairs; files write them as two strings, or as one with a space between."""
    pairs = [tuple(m.split(" ", 1)) if isinstance(m, str) else tuple(m) for m in model["merges"]]
    if not all(len(pair) == 2 for pair in pairs):
        raise ValueError("a merge is not a pair")
    return pairs


def _from_json(tokenizer: dict[str, Any], pre: str | None) -> Vocab:
    model = tokenizer["model"]
    size = max(model["vocab"].values()) + 1
    if size > 2 * len(model["vocab"]) + 1000:
        raise ValueError("ids leave most of the vocabulary empty")
    tokens: list[str | bytes | None] = [None] * size
    for text, id_ in model["vocab"].items():
        tokens[id_] = text
    pairs = _merges(model)
    if not model.get("byte_fallback"):
        vocab = Vocab(
            "gpt2", tokens, [NORMAL if t is not None else UNUSED for t in tokens], pre=pre or recognise(tokenizer)
        )
        vocab.merges = [" ".join(pair) for pair in pairs]
        return vocab
    # SentencePiece's BPE in another form. Merges are in the order of the scores of what they make: their ranks will do.
    ranks: dict[str, int] = {}
    for rank, (left, right) in enumerate(pairs):
        ranks.setdefault(left + right, rank)
    types = [UNUSED if t is None else BYTE if len(t) == 6 and t.startswith("<0x") and t.endswith(">") else NORMAL
             for t in tokens]  # fmt: skip
    vocab = Vocab("llama", tokens, types, [-float(ranks[t]) if t in ranks else _LEAST * 100 for t in tokens])
    unknown = model.get("unk_token")
    if unknown is not None and (id_ := vocab.find(unknown)) is not None:
        vocab.types[id_] = UNKNOWN
        vocab.ids["unk"] = id_
    steps = [*_flat(tokenizer.get("normalizer")), *_flat(tokenizer.get("pre_tokenizer"))]
    vocab.add_space_prefix = any(
        step.get("type") == "Prepend"
        or (step.get("type") == "Metaspace" and step.get("prepend_scheme", "always") != "never")
        for step in steps
    )
    return vocab


def _flat(step: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The steps of a normalizer or pre-tokenizer, which may be sequences of sequences."""
    if not step:
        return []
    parts = step.get("normalizers", step.get("pretokenizers"))
    return [step] if parts is None else [inner for part in parts for inner in _flat(part)]


def _read(folder: Path, pre: str | None) -> tuple[Vocab, dict[str, Any]]:
    """The vocabulary, and tokenizer.json where there is one."""
    path, pieces = folder / "tokenizer.json", folder / "tokenizer.model"
    tokenizer = read_json(path)
    model = tokenizer.get("model") or {}
    byte_level = model.get("type") == "BPE" and not model.get("byte_fallback")
    if pieces.exists() and not byte_level:
        return _from_sentencepiece(read_sentencepiece(pieces)), tokenizer
    if not tokenizer:
        raise FormatError(f"{folder} has neither tokenizer.model nor tokenizer.json; fetch one of them")
    if model.get("type") != "BPE":
        raise UnsupportedError(f"the tokenizer in {path} is of the kind {model.get('type')}, expected BPE")
    return _from_json(tokenizer, pre), tokenizer


# --- what lies around them -------------------------------------------------------------------------------------------


def _add_tokens(vocab: Vocab, folder: Path, tokenizer: dict[str, Any], settings: dict[str, Any]) -> None:
    """Tokens beside the model's own, wherever the folder tells of them; later tellings know more."""
    found: dict[int, tuple[str, bool]] = {}
    for text, id_ in read_json(folder / "added_tokens.json").items():
        found[int(id_)] = (text, False)
    for token in tokenizer.get("added_tokens") or []:
        found[int(token["id"])] = (token["content"], bool(token.get("special")))
    for id_, token in (settings.get("added_tokens_decoder") or {}).items():
        found[int(id_)] = (token["content"], bool(token.get("special")))
    for id_, (text, special) in sorted(found.items()):
        if not 0 <= id_ < len(vocab.tokens) + len(found) + 100_000:
            raise FormatError(f"the added token {text!r} in {folder} has the id {id_}, far past the vocabulary")
        vocab.put(id_, text, special)


def _find_specials(vocab: Vocab, folder: Path, settings: dict[str, Any], config: Config) -> None:
    """Ids of the tokens that begin and end a text. Settings name them; config.json knows their ids."""
    named = read_json(folder / "special_tokens_map.json") | {k: v for k, v in settings.items() if v is not None}
    for name in _SPECIALS:
        text = _content(named.get(f"{name}_token"))
        id_ = vocab.find(text) if text is not None else None
        if id_ is None and name not in vocab.ids:
            id_ = config.raw.get(f"{name}_token_id")
            id_ = id_[0] if isinstance(id_, list) and id_ else id_
        if isinstance(id_, int) and 0 <= id_ < config.n_vocab:
            vocab.ids[name] = id_


def _adds(tokenizer: dict[str, Any], settings: dict[str, Any], name: str, vocab: Vocab, default: bool) -> bool:
    """Does the folder's tokenizer put this token around a text? tokenizer.json's processor runs, so it decides."""
    if name not in vocab.ids:
        return False
    processor = tokenizer.get("post_processor") or {}
    parts = processor.get("processors", [processor]) if processor.get("type") == "Sequence" else [processor]
    for part in parts:
        if part.get("type") == "TemplateProcessing":
            special = [piece["SpecialToken"]["id"] for piece in part.get("single", []) if "SpecialToken" in piece]
            return any(vocab.find(text) == vocab.ids[name] for text in special)
    said = settings.get(f"add_{name}_token")
    return bool(said) if said is not None else default


def _chat_template(folder: Path, settings: dict[str, Any]) -> str | None:
    file = folder / "chat_template.jinja"
    if file.exists():
        return file.read_text(encoding="utf-8")
    template = read_json(folder / "chat_template.json").get("chat_template") or settings.get("chat_template")
    if isinstance(template, list):  # several by name
        by_name = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
        template = by_name.get("default") or next(iter(by_name.values()), None)
    return template if isinstance(template, str) else None


def read_vocab(folder: Path, config: Config, pre: str | None) -> tuple[Metadata, list[str]]:
    """Keys of the tokenizer, and notes. As many tokens as the embedding has rows: unused ones fill it up."""
    settings = read_json(folder / "tokenizer_config.json")
    with _damage(f"the tokenizer in {folder}"):
        vocab, tokenizer = _read(folder, pre)
        _add_tokens(vocab, folder, tokenizer, settings)
        _find_specials(vocab, folder, settings, config)
        adds_bos = _adds(tokenizer, settings, "bos", vocab, vocab.model == "llama")
        adds_eos = _adds(tokenizer, settings, "eos", vocab, False)
    with _damage(f"the chat template in {folder}"):
        template = _chat_template(folder, settings)
    notes = []
    if pre and vocab.model == "llama":
        notes.append(f"--pre {pre} changes nothing: a SentencePiece vocabulary has no pre-tokenizer")
    if len(vocab.tokens) > config.n_vocab:
        raise FormatError(
            f"the tokenizer in {folder} has {len(vocab.tokens)} tokens, but vocab_size in config.json, and so the "
            f"embedding, has {config.n_vocab}: they belong to different models"
        )
    n_pad = config.n_vocab - len(vocab.tokens)
    tokens = vocab.tokens + [None] * n_pad
    tokens = [f"[PAD{i}]" if token is None else token for i, token in enumerate(tokens)]
    keys: Metadata = {
        "tokenizer.ggml.model": (vocab.model, Value.STRING),
        "tokenizer.ggml.pre": (vocab.pre, Value.STRING),
        "tokenizer.ggml.tokens": (tokens, Value.STRING),
        "tokenizer.ggml.token_type": (vocab.types + [UNUSED] * n_pad, Value.INT32),
    }
    if vocab.model == "llama":
        keys["tokenizer.ggml.scores"] = (vocab.scores + [_LEAST] * n_pad, Value.FLOAT32)
        keys["tokenizer.ggml.add_space_prefix"] = (vocab.add_space_prefix, Value.BOOL)
        if vocab.remove_extra_spaces:
            keys["tokenizer.ggml.remove_extra_whitespaces"] = (True, Value.BOOL)
    else:
        keys["tokenizer.ggml.merges"] = (vocab.merges, Value.STRING)
    for name, in_gguf in _SPECIALS.items():
        if name in vocab.ids:
            keys[f"tokenizer.ggml.{in_gguf}_token_id"] = (vocab.ids[name], Value.UINT32)
    keys["tokenizer.ggml.add_bos_token"] = (adds_bos, Value.BOOL)
    keys["tokenizer.ggml.add_eos_token"] = (adds_eos, Value.BOOL)
    if template:
        keys["tokenizer.chat_template"] = (template, Value.STRING)
    return keys, notes
