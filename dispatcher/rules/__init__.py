"""The rules: pure functions and values that say what is sent, to whom, and what an answer means. No I/O."""
