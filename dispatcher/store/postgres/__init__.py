"""The hot statements on PostgreSQL, through asyncpg connections of the engine's pool."""
