"""Documents to rows of tokens: templates, epochs, best fit, fill in the middle."""
