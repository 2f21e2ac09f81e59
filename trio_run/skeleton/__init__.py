"""A small log collector, meant to be copied as the model of a service.

Lines come in over TCP; each is stored in SQLite and then acknowledged with ``ok <id>``, so that what a client
has been told is stored is stored, whatever happens to this process. ``app.py`` decides what the program is made
of, and what its command line and its log say; ``intake.py`` what a client may send and what it is answered;
``store.py`` when a line is stored, and how. None of them decides how to stop: that is trio_run's business.
"""
