"""Commands that Python answers: their handlers, what they may know of a connection, and calls to other workers.

Invariant: every command taken from the engine gets exactly one reply, also when its handler fails; a call ends by its
reply or by the engine's deadline, so nothing waits for ever. Handlers are pure functions of workers/commands.
"""
