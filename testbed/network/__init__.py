"""The emulated network: namespaces and links by Mininet, shaped by netem. Knows nothing of workers
or guests.
"""
