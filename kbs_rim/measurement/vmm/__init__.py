"""PURE. Where each VMM places what, and the device tree it makes."""
