"""Why a document is dropped, and what is redacted in those that stay."""
