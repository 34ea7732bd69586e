"""The HTTP door: one table of routes, from which both the server and its OpenAPI document are made."""
