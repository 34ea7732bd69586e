"""The demonstration: an agent API, a receiver and a dispatcher as real processes, and a story that checks itself."""
