"""Users as the control process keeps them: records it does not look into, who has which version, what was refused."""
