"""External platform verifiers."""
