"""The engine: wake, fan out, claim, sign, POST, judge, record; and the periodic duties beside it."""
