"""What a node says about itself: facts, readiness, the status document, metrics, and the HTTP endpoints that serve
them.
"""
