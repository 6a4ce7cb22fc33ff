"""The node: what every process of it needs, and the control plane."""

__version__ = "0.1.0"
