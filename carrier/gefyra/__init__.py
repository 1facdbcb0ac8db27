"""Drop-in for Gefyra: its configuration format, its image's command line, its operator's provider classes.

Nothing of the core imports this package; carrier/config/source.py finds `format` by the top-level keys of a file.
"""
