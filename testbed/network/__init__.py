"""Build, measure, change and remove the emulated network of a plan's `Network`."""
