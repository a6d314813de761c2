"""Key-encryption keys."""
