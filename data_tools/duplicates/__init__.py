"""Duplicates: exact, near, repeated parts of documents; found out of core, however the work is cut."""
