"""A trained model in the formats of others. Each module is one format, and imports nothing of its neighbours; only
`imports.py` knows several, to tell them apart."""
