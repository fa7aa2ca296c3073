"""Text as words, as Python syntax, and as code without its surface."""
