"""The extension as mypy sees it: cffi makes its members at build time from csrc/*.h, so they have no static types."""

from typing import Any

ffi: Any
lib: Any
