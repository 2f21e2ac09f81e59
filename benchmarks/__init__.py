"""What a stop costs, and what the library costs while nothing stops, measured beside its peers."""
