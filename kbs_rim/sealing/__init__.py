"""PURE. A secret to the guest's public key."""
