"""PURE. What the RMM did: operations, the RIM chain, granule digests, REMs, boot plans and their replay."""
