"""Compiles csrc/ into nodedb_node._native; everything else is in pyproject.toml."""

from setuptools import setup

setup(cffi_modules=["csrc/build_native.py:ffi"])
