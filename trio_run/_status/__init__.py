"""StatusPage: a program that says how it is, to probes, to Prometheus, and to a person."""
