"""Builds every room (`assembly`), runs them and owns the one shutdown (`daemon`), and words what they know (`views`)."""
