"""The tests of the service: they are copied with it."""
