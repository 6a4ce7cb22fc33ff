"""The node: what every process of it needs, and the control plane."""
