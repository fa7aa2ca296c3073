"""The decoder's arithmetic with the same bits on any processor (docs/portable.md)."""
