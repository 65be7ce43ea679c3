"""Takes a plan and its network, starts the ranks on their hosts, and records what they do."""
