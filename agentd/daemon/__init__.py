"""The daemon: `build.py` constructs the components, `wiring.py` connects them, `run.py` runs them, `shutdown.py` stops them."""
