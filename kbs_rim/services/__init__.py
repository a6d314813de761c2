"""Use cases: async, no HTTP and no SQL."""
