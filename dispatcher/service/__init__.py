"""What one can ask of a deployment: the same functions for the API, the command line and Python."""
