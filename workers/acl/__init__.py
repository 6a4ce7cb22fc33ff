"""Users of the node as workers know them: rules, passwords, the compiled form that C checks commands by."""
