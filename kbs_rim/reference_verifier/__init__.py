"""A small verifier of CCA platform tokens that speaks Veraison's challenge-response API.

It runs as a process of its own, with a key of its own, and shares no state with the broker. It is the default for trying
kbs_rim out and the peer of its tests, for which it can be told to misbehave in named ways.
"""
