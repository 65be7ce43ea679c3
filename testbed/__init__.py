"""A network-emulation testbed for training across datacenters."""

__version__ = "0.1.0"
