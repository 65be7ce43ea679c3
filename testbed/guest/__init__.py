"""The guest kernel (User-Mode Linux): build it, boot it, watch it. Knows nothing of networks or
workers.
"""
