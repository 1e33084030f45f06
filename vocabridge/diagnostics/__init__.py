"""What an alignment is worth: scores, approximation errors, audits for people."""
