"""The routes: one module for each API, each a translation of its JSON to an `Ask` and of what comes back to its
JSON."""
