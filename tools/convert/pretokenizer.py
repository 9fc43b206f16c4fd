"""Which pre-tokenizer a tokenizer.json describes, by the name that GGUF files call it.

The description is reduced to steps, each a regular expression or one of the library's own, and looked up. Names whose
rules are the same as another's are left out: any of them says the same to a reader.
"""

from __future__ import annotations

from typing import Any

from longheads.errors import UnsupportedError

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_TAIL = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_ANY_CASE = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)", r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])")
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_LEAD = r"[^\r\n\p{L}\p{N}]?"


def _cl100k(contraction: str, numbers: str, marks: str = r"[\r\n]*") -> str:
    return rf"{contraction}|{_LEAD}\p{{L}}+|{numbers}| ?[^\s\p{{L}}\p{{N}}]+{marks}|{_TAIL}"


def _cased(end: str, numbers: str) -> str:
    return (rf"{_LEAD}{_UPPER}*{_LOWER}+{end}|{_LEAD}{_UPPER}+{_LOWER}*{end}|{numbers}"
            rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_TAIL}")  # fmt: skip


_DIGIT, _WORDS = r"\p{N}", "gpt2"

# (steps, whether words that are tokens skip the merges) -> name.
_KNOWN: dict[tuple[tuple[str, ...], bool], str] = {
    ((_WORDS,), False): "gpt-2",
    ((_DIGIT, _WORDS), False): "smollm",
    ((_cased("", r"\p{N}"),), True): "tekken",
    ((_cased(rf"{_ANY_CASE[0]}?", r"\p{N}{1,3}"),), False): "gpt-4o",
    ((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", _DIGIT), False): "deepseek-coder",
} | {
    key: name
    for contraction in _ANY_CASE
    for key, name in {
        ((_cl100k(contraction, r"\p{N}{1,3}"),), True): "llama-bpe",
        ((_cl100k(contraction, r"\p{N}{1,3}"),), False): "smaug-bpe",
        ((_cl100k(contraction, r"\p{N}"),), False): "qwen2",
        ((_cl100k(contraction, r"\p{N}", ""),), False): "seed-coder",
    }.items()
}


def steps(description: dict[str, Any] | None) -> tuple[str, ...]:
    """What a pre_tokenizer of tokenizer.json does, step by step. What is not known comes out as its own description."""
    if description is None:
        return ()
    kind = description.get("type")
    if kind == "Sequence":
        return tuple(step for part in description.get("pretokenizers", []) for step in steps(part))
    if kind == "ByteLevel" and not description.get("add_prefix_space", True):
        return (_WORDS,) if description.get("use_regex", True) else ()
    if kind == "Digits" and description.get("individual_digits"):
        return (_DIGIT,)
    if kind == "Split":
        how = (description.get("behavior"), bool(description.get("invert")))
        regex = description.get("pattern", {}).get("Regex")
        # What an expression matches, alone; these leave nothing out, so removing the rest is the same.
        if regex is not None and how in (("Isolated", False), ("Removed", True)):
            return (_WORDS,) if regex == _GPT2 else (regex,)
    return (str(description),)


def recognise(tokenizer: dict[str, Any]) -> str:
    """The name for a tokenizer.json. Raises UnsupportedError with its rules where there is none."""
    found = steps(tokenizer.get("pre_tokenizer"))
    name = _KNOWN.get((found, bool(tokenizer["model"].get("ignore_merges", False))))
    if name is None:
        raise UnsupportedError(
            f"the pre-tokenizer of tokenizer.json is none that is known: {' then '.join(found) or 'none'}"
            f"{' (ignoring merges)' if tokenizer['model'].get('ignore_merges') else ''}; if it does the same as "
            f"one of {', '.join(sorted(set(_KNOWN.values())))} or another that the runtime knows, say --pre NAME"
        )
    return name
