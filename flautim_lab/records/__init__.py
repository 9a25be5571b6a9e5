"""WHAT HAPPENED: runs and their events, in SQLite or PostgreSQL; artifacts beside them."""
