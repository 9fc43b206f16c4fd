"""Model, tokenizer and generation through the Python surface."""

from __future__ import annotations

import gc
import inspect
import os
import re
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import native
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

longheads = pytest.importorskip("longheads", reason="longheads is not installed")

from helpers import make_model  # noqa: E402

from longheads import Model, Tokenizer  # noqa: E402
from longheads._core import ffi, lib  # noqa: E402
from longheads.generate import StopFilter  # noqa: E402

# ln p from numpy's float64 against the core's float32.
LOGPROB = 1e-4


@pytest.fixture(scope="module")
def model(tiny_path):
    with Model(tiny_path) as model:
        yield model


@pytest.fixture(scope="module")
def plain(plain_path):
    with Model(plain_path) as model:
        yield model


PROMPT = "The king who lived beside the river"


# --- options -----------------------------------------------------------------------------------------------------


def test_signature():
    """All options and their defaults."""
    defaults = {name: p.default for name, p in inspect.signature(Model).parameters.items() if name != "path"}
    expected = dict(
        ctx=None,
        chunk=64,
        budget=2048,
        near_budget=None,
        window=None,
        local=None,
        far_heads=None,
        far_bias=None,
        batch=None,
        keep_all=False,
        rope_scaling=None,
        rope_scale=None,
        scheme="peak",
        select_per="kv_head",
        dense_until=None,
        attention="longheads",
        kv_type="f16",
        kv_offload=False,
        mmap=False,
        threads=None,
        device="auto",
        chat_template=None,
        progress=None,
    )
    assert defaults == expected
    assert all(p.kind is p.KEYWORD_ONLY for name, p in inspect.signature(Model).parameters.items() if name != "path")


def test_defaults_come_from_the_file_and_say_nothing(tiny_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Model(tiny_path) as model:
            assert (model.trained_ctx, model.ctx, model.window) == (256, 256, 192)
            assert model.chunk <= 64 and model.budget <= model.window
            assert model.options["near_budget"] == model.budget // 2 == model.dense_until // 2
            assert (model.options["far_heads"], model.options["far_bias"]) == (1, 0.5)
            for budget, local in (64, 12), (16, 2):  # of 16 chunks three are chosen, of 4 one
                with model.session(chunk=4, budget=budget) as session:
                    assert session.options["local"] == local
            with model.session(far_heads=99, far_bias=0) as session:
                assert (session.options["far_heads"], session.options["far_bias"]) == (4, 0)
            with model.session(scheme="paper") as session:
                assert (session.options["far_heads"], session.options["far_bias"]) == (4, 0)
            assert (model.n_layer, model.n_head, model.n_head_kv, model.n_vocab) == (2, 4, 2, 600)


def test_defaults_of_larger_models(tmp_path):
    names = ("chunk", "budget", "near_budget", "window", "local", "dense_until", "batch", "far_heads")
    for trained, values in (8192, (64, 2048, 1024, 6144, 28, 2048, 1024, 2)), (2048, (64, 1024, 512, 1536, 12, 1024, 1024, 2)):
        with Model(make_model(tmp_path / "model.gguf", trained_ctx=trained, n_layer=3, n_head_kv=2)) as model:
            assert tuple(model.options[name] for name in names) == values


def test_capped_options_say_so(tiny_path):
    with pytest.warns(longheads.LongHeadsWarning, match="budget.*192"):
        assert Model(tiny_path, budget=2048).budget == 192
    with pytest.warns(longheads.LongHeadsWarning, match="near_budget is capped to the window of 192"):
        options = Model(tiny_path, near_budget=2048).options
    assert options["near_budget"] == options["dense_until"] == 192 > options["budget"]
    with pytest.warns(longheads.LongHeadsWarning, match="local is capped to 7 chunks.*asked for: 50"):
        assert Model(tiny_path, chunk=16, budget=128, local=50).local == 7
    with pytest.warns(longheads.LongHeadsWarning, match="window.*256"):
        assert Model(tiny_path, window=512).window == 256


@pytest.mark.parametrize(
    "options, words",
    [
        (dict(chunk=32, budget=100), "budget.*100.*32"),
        (dict(chunk=32, near_budget=100), "near_budget.*100.*32"),
        (dict(chunk=8, dense_until=2**31 - 1), "dense_until.* 2147483640 or 2147483648"),
        (dict(scheme="best"), "scheme.*best.*peak.*bounds.*paper"),
        (dict(ctx=-1), "ctx.*-1"),
        (dict(ctx=10**30), "ctx"),
        (dict(kv_type="q3"), "kv_type"),
        (dict(far_heads=0), "far_heads is 0, expected a positive number of KV heads"),
        (dict(far_bias=-0.5), "far_bias is -0.5, expected 0 to 100"),
        (dict(far_bias=101), "far_bias is 101, expected 0 to 100"),
        (dict(far_bias=float("nan")), "far_bias is nan, expected 0 to 100"),
    ],
)
def test_options_that_cannot_be(tiny_path, options, words):
    with pytest.raises(longheads.ArgumentError, match=words) as caught:
        Model(tiny_path, **options)
    assert isinstance(caught.value, ValueError)


def test_a_file_that_was_trained_on_one_token(tmp_path):
    """What is resolved stays what it is when it is resolved again, as each session does."""
    path = make_model(tmp_path / "one.gguf", trained_ctx=1)
    with Model(path, ctx=64) as model, model.session() as session:
        session.feed(range(3, 63))
        assert session.options == model.options
        assert (session.selected()[:, :, -1] == 59).all()  # its own


def test_a_file_that_claims_a_vast_context(tmp_path):
    """It costs memory where that is used: here the rotations alone would take more than a gigabyte."""
    path = make_model(tmp_path / "vast.gguf", trained_ctx=2**30)
    opened = f"from longheads import Model; s = Model({str(path)!r}, ctx=4096).session(); s.feed([3, 4])"
    # Not ru_maxrss, which a process takes over from whoever started it.
    peak = "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    done = subprocess.run([sys.executable, "-c", f"{opened}; {peak}"], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 500_000


def test_paths(tiny_path):
    for path in (os.fspath(tiny_path), os.fsencode(tiny_path), tiny_path):
        Model(path).close()
    with pytest.raises(longheads.FileError, match="nowhere") as caught:
        Model("nowhere.gguf")
    assert isinstance(caught.value, OSError)
    with pytest.raises(longheads.FormatError):
        Model(__file__)
    with pytest.raises(longheads.ArgumentError):
        Model("a\0b")


def resident_of(path) -> int:
    """Bytes of a mapped file that are in this process's memory."""
    mappings = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(), flags=re.MULTILINE)
    return sum(1024 * int(re.search(r"^Rss: +(\d+)", m, re.MULTILINE)[1]) for m in mappings if str(path) in m)


def test_weights_are_copied_into_huge_pages_or_stay_mapped(tmp_path):
    switch = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not switch.exists() or "[never]" in switch.read_text():
        pytest.skip("transparent huge pages are off")
    path = make_model(tmp_path / "m.gguf", n_embd=256, n_ff=1024, n_head=4, n_layer=2)
    for mmap in True, False:
        with Model(path, mmap=mmap) as model:
            model.generate("The king", max_tokens=2)
            resident = resident_of(path)
            assert resident > path.stat().st_size // 2 if mmap else resident < path.stat().st_size // 4


def test_threads_are_those_that_the_process_may_use(tiny_path):
    code = "import os, sys, longheads; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); " \
           "print(longheads.Model(sys.argv[1]).threads)"
    done = subprocess.run([sys.executable, "-c", code, str(tiny_path)], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


def test_the_device_tells_what_the_processor_has(tiny_path, monkeypatch):
    monkeypatch.delenv("LH_CPU", raising=False)
    best = [level for level, flags in native.FLAGS_OF.items() if flags <= native.cpu_flags()][-1]
    with Model(tiny_path, device="cpu", threads=1) as model:
        assert model.device.replace("+", "").replace("dotprod", "") == f"cpu ({best}, 1 thread)"


@pytest.mark.parametrize("kind", ["f32", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "iq4_nl"])
def test_weights_are_the_same_wherever_and_however_they_lie(kind, tmp_path):
    # 17 and 35 blocks in a row: a copy may lie in spans of 16, the last of them shorter.
    path = make_model(tmp_path / "m.gguf", type=kind, n_embd=544, n_ff=1120, n_head=8, n_layer=2)
    with Model(path) as copied, Model(path, mmap=True) as mapped:
        first, second = (list(m.stream(PROMPT, temperature=0, max_tokens=8)) for m in (copied, mapped))
    assert [(p.token, p.logprob) for p in first] == [(p.token, p.logprob) for p in second]


def test_unknown_device(tiny_path):
    with pytest.raises(longheads.LongHeadsError, match="tpu"):
        Model(tiny_path, device="tpu")


def test_metadata(model, plain):
    assert model.metadata["general.architecture"] == "llama"
    assert model.metadata["llama.context_length"] == 256
    assert model.metadata["llama.attention.layer_norm_rms_epsilon"] == pytest.approx(1e-5)
    assert model.metadata["tokenizer.ggml.add_bos_token"] is False
    tokens = model.metadata["tokenizer.ggml.tokens"]
    assert len(tokens) == 600 and tokens[1:3] == ["<|im_start|>", "<|im_end|>"]
    assert plain.metadata["tokenizer.ggml.scores"][0] == 0.0
    assert "no such key" not in model.metadata and model.metadata.get("no such key") is None
    assert len(list(model.metadata)) == len(model.metadata)


def test_version():
    assert longheads.__version__.count(".") == 2


# --- life --------------------------------------------------------------------------------------------------------


def test_closed_model(tiny_path):
    model = Model(tiny_path)
    session, tokenizer = model.session(), model.tokenizer
    model.close()
    model.close()
    for use in (model.session, lambda: model.generate("a"), lambda: model.tokenize("a"), lambda: model.metadata):
        with pytest.raises(longheads.StateError, match="closed"):
            use()
    assert model.device.startswith("cpu")
    # What was made from it goes on: it holds the core's model.
    session.feed(tokenizer.encode("a river"))
    assert session.logits.shape == (600,)
    session.close()
    with pytest.raises(longheads.StateError, match="closed"):
        session.feed([1])


def test_two_models(tiny_path, plain_path):
    with Model(tiny_path) as a, Model(plain_path) as b:
        first = a.generate(PROMPT, temperature=0, max_tokens=8), b.generate(PROMPT, temperature=0, max_tokens=8)
    with Model(plain_path) as b, Model(tiny_path) as a:
        assert first == (
            a.generate(PROMPT, temperature=0, max_tokens=8),
            b.generate(PROMPT, temperature=0, max_tokens=8),
        )


def test_memory_comes_back(tmp_path):
    """Of what is closed, although its names are still there; not only into a heap."""
    path = make_model(tmp_path / "m.gguf", n_embd=256, n_ff=1024, n_head=4, n_layer=4)
    code = """if True:
        import sys
        from pathlib import Path
        from longheads import Model

        def resident():
            return next(int(l.split()[1]) for l in Path("/proc/self/status").read_text().splitlines() if "VmRSS" in l)

        def use():
            with Model(sys.argv[1], ctx=9000, keep_all=True) as model:
                with model.session() as session:
                    session.fill(9000 - 2)
                    session.feed([3, 4])
                    session.logits
                    return model, session, resident()

        use()  # what is loaded once
        before = resident()
        *names, most = use()
        print(most - before, resident() - before)
    """
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    most, left = map(int, done.stdout.split())
    assert left < most // 20


# --- tokens ------------------------------------------------------------------------------------------------------


def test_tokenizer_alone(tiny_path, model):
    with Tokenizer(tiny_path) as tokenizer:
        assert tokenizer.encode(PROMPT) == model.tokenize(PROMPT)
        assert tokenizer.decode(tokenizer.encode(PROMPT)) == PROMPT
        assert tokenizer.n_vocab == 600 and tokenizer.eos == 0 and tokenizer.is_end(2)
    with pytest.raises(longheads.StateError, match="closed"):
        tokenizer.encode("a")


@given(st.text())
def test_round_trip(model, plain, text):
    assert model.detokenize(model.tokenize(text, bos=False, special=False)) == text
    # SentencePiece writes a space as U+2581 and cannot tell the two apart.
    assert plain.detokenize(plain.tokenize(text, bos=False, special=False)) == text.replace("\u2581", " ")


def test_special_and_bos(model, plain):
    assert model.tokenize("a<|im_end|>")[-1] == 2
    assert 2 not in model.tokenize("a<|im_end|>", special=False)
    assert plain.tokenize("a")[0] == plain.tokenizer.bos == 1
    assert 1 not in plain.tokenize("a", bos=False)
    assert model.tokenize("a", bos=True)[0] == model.tokenizer.bos


def test_ids_that_are_none(model):
    for bad in (["a"], [[1, 2]], [1.5]):
        with pytest.raises((TypeError, ValueError)):
            model.detokenize(bad)
    with pytest.raises(longheads.ArgumentError):
        model.detokenize([-1])
    with pytest.raises(longheads.LongHeadsError):
        model.detokenize([600])
    assert model.detokenize(np.array([10, 11])) == model.detokenize([10, 11]) == model.detokenize(iter([10, 11]))
    with pytest.raises(longheads.ArgumentError, match="surrogate"):
        model.tokenize("\ud800")


# --- generation --------------------------------------------------------------------------------------------------


def test_generate_is_a_fold_over_stream(model):
    options = dict(max_tokens=20, seed=3)
    pieces = list(model.stream(PROMPT, **options))
    assert "".join(p.text for p in pieces) == model.generate(PROMPT, **options)
    assert 0 < len(pieces) <= 20
    assert [p.finish_reason for p in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert pieces[-1].finish_reason in ("length", "stop")
    assert all(0 <= p.token < model.n_vocab and p.logprob <= 0 for p in pieces)


def test_prompt_as_text_or_ids(model):
    assert model.generate(PROMPT, temperature=0, max_tokens=8) == model.generate(
        model.tokenize(PROMPT), temperature=0, max_tokens=8
    )


def test_greedy_takes_the_likeliest(model):
    session = model.session()
    session.feed(model.tokenize(PROMPT))
    logits = session.logits.astype(np.float64)
    logprobs = logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())
    piece = next(model.stream(PROMPT, temperature=0, logprobs=5))
    assert piece.token == logits.argmax()
    assert piece.logprob == pytest.approx(logprobs[piece.token], abs=LOGPROB)
    best = np.argsort(-logprobs)[:5]
    assert [token for token, _ in piece.top_logprobs] == best.tolist()
    assert [p for _, p in piece.top_logprobs] == pytest.approx(logprobs[best].tolist(), abs=LOGPROB)
    assert next(model.stream(PROMPT, temperature=0)).top_logprobs is None


def test_seeds(model):
    texts = {seed: model.generate(PROMPT, seed=seed, temperature=2.0, max_tokens=16) for seed in (1, 2)}
    assert texts[1] != texts[2]
    assert model.generate(PROMPT, seed=1, temperature=2.0, max_tokens=16) == texts[1]
    assert len({model.generate(PROMPT, temperature=2.0, max_tokens=16) for _ in range(3)}) > 1


def test_logit_bias(model):
    pieces = list(model.stream(PROMPT, logit_bias={77: 1000.0}, max_tokens=5))
    assert [p.token for p in pieces] == [77] * 5
    with pytest.raises(longheads.ArgumentError):
        model.generate(PROMPT, logit_bias={10**6: 1.0})


def test_end_token(model):
    pieces = list(model.stream(PROMPT, logit_bias={2: 1000.0}))
    assert [(p.token, p.text, p.finish_reason) for p in pieces] == [(2, "", "stop")]


def test_every_setting_reaches_the_core(monkeypatch):
    """The defaults are llama.cpp's."""
    from longheads import generate

    seen = {}

    class Spy:
        def __getattr__(self, name):
            return getattr(lib, name)

        def lh_sampler_new(self, options, n_vocab, out):
            seen.update({name: getattr(options, name) for name, _ in ffi.typeof("lh_sampler_options").fields})
            return lib.lh_sampler_new(options, n_vocab, out)

    monkeypatch.setattr(generate, "lib", Spy())
    defaults = dict(temperature=0.8, top_k=40, top_p=0.95, min_p=0.05, typical_p=1.0, repeat_penalty=1.0,
                    frequency_penalty=0.0, presence_penalty=0.0, penalty_last_n=64)  # fmt: skip
    said = dict(temperature=0.5, top_k=7, top_p=0.25, min_p=0.125, typical_p=0.75, repeat_penalty=1.5,
                frequency_penalty=2.5, presence_penalty=3.5, penalty_last_n=9, seed=11)  # fmt: skip
    for given, expected in ({}, defaults), (said, said):
        generate.Sampler(generate.with_defaults(given), 10)
        assert {name: seen[name] for name in expected} == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name, value", [("presence_penalty", 100.0), ("frequency_penalty", 100.0), ("repeat_penalty", 1e6)])
def test_penalty_sees_the_prompt(model, name, value):
    token = model.tokenize(PROMPT)[-1]
    bias = {token: 50.0}
    assert next(model.stream(PROMPT, temperature=0, logit_bias=bias)).token == token
    assert next(model.stream(PROMPT, temperature=0, logit_bias=bias, **{name: value})).token != token


@pytest.mark.parametrize("path", ["tiny_path", "plain_path"])
def test_what_is_written_goes_on_with_the_prompt(request, path):
    """Its first word has its space, with vocabularies of both kinds."""
    with Model(request.getfixturevalue(path)) as model:
        word = next(id_ for id_ in range(model.n_vocab) if model.tokenizer.token_bytes(id_) == b" the")
        assert model.generate("The king", logit_bias={word: 1000.0}, max_tokens=2) == " the the"


def test_penalty_sees_what_was_written(model):
    options = dict(temperature=0, logit_bias={77: 50.0}, max_tokens=6)
    assert [p.token for p in model.stream(PROMPT, **options)] == [77] * 6
    tokens = [p.token for p in model.stream(PROMPT, presence_penalty=100.0, **options)]
    assert tokens[0] == 77 and len(set(tokens)) == 6


def test_unknown_keyword(model):
    with pytest.raises(TypeError, match="temprature"):
        model.generate(PROMPT, temprature=1)


@pytest.mark.parametrize(
    "wrong, words",
    [
        (dict(temperature="0"), "temperature is '0', expected a number"),
        (dict(top_k=1.5), "top_k is 1.5, expected a whole number"),
        (dict(seed=True), "seed is True, expected a whole number"),
        (dict(prompt_lookup_num_tokens=1.5), "prompt_lookup_num_tokens is 1.5, expected a whole number"),
        (dict(max_tokens=True), "max_tokens is True, expected a whole number"),
        (dict(stop=5), "stop is 5, expected a text or a list"),
        (dict(logit_bias=[(1, 2.0)]), "logit_bias is .*, expected a mapping"),
        (dict(logit_bias={1: "x"}), "a bias of logit_bias is 'x', expected a number"),
    ],
)
def test_values_of_another_type(model, wrong, words):
    with pytest.raises(TypeError, match=words):
        model.generate(PROMPT, **wrong)


def test_things_that_are_no_prompt(model):
    for wrong in None, 5, {1, 2}, {1: 2}:
        with pytest.raises(TypeError, match=f"expected a sequence of token ids, got {type(wrong).__name__}"):
            model.generate(wrong)
    with pytest.raises(TypeError, match="ctx is True"):
        model.session(ctx=True)
    with pytest.raises(longheads.ArgumentError, match="kv_type is \\['f16'\\], expected"):
        model.session(kv_type=["f16"])
    for chat in (lambda: model.chat(None), lambda: model.chat([{"role": "user", "content": "a"}], chat_template_kwargs={1: 2})):
        with pytest.raises(TypeError, match="expected a (list of messages|mapping)"):
            chat()
    with model.session() as session:
        for call in (lambda: session.rewind("1"), lambda: session.fill(1.5), lambda: session.fill(1, seed="x")):
            with pytest.raises(TypeError, match="expected a whole number"):
                call()
        with pytest.raises(longheads.ArgumentError, match="out of range"):
            session.rewind(2**70)


def test_texts_that_are_none(tiny_path):
    for wrong in dict(device=0), dict(chat_template=b"x"):
        with pytest.raises(TypeError, match="expected a text"):
            Model(tiny_path, **wrong)


def test_max_tokens(model):
    assert len(list(model.stream(PROMPT, max_tokens=3, logit_bias={77: 1000.0}))) == 3
    room = model.ctx - len(model.tokenize(PROMPT))
    for max_tokens in (-1, None):
        assert len(list(model.stream(PROMPT, max_tokens=max_tokens, logit_bias={77: 1000.0}))) == room
    read = []
    assert model.generate(PROMPT + "!", max_tokens=0, progress=lambda done, total: read.append(done)) == "" and read


def test_a_prompt_that_does_not_fit(model):
    with pytest.raises(longheads.ContextError, match="300 tokens and 1 .*256 by 45.*ctx to 301"):
        model.stream([10] * 300)
    with pytest.raises(longheads.ContextError, match="200 tokens and 100 .*256 by 44"):
        model.stream([10] * 200, max_tokens=100)
    with pytest.raises(longheads.ArgumentError, match="nothing to read"):
        list(model.stream([]))


def test_progress(model):
    with model.session(batch=64) as session:
        calls: list[tuple[int, int]] = []
        session.feed([10] * 200, progress=lambda done, total: calls.append((done, total)))
    assert calls[0] == (0, 200) and calls[-1] == (200, 200) and len(calls) > 2
    assert calls == sorted(calls)


# --- stop texts --------------------------------------------------------------------------------------------------


@given(st.text("ab", max_size=30), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3), st.data())
def test_stop_filter(text, stops, data):
    """However the text is cut, what comes out ends before the first stop text, and is never taken back."""
    filter_, out, at = StopFilter(stops), "", 0
    while at < len(text) and not filter_.stopped:
        end = data.draw(st.integers(at + 1, len(text)))
        out += filter_.push(text[at:end])
        at = end
        places = [text[:at].find(stop) for stop in stops if stop in text[:at]]
        assert text.startswith(out) and len(out) <= min(places, default=at)
    if not filter_.stopped:
        out += filter_.flush()
        assert not any(stop in text for stop in stops)
        assert out == text
    else:
        # What a stop text completes first decides; it is the one whose end comes first, cut where any then begins.
        assert any(text.startswith(stop, len(out)) for stop in stops)


def test_stop(model):
    options = dict(temperature=0, max_tokens=24)
    text = model.generate(PROMPT, **options)
    stop = text[len(text) // 2 : len(text) // 2 + 3]
    pieces = list(model.stream(PROMPT, stop=stop, **options))
    assert "".join(p.text for p in pieces) == text[: text.index(stop)]
    assert pieces[-1].finish_reason == "stop"
    assert model.generate(PROMPT, stop=["never said", stop], **options) == text[: text.index(stop)]
    with pytest.raises(longheads.ArgumentError, match="stop"):
        model.generate(PROMPT, stop=[""])


def test_a_control_token_as_stop(model):
    [token] = model.tokenize("<|im_start|>")
    options = dict(logit_bias={token: 1000.0}, max_tokens=4)
    assert [p.finish_reason for p in model.stream(PROMPT, **options)] == [None, None, None, "length"]
    assert [p.finish_reason for p in model.stream(PROMPT, stop="<|im_start|>", **options)] == ["stop"]


def test_a_character_begun_by_the_prompt(model):
    """Its last byte completes it, however many tokens have its others."""
    *begun, last = (token for byte in "😀".encode() for token in range(600) if model.tokenizer.token_bytes(token) == bytes([byte]))
    assert len(begun) == 3
    assert model.generate([*model.tokenize("a"), *begun], logit_bias={last: 1000.0}, max_tokens=1) == "😀"


# --- the shared session ------------------------------------------------------------------------------------------


def test_a_common_beginning_is_not_read_again(tiny_path):
    with Model(tiny_path) as model:
        ids = model.tokenize(PROMPT)
        read = []
        options = dict(temperature=0, max_tokens=4, progress=lambda done, total: read.append(total))
        first = list(model.stream(ids, **options))
        assert read[-1] == len(ids)
        read.clear()
        assert list(model.stream(ids, **options)) == first  # log-probabilities, too, to the last bit
        assert not read
        other = ids + model.tokenize(" and the youngest")
        answer = model.generate(other, **options)
        assert read[-1] <= len(other) - len(ids) + 1
        with Model(tiny_path) as fresh:
            assert answer == fresh.generate(other, temperature=0, max_tokens=4)


def test_a_prompt_that_is_read_anew(tiny_path):
    with Model(tiny_path) as model:
        options = dict(temperature=0, max_tokens=4, logprobs=2)
        alone = list(model.stream(PROMPT, **options))
        model.generate(PROMPT[:20], **options)
        read = []
        options["progress"] = lambda done, total: read.append(total)
        assert list(model.stream(PROMPT, cache_prompt=False, **options)) == alone
        assert read[-1] == len(model.tokenize(PROMPT))
        with pytest.raises(longheads.ArgumentError):
            model.generate([10**6], cache_prompt=False)
        read.clear()
        assert list(model.stream(PROMPT, **options)) == alone and not read


def test_a_stream_that_is_dropped_leaves_the_session_usable(model):
    expected = model.generate(PROMPT, temperature=0, max_tokens=6)
    stream = model.stream(PROMPT + " and more", temperature=0)
    next(stream)
    stream.close()
    assert model.generate(PROMPT, temperature=0, max_tokens=6) == expected


def test_a_stream_that_is_collected_with_its_session(tiny_path):
    """A caller's exception that is kept makes a cycle of its frame, which holds the stream."""

    def fail(model):
        stream = model.stream(PROMPT, temperature=0)
        try:
            for _ in stream:
                raise KeyError
        except KeyError as error:
            kept = error  # noqa: F841

    with Model(tiny_path) as model:
        expected = model.generate(PROMPT, temperature=0, max_tokens=6)
        fail(model)
        gc.collect()
        assert model.generate(PROMPT, temperature=0, max_tokens=6) == expected
        assert model._spare is not None and model._spare.position == len(model.tokenize(PROMPT)) + 5


@pytest.mark.parametrize("bad", ["", [10**6]])
def test_a_prompt_that_is_refused_forgets_nothing(tiny_path, bad):
    with Model(tiny_path) as model:
        model.generate(PROMPT, max_tokens=1)
        with pytest.raises(longheads.ArgumentError):
            model.generate(bad)
        read = []
        model.generate(PROMPT, max_tokens=1, progress=lambda done, total: read.append(total))
        assert not read


def test_streams_side_by_side(model):
    """Each takes a session of its own."""
    alone = [model.generate(p, temperature=0, max_tokens=6) for p in (PROMPT, "Numbers such as")]
    a, b = (model.stream(p, temperature=0, max_tokens=6) for p in (PROMPT, "Numbers such as"))
    pieces = list(zip(a, b, strict=True))
    assert ["".join(p.text for p in column) for column in zip(*pieces)] == alone


def test_threads(model):
    """Many at once get what each gets alone."""
    prompts = ["The king", "Near the castle", "Now it happened", "Numbers"]
    alone = {p: model.generate(p, temperature=0, max_tokens=8) for p in prompts}
    together: dict[str, str] = {}

    def work(prompt: str) -> None:
        together[prompt] = model.generate(prompt, temperature=0, max_tokens=8)

    threads = [threading.Thread(target=work, args=(p,)) for p in prompts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone


def test_ctrl_c_while_reading(tiny_path):
    with Model(tiny_path) as model:

        def interrupt(done: int, total: int) -> None:
            if done:
                raise KeyboardInterrupt

        ids = [10 + i for i in range(200)]
        with pytest.raises(KeyboardInterrupt):
            model.generate(ids, progress=interrupt)
        read = []
        text = model.generate(ids, temperature=0, max_tokens=4, progress=lambda done, total: read.append(total))
        assert not any(n == len(ids) for n in read)  # what was read before it counts
        with Model(tiny_path) as fresh:
            assert text == fresh.generate(ids, temperature=0, max_tokens=4)


# --- types and values --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [{"top_p": 7.0}, {"temperature": float("nan")}, {"logit_bias": {10**8: 1.0}}])
def test_sampling_is_refused_before_anything_is_read(model, bad):
    with pytest.raises(longheads.ArgumentError):
        model.stream([1, 2, 3], **bad)  # not even asked for a piece


def test_an_option_that_is_none_is_the_default(tiny_path):
    names = inspect.signature(Model).parameters.keys() - {"path", "threads", "device", "mmap"}
    with Model(tiny_path, **dict.fromkeys(names)) as model, Model(tiny_path) as other:
        assert model.options == other.options
    with Model(tiny_path, scheme="bounds") as model, model.session(scheme=None) as session:
        assert session.options["scheme"] == "peak"


@pytest.mark.parametrize("name, value", [("top_k", 40.0), ("seed", 1.5), ("max_tokens", "3"), ("temperature", "hot")])
def test_another_type_is_named(model, name, value):
    with pytest.raises(TypeError, match=f"{name} is {value!r}"):
        model.stream("x", **{name: value})


def test_an_option_of_another_type_is_named(model):
    with pytest.raises(TypeError, match="budget is '64', expected a positive number of tokens"):
        model.session(budget="64")


def test_none_is_the_default(model):
    settings = {"max_tokens": 4, "temperature": 0}
    nothing = dict.fromkeys(longheads.Sampling.__annotations__.keys() - settings.keys())
    assert model.generate("The king", **settings, **nothing) == model.generate("The king", **settings)


@pytest.mark.parametrize("text", ["hello", b"hello"])
def test_text_is_no_ids(model, text):
    with model.session() as session, pytest.raises(TypeError, match="tokenize it first"):
        session.feed(text)
