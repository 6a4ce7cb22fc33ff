"""One pinned process per core: clients, log, store, commands."""
