"""The steps a document goes through: one file each, a config section and what it builds."""
