"""A key broker for Arm CCA realms that recomputes the Realm Initial Measurement itself.

The layout, and which room may import which, is described in ``docs/architecture.md``; import-linter enforces it.
"""

__version__ = "0.1.0"
