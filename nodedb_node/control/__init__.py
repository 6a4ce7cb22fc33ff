"""The control process: what one node decides and reports outside the data path."""
