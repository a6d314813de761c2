"""The database: SQLite and PostgreSQL behind the storage ports."""
