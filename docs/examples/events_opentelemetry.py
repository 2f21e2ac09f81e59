import sys

import trio
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

from trio_run import Group, run

provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(ConsoleSpanExporter()))  # it has a thread
trace.set_tracer_provider(provider)
spans = {}


def to_opentelemetry(event):
    if event.kind == "stop began":
        spans["stop"] = trace.get_tracer("shop").start_span("stop of the shop")
    if "stop" in spans:
        words = {name: str(value) for name, value in event.fields.items() if name != "report"}
        spans["stop"].add_event(event.kind, {"actor": event.actor or "", **words})
    if event.kind == "over":
        spans["stop"].end()


if __name__ == "__main__":
    group = Group(name="shop", grace=20)
    group.on_event(to_opentelemetry)
    group.add(trio.sleep_forever, name="worker")
    sys.exit(run(group))
