"""Bytes of a locator, from the store, a mirror or the network, refused where their digest differs."""
