"""What a model still knows of what it read: `python -m longheads.eval TASK MODEL`.

settings: rules that are compared. prompts: texts of a wanted length, as tokens. retrieval: questions asked under every
rule; passkey, needles, kv and lines make them, and generators is what these share. perplexity: how well a text is
predicted, by position. heads: which chunks each head picks. results: files that let a run go on. picture: maps and
curves. command: the command line.
"""
