"""The producer's side: events and callback URLs, written in the caller's own transaction."""
