"""python tools/convert on Hugging Face folders: logits against float64 in their own conventions, vocabularies against
the libraries that made them, and folders that are not right."""

import json
import os
import shutil
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from native import DATA, ROOT

gguf = pytest.importorskip("gguf", reason="the converter needs the package gguf")

sys.path.insert(0, str(ROOT / "tools"))

from convert import command, pretokenizer  # noqa: E402
from hf_folder import forward, make_config, make_tensors, save, write_folder  # noqa: E402
from make_model import CORPUS  # noqa: E402

from longheads import Model, Tokenizer  # noqa: E402
from longheads.errors import LongHeadsError, UnsupportedError  # noqa: E402

# Largest difference of logits that spread over a few units; float32 against float64.
TOLERANCE = 3e-4
# llama.cpp keeps keys and values in halves.
PEER_TOLERANCE = 2e-2

IDS = [1, 7, 30, 4, 4, 19, 2, 11] * 6
TEXTS = [
    "Hello, world!",
    "  two  spaces, 12345 and 1st\n\n\tnext line's \u20ac \u00e9\u4e2d\U0001f642",
    CORPUS,
    "a",
    " ",
]
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")  # fmt: skip


def convert(*arguments) -> int:
    return command.main([str(a) for a in arguments])


def byte_level(folder, steps: str = "llama3", size: int = 500):
    """A tokenizer.json of byte-level BPE, trained here; returns the tokenizer."""
    tokenizers = pytest.importorskip(
        "tokenizers", reason="the package tokenizers, which makes vocabularies, is missing"
    )
    pre = tokenizers.pre_tokenizers
    parts = {
        "llama3": [
            pre.Split(tokenizers.Regex(LLAMA3), "isolated"),
            pre.ByteLevel(add_prefix_space=False, use_regex=False),
        ],
        "smollm": [pre.Digits(individual_digits=True), pre.ByteLevel(add_prefix_space=False)],
        "gpt-2": [pre.ByteLevel(add_prefix_space=False)],
        "odd": [pre.Whitespace(), pre.ByteLevel(add_prefix_space=False)],
    }[steps]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(ignore_merges=steps == "llama3"))
    tokenizer.pre_tokenizer = pre.Sequence(parts) if len(parts) > 1 else parts[0]
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=size - 3, initial_alphabet=pre.ByteLevel.alphabet(),
                                             special_tokens=["<|begin|>", "<|end|>"], show_progress=False)  # fmt: skip
    tokenizer.train_from_iterator([CORPUS], trainer)
    tokenizer.add_special_tokens(["<|turn|>"])
    tokenizer.add_tokens(["userword"])
    if steps == "llama3":
        tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
            single="<|begin|> $A", special_tokens=[("<|begin|>", tokenizer.token_to_id("<|begin|>"))]
        )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({
        "bos_token": "<|begin|>", "eos_token": {"content": "<|end|>"}, "chat_template": "{{ messages[0]['content'] }}",
    }))  # fmt: skip
    return tokenizer


def make_folder(folder, dtype: str = "F32", shards: int = 1, **change):
    """A whole folder with a byte-level vocabulary; returns it with its config and tensors."""
    byte_level(folder)
    config = make_config(512, **change)
    tensors = make_tensors(config, dtype)
    return write_folder(folder, config, tensors, dtype, shards), config, tensors


def logits_of(path, ids) -> np.ndarray:
    """(n, n_vocab) of our runtime, dense."""
    with Model(path, ctx=256, attention="dense", kv_type="f32", threads=1) as model, model.session() as session:
        out = []
        for id_ in ids:
            session.feed([id_])
            out.append(session.logits.copy())
    return np.array(out)


# --- weights -------------------------------------------------------------------------------------------------------

_LINEAR = {"rope_scaling": {"type": "linear", "factor": 4.0}}
_LLAMA3_ROPE = {"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                 "original_max_position_embeddings": 64}}  # fmt: skip
_YARN = {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}}
MODELS = {
    "mha": dict(num_key_value_heads=4),
    "gqa": {},
    "mqa tied": dict(num_key_value_heads=1, tie_word_embeddings=True),
    "wide heads": dict(head_dim=32),
    "mistral": dict(architectures=["MistralForCausalLM"], model_type="mistral", sliding_window=4096),
    "biases": dict(attention_bias=True),
    "linear": _LINEAR,
    "llama3": _LLAMA3_ROPE,
    "yarn": _YARN,
    "yarn told": {"rope_scaling": _YARN["rope_scaling"] | {"attention_factor": 1.5, "beta_fast": 16, "beta_slow": 2}},
    "rope_parameters": {"rope_theta": 5000.0, "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0}},
}


@pytest.mark.parametrize("name", MODELS)
def test_logits(tmp_path, name):
    folder, config, tensors = make_folder(tmp_path / "model", **MODELS[name])
    out = tmp_path / "out.gguf"
    assert convert(folder, "-o", out, "--type", "f32") == 0
    expected = forward(config, tensors, IDS)
    assert expected.std() > 0.5
    assert np.abs(logits_of(out, IDS) - expected).max() < TOLERANCE


@pytest.mark.parametrize("name", ["gqa", "mqa tied", "llama3", "linear", "yarn"])
def test_llama_cpp_agrees(tmp_path, name):
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    folder, config, tensors = make_folder(tmp_path / "model", **MODELS[name])
    out = tmp_path / "out.gguf"
    assert convert(folder, "-o", out, "--type", "f32") == 0
    peer = llama_cpp.Llama(str(out), n_ctx=256, logits_all=True, verbose=False, n_threads=1)
    peer.eval(IDS)
    assert np.abs(peer.scores[: len(IDS)] - forward(config, tensors, IDS)).max() < PEER_TOLERANCE
    with Tokenizer(out) as ours:
        for text in TEXTS:
            assert ours.encode(text, bos=False) == peer.tokenize(text.encode(), add_bos=False, special=True)


@pytest.mark.parametrize("name", ["gqa", "mqa tied", "llama3", "yarn"])
def test_transformers_agrees(tmp_path, name):
    """That what hf_folder computes is what transformers computes."""
    transformers = pytest.importorskip("transformers", reason="transformers, whose model this is, is not installed")
    torch = pytest.importorskip("torch", reason="torch, which transformers computes with, is not installed")
    folder, config, tensors = make_folder(tmp_path / "model", **MODELS[name])
    model = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        theirs = model(torch.tensor([IDS])).logits[0].numpy()
    assert np.abs(theirs - forward(config, tensors, IDS)).max() < 1e-3


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_shards_and_exact_floats(tmp_path, dtype):
    """Every value survives, wherever it lay; q and k are only reordered."""
    folder, config, tensors = make_folder(tmp_path / "model", dtype, shards=3)
    assert convert(folder, "-o", tmp_path / "out.gguf") == 0
    found = {t.name: t for t in gguf.GGUFReader(tmp_path / "out.gguf").tensors}
    assert found["blk.0.ffn_up.weight"].tensor_type.name == dtype
    assert found["blk.0.attn_norm.weight"].tensor_type.name == "F32"

    def values(name):
        return gguf.quants.dequantize(found[name].data, found[name].tensor_type)

    for i in range(2):
        for ours, theirs in {"attn_v": "self_attn.v_proj", "ffn_down": "mlp.down_proj", "attn_q": "self_attn.q_proj",
                             "ffn_norm": "post_attention_layernorm"}.items():  # fmt: skip
            x = tensors[f"model.layers.{i}.{theirs}.weight"]
            if ours == "attn_q":  # head by head: component j is followed by its partner
                x = np.concatenate([h[[0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15]] for h in np.split(x, 4)])
            assert np.array_equal(values(f"blk.{i}.{ours}.weight"), x)
    assert np.array_equal(values("output.weight"), tensors["lm_head.weight"])


def test_facts(tmp_path):
    folder, _, _ = make_folder(tmp_path / "Some-Model-1B", **_YARN)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\nlanguage:\n- en\n- de\n---\n# Some model\n")
    assert convert(folder, "-o", tmp_path / "out.gguf", "--type", "q8_0") == 0
    fields = gguf.GGUFReader(tmp_path / "out.gguf").fields
    for key, value in {
        "general.architecture": "llama", "general.name": "Some-Model-1B", "general.license": "apache-2.0",
        "general.languages": ["en", "de"], "general.file_type": 7, "llama.context_length": 256,
        "llama.rope.scaling.type": "yarn", "llama.rope.scaling.original_context_length": 64,
        "tokenizer.ggml.pre": "llama-bpe", "tokenizer.ggml.add_bos_token": True,
        "tokenizer.chat_template": "{{ messages[0]['content'] }}",
    }.items():  # fmt: skip
        assert fields[key].contents() == value, key
    # A file of its own is the newer place of the template, and a folder's name need not be UTF-8.
    folder = folder.rename(tmp_path / os.fsdecode(b"M\xe4dchen"))
    (folder / "chat_template.jinja").write_text("newer")
    assert convert(folder, "-o", tmp_path / "out.gguf", "--type", "q8_0") == 0
    assert gguf.GGUFReader(tmp_path / "out.gguf").fields["tokenizer.chat_template"].contents() == "newer"
    assert gguf.GGUFReader(tmp_path / "out.gguf").fields["general.name"].contents() == "M?dchen"


# --- vocabularies --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", ["llama3", "smollm", "gpt-2"])
def test_byte_level(tmp_path, steps):
    folder, _, _ = make_folder(tmp_path / "model")
    theirs = byte_level(folder, steps)
    out = tmp_path / "out.gguf"
    assert convert(folder, "-o", out, "--type", "f16") == 0
    with Tokenizer(out) as ours:
        assert ours.n_vocab == 512  # as many as the embedding has rows
        assert ours.adds_bos == (steps == "llama3")
        for text in [*TEXTS, "a userword<|turn|>b<|end|>"]:
            assert ours.encode(text, bos=False) == theirs.encode(text, add_special_tokens=False).ids
            assert ours.encode(text) == theirs.encode(text).ids


@pytest.mark.parametrize(
    "name, ignore_merges, regex",
    [
        ("smaug-bpe", False, LLAMA3),
        ("qwen2", False, LLAMA3.replace("{1,3}", "").replace("(?i:'s|'t|'re|'ve|'m|'ll|'d)",
                                                             "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])")),
        ("tekken", True, r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?"
                         r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|"
                         r"\s*[\r\n]+|\s+(?!\S)|\s+"),
        (None, True, LLAMA3.replace("{1,3}", "{1,2}")),
    ],
)  # fmt: skip
def test_recognised_by_expression(name, ignore_merges, regex):
    """Either way in which files say "what the expression matches"; and nothing that is only like a known one."""
    for behaviour, invert in (("Isolated", False), ("Removed", True)):
        split = {"type": "Split", "pattern": {"Regex": regex}, "behavior": behaviour, "invert": invert}
        level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
        tokenizer = {"model": {"ignore_merges": ignore_merges},
                     "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]}}  # fmt: skip
        if name:
            assert pretokenizer.recognise(tokenizer) == name
        else:
            with pytest.raises(UnsupportedError, match="none that is known: .*1,2"):
                pretokenizer.recognise(tokenizer)


def test_unknown_pretokenizer(tmp_path, capsys):
    folder, _, _ = make_folder(tmp_path / "model")
    byte_level(folder, "odd")
    assert convert(folder, "-o", tmp_path / "out.gguf") == 1
    said = capsys.readouterr().err
    assert "none that is known: {'type': 'Whitespace'} then gpt2" in said and "--pre NAME" in said
    assert convert(folder, "-o", tmp_path / "out.gguf", "--pre", "gpt-2") == 0
    assert convert(folder, "-o", tmp_path / "out2.gguf", "--pre", "nonsense") == 1
    assert f"{folder} with --pre nonsense: the pre-tokenizer is 'nonsense', expected one of" in capsys.readouterr().err
    assert not (tmp_path / "out2.gguf").exists()


@pytest.fixture(scope="module")
def open_llama():
    path = DATA / "vocab" / "open_llama_3b" / "tokenizer.model"
    if not path.exists():
        pytest.skip(f"{path} is not there; LONGHEADS_DATA names the folder of the data")
    return path


@pytest.fixture(scope="module")
def pieces(open_llama):
    sentencepiece = pytest.importorskip("sentencepiece", reason="the package sentencepiece is not installed")
    return sentencepiece.SentencePieceProcessor(model_file=str(open_llama))


def spm_folder(folder, n_vocab: int = 32000):
    config = make_config(n_vocab, hidden_size=32, num_hidden_layers=1, intermediate_size=32)
    tensors = make_tensors(config)
    return write_folder(folder, config, tensors), config, tensors


def test_sentencepiece(tmp_path, open_llama, pieces):
    folder, config, tensors = spm_folder(tmp_path / "model", 32064)
    shutil.copy(open_llama, folder)
    added = {"32000": {"content": "<|im_start|>", "special": True}, "32001": {"content": "userword", "special": False}}
    settings = {"add_bos_token": True, "added_tokens_decoder": added, "eos_token": "<|im_start|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    out = tmp_path / "out.gguf"
    assert convert(folder, "-o", out, "--type", "f32") == 0
    fields = gguf.GGUFReader(out).fields
    scores, types = fields["tokenizer.ggml.scores"].contents(), fields["tokenizer.ggml.token_type"].contents()
    for i in range(0, 32000, 7):
        assert scores[i] == pytest.approx(pieces.GetScore(i))
        assert types[i] == (2 if pieces.IsUnknown(i) else 3 if pieces.IsControl(i) else 6 if pieces.IsByte(i) else 1)
    assert types[32000:32003] == [3, 4, 5]
    with Tokenizer(out) as ours:
        assert (ours.n_vocab, ours.eos, ours.adds_bos) == (32064, 32000, True)
        assert 32000 in ours.encode("a <|im_start|> b", special=True) and 32001 in ours.encode("a userword b")
        for text in TEXTS:
            assert ours.encode(text, bos=False) == pieces.encode(text)
    assert np.abs(logits_of(out, IDS) - forward(config, tensors, IDS)).max() < TOLERANCE


def test_sentencepiece_as_json(tmp_path, pieces):
    """The same vocabulary as tokenizer.json writes it, without scores."""
    tokenizers = pytest.importorskip("tokenizers", reason="the package tokenizers is not installed")
    vocab = {pieces.IdToPiece(i): i for i in range(pieces.GetPieceSize())}
    usable = [i for i in range(len(vocab)) if not (pieces.IsControl(i) or pieces.IsByte(i) or pieces.IsUnknown(i))]
    merges = []
    for i in sorted(usable, key=pieces.GetScore, reverse=True):
        piece = pieces.IdToPiece(i)
        merges += [
            (piece[:cut], piece[cut:]) for cut in range(1, len(piece)) if piece[:cut] in vocab and piece[cut:] in vocab
        ]
    theirs = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    theirs.normalizer = tokenizers.normalizers.Sequence(
        [tokenizers.normalizers.Prepend("\u2581"), tokenizers.normalizers.Replace(" ", "\u2581")]
    )
    theirs.add_special_tokens(["<s>", "</s>"])
    folder, _, _ = spm_folder(tmp_path / "model")
    theirs.save(str(folder / "tokenizer.json"))
    out = tmp_path / "out.gguf"
    assert convert(folder, "-o", out, "--type", "f16") == 0
    with Tokenizer(out) as ours:
        assert (ours.bos, ours.eos, ours.is_control(1)) == (1, 2, True)
        for text in TEXTS:
            assert ours.encode(text, bos=False) == theirs.encode(text, add_special_tokens=False).ids


# --- what is not right ---------------------------------------------------------------------------------------------


def edit_config(folder, **change):
    config = json.loads((folder / "config.json").read_text()) | change
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def edit_json(path, change):
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))


def edit_tokenizer(folder, change):
    edit_json(folder / "tokenizer.json", change)


def edit_header(folder, change):
    """change: of what model.safetensors says of a tensor."""
    path = folder / "model.safetensors"
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    change(header["model.norm.weight"])
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length :])


def huge_type(folder):
    """A SentencePiece BPE model of one piece, whose type takes 43 bits."""
    (folder / "tokenizer.json").unlink()
    piece = b"\x0a\x01a" + b"\x18\x80\x80\x80\x80\x80\x80\x01"
    (folder / "tokenizer.model").write_bytes(b"\x0a" + bytes([len(piece)]) + piece + b"\x12\x02\x18\x02")


def only_bin(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def nan_weight(folder):
    config = json.loads((folder / "config.json").read_text())
    tensors = make_tensors(config)
    tensors["model.layers.1.self_attn.k_proj.weight"][3, 5] = np.nan
    write_folder(folder, config, tensors)


def cut(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def missing_shard(folder):
    config = json.loads((folder / "config.json").read_text())
    write_folder(folder, config, make_tensors(config), shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()


BAD_FOLDERS = {
    "no config": (lambda f: (f / "config.json").unlink(), "config.json is missing"),
    "no json": (lambda f: (f / "config.json").write_text("{"), "is not JSON"),
    "architecture": (lambda f: edit_config(f, architectures=["FalconForCausalLM"]), "is FalconForCausalLM"),
    "number": (lambda f: edit_config(f, hidden_size=None), "hidden_size in"),
    "text": (lambda f: edit_config(f, num_hidden_layers="two"), "is 'two', expected a positive number"),
    "scaling": (lambda f: edit_config(f, rope_scaling={"type": "longrope"}), "is longrope, expected linear, yarn"),
    "scaling half": (lambda f: edit_config(f, rope_scaling={"type": "yarn"}), "factor of the rope scaling yarn in"),
    "scaling as text": (lambda f: edit_config(f, rope_scaling="yarn"), "'yarn', expected an object"),
    "attention factor": (lambda f: edit_config(f, rope_scaling={"type": "yarn", "factor": 2, "attention_factor": "x"}),
                         "is 'x', expected a positive number"),
    "architecture as number": (lambda f: edit_config(f, architectures=7), "says the architecture is 7"),
    "architecture as object": (lambda f: edit_config(f, architectures=[{}]), "says the architecture is {}"),
    "infinite": (lambda f: edit_config(f, hidden_size=float("inf")), "hidden_size in"),
    "context beyond 32 bits": (lambda f: edit_config(f, max_position_embeddings=5e9), "5000000000.0, expected"),
    "epsilon beyond float32": (lambda f: edit_config(f, rms_norm_eps=1e300), "rms_norm_eps in"),
    "countless layers": (lambda f: edit_config(f, num_hidden_layers=10**9), "model.layers.2.input_layernorm.weight is"),
    "quantised": (lambda f: edit_config(f, quantization_config={"quant_method": "gptq"}), "weights quantised by gptq"),
    "shape": (lambda f: edit_config(f, intermediate_size=128), "has the shape 96 x 64, expected 128 x 64"),
    "vocabulary": (lambda f: edit_config(f, vocab_size=300), "has the shape 512 x 64, expected 300 x 64"),
    "countless tokens": (lambda f: edit_config(f, vocab_size=10**9), "expected 1000000000 x 64"),
    "more tokens": (lambda f: edit_tokenizer(f, lambda t: t["added_tokens"][0].update(id=600)), "has 601 tokens, but"),
    "layers": (lambda f: edit_config(f, num_hidden_layers=3), "model.layers.2.input_layernorm.weight is missing"),
    "fewer layers": (lambda f: edit_config(f, num_hidden_layers=1), "is not part of a dense LLaMA"),
    "untied": (lambda f: edit_config(f, tie_word_embeddings=False), "the tensor lm_head.weight is missing"),
    "bin": (only_bin, "pytorch_model.bin is a pickle"),
    "nothing": (lambda f: (f / "model.safetensors").unlink(), "holds no model.safetensors"),
    "nan": (nan_weight, "layers.1.self_attn.k_proj.weight is damaged or does not suit this type: it holds NaN"),
    "cut": (cut, "is not a whole safetensors file"),
    "pointer": (lambda f: (f / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n"),
                "it is a git-lfs pointer"),
    "garbage": (lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 64), "is not a whole safetensors file"),
    "shard": (missing_shard, "model-00002-of-00003.safetensors of 3 shards is missing"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "has neither tokenizer.model nor tokenizer.json"),
    "unigram": (lambda f: edit_json(f / "tokenizer.json", lambda t: t["model"].update(type="Unigram")), "kind Unigram"),
    "no merges": (lambda f: edit_json(f / "tokenizer.json", lambda t: t["model"].pop("merges")), "is damaged"),
    "post-processor": (lambda f: edit_tokenizer(f, lambda t: t.update(post_processor="x")), "the tokenizer in"),
    "special token": (lambda f: edit_tokenizer(f, lambda t: t["post_processor"]["single"][0].update(SpecialToken=True)),
                      "is damaged"),
    "endless id": (lambda f: edit_tokenizer(f, lambda t: t["added_tokens"][0].update(id=float("inf"))), "is damaged"),
    # Half of a surrogate pair, which JSON can hold and UTF-8 cannot.
    "half in an added token": (lambda f: edit_tokenizer(f, lambda t: t["added_tokens"][0].update(content="\ud800")),
                               "the tokenizer in"),
    "half in a token": (lambda f: edit_tokenizer(f, lambda t: t["model"]["vocab"].update({"\ud800": 9})),
                        "the value of tokenizer.ggml.tokens cannot be written"),
    "half in a template": (lambda f: edit_json(f / "tokenizer_config.json", lambda s: s.update(chat_template="\ud800")),
                           "the value of tokenizer.chat_template cannot be written"),
    "Latin-1": (lambda f: (f / "chat_template.jinja").write_bytes(b"\xe9"), "the chat template in"),
    "dtype": (lambda f: edit_header(f, lambda t: t.update(dtype=[])), "is stored in [], expected F32"),
    "endless tensor": (lambda f: edit_header(f, lambda t: t.update(data_offsets=[0, float("inf")])),
                       "its header is not what the format says"),
    "type of a piece": (huge_type, "the value of tokenizer.ggml.token_type cannot be written"),
    "bad pieces": (lambda f: ((f / "tokenizer.json").unlink(), (f / "tokenizer.model").write_bytes(b"\x0a\xff\xff")),
                   "is not a SentencePiece model"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_FOLDERS)
def test_bad_folders(tmp_path, capsys, name):
    spoil, sentence = BAD_FOLDERS[name]
    folder, _, _ = make_folder(tmp_path / "model", tie_word_embeddings=True)
    spoil(folder)
    assert convert(folder, "-o", tmp_path / "out.gguf", "--type", "q8_0") == 1
    said = capsys.readouterr().err
    assert sentence in said and len(said.splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_needless_values_of_any_kind(tmp_path):
    """null and texts where nothing has to be are no reason to refuse, nor to fall over."""
    folder, config, tensors = make_folder(tmp_path / "model")
    raw = json.loads((folder / "config.json").read_text())
    raw |= {"quantization_config": None, "rope_scaling": None, "sliding_window": "4096", "rope_parameters": {}}
    (folder / "config.json").write_text(json.dumps(raw))
    edit_json(folder / "tokenizer_config.json", lambda s: s.update(eos_token={"content": 5}))  # config.json has its id
    assert convert(folder, "-o", tmp_path / "out.gguf", "--type", "f32") == 0
    with Tokenizer(tmp_path / "out.gguf") as tokenizer:
        assert tokenizer.eos == 2
    assert np.abs(logits_of(tmp_path / "out.gguf", IDS) - forward(config, tensors, IDS)).max() < TOLERANCE


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory):
    """A folder, and what its files about the tokenizer hold, as JSON."""
    folder, _, _ = make_folder(tmp_path_factory.mktemp("convert") / "spoilt")
    texts = {name: (folder / name).read_text() for name in ("tokenizer.json", "tokenizer_config.json")} | {
        "special_tokens_map.json": '{"unk_token": {"content": "<|end|>"}}', "added_tokens.json": '{"userword": 500}',
        "chat_template.json": '{"chat_template": [{"name": "default", "template": "x"}]}',
    }  # fmt: skip
    return folder, texts


ABSENT = object()
ANYTHING = [None, True, -1, 10**20, 1.5, float("inf"), "", "x", "\ud800", [], [[]], ["x", "y"], {}, {"content": 5},
            ABSENT]  # fmt: skip


def put(found, steps, value):
    """What was found, with another value at the place that the steps lead to."""
    if not steps or not isinstance(found, (dict, list)) or not found:
        return value
    keys = list(found) if isinstance(found, dict) else range(len(found))
    key = keys[steps[0] % len(keys)]
    found[key] = put(found[key], steps[1:], value)
    if found[key] is ABSENT:
        del found[key]
    return found


@settings(max_examples=200)
@given(which=st.integers(0, 4), steps=st.lists(st.integers(0, 9), max_size=5), value=st.sampled_from(ANYTHING),
       byte_fallback=st.booleans())  # fmt: skip
def test_anything_anywhere(spoilt, which, steps, value, byte_fallback):
    """Whatever a file about the tokenizer holds in some place: it is converted, or refused by a sentence."""
    folder, texts = spoilt
    files = {name: json.loads(text) for name, text in texts.items()}
    files["tokenizer.json"]["model"]["byte_fallback"] = byte_fallback
    name = list(files)[which]
    files[name] = put(files[name], steps, None if value is ABSENT and not steps else value)
    for name, found in files.items():
        (folder / name).write_text(json.dumps(found))
    try:
        command.run(command.parser().parse_args([str(folder), "-o", str(folder / "out.gguf"), "--dry-run"]))
    except LongHeadsError as error:
        assert "longheads-convert-" not in str(error)  # no file that nobody knows of


def test_other_dtypes_are_refused(tmp_path, capsys):
    folder, config, tensors = make_folder(tmp_path / "model")
    x = tensors["model.norm.weight"].astype(np.float64)
    save(folder / "model.safetensors", tensors | {"model.norm.weight": x})
    assert convert(folder, "-o", tmp_path / "out.gguf") == 1
    assert "the tensor model.norm.weight is stored in F64, expected F32, F16, BF16" in capsys.readouterr().err
