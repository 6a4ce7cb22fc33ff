"""How processes of different hosts reach each other: who a peer is (credentials), and the lanes to it."""
