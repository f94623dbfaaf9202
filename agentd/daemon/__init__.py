"""Builds (`build.py`), connects (`wiring.py`), runs (`run.py`) and stops (`shutdown.py`) the components."""
