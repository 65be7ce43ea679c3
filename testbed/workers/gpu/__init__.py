"""Modelled GPUs: devices with sizes and times, without values, for unmodified CUDA scripts."""
