"""What holds for all tests."""

import signal

# Who is started in the background by a shell inherits an ignored SIGINT, and hands it on to the
# programs under test.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
