"""nodedb-node VERB: one file per verb, imported when the verb is used."""
