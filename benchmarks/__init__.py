"""What a stop costs, measured beside plain Trio."""
