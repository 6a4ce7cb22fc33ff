"""Bounds of what the catalog holds. Data only; catalog.py keeps them, what fills the catalog checks them first."""

USER_NAME_BYTES_MAX = 254
USER_BYTES_MAX = 64 << 10
USERS_MAX = 10_000
