"""The bundled corpus of the quick start and the script that made it."""
