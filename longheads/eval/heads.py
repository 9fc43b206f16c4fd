"""Which chunks each head of each layer picks for the last token of a question about a document."""

from __future__ import annotations

import argparse

import numpy as np

from longheads.conversation import conversation_about
from longheads.documents import read_documents
from longheads.errors import ArgumentError
from longheads.eval.results import Case, Results, digest
from longheads.eval.settings import Setting, rule_of
from longheads.model import Model
from longheads.progress import ProgressBar
from longheads.trace import Trace, chunks_with


def add_options(p: argparse.ArgumentParser) -> None:
    # fmt: off
    p.add_argument("-f", "--file", metavar="FILE", action="append", default=[], required=True,
                   help="a document (UTF-8); may be repeated; - is standard input")
    p.add_argument("-p", "--prompt", metavar="TEXT", required=True, help="the question about it")
    p.add_argument("--answer", metavar="TEXT", help="mark the chunks that hold this text")
    # fmt: on


def run(arguments: argparse.Namespace, model: Model, setting: Setting, results: Results) -> Trace:
    """Read and ask, unless results hold what was chosen already."""
    document = read_documents(arguments.file)
    if not document:
        raise ArgumentError("the document is empty: there is nothing to choose from")
    conversation = conversation_about(model, document, arguments.chat)
    ids = np.array(conversation.prompt(arguments.prompt), np.int32)
    with model.session(ctx=max(len(ids), 1), **setting.options) as session:
        rule = rule_of(session)
        chunk = session.options["chunk"]
        answer = []
        if arguments.answer is not None:
            answer = chunks_with(model.tokenizer, ids.tolist(), arguments.answer, arguments.prompt, chunk)
        case = Case("heads", arguments.model_id, rule, {"digest": digest(ids)})
        result = results.get(case, "chosen")
        if result is None:
            with ProgressBar("reading") as bar:
                session.read(ids, progress=bar)
            result = {"n_tokens": len(ids), "chosen": session.selected().tolist()}
            results.add(case, result)
        return Trace(ids, np.array(result["chosen"], np.int32), chunk, session.options["local"], answer)
