"""HTTP/1.1 and WebSocket for ASGI apps: a file for each thing that is decided."""
