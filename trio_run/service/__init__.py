"""A service to grow: it takes jobs over HTTP, does them one after the other, and stops without
losing any.

Each piece is in a file of its own, and the head of the file says how to delete or replace it:

    app.py       what the program is made of, in what order it starts and stops
    config.py    what can be set: in options, in the environment, in a file
    settings.py  what holds now; SIGHUP reads it again
    log.py       where lines of the log go, and which
    web.py       the door: two routes over HTTP
    jobs.py      the worker behind it, which is begun anew when a job fails
    ticker.py    what happens every minute
    status.py    the status page: probes, metrics, and the program live in a browser
"""
