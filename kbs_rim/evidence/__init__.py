"""PURE. What a guest sends: strict CBOR, COSE, the CCA token, measurement logs, envelopes.

Trusts nothing. Every parser takes bytes and limits and returns a frozen value, or raises ``MalformedEvidence``.
"""
