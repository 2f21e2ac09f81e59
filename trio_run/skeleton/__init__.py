"""A small log collector, meant to be copied as the model of a service.

Lines come in over TCP, TLS, UDP and a Unix socket; each is stored in SQLite, and where there is a
conversation acknowledged with ``ok <id>``, so that what a client has been told is stored is stored,
whatever happens to this process. A web page shows them, and a live tail.

Begin with ``app.py``: it decides what the program is made of, and in what order that starts and
stops. Then there are

* what comes in: ``intake.py`` decides what may be sent and what is answered;
* what is kept: ``store.py`` when a line is stored, ``database.py`` how, ``age.py`` when it is old,
  ``room.py`` what happens on a full disk, ``damage.py`` on a broken one;
* what is shown: ``web.py`` and ``page.html`` the page, and who may stop us, ``tail.py`` what a
  listener gets, ``counts.py`` what is counted, ``hosts.py`` which pages may ask, ``responses.py``
  how the web answers;
* what is set: ``config.py`` decides what can be, ``limits.py`` how many clients there may be,
  ``logfile.py`` where the log goes.

None of them decides how to stop: that is trio_run's business.
"""
