"""Build and boot the User-Mode Linux guest kernel, and read its clock; independent of networks."""
