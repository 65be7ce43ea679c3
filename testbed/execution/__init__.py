"""Carries out a plan, in a guest or on the host, and leaves a complete run folder."""
