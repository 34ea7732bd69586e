"""The hot statements on SQLite, on one connection in a thread of its own."""
