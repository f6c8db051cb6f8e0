"""How the bundled models are trained and scored. Run from a clone; not part of the wheel."""
