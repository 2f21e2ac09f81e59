"""A small log collector, meant to be copied as the model of a service.

Lines come in over TCP, TLS, UDP and a Unix socket; each is stored in SQLite, and where there is a
conversation acknowledged with ``ok <id>``, so that what a client has been told is stored is stored,
whatever happens to this process. A web page shows them, and a live tail.

Begin with ``app.py``: it decides what the program is made of, and in what order that starts and
stops. Then ``intake.py`` decides what may be sent and what is answered, ``store.py`` when a line is
stored, and how, ``tail.py`` what a listener gets, ``counts.py`` what is counted, ``web.py`` and
``page.html`` what is shown and who may stop us, ``config.py`` what can be set, ``logfile.py`` where
the log goes. None of them decides how to stop: that is trio_run's business.
"""
