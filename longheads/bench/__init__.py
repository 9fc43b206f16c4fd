"""The benchmark: `python -m longheads.bench MODEL`.

shapes: random models of well-known shapes. engines: what is measured, and llama.cpp beside it (peer). measure: rounds
at depths. cost: what the numbers could be at best. report and plot: table, JSON, picture. command: the command line.
"""
