"""The wire: a guarded HTTP client that turns whatever a receiver does into one of a closed set of outcomes."""
