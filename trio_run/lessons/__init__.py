"""A course in fourteen short programs: how a Trio program runs many things, and how it stops.

``python -m trio_run.lessons`` lists them, ``python -m trio_run.lessons 1`` runs the first. Each is
one file and one idea: a text that says what Go programs do at this point, and what structured
concurrency changes; what to type while it runs; and the program.
"""
