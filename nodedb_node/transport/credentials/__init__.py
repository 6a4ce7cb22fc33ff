"""Who a peer is: certificates of the cluster's own authority, and the one function that judges them (verify.py)."""
