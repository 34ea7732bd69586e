"""The command line: a door to the same service as the API, on the database of the settings; no server is needed."""
