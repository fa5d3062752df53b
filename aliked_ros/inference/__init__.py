"""Running the networks: one backend a file behind the interface in ``backend``."""
